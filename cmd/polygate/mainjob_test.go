package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// keyed adds an API key to each request.
type keyed struct {
	base http.RoundTripper
	key  string
}

func (k keyed) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+k.key)
	return k.base.RoundTrip(r)
}

// connect opens a client session of one revision of MCP at a server of a tenant.
func (g *gateway) connect(ctx context.Context, endpoint, key, revision string) (*mcp.ClientSession, error) {
	g.t.Helper()
	c := mcp.NewClient(&mcp.Implementation{Name: "process-test", Version: "1"}, nil)
	return c.Connect(ctx, &mcp.StreamableClientTransport{
		Endpoint:   endpoint,
		HTTPClient: &http.Client{Transport: keyed{g.transport(), key}},
		// The stream for the server's own messages breaks off when the gateway is killed; calls are what counts here.
		DisableStandaloneSSE: true,
	}, &mcp.ClientSessionOptions{ProtocolVersion: revision})
}

// TestMainJob is the product in one story: a real MCP client reaches a real MCP server through its tenant's own TLS host,
// in both eras of the protocol; another tenant gets nothing of it; the session id outlives a kill -9.
func TestMainJob(t *testing.T) {
	g := newGateway(t, "tenants:\n  - {id: team-a, catalog_file: team-a.yaml}\n  - {id: team-b}\n")
	g.write("team-a.yaml", fmt.Sprintf("servers:\n  - {name: everything, url: %q}\n", startMCP(t)))
	g.start()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	endpoint := g.env["TEAM_A_URL"] + "/servers/everything/mcp"
	for _, revision := range []string{"2025-11-25", "2026-07-28"} {
		for _, path := range []string{endpoint, g.env["SHARED_URL"] + "/tenant/team-a/servers/everything/mcp"} {
			t.Run(revision+" at "+mustURL(t, path).Host, func(t *testing.T) {
				session, err := g.connect(ctx, path, g.env["TEAM_A_KEY"], revision)
				if err != nil {
					t.Fatalf("connect: %v\n%s", err, g.log)
				}
				defer session.Close()
				if got := session.InitializeResult().ProtocolVersion; got != revision {
					t.Errorf("negotiated %s, want %s", got, revision)
				}
				res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "test_simple_text", Arguments: map[string]any{}})
				if err != nil || res.IsError || len(res.Content) == 0 {
					t.Fatalf("tools/call: %+v, %v\n%s", res, err, g.log)
				}
			})
		}
	}

	t.Run("team-b gets nothing of it", func(t *testing.T) { g.foreignerGetsNothing(t) })
	t.Run("a session survives kill -9", func(t *testing.T) {
		session, err := g.connect(ctx, endpoint, g.env["TEAM_A_KEY"], "2025-11-25")
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		g.kill()
		g.start()
		res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "test_simple_text", Arguments: map[string]any{}})
		if err != nil || res.IsError {
			t.Fatalf("tools/call after the restart: %+v, %v\n%s", res, err, g.log)
		}
	})
}

// foreignerGetsNothing compares, byte for byte, what team-b's key and host get for team-a's server with what they get
// for a server that does not exist.
func (g *gateway) foreignerGetsNothing(t *testing.T) {
	c := g.client()
	call := `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`
	accept := []string{"Accept", "application/json, text/event-stream"}
	at := func(url, key string) answer {
		return do(c, "POST", url, call, append(bearer(key), accept...)...)
	}
	a, b := g.env["TEAM_A_URL"], g.env["TEAM_B_URL"]
	for _, pair := range []struct {
		what         string
		there, never answer
		want         int
	}{
		{"a foreign key at team-a", at(a+"/servers/everything/mcp", g.env["TEAM_B_KEY"]), at(a+"/servers/everything/mcp", "pgk_nobody"), 401},
		{"team-a's path with team-b's key", at(g.env["SHARED_URL"]+"/tenant/team-a/servers/everything/mcp", g.env["TEAM_B_KEY"]), at(g.env["SHARED_URL"]+"/tenant/nobody/servers/everything/mcp", g.env["TEAM_B_KEY"]), 401},
		{"the server's name at team-b", at(b+"/servers/everything/mcp", g.env["TEAM_B_KEY"]), at(b+"/servers/nothing/mcp", g.env["TEAM_B_KEY"]), 404},
	} {
		if pair.there.Err != nil || pair.never.Err != nil {
			t.Fatalf("%s: %v, %v", pair.what, pair.there.Err, pair.never.Err)
		}
		if pair.there.Status != pair.want || pair.never.Status != pair.want || !bytes.Equal(pair.there.Body, pair.never.Body) {
			t.Errorf("%s: %d %s\nabsent: %d %s\nwant %d and equal bytes", pair.what, pair.there.Status, pair.there.Body, pair.never.Status, pair.never.Body, pair.want)
		}
	}
	if list := do(c, "GET", b+"/servers", nil, bearer(g.env["TEAM_B_KEY"])...); strings.Contains(string(list.Body), "everything") {
		t.Errorf("team-b's list shows team-a's server: %s", list.Body)
	}
}

