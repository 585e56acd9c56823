package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// kills is how often TestKill9LosesNothing kills the process.
const kills = 50

// promise is what the gateway acknowledged: after every restart it must be true.
type promise struct {
	tenant    string
	name      string // display name last acknowledged
	key       string // a key last acknowledged as made, or ""
	server    string // a server last acknowledged as added, or ""
	requestID []string
	busy      bool // a writer is at it, so its state may be ahead of the promise
}

// TestKill9LosesNothing applies 200 tenants, then kills the process 50 times in the middle of writes. After each restart
// every acknowledged change is there, and at the end each has its record in an audit chain that verifies.
func TestKill9LosesNothing(t *testing.T) {
	rounds := kills
	if testing.Short() {
		rounds = 5
	}
	g := newGateway(t, twoTenants)
	g.start()
	promises := g.applyTenants(200)
	for round := range rounds {
		g.writeUntilKilled(promises, time.Duration(20+rand.IntN(200))*time.Millisecond)
		g.start()
		g.checkPromises(promises, round)
		if t.Failed() {
			t.Fatalf("round %d\n%s", round, g.log)
		}
	}
	g.checkAudit(promises)
}

// applyTenants creates n tenants by the command line, as a user would.
func (g *gateway) applyTenants(n int) []*promise {
	g.t.Helper()
	var file strings.Builder
	file.WriteString("tenants:\n")
	promises := make([]*promise, n)
	for i := range n {
		id := fmt.Sprintf("kill-%03d", i)
		promises[i] = &promise{tenant: id, name: "0"}
		fmt.Fprintf(&file, "  - {id: %s, display_name: \"0\"}\n", id)
	}
	g.write("apply.yaml", file.String())
	cmd := exec.Command(bin(g.t, "polygate"), "tenant", "apply", "-f", filepath.Join(g.dir, "apply.yaml"))
	cmd.Env = append(os.Environ(), "POLYGATE_ADMIN_URL="+g.env["ADMIN_URL"], "POLYGATE_ADMIN_TOKEN="+g.env["ADMIN_TOKEN"], "POLYGATE_CA="+g.env["POLYGATE_CA"])
	if out, err := cmd.CombinedOutput(); err != nil {
		g.t.Fatalf("tenant apply: %v\n%s", err, out)
	}
	return promises
}

// writeUntilKilled changes tenants from several writers and kills the process after d.
func (g *gateway) writeUntilKilled(promises []*promise, d time.Duration) {
	g.t.Helper()
	const writers = 8
	c := g.client()
	c.Timeout = 5 * time.Second
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			mine := promises[w*len(promises)/writers : (w+1)*len(promises)/writers]
			for {
				select {
				case <-stop:
					return
				default:
				}
				if !g.writeOne(c, mine[rand.IntN(len(mine))]) {
					return // the process is gone
				}
			}
		})
	}
	time.Sleep(d) // writes flow; the kill falls wherever it falls
	g.kill()
	close(stop)
	wg.Wait()
}

// writeOne makes one change of a tenant and notes what was acknowledged.
func (g *gateway) writeOne(c *http.Client, p *promise) bool {
	p.busy = true
	switch rand.IntN(3) {
	case 0:
		name := fmt.Sprint(rand.Int64())
		got := g.operator(c, "PUT", "/api/v1/tenants/"+p.tenant, map[string]any{"display_name": name})
		if !g.acknowledged(p, got, 200) {
			return false
		}
		p.name = name
	case 1:
		got := g.operator(c, "POST", "/api/v1/tenants/"+p.tenant+"/keys", map[string]any{"name": fmt.Sprint("k", rand.Int64()), "role": "admin"})
		if got.Status == http.StatusConflict { // the tenant has as many keys as it may
			break
		}
		if !g.acknowledged(p, got, 201) {
			return false
		}
		var made struct{ Key string }
		if err := json.Unmarshal(got.Body, &made); err != nil || made.Key == "" {
			g.t.Errorf("key create: %s", got.Body)
		}
		p.key = made.Key
	case 2:
		if p.key == "" {
			break
		}
		name := fmt.Sprint("s", rand.Int64())
		got := do(c, "POST", g.env["SHARED_URL"]+"/tenant/"+p.tenant+"/api/v1/servers", map[string]any{"name": name, "url": "https://mcp.example.com/mcp"}, bearer(p.key)...)
		if got.Status == http.StatusConflict { // as many servers as it may
			break
		}
		if !g.acknowledged(p, got, 201) {
			return false
		}
		p.server = name
	}
	p.busy = false
	return true
}

