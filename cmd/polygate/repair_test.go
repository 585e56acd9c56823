package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestReloadRepairedCatalog: a catalog in a folder of its own, broken and put right, is read again without tenants.yaml being
// touched, whether it was in force before or came with the mistake.
func TestReloadRepairedCatalog(t *testing.T) {
	const catalog = "servers:\n  - {name: one, url: 'https://mcp.example.com/mcp'}\n"
	g := newGateway(t, "tenants:\n  - {id: team-a, catalog_file: cat/a.yaml}\n  - {id: team-b}\n")
	g.write("cat/a.yaml", catalog)
	g.start()
	serves := func(id, server string) {
		t.Helper()
		name := strings.ToUpper(strings.ReplaceAll(id, "-", "_"))
		eventually(t, id+" serves "+server, func() bool {
			return strings.Contains(string(do(g.client(), "GET", g.env[name+"_URL"]+"/servers", nil, bearer(g.env[name+"_KEY"])...).Body), server)
		})
	}
	failed := g.reloadCount(t, "failed")
	g.write("cat/a.yaml", "servers: [\n")
	g.waitReload(t, "failed", failed)
	g.write("cat/a.yaml", strings.ReplaceAll(catalog, "one", "repaired"))
	serves("team-a", "repaired")

	failed = g.reloadCount(t, "failed")
	g.write("other/b.yaml", "servers: [\n")
	g.write("tenants.yaml", "tenants:\n  - {id: team-a, catalog_file: cat/a.yaml}\n  - {id: team-b, catalog_file: other/b.yaml}\n")
	g.waitReload(t, "failed", failed)
	g.write("other/b.yaml", strings.ReplaceAll(catalog, "one", "new"))
	serves("team-b", "new")
	if log := g.log.String(); !strings.Contains(log, "reload refused: the last good state stays") || !strings.Contains(log, `"change":"catalog"`) {
		t.Errorf("the log tells neither of the refusal nor of the catalog that was applied:\n%s", log)
	}
}

// TestClashHarmsNobodyElse: a declared tenant that clashes with one of the API is refused alone: the others are applied, the
// log says so, and the gateway starts again with the same file. A declared state is changed in the file alone, and a host of
// the platform's own is no tenant's.
func TestClashHarmsNobodyElse(t *testing.T) {
	g := newGateway(t, twoTenants)
	g.write("polygate.yaml", strings.Replace(g.read("polygate.yaml"), "shared_hosts: [localhost]", "shared_hosts: [localhost, shared.example.com]", 1))
	g.start()
	if got := g.operator(g.client(), "POST", "/api/v1/tenants", map[string]any{"id": "team-c", "hosts": []string{"c.example.com"}}); got.Status != 201 {
		t.Fatalf("create: %d %s", got.Status, got.Body)
	}
	failed := g.reloadCount(t, "failed")
	g.write("tenants.yaml", twoTenants+"  - {id: team-c}\n  - {id: team-d, hosts: [c.example.com]}\n  - {id: team-e, state: active}\n")
	g.waitReload(t, "failed", failed)
	check := func(id string, status int) {
		t.Helper()
		if got := g.operator(g.client(), "GET", "/api/v1/tenants/"+id, nil); got.Status != status {
			t.Errorf("tenant %s: %d, want %d", id, got.Status, status)
		}
	}
	check("team-d", 404)
	check("team-e", 200)
	if log := g.log.String(); strings.Contains(log, "the last good state stays") || !strings.Contains(log, "reload incomplete") {
		t.Errorf("the log does not say that the reload was carried out but for a clash:\n%s", log)
	}
	for _, sub := range []string{"suspend", "resume"} {
		got := g.operator(g.client(), "POST", "/api/v1/tenants/team-e/"+sub, map[string]any{})
		if got.Status != 409 || !strings.Contains(string(got.Body), "tenants.yaml") {
			t.Errorf("%s where the file declares the state: %d %s, want 409 naming the file", sub, got.Status, got.Body)
		}
	}
	if got := g.operator(g.client(), "POST", "/api/v1/tenants", map[string]any{"id": "thief", "hosts": []string{"shared.example.com"}}); got.Status != 400 {
		t.Errorf("a tenant of the API got a shared host: %d %s", got.Status, got.Body)
	}
	g.stop(syscall.SIGTERM)
	g.start()
	check("team-c", 200)
	check("team-e", 200)
}

