package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

// one reads one JSON object of a command's output.
func one[T any](t *testing.T, out string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	return v
}

// peopleCommands uses what is about who may come in: authenticators, members, bots, keys and grants.
func (g *gateway) peopleCommands(t *testing.T) {
	g.write("corp.yaml", "name: corp\ntype: oidc\noidc:\n  issuer: https://login.example.com\n  audiences: [polygate]\n  login: {client_id: polygate, client_secret_file: corp.secret}\n")
	g.write("corp.secret", "cl1ent-s3cret\n")
	g.write("bad.yaml", "name: corp\ntype: oidc\noidc:\n  isuer: x\n")
	corp := filepath.Join(g.dir, "corp.yaml")
	g.ok(t, "authenticator corp added", "authenticator", "add", "-f", corp)
	g.fails(t, "409", "authenticator", "add", "-f", corp)
	if _, stderr, code := g.cli(t, "authenticator", "add", "-f", filepath.Join(g.dir, "bad.yaml")); code != 1 || !strings.Contains(stderr, "bad.yaml:4:3: \"isuer\" is unknown") {
		t.Errorf("a bad file: exit %d, %s", code, stderr)
	}
	g.ok(t, "https://login.example.com", "authenticator", "list")
	if shown := g.ok(t, "has_client_secret: true", "authenticator", "get", "corp", "-o", "yaml"); strings.Contains(shown, "cl1ent-s3cret") {
		t.Errorf("the client secret is shown:\n%s", shown)
	}
	g.ok(t, "updated", "authenticator", "update", "-f", corp)

	g.ok(t, "is editor", "member", "add", "user:corp/alice", "--role", "editor")
	g.ok(t, "", "member", "add", "group:corp/engineering", "--role", "viewer")
	g.fails(t, "409", "member", "add", "user:corp/alice", "--role", "editor")
	g.ok(t, "group:corp/engineering", "member", "list")
	g.ok(t, "is admin", "member", "set-role", "alice", "--role", "admin", "--tenant", "team-a")
	g.ok(t, "user:corp/alice", "member", "list", "--tenant", "team-a", "-o", "table")
	g.ok(t, "is viewer", "member", "set-role", "user:corp/alice", "--role", "viewer", "--tenant", "team-a")
	g.ok(t, "is refused", "member", "revoke", "user:corp/alice")
	g.ok(t, "is refused", "member", "revoke", "alice")
	g.fails(t, "no such member", "member", "remove", "nobody")

	g.ok(t, "added", "bot", "add", "deploy", "--role", "editor")
	key := strings.TrimSpace(g.ok(t, "pgk_", "bot", "key", "create", "deploy", "--name", "first", "--expires", "30d"))
	if me := one[identity](t, g.as(t, key, "whoami", "-o", "json")); !strings.HasPrefix(me.Ref, "bot:") || me.Role != "editor" || me.Expires.IsZero() {
		t.Errorf("the bot is %+v", me)
	}
	second := one[keyInfo](t, g.ok(t, "pgk_", "bot", "key", "rotate", "deploy", "--overlap", "1h", "--name", "second", "-o", "json"))
	bot := one[botInfo](t, g.ok(t, "first", "bot", "get", "deploy", "-o", "json"))
	for _, k := range bot.Keys {
		if left := time.Until(k.Expires); k.Name == "first" && (left > time.Hour || left < 0) {
			t.Errorf("after the rotation, the first key ends in %s", left)
		}
	}
	g.ok(t, "second", "bot", "get", bot.ID)
	g.ok(t, "deploy", "bot", "list")
	g.ok(t, "revoked", "bot", "key", "revoke", "deploy", "first")
	g.fails(t, "has no key", "bot", "key", "revoke", "deploy", "first")

	g.ok(t, "shown this once", "key", "create", "team-a", "--name", "by-operator", "--role", "admin", "--expires", "90d")
	g.ok(t, "shown this once", "key", "create", "--name", "by-admin", "--role", "viewer", "--expires", time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	g.fails(t, "not allowed", "key", "create", "--name", "too-much", "--role", "admin")
	g.ok(t, "by-admin", "key", "list")
	g.ok(t, "by-operator", "key", "list", "team-a")
	g.ok(t, "revoked", "key", "revoke", "by-admin")

	g.ok(t, "", "server", "add", "docs", "https://mcp.example.com/mcp")
	g.ok(t, "may mcp.call on server/docs", "grant", "add", "bot:deploy", "mcp.call", "docs", "--until", "8h")
	grant := one[struct{ Items []grantInfo }](t, g.ok(t, "server/docs", "grant", "list", "-o", "json"))
	if len(grant.Items) != 1 || grant.Items[0].To != bot.Ref {
		t.Fatalf("grants: %+v", grant)
	}
	g.ok(t, "removed", "grant", "remove", grant.Items[0].ID[:13])
	g.ok(t, "", "server", "remove", "docs")

	for _, words := range [][]string{{"bot", "get", "de"}, {"member", "remove", "user"}, {"key", "list", "team-"}, {"authenticator", "get", ""}, {"tenant", "get", "team-"}} {
		want := map[string]string{"bot": "deploy", "member": "user:corp/alice", "key": "team-b", "authenticator": "corp", "tenant": "team-b"}[words[0]]
		g.ok(t, want+"\n", append([]string{"__complete"}, words...)...)
	}

	g.ok(t, "removed", "bot", "remove", "deploy")
	if _, stderr, code := g.cli(t, "whoami", "--key-file", g.file("gone.key", second.Key)); code != 1 || !strings.Contains(stderr, "not valid") {
		t.Errorf("the key of a removed bot: exit %d, %s", code, stderr)
	}
	g.ok(t, "removed", "member", "remove", "engineering")
	g.ok(t, "removed", "authenticator", "remove", "corp", "--yes")
	for _, secret := range []string{key, second.Key, "cl1ent-s3cret"} {
		if strings.Contains(g.log.String(), secret) {
			t.Error("the log holds a secret")
		}
	}
}

// file writes a file and returns its path.
func (g *gateway) file(name, content string) string {
	g.write(name, content)
	return filepath.Join(g.dir, name)
}

// as runs a command with a key from a file.
func (g *gateway) as(t *testing.T, key string, args ...string) string {
	t.Helper()
	return g.ok(t, "", append(args, "--key-file", g.file("as.key", key))...)
}

const denyDocs = `package polygate.authz

allow := true

deny contains "docs is for reading" if {
	input.action == "server.delete"
	input.resource.name == "docs"
}
`

// policyCommands uses what is about policies.
func (g *gateway) policyCommands(t *testing.T) {
	g.write("policy/authz.rego", denyDocs)
	g.write("policy/authz_test.rego", "package polygate.authz_test\n\ntest_others if data.polygate.authz.allow\n")
	g.write("broken/authz.rego", "package polygate.authz\n\nallow := true\n\ndeny contains x if {\n")
	dir, broken := filepath.Join(g.dir, "policy"), filepath.Join(g.dir, "broken")
	for _, where := range [][]string{nil, {"--server"}, {"--url", g.env["TEAM_A_URL"]}} {
		g.ok(t, "sha256:", append([]string{"policy", "check", dir}, where...)...)
		g.ok(t, "1 passed, 0 failed", append([]string{"policy", "test", dir}, where...)...)
		g.fails(t, "broken/authz.rego:6:1: ", append([]string{"policy", "check", broken}, where...)...)
	}
	g.ok(t, "not put in force", "policy", "upload", dir, "--dry-run")
	first := one[uploaded](t, g.ok(t, "", "policy", "upload", dir, "-o", "json"))
	g.fails(t, "authz.rego", "policy", "upload", broken)
	g.ok(t, "in force", "policy", "list")
	g.ok(t, "docs is for reading", "policy", "get")

	g.ok(t, "", "server", "add", "docs", "https://mcp.example.com/mcp")
	_, stderr, code := g.cli(t, "server", "remove", "docs")
	if code != 1 || !strings.Contains(stderr, "docs is for reading") {
		t.Errorf("a denied removal: exit %d, %s", code, stderr)
	}
	why := g.ok(t, "docs is for reading", "policy", "explain", "server.delete", "server/docs")
	for _, want := range []string{"denied", first.Digest, "authz.rego:"} {
		if !strings.Contains(why, want) {
			t.Errorf("explain does not tell %q:\n%s", want, why)
		}
	}
	_, id, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(stderr), ")"), "request id ")
	g.ok(t, "docs is for reading", "policy", "explain", "--request-id", id)
	g.ok(t, "denied", "policy", "explain", "server.create", "server/x", "--as", "user:corp/alice", "--role", "viewer")

	g.write("policy/authz.rego", "package polygate.authz\n\nallow := true\n")
	g.ok(t, "is in force", "policy", "upload", dir)
	g.ok(t, first.Digest, "policy", "activate", strings.TrimPrefix(first.Digest, "sha256:")[:8])
	g.ok(t, first.Digest[:20], "__complete", "policy", "activate", "sha256:")
	g.ok(t, "no policy is in force", "policy", "deactivate")
	g.ok(t, "", "server", "remove", "docs")
}