func (g *gateway) acknowledged(p *promise, got answer, want int) bool {
	if got.Err != nil {
		return false
	}
	if got.Status != want {
		g.t.Errorf("%s: %d %s, want %d", p.tenant, got.Status, got.Body, want)
		return false
	}
	p.requestID = append(p.requestID, got.Header.Get("X-Request-Id"))
	return true
}

// checkPromises asks the restarted process for everything that was acknowledged. A write that was cut off by the kill may
// or may not have happened; it must not have undone what was acknowledged before.
func (g *gateway) checkPromises(promises []*promise, round int) {
	g.t.Helper()
	c := g.client()
	for _, p := range promises {
		got := g.operator(c, "GET", "/api/v1/tenants/"+p.tenant, nil)
		var rec struct {
			DisplayName string `json:"display_name"`
		}
		if err := json.Unmarshal(got.Body, &rec); err != nil || got.Status != 200 {
			g.t.Errorf("round %d: %s is gone: %d %s %v", round, p.tenant, got.Status, got.Body, got.Err)
			continue
		}
		if rec.DisplayName != p.name && !p.busy {
			g.t.Errorf("round %d: %s is named %s, acknowledged was %s", round, p.tenant, rec.DisplayName, p.name)
		}
		p.name, p.busy = rec.DisplayName, false
		if p.key != "" {
			g.checkServer(c, p, round)
		}
	}
}

func (g *gateway) checkServer(c *http.Client, p *promise, round int) {
	base := g.env["SHARED_URL"] + "/tenant/" + p.tenant
	if got := do(c, "GET", base+"/api/v1/whoami", nil, bearer(p.key)...); got.Status != 200 {
		g.t.Errorf("round %d: %s: the acknowledged key is refused: %d %s %v", round, p.tenant, got.Status, got.Body, got.Err)
		return
	}
	if p.server == "" {
		return
	}
	if got := do(c, "GET", base+"/api/v1/servers/"+p.server, nil, bearer(p.key)...); got.Status != 200 {
		g.t.Errorf("round %d: %s: the acknowledged server %s is gone: %d %s %v", round, p.tenant, p.server, got.Status, got.Body, got.Err)
	}
}

// checkAudit verifies the chains against their anchors and looks for the record of each acknowledged change.
func (g *gateway) checkAudit(promises []*promise) {
	g.t.Helper()
	path := filepath.Join(g.dir, "data", "audit.jsonl")
	var want []string
	for _, p := range promises {
		want = append(want, p.requestID...)
	}
	var counts map[string]int
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		counts = g.changesByRequest(path)
		missing := slices.IndexFunc(want, func(id string) bool { return counts[id] == 0 })
		if missing < 0 {
			break
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("no audit record of the acknowledged request %s", want[missing])
		}
	}
	for _, id := range want {
		if counts[id] != 1 {
			g.t.Errorf("request %s has %d audit records of its change, want 1", id, counts[id])
		}
	}
	cmd := exec.Command(bin(g.t, "polygate"), "audit", "verify", "--file", path)
	cmd.Env = append(os.Environ(), "POLYGATE_ADMIN_URL="+g.env["ADMIN_URL"], "POLYGATE_ADMIN_TOKEN="+g.env["ADMIN_TOKEN"], "POLYGATE_CA="+g.env["POLYGATE_CA"])
	out, err := cmd.CombinedOutput()
	if err != nil {
		g.t.Errorf("audit verify: %v\n%s", err, out)
	}
	g.t.Logf("%d acknowledged changes, each with one audit record; %s", len(want), strings.TrimSpace(string(out)))
}

// changesByRequest counts the audit records of successful changes by request id.
func (g *gateway) changesByRequest(path string) map[string]int {
	g.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		g.t.Fatal(err)
	}
	counts := make(map[string]int)
	for line := range strings.Lines(string(b)) {
		var l struct {
			Entry struct {
				RequestID string `json:"request_id"`
				Action    string `json:"action"`
				Outcome   string `json:"outcome"`
			} `json:"entry"`
		}
		if json.Unmarshal([]byte(line), &l) != nil || l.Entry.Outcome != "ok" {
			continue
		}
		switch l.Entry.Action {
		case "tenant.update", "key.create", "server.create":
			counts[l.Entry.RequestID]++
		}
	}
	return counts
}
