package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/polygate/polygate/internal/archive"
)

// command returns polygate as an operator would run it against the gateway.
func (g *gateway) command(args ...string) *exec.Cmd {
	g.t.Helper()
	cmd := exec.Command(bin(g.t, "polygate"), args...)
	cmd.Dir = g.dir
	cmd.Env = os.Environ()
	for _, name := range []string{"POLYGATE_ADMIN_URL", "POLYGATE_ADMIN_TOKEN", "POLYGATE_CA"} {
		cmd.Env = append(cmd.Env, name+"="+g.env[name])
	}
	return cmd
}

// must returns what a command prints that has to succeed.
func (g *gateway) must(args ...string) string {
	g.t.Helper()
	b, err := g.command(args...).CombinedOutput()
	if err != nil {
		g.t.Fatalf("polygate %s: %v\n%s", strings.Join(args, " "), err, b)
	}
	return string(b)
}

// mustRefuse runs a command that has to fail, and to say why.
func (g *gateway) mustRefuse(want string, args ...string) {
	g.t.Helper()
	b, err := g.command(args...).CombinedOutput()
	if err == nil || !strings.Contains(string(b), want) {
		g.t.Errorf("polygate %s: %v, want a refusal with %q\n%s", strings.Join(args, " "), err, want, b)
	}
}

// addServer gives team-a a server with a secret header.
func (g *gateway) addServer(c *http.Client, name string) {
	g.t.Helper()
	body := m{"name": name, "url": "https://mcp.example.com/mcp", "headers": m{"X-Secret": "s3cret-canary"}}
	if a := do(c, http.MethodPost, g.env["TEAM_A_URL"]+"/api/v1/servers", body, bearer(g.env["TEAM_A_KEY"])...); a.Status != 201 {
		g.t.Fatalf("add server %s: %d %s", name, a.Status, a.Body)
	}
}

// servers returns what team-a's key sees.
func (g *gateway) servers(c *http.Client) (int, string) {
	a := do(c, http.MethodGet, g.env["TEAM_A_URL"]+"/api/v1/servers", nil, bearer(g.env["TEAM_A_KEY"])...)
	return a.Status, string(a.Body)
}

// TestBackupAndRestore backs a running gateway up, loses a server, kills a restore in its middle and ends it: what comes back is
// what was backed up, in a folder that holds an audit log which knows more.
func TestBackupAndRestore(t *testing.T) {
	g := newGateway(t, twoTenants)
	g.start()
	c := g.client()
	g.addServer(c, "kept")
	if out := g.must("backup", "--file", "all.backup"); !strings.Contains(out, "backed up") {
		t.Errorf("backup said %q", out)
	}
	if st, err := os.Stat(filepath.Join(g.dir, "all.backup")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the backup: %v, %v; want mode 0600", st, err)
	}
	if strings.Contains(g.read("all.backup"), "s3cret-canary") {
		t.Error("the backup holds a secret in the clear")
	}
	if a := do(c, http.MethodDelete, g.env["TEAM_A_URL"]+"/api/v1/servers/kept", nil, bearer(g.env["TEAM_A_KEY"])...); a.Status != 204 {
		t.Fatalf("delete: %d %s", a.Status, a.Body)
	}
	restore := []string{"restore", "--config", "polygate.yaml", "--file", "all.backup"}
	g.mustRefuse("in use by another polygate", append(restore, "--force")...)
	g.stop(syscall.SIGTERM)
	g.mustRefuse("--force", restore...)
	g.pad("all.backup")
	killRestore(t, g, append(restore, "--force"))
	g.launch()
	if err := g.wait(20 * time.Second); err == nil || !strings.Contains(g.log.String(), "run polygate restore") {
		t.Errorf("over half a restore, it ended with %v\n%s", err, g.log)
	}
	g.cmd = nil
	g.must(restore...)
	g.start()
	if status, body := g.servers(c); status != 200 || !strings.Contains(body, `"kept"`) || !strings.Contains(body, "X-Secret") {
		t.Errorf("after the restore: %d %s", status, body)
	}
	g.addServer(c, "next")
	verifyAudit(t, g)
}