// TestQuotaBelowUseInTheFile: a quota that is lowered below what the API has added is refused, as the API refuses it, and
// the tenant stays as it was.
func TestQuotaBelowUseInTheFile(t *testing.T) {
	g := newGateway(t, twoTenants)
	g.start()
	c := g.client()
	for _, name := range []string{"one", "two"} {
		if got := do(c, "POST", g.env["TEAM_A_URL"]+"/api/v1/servers", map[string]any{"name": name, "url": "https://mcp.example.com/mcp"}, bearer(g.env["TEAM_A_KEY"])...); got.Status != 201 {
			t.Fatalf("server: %d %s", got.Status, got.Body)
		}
	}
	failed := g.reloadCount(t, "failed")
	g.write("tenants.yaml", "tenants:\n  - {id: team-a, display_name: changed, quotas: {max_servers: 1}}\n  - {id: team-b, display_name: changed}\n")
	g.waitReload(t, "failed", failed)
	for id, changed := range map[string]bool{"team-a": false, "team-b": true} {
		if got := g.operator(c, "GET", "/api/v1/tenants/"+id, nil); strings.Contains(string(got.Body), "changed") != changed {
			t.Errorf("%s: changed should be %t: %s", id, changed, got.Body)
		}
	}
	if !strings.Contains(g.log.String(), "max_servers is 1, but the tenant would have 2 servers") {
		t.Errorf("the log does not say why:\n%s", g.log)
	}
	good := g.reloadCount(t, "ok")
	g.write("tenants.yaml", "tenants:\n  - {id: team-a, display_name: changed, quotas: {max_servers: 2}}\n  - {id: team-b, display_name: changed}\n")
	g.waitReload(t, "ok", good)
}

// TestServeTellsEachMistake: as config check does, on a line of its own.
func TestServeTellsEachMistake(t *testing.T) {
	g := newGateway(t, "tenants:\n  - {id: A}\n  - {id: B}\n")
	for _, c := range []struct{ file, content, want string }{
		{"tenants.yaml", "", "/tenants.yaml:3:10: tenant id \"B\""},
		{"polygate.yaml", "x: 1\ny: 2\n", "/polygate.yaml:2:1: \"y\" is unknown"},
	} {
		if c.content != "" {
			g.write(c.file, c.content)
		}
		var out, errs output
		code := run(t.Context(), []string{"serve", "-c", filepath.Join(g.dir, "polygate.yaml")}, nil, &out, &errs)
		lines := slices.Collect(strings.Lines(errs.String()))
		if code != exitFailure || len(lines) < 2 || !strings.Contains(lines[1], c.want) {
			t.Errorf("%s: exit %d and %q, want 1 and a second line with %s", c.file, code, lines, c.want)
		}
	}
}

// TestDemoVarsInAShell: what the shell and the next start read is what was written, whatever the folder is called.
func TestDemoVarsInAShell(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	v := demoVars{{"PLAIN", "https://team-a.localhost:8443"}, {"POLYGATE_CA", "/a folder/$HOME & more/ca.pem"}, {"KEY", "pgk_abc"}}
	if err := v.write(file); err != nil {
		t.Fatal(err)
	}
	if got := readVars(file); !slices.Equal(got, v) {
		t.Errorf("read back %v, want %v", got, v)
	}
	b, err := exec.Command("sh", "-c", `. "$0"; printf '%s|%s|%s' "$PLAIN" "$POLYGATE_CA" "$KEY"`, file).CombinedOutput()
	if want := "https://team-a.localhost:8443|/a folder/$HOME & more/ca.pem|pgk_abc"; err != nil || string(b) != want {
		t.Errorf("a shell reads %q, %v, want %q", b, err, want)
	}
}

// TestOperatorTokenFile: a token that nobody could send, or that everybody could read, ends the start with a reason.
func TestOperatorTokenFile(t *testing.T) {
	const good = "pgo_0123456789012345678901234567890123456789"
	for _, c := range []struct {
		content string
		mode    os.FileMode
		want    string // of the error
	}{
		{good + "\n", 0o600, ""},
		{good + "\n", 0o644, "chmod 600"},
		{"short", 0o600, "at least 32"},
		{good + "\nsecond line", 0o600, "no header may carry"},
	} {
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte(c.content), c.mode); err != nil {
			t.Fatal(err)
		}
		got, err := loadToken(file)
		if c.want == "" && (err != nil || got != good) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q with mode %o: %q, %v, want %q", c.content, c.mode, got, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), good) {
			t.Errorf("the error shows the token: %v", err)
		}
	}
}

// TestRootWithoutDemo: a gateway that is no demo writes its authority's certificate too: without it no client could trust it.
func TestRootWithoutDemo(t *testing.T) {
	g := newGateway(t, twoTenants)
	platform, _, _ := strings.Cut(g.read("polygate.yaml"), "demo:")
	g.write("polygate.yaml", platform)
	g.launch()
	g.waitReady(30 * time.Second)
	g.env = map[string]string{"POLYGATE_CA": filepath.Join(g.dir, "data", "ca.pem")}
	if got := do(g.client(), "GET", "https://team-a.localhost:"+g.public[strings.LastIndex(g.public, ":")+1:]+"/healthz", nil); got.Status != 200 {
		t.Errorf("healthz with the written root: %d %v", got.Status, got.Err)
	}
}
