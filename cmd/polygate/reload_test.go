package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// reloads is how often TestReloadUnderLoad reloads.
const reloads = 1000

// TestReloadUnderLoad edits tenants.yaml and its catalog 1,000 times while requests flow: none fails, the last edit is in
// effect, and a broken file in the middle changes nothing.
func TestReloadUnderLoad(t *testing.T) {
	n := reloads
	if testing.Short() {
		n = 50
	}
	tenants := func(name string) string {
		return fmt.Sprintf("tenants:\n  - {id: team-a, catalog_file: team-a.yaml, display_name: %q, quotas: {requests_per_second: 100000}}\n  - {id: team-b}\n", name)
	}
	g := newGateway(t, tenants("edit 0"))
	endpoint := startMCP(t)
	catalog := func(i int) string {
		return fmt.Sprintf("servers:\n  - {name: everything, url: %q}\n  - {name: edit-%d, url: %q}\n", endpoint, i, endpoint)
	}
	g.write("team-a.yaml", catalog(0))
	g.start()

	load := g.startLoad(t)
	began := time.Now()
	for i := 1; i <= n; i++ {
		before := g.reloadCount(t, "ok")
		g.write("team-a.yaml", catalog(i))
		g.write("tenants.yaml", tenants(fmt.Sprintf("edit %d", i)))
		g.waitReload(t, "ok", before)
		if i == n/2 {
			g.brokenFileChangesNothing(t, i)
		}
	}
	sent, failed := load.stop()
	t.Logf("%d reloads in %s beside %d requests, %d failed", n, time.Since(began).Round(time.Millisecond), sent, failed)
	if failed > 0 || sent < int64(n) {
		t.Errorf("%d of %d requests failed: %s", failed, sent, load.first.Load())
		t.Logf("team-a is now: %s", g.operator(g.client(), "GET", "/api/v1/tenants/team-a", nil).Body)
	}
	want := fmt.Sprintf(`"edit-%d"`, n)
	eventually(t, "the last edit is in effect", func() bool {
		return strings.Contains(string(do(g.client(), "GET", g.env["TEAM_A_URL"]+"/servers", nil, bearer(g.env["TEAM_A_KEY"])...).Body), want)
	})
}

// load is a number of clients that send requests until they are stopped.
type load struct {
	done         chan struct{}
	wg           sync.WaitGroup
	sent, failed atomic.Int64
	first        atomic.Value // what the first failure was
}

func (l *load) stop() (sent, failed int64) {
	close(l.done)
	l.wg.Wait()
	return l.sent.Load(), l.failed.Load()
}

// startLoad has four clients send requests: three list the catalog, one calls a tool.
func (g *gateway) startLoad(t *testing.T) *load {
	l := &load{done: make(chan struct{})}
	key := bearer(g.env["TEAM_A_KEY"])
	call := append([]string{"Accept", "application/json, text/event-stream", "Mcp-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/call", "Mcp-Name", "test_simple_text"}, key...)
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"test_simple_text","arguments":{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"}}}}`
	for i := range 4 {
		c := g.client()
		l.wg.Go(func() {
			for {
				select {
				case <-l.done:
					return
				case <-time.After(2 * time.Millisecond): // several requests for each reload, and the processors are not all theirs
				}
				var got answer
				if i == 0 {
					got = do(c, "POST", g.env["TEAM_A_URL"]+"/servers/everything/mcp", body, call...)
				} else {
					got = do(c, "GET", g.env["TEAM_A_URL"]+"/servers", nil, key...)
				}
				l.sent.Add(1)
				if got.Err != nil || got.Status != 200 {
					l.failed.Add(1)
					l.first.CompareAndSwap(nil, fmt.Sprintf("%d %s %v", got.Status, got.Body, got.Err))
				}
			}
		})
	}
	return l
}

// brokenFileChangesNothing writes a file with a mistake: the refusal is counted and logged with file and line, and the
// tenants stay as they were.
func (g *gateway) brokenFileChangesNothing(t *testing.T, i int) {
	good := g.read("tenants.yaml")
	failures := g.reloadCount(t, "failed")
	g.write("tenants.yaml", "tenants:\n  - {id: team-a, display_name: wrong}\n  - {id: team-a}\n")
	g.waitReload(t, "failed", failures)
	got := g.operator(g.client(), "GET", "/api/v1/tenants/team-a", nil)
	if want := fmt.Sprintf("edit %d", i); got.Status != 200 || !strings.Contains(string(got.Body), want) {
		t.Errorf("after a broken file: %d %s, want display name %q", got.Status, got.Body, want)
	}
	if !strings.Contains(g.log.String(), "tenants.yaml:3:") {
		t.Errorf("the log does not say where the file is broken")
	}
	before := g.reloadCount(t, "ok")
	g.write("tenants.yaml", good+"\n")
	g.waitReload(t, "ok", before)
}

// reloadCount reads the counter of reloads with a result.
func (g *gateway) reloadCount(t *testing.T, result string) int {
	t.Helper()
	resp, err := http.Get("http://" + g.metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	prefix := fmt.Sprintf("polygate_config_reloads_total{result=%q} ", result)
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), prefix); ok {
			n, err := strconv.ParseFloat(v, 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
	}
	t.Fatalf("no metric %s", prefix)
	return 0
}

func (g *gateway) waitReload(t *testing.T, result string, before int) {
	t.Helper()
	eventually(t, "reload "+result, func() bool { return g.reloadCount(t, result) > before })
}

// eventually polls until ok holds, for at most 20 s.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not seen within 20 s: %s", what)
		case <-tick.C:
		}
	}
}