// verifyAudit holds that the log on this disk, which knew more than the backup, still fits what is anchored.
func verifyAudit(t *testing.T, g *gateway) {
	t.Helper()
	var out []byte
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); <-time.After(100 * time.Millisecond) {
		var err error
		if out, err = g.command("audit", "verify", "--file", "data/audit.jsonl").CombinedOutput(); err == nil {
			return
		}
	}
	t.Errorf("audit verify: %s", out)
}

// killRestore kills a restore once it has begun to write, and holds that what is left does not serve.
func killRestore(t *testing.T, g *gateway, args []string) {
	t.Helper()
	cmd := g.command(args...)
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(out.String(), "restored ") && time.Now().Before(deadline); {
		<-time.After(time.Millisecond)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if said := out.String(); !strings.Contains(said, "restored ") || strings.Contains(said, "sha256") {
		t.Fatalf("not killed in the middle: %q", said)
	}
}

// pad makes a backup longer, so that to restore it takes a while.
func (g *gateway) pad(name string) {
	g.t.Helper()
	r := must(archive.NewReader(strings.NewReader(g.read(name))))
	var b bytes.Buffer
	w := must(archive.NewWriter(&b, r.Manifest()))
	for {
		key, value, err := r.Next()
		if err != nil {
			break
		}
		if err := w.Put(key, value); err != nil {
			g.t.Fatal(err)
		}
	}
	for i := range 20000 {
		if err := w.Put(fmt.Sprintf("z/%06d", i), make([]byte, 200)); err != nil {
			g.t.Fatal(err)
		}
	}
	must(w.Close(r.Manifest().End.KEKs, nil))
	g.write(name, b.String())
}

// TestRekey changes the key-encryption key of a running gateway, of which a client asks all the while; kills it in the middle of
// another change, and ends that one too.
func TestRekey(t *testing.T) {
	g := newGateway(t, "tenants: [{id: team-a, quotas: {requests_per_second: 100000, burst: 100000}}, {id: team-b}]\n")
	g.start()
	c := g.client()
	g.addServer(c, "one")
	first := strings.Fields(g.must("secret", "status"))
	second := strings.TrimSpace(g.must("secret", "add", "data/kek"))
	stop, failed, asked := make(chan struct{}), atomic.Int64{}, atomic.Int64{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if status, _ := g.servers(c); status != 200 {
				failed.Add(1)
			}
			asked.Add(1)
		}
	}()
	out := g.must("secret", "rekey")
	close(stop)
	<-done
	if failed.Load() > 0 || asked.Load() == 0 {
		t.Errorf("%d of %d requests failed during the change", failed.Load(), asked.Load())
	}
	if !strings.Contains(out, "change to "+second+": done") {
		t.Errorf("rekey said %q (before: %q)", out, first)
	}
	onlyKey(t, g, second)
	g.stop(syscall.SIGTERM)
	g.write("data/kek", strings.SplitAfter(g.read("data/kek"), "\n")[0]) // the new key alone
	g.start()
	g.addServer(c, "two")
	if status, body := g.servers(c); status != 200 || !strings.Contains(body, `"one"`) {
		t.Errorf("with the new key alone: %d %s", status, body)
	}
}

// onlyKey holds that nothing is wrapped by another key.
func onlyKey(t *testing.T, g *gateway, id string) {
	t.Helper()
	for line := range strings.Lines(g.must("secret", "status")) {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] == "KEY" {
			continue
		}
		if (f[3] == "0") == (f[0] == id) || (f[1] == "true") != (f[0] == id) {
			t.Errorf("key %s: in force %s, wraps %s; want all by %s", f[0], f[1], f[3], id)
		}
	}
}

