package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// cli runs a command line of polygate with the settings that a user of the demo has in the environment.
func (g *gateway) cli(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return execute(t, []string{"POLYGATE_ADMIN_URL=" + g.env["ADMIN_URL"], "POLYGATE_ADMIN_TOKEN=" + g.env["ADMIN_TOKEN"], "POLYGATE_CA=" + g.env["POLYGATE_CA"],
		"POLYGATE_URL=" + g.env["TEAM_A_URL"], "POLYGATE_KEY=" + g.env["TEAM_A_KEY"], "XDG_CONFIG_HOME=" + filepath.Join(g.dir, "xdg")}, args...)
}

// bare runs a command line with nothing in the environment but where profiles are.
func (g *gateway) bare(t *testing.T, xdg string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return execute(t, []string{"XDG_CONFIG_HOME=" + xdg}, args...)
}

func execute(t *testing.T, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(bin(t, "polygate"), args...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// ok runs a command that must succeed and print want, and returns its stdout.
func (g *gateway) ok(t *testing.T, want string, args ...string) string {
	t.Helper()
	stdout, stderr, code := g.cli(t, args...)
	if code != 0 || !strings.Contains(stdout+stderr, want) {
		t.Errorf("polygate %s: exit %d, want 0 and %q\n%s%s", strings.Join(args, " "), code, want, stdout, stderr)
	}
	return stdout
}

// fails runs a command that must fail with one line that holds want.
func (g *gateway) fails(t *testing.T, want string, args ...string) {
	t.Helper()
	stdout, stderr, code := g.cli(t, args...)
	if code != 1 || !strings.Contains(stderr, want) || strings.Count(stderr, "\n") != 1 {
		t.Errorf("polygate %s: exit %d, want 1 and one line with %q\n%s%s", strings.Join(args, " "), code, want, stdout, stderr)
	}
}

// TestCommandsOnTheRunningProduct uses each client command as an operator and as a tenant would.
func TestCommandsOnTheRunningProduct(t *testing.T) {
	g := newGateway(t, twoTenants)
	g.start()
	g.write("new.yaml", "tenants:\n  - {id: team-c, display_name: Team C, quotas: {max_servers: 1}}\n")
	newYAML := filepath.Join(g.dir, "new.yaml")
	log := filepath.Join(g.dir, "data", "audit.jsonl")
	ok := func(want string, args ...string) string { t.Helper(); return g.ok(t, want, args...) }
	fails := func(want string, args ...string) { t.Helper(); g.fails(t, want, args...) }

	ok("team-a", "tenant", "list")
	ok("created", "tenant", "apply", "-f", newYAML)
	ok("unchanged", "tenant", "apply", "-f", newYAML)
	ok("Team C", "tenant", "get", "team-c")
	ok("", "tenant", "suspend", "team-c", "--reason", "holiday")
	ok("holiday", "tenant", "get", "team-c")
	ok("", "tenant", "resume", "team-c")
	var key struct{ Key string }
	if err := json.Unmarshal([]byte(ok("pgk_", "key", "create", "team-c", "--name", "ci", "--role", "viewer", "-o", "json")), &key); err != nil || key.Key == "" {
		t.Errorf("key create -o json: %v", err)
	}
	ok("viewer", "key", "list", "team-c")
	ok("", "key", "revoke", "team-c", "ci")
	fails("", "key", "revoke", "team-c", "ci")
	fails("tenants.yaml", "tenant", "delete", "team-a", "--yes")
	ok("", "tenant", "delete", "team-c", "--yes")
	fails("", "tenant", "get", "team-c")

	ok("", "server", "add", "tools", "https://mcp.example.com/mcp", "--header", "X-Token: s3cret")
	if list := ok("tools", "server", "list"); strings.Contains(list, "s3cret") {
		t.Errorf("server list shows a header's value:\n%s", list)
	}
	fails("", "server", "add", "tools", "https://mcp.example.com/mcp")
	ok("", "server", "remove", "tools")
	fails("", "server", "remove", "tools")

	ok("whole", "audit", "verify", "--file", log)
	eventually(t, "audit tail shows what was done", func() bool {
		out, _, code := g.cli(t, "audit", "tail", "--file", log, "-n", "100")
		return code == 0 && strings.Contains(out, "server.create")
	})
	ok("", "config", "check", filepath.Join(g.dir, "polygate.yaml"), filepath.Join(g.dir, "tenants.yaml"))
	ok("go1", "version", "-o", "json")
	ok("complete", "completion", "bash")

	t.Run("people", func(t *testing.T) { g.peopleCommands(t) })
	t.Run("policies", func(t *testing.T) { g.policyCommands(t) })
	t.Run("records", func(t *testing.T) { g.recordCommands(t, log) })
	t.Run("profiles", func(t *testing.T) { g.profileCommands(t) })

	if b, err := os.ReadFile(log); err != nil || strings.Contains(string(b), "s3cret") || strings.Contains(string(b), key.Key) {
		t.Errorf("the audit log holds a secret, or cannot be read: %v", err)
	}
	if strings.Contains(g.log.String(), "s3cret") || strings.Contains(g.log.String(), key.Key) {
		t.Error("the log holds a secret")
	}
}