// recordCommands uses what tells of the past: usage and the audit log.
func (g *gateway) recordCommands(t *testing.T, log string) {
	g.ok(t, "Requests:", "usage")
	g.ok(t, "limits:", "usage", "--tenant", "team-a", "-o", "yaml")
	denied := one[struct {
		Items []struct{ Action, Decision string }
	}](t, g.ok(t, "server.delete", "audit", "query", "--decision", "deny", "--since", "1h", "-o", "json"))
	for _, r := range denied.Items {
		if r.Decision != "deny" {
			t.Errorf("asked for denials: %+v", r)
		}
	}
	g.ok(t, "DECISION", "audit", "query", "--action", "bot.*", "--limit", "5")
	if csv := g.ok(t, "member.create", "audit", "query", "--action", "member.create", "-o", "csv", "--limit", "0"); !strings.HasPrefix(csv, "time,") && !strings.HasPrefix(csv, "id,") {
		t.Errorf("no CSV:\n%s", csv)
	}
	for line := range strings.Lines(g.ok(t, "", "audit", "query", "-o", "jsonl", "--limit", "3")) {
		one[map[string]any](t, line)
	}
	var y struct{ Items []map[string]any }
	if err := yaml.Unmarshal([]byte(g.ok(t, "", "audit", "query", "--limit", "2", "-o", "yaml")), &y); err != nil || len(y.Items) != 2 {
		t.Errorf("YAML: %v, %v", err, y)
	}
	g.ok(t, "_platform", "audit", "tail", "--file", log, "-n", "1000")
	g.ok(t, "TIME", "audit", "query", "--platform", "--since", "1h")
	g.ok(t, "whole", "audit", "verify", "--file", log)
}