// TestRekeyKilled kills a gateway in the middle of a change of keys, again and again. Whatever is left starts with both keys, not
// with the new one alone unless all is done, and the change ends when it is asked for again.
func TestRekeyKilled(t *testing.T) {
	g := newGateway(t, twoTenants)
	g.start()
	c := g.client()
	g.addServer(c, "one")
	for i := range 12 {
		g.must("tenant", "get", "team-a")
		if a := do(c, http.MethodPost, g.env["ADMIN_URL"]+"/api/v1/tenants", m{"id": fmt.Sprintf("t%d", i)}, bearer(g.env["ADMIN_TOKEN"])...); a.Status != 201 {
			t.Fatalf("create: %d %s", a.Status, a.Body)
		}
		if i == 3 {
			break
		}
	}
	id := strings.TrimSpace(g.must("secret", "add", "data/kek"))
	both := g.read("data/kek")
	for _, after := range []time.Duration{0, 3 * time.Millisecond, 15 * time.Millisecond} {
		_ = do(c, http.MethodPost, g.env["ADMIN_URL"]+"/api/v1/secrets/rekey", m{"key": id}, bearer(g.env["ADMIN_TOKEN"])...)
		<-time.After(after)
		g.kill()
		g.start()
		if status, body := g.servers(c); status != 200 || !strings.Contains(body, `"one"`) {
			t.Fatalf("killed %v after the beginning: %d %s", after, status, body)
		}
	}
	g.must("secret", "rekey")
	onlyKey(t, g, id)
	g.kill()
	g.write("data/kek", strings.SplitAfter(both, "\n")[0])
	g.start()
	if status, _ := g.servers(c); status != 200 {
		t.Errorf("with the new key alone: %d", status)
	}
}

// TestExportImport takes a tenant to another platform, without its secrets and with them.
func TestExportImport(t *testing.T) {
	from, to := newGateway(t, twoTenants), newGateway(t, "tenants: []\n")
	to.write("polygate.yaml", strings.Replace(to.read("polygate.yaml"), "tenants: [team-a, team-b]", "tenants: []", 1))
	from.start()
	to.start()
	c := from.client()
	from.addServer(c, "carried")
	out := from.must("tenant", "export", "team-a", "--file", "bare.archive")
	for _, left := range []string{"record/keys", "object/server/carried/X-Secret"} {
		if !strings.Contains(out, "left out: "+left) {
			t.Errorf("export without secrets does not say that %s is left out: %s", left, out)
		}
	}
	id := must(age.GenerateX25519Identity())
	to.write("me.key", id.String()+"\n")
	from.must("tenant", "export", "team-a", "--file", "full.archive", "--recipient", id.Recipient().String())
	for _, name := range []string{"bare.archive", "full.archive"} {
		if strings.Contains(from.read(name), "s3cret-canary") {
			t.Errorf("%s holds a secret in the clear", name)
		}
		to.write(name, from.read(name))
	}
	to.mustRefuse("sealed", "tenant", "import", "full.archive")
	to.must("tenant", "import", "full.archive", "--identity", "me.key")
	to.mustRefuse("in use", "tenant", "import", "full.archive", "--identity", "me.key", "--as", "twin") // its keys are taken
	to.must("tenant", "import", "bare.archive", "--as", "twin")
	to.env["TEAM_A_URL"], to.env["TEAM_A_KEY"] = strings.Replace(to.env["SHARED_URL"], "localhost", "team-a.localhost", 1), from.env["TEAM_A_KEY"]
	if status, body := to.servers(to.client()); status != 200 || !strings.Contains(body, `"carried"`) || !strings.Contains(body, "X-Secret") {
		t.Errorf("where it was imported: %d %s", status, body)
	}
	if out := to.must("tenant", "get", "twin"); !strings.Contains(out, "active") {
		t.Errorf("the twin: %s", out)
	}
}