// TestServeStartAndStop holds what a first start promises: ready soon, an env file with each variable, pasted curl lines
// that work, a clean end on Ctrl-C, and the same keys at the second start.
func TestServeStartAndStop(t *testing.T) {
	g := newGateway(t, twoTenants)
	began := time.Now()
	g.start()
	t.Logf("ready after %s", time.Since(began).Round(time.Millisecond))
	for _, name := range []string{"POLYGATE_CA", "SHARED_URL", "ADMIN_URL", "ADMIN_TOKEN", "TEAM_A_URL", "TEAM_A_KEY", "TEAM_B_URL", "TEAM_B_KEY"} {
		if g.env[name] == "" {
			t.Errorf("env file has no %s", name)
		}
	}
	first := g.env
	if info, err := os.Stat(filepath.Join(g.dir, "demo", "env")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("env file: mode %v, %v, want 0600", info.Mode(), err)
	}
	g.pastedCurlLinesWork(t)
	if code := g.stop(syscall.SIGINT); code != 0 {
		t.Errorf("exit code %d after Ctrl-C, want 0\n%s", code, g.log)
	}
	g.start()
	for name, want := range first {
		if g.env[name] != want {
			t.Errorf("%s changed at the second start", name)
		}
	}
	if got := do(g.client(), "GET", g.env["TEAM_A_URL"]+"/api/v1/whoami", nil, bearer(first["TEAM_A_KEY"])...); got.Status != 200 {
		t.Errorf("whoami with the first start's key: %d %s", got.Status, got.Body)
	}
}

// pastedCurlLinesWork runs each curl line that serve printed in a shell.
func (g *gateway) pastedCurlLinesWork(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Log("curl is not installed: printed lines not run")
		return
	}
	ran := 0
	for line := range strings.Lines(g.log.String()) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "curl ") {
			continue
		}
		ran++
		cmd := exec.Command("sh", "-c", strings.Replace(line, "curl ", "curl -sS --fail-with-body -m 20 ", 1))
		cmd.Dir = g.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s\n%v: %s", line, err, out)
		}
	}
	if ran == 0 {
		t.Errorf("serve printed no curl line:\n%s", g.log)
	}
}

// TestServeRefusesToStart holds that what prevents a start is said in one line that tells what to do, with exit code 1.
func TestServeRefusesToStart(t *testing.T) {
	running := newGateway(t, twoTenants)
	running.start()

	refused := func(g *gateway, want string) {
		t.Helper()
		g.launch()
		err := g.wait(20 * time.Second)
		g.cmd = nil
		out := strings.TrimSpace(g.log.String())
		if err == nil || err.Error() != "exit status 1" {
			t.Errorf("ended with %v, want exit status 1\n%s", err, out)
		}
		if !strings.Contains(out, want) || strings.Count(out, "\n") > 0 {
			t.Errorf("said:\n%s\nwant one line with %q", out, want)
		}
	}

	second := newGateway(t, twoTenants)
	second.write("polygate.yaml", strings.ReplaceAll(second.read("polygate.yaml"), second.dir+"/data", running.dir+"/data"))
	refused(second, "in use by another polygate")

	port := newGateway(t, twoTenants)
	port.write("polygate.yaml", strings.ReplaceAll(port.read("polygate.yaml"), port.public, running.public))
	refused(port, "address already in use")

	folder := newGateway(t, twoTenants)
	folder.write("file", "")
	folder.write("polygate.yaml", strings.ReplaceAll(folder.read("polygate.yaml"), folder.dir+"/data", folder.dir+"/file/data"))
	refused(folder, "data_dir")

	broken := newGateway(t, "tenants:\n  - {id: Team_A}\n")
	refused(broken, "tenants.yaml:2:")

	unknown := newGateway(t, twoTenants)
	unknown.write("polygate.yaml", unknown.read("polygate.yaml")+"\nlisten_on: 1\n")
	refused(unknown, "polygate.yaml:")
}

func (g *gateway) read(name string) string {
	g.t.Helper()
	b, err := os.ReadFile(filepath.Join(g.dir, name))
	if err != nil {
		g.t.Fatal(err)
	}
	return string(b)
}