// profileCommands uses profiles in the place of the environment.
func (g *gateway) profileCommands(t *testing.T) {
	xdg := filepath.Join(g.dir, "profiles")
	bare := func(want string, code int, args ...string) {
		t.Helper()
		stdout, stderr, got := g.bare(t, xdg, args...)
		if got != code || !strings.Contains(stdout+stderr, want) {
			t.Errorf("polygate %s: exit %d, want %d and %q\n%s%s", strings.Join(args, " "), got, code, want, stdout, stderr)
		}
	}
	key, token := g.file("a.key", g.env["TEAM_A_KEY"]), g.file("op.token", g.env["ADMIN_TOKEN"])
	bare("no URL", 2, "whoami")
	bare("is kept in", 0, "profile", "set", "a", "--url", g.env["TEAM_A_URL"], "--key-file", key, "--ca-file", g.env["POLYGATE_CA"])
	bare("", 0, "profile", "set", "ops", "--admin-url", g.env["ADMIN_URL"], "--admin-token-file", token, "--ca-file", g.env["POLYGATE_CA"], "--tenant", "team-a")
	bare("team-a", 0, "whoami")
	bare("is for its own URL alone", 2, "whoami", "--url", g.env["TEAM_B_URL"])
	bare("team-b", 0, "tenant", "list", "--profile", "ops")
	bare("MEMBER", 0, "member", "list", "--profile", "ops")
	bare("MEMBER", 0, "member", "list")
	bare("in use", 0, "profile", "use", "ops")
	bare("no URL", 2, "whoami")
	if b, err := os.ReadFile(filepath.Join(xdg, "polygate", "config.yaml")); err != nil || strings.Contains(string(b), g.env["TEAM_A_KEY"]) {
		t.Errorf("the file of profiles: %v\n%s", err, b)
	}
}
