package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/tenant"
)

// request is what a command sent.
type request struct {
	method, path, authorization string
	query                       url.Values
	body                        map[string]any
}

// recorder is a gateway that keeps what it is asked, and answers as it is told.
type recorder struct {
	*httptest.Server
	asked   []request
	answers func(r request) (int, any)
}

func newRecorder(t *testing.T, answers func(request) (int, any)) *recorder {
	t.Helper()
	rec := &recorder{answers: answers}
	rec.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		one := request{method: r.Method, path: r.URL.EscapedPath(), query: r.URL.Query(), authorization: r.Header.Get("Authorization")}
		if b, _ := io.ReadAll(r.Body); len(b) > 0 {
			if err := json.Unmarshal(b, &one.body); err != nil {
				t.Errorf("%s %s: the body %q: %v", r.Method, r.URL, b, err)
			}
		}
		rec.asked = append(rec.asked, one)
		status, body := rec.answers(one)
		w.WriteHeader(status)
		if status != http.StatusNoContent {
			_ = json.NewEncoder(w).Encode(body)
		}
	}))
	t.Cleanup(rec.Close)
	return rec
}

// here runs a command line in this process, with settings of its own in the environment.
func here(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs strings.Builder
	code = run(t.Context(), args, strings.NewReader(stdin), &out, &errs)
	return out.String(), errs.String(), code
}

// settle clears what is in the environment of whoever runs the tests, and sets it up for a recorder.
func (r *recorder) settle(t *testing.T) {
	t.Helper()
	for _, name := range []string{"POLYGATE_ADMIN_URL", "POLYGATE_ADMIN_TOKEN", "POLYGATE_URL", "POLYGATE_KEY", "POLYGATE_TOKEN", "POLYGATE_TENANT", "POLYGATE_PROFILE", "POLYGATE_CA"} {
		t.Setenv(name, "")
	}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("POLYGATE_URL", r.URL)
	t.Setenv("POLYGATE_KEY", "a-key")
	t.Setenv("POLYGATE_ADMIN_URL", r.URL)
	t.Setenv("POLYGATE_ADMIN_TOKEN", "a-token")
}

// TestRequests: what each command line asks of which API, with which credential.
func TestRequests(t *testing.T) {
	rec := newRecorder(t, func(r request) (int, any) {
		switch {
		case r.method == http.MethodDelete:
			return http.StatusNoContent, nil
		case strings.HasSuffix(r.path, "/usage"):
			return http.StatusOK, map[string]any{"requests": 1}
		}
		item := map[string]any{"id": "0199", "name": "x/y", "kind": "user", "authenticator": "corp", "role": "viewer", "digest": "sha256:ab", "keys": []any{map[string]any{"id": "k-1", "name": "old"}}}
		if r.method == http.MethodGet {
			item["items"] = []any{map[string]any{"id": "0199", "name": "x/y", "kind": "user", "authenticator": "corp", "digest": "sha256:ab"}}
		}
		return http.StatusOK, item
	})
	rec.settle(t)
	for _, tt := range []struct {
		line string // words
		want string // method, path and body of the last request
	}{
		{"member list", "GET /api/v1/members"},
		{"member list --tenant team-a", "GET /api/v1/tenants/team-a/members"},
		{"member add user:corp/a:b/c --role viewer", `POST /api/v1/members {"authenticator":"corp","kind":"user","name":"a:b/c","role":"viewer"}`},
		{"member set-role x/y --role admin", `PATCH /api/v1/members/0199 {"role":"admin"}`},
		{"member set-role user:corp/x/y --role admin --tenant team-a", `PATCH /api/v1/tenants/team-a/members/0199 {"role":"admin"}`},
		{"member remove 0199", "DELETE /api/v1/members/0199"},
		{"member revoke user:corp/zed", `POST /api/v1/members/revoke {"principal":"user:corp/zed"}`},
		{"bot add b --role viewer", `POST /api/v1/bots {"name":"b","role":"viewer"}`},
		{"bot get x/y", "GET /api/v1/bots/x%2Fy"},
		{"bot key create b --expires 30d", `POST /api/v1/bots/b/keys {"expires_in_seconds":2.592e+06}`},
		{"bot key create b --expires 2027-01-31T01:00:00+01:00", `POST /api/v1/bots/b/keys {"expires":"2027-01-31T00:00:00Z"}`},
		{"bot key rotate b --overlap 90m", `POST /api/v1/bots/b/keys {"retire_others_in_seconds":5400}`},
		{"bot key rotate b --overlap 0s", `POST /api/v1/bots/b/keys {"retire_others_in_seconds":0}`},
		{"bot key revoke b old", "DELETE /api/v1/keys/k-1"},
		{"key create --name ci --expires 12h", `POST /api/v1/keys {"expires_in_seconds":43200,"name":"ci","role":"editor"}`},
		{"key create team-a --name ci", `POST /api/v1/tenants/team-a/keys {"name":"ci","role":"editor"}`},
		{"key revoke ci", "DELETE /api/v1/keys/ci"},
		{"key revoke team-a ci", "DELETE /api/v1/tenants/team-a/keys/ci"},
		{"key revoke ci --tenant team-b", "DELETE /api/v1/tenants/team-b/keys/ci"},
		{"grant add bot:x/y mcp.call docs --until 1h", `POST /api/v1/grants {"action":"mcp.call","expires_in_seconds":3600,"object":"server/docs","to":"bot:0199"}`},
		{"grant add key:unknown mcp.read server/docs", `POST /api/v1/grants {"action":"mcp.read","object":"server/docs","to":"key:unknown"}`},
		{"grant remove 01", "DELETE /api/v1/grants/0199"},
		{"policy get", "GET /api/v1/policies/active"},
		{"policy activate a", "POST /api/v1/policies/sha256:ab/activate"},
		{"policy deactivate", "DELETE /api/v1/policies/active"},
		{"policy explain mcp.call server/docs", `POST /api/v1/policies/explain {"action":"mcp.call","resource":"server/docs"}`},
		{"policy explain a.b c --as user:corp/z --role viewer --group g --attribute d=1 --attribute d=2", `POST /api/v1/policies/explain {"action":"a.b","principal":{"attributes":{"d":["1","2"]},"groups":["g"],"ref":"user:corp/z","role":"viewer"},"resource":"c"}`},
		{"usage", "GET /api/v1/usage"},
		{"usage --tenant team-a", "GET /api/v1/tenants/team-a/usage"},
		{"whoami", "GET /api/v1/whoami"},
		{"audit query", "GET /api/v1/audit"},
		{"audit query --platform", "GET /api/v1/audit"},
		{"authenticator remove corp --yes", "DELETE /api/v1/authenticators/corp"},
	} {
		rec.asked = nil
		_, stderr, code := here(t, "", strings.Fields(tt.line)...)
		if code != 0 || len(rec.asked) == 0 {
			t.Errorf("polygate %s: exit %d, %s", tt.line, code, stderr)
			continue
		}
		last := rec.asked[len(rec.asked)-1]
		got := last.method + " " + last.path
		if last.body != nil {
			b, _ := json.Marshal(last.body)
			got += " " + string(b)
		}
		got = strings.ReplaceAll(strings.ReplaceAll(got, "2592000", "2.592e+06"), "%3A", ":")
		if got != tt.want {
			t.Errorf("polygate %s\ngot  %s\nwant %s", tt.line, got, tt.want)
		}
		credential := "Bearer a-key"
		if strings.Contains(last.path, "/tenants/") || strings.Contains(tt.line, "--platform") {
			credential = "Bearer a-token"
		}
		if last.authorization != credential {
			t.Errorf("polygate %s: it came with %q, want %q", tt.line, last.authorization, credential)
		}
	}
}

// TestWrongLines: what a command refuses before it asks anybody.
func TestWrongLines(t *testing.T) {
	rec := newRecorder(t, func(request) (int, any) { return http.StatusOK, map[string]any{} })
	rec.settle(t)
	for _, tt := range []struct{ line, want string }{
		{"member add alice --role viewer", "is no member"},
		{"member add user:corp/ --role viewer", "is no member"},
		{"member add user:corp/alice --role god", "role"},
		{"member add user:corp/alice", "required flag"},
		{"member revoke group:corp/x", "is a group"},
		{"member revoke user:corp/x --tenant team-a", "ends no logins"},
		{"member list --tenant A/B", "tenant id"},
		{"key create --name x --expires soon", "neither a span"},
		{"key create --name x --expires -1h", "neither a span"},
		{"bot key rotate b --overlap -1s", "negative"},
		{"authenticator remove corp", "--yes"},
		{"grant add alice mcp.call docs", "is no principal"},
		{"policy explain mcp.call", "--request-id"},
		{"policy explain a b --attribute x", "name=value"},
		{"audit query --since tomorrow", "neither a time"},
		{"audit query --since -1h", "neither a time"},
		{"audit query --limit -1", "negative"},
		{"audit query -o xml", "table, json, yaml, csv or jsonl"},
		{"member list -o csv", "table, json or yaml"},
		{"whoami --profile nobody", "there is no profile"},
	} {
		rec.asked = nil
		_, stderr, code := here(t, "", strings.Fields(tt.line)...)
		if code == 0 || !strings.Contains(stderr, tt.want) || len(rec.asked) > 0 {
			t.Errorf("polygate %s: exit %d and %d requests, want none and %q\n%s", tt.line, code, len(rec.asked), tt.want, stderr)
		}
	}
}

// TestPages: lists and audit queries are followed to their end, or to their limit, whichever API answers.
func TestPages(t *testing.T) {
	for _, names := range [][2]string{{"items", "next_cursor"}, {"records", "next"}} {
		rec := newRecorder(t, func(r request) (int, any) {
			page := len(r.query.Get("cursor"))
			var items []any
			for i := range 2 {
				items = append(items, map[string]any{"id": fmt.Sprint(page, i), "name": fmt.Sprint(page, i), "time": "2026-01-01T00:00:00Z", "principal": "user:corp/a", "action": "x.y", "decision": "allow", "outcome": "ok", "new_field": "kept", "seq": 1})
			}
			answer := map[string]any{names[0]: items, "damaged": 1}
			if page < 2 {
				answer[names[1]] = r.query.Get("cursor") + "x"
			}
			return http.StatusOK, answer
		})
		rec.settle(t)
		if names[0] == "items" {
			if out, _, code := here(t, "", "bot", "list", "-o", "json"); code != 0 || strings.Count(out, `"name"`) != 6 || !strings.Contains(out, `"new_field": "kept"`) {
				t.Errorf("bot list: exit %d\n%s", code, out)
			}
		}
		for _, tt := range []struct {
			line string
			rows int
			more bool
		}{{"audit query -o jsonl --limit 0", 6, false}, {"audit query -o jsonl --limit 4", 4, true}, {"audit query -o jsonl --limit 100", 6, false}} {
			out, stderr, code := here(t, "", strings.Fields(tt.line)...)
			if code != 0 || strings.Count(out, "\n") != tt.rows || strings.Contains(stderr, "there are more") != tt.more || !strings.Contains(stderr, "lines of the log are not what was written") {
				t.Errorf("%s with %s: exit %d\n%s%s", tt.line, names[0], code, out, stderr)
			}
		}
		if out, _, _ := here(t, "", "audit", "query", "-o", "csv", "--limit", "2"); strings.Count(out, "\n") != 3 {
			t.Errorf("CSV:\n%s", out)
		}
	}
}

// TestProfilePrecedence: a flag counts before the environment, that before the profile; and a profile's credential does not
// leave for another place.
func TestProfilePrecedence(t *testing.T) {
	rec := newRecorder(t, func(request) (int, any) { return http.StatusOK, map[string]any{} })
	other := newRecorder(t, func(request) (int, any) { return http.StatusOK, map[string]any{} })
	rec.settle(t)
	t.Setenv("POLYGATE_URL", "")
	t.Setenv("POLYGATE_KEY", "")
	dir := os.Getenv("XDG_CONFIG_HOME")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(dir, "polygate", "config.yaml")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "flag.key"), []byte("flag-key"), 0o600); err != nil {
		t.Fatal(err)
	}
	write("current: a\nprofiles:\n  - {name: a, url: \""+rec.URL+"\", key: profile-key}\n  - {name: b, url: \""+other.URL+"\", key: other-key}\n", 0o600)
	last := func(r *recorder) string { return r.asked[len(r.asked)-1].authorization }
	expect := func(r *recorder, want string, args ...string) {
		t.Helper()
		r.asked = nil
		if _, stderr, code := here(t, "", append([]string{"whoami"}, args...)...); code != 0 || len(r.asked) != 1 || last(r) != "Bearer "+want {
			t.Errorf("whoami %v: exit %d, %v, want %s\n%s", args, code, r.asked, want, stderr)
		}
	}
	expect(rec, "profile-key")
	expect(other, "other-key", "--profile", "b")
	t.Setenv("POLYGATE_PROFILE", "b")
	expect(other, "other-key")
	expect(rec, "profile-key", "--profile", "a")
	t.Setenv("POLYGATE_KEY", "env-key")
	expect(other, "env-key")
	expect(other, "flag-key", "--key-file", filepath.Join(dir, "flag.key"))
	t.Setenv("POLYGATE_KEY", "")
	rec.asked = nil
	if _, stderr, code := here(t, "", "whoami", "--url", rec.URL); code != 2 || len(rec.asked) > 0 || !strings.Contains(stderr, "for its own URL alone") {
		t.Errorf("b's key for a's URL: exit %d, %v\n%s", code, rec.asked, stderr)
	}
	t.Setenv("POLYGATE_TOKEN", "x")
	t.Setenv("POLYGATE_KEY", "y")
	if _, stderr, code := here(t, "", "whoami"); code != 2 || !strings.Contains(stderr, "both set") {
		t.Errorf("a key and a token: exit %d\n%s", code, stderr)
	}
	t.Setenv("POLYGATE_TOKEN", "")

	for text, want := range map[string]string{
		"current: a\nprofiles: []\n":                                              "config.yaml:1:10: there is no profile \"a\"",
		"profiles:\n  - {name: a, colour: red}\n":                                 "config.yaml:2:15: \"colour\" is unknown",
		"profiles:\n  - {name: a}\n  - {name: a}\n":                               "config.yaml:3:12: profile \"a\" is there twice",
		"profiles:\n  - {name: a, key: s3cret, token_file: x}\n":                  "ways to say the same",
		"profiles:\n  - {name: a, url: \"https://me:s3cret@gw.example.com\"}\n":   "holds more than scheme",
		"profiles:\n  - {name: a, url: \"http://gw.example.com\", key: s3cret}\n": "unencrypted",
	} {
		write(text, 0o600)
		if _, stderr, code := here(t, "", "profile", "list"); code != 1 || !strings.Contains(stderr, want) || strings.Contains(stderr, "s3cret") {
			t.Errorf("%q: exit %d, want 1 and %q, and no secret\n%s", text, code, want, stderr)
		}
	}
	write("profiles:\n  - {name: a, key: s3cret}\n", 0o640)
	if _, stderr, code := here(t, "", "whoami"); code != 1 || !strings.Contains(stderr, "chmod 600") || strings.Contains(stderr, "s3cret") {
		t.Errorf("a key that others may read: exit %d\n%s", code, stderr)
	}
	write("profiles:\n  - {name: a, key_file: s3cret}\n", 0o644)
	if _, stderr, code := here(t, "", "profile", "show", "a"); code != 0 {
		t.Errorf("no secret in it: exit %d\n%s", code, stderr)
	}
}

func TestPublicKeys(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keys, err := readPublicKeys([]string{hex.EncodeToString(public), file("good.pem", "PUBLIC KEY", der)})
	if err != nil || len(keys) != 2 || !keys[0].Equal(public) || !keys[1].Equal(public) {
		t.Errorf("got %v, %v", keys, err)
	}
	for _, bad := range []string{file("private.pem", "PRIVATE KEY", secret), filepath.Join(dir, "none"), "abcd"} {
		if _, err := readPublicKeys([]string{bad}); err == nil {
			t.Errorf("%s is taken for a public key", bad)
		}
	}
}

func TestParseMember(t *testing.T) {
	for text, want := range map[string]string{
		"user:corp/alice": "user corp alice true", "group:corp/a/b:c": "group corp a/b:c true", "user:spiffe:x/y": "user spiffe:x y true",
		"bot:corp/alice": "   false", "user:alice": " alice  false", "user:/x": "user  x false", "alice": "   false",
	} {
		kind, authenticator, name, ok := parseMember(text)
		if got := fmt.Sprint(kind, " ", authenticator, " ", name, " ", ok); ok != strings.HasSuffix(want, "true") || ok && got != want {
			t.Errorf("parseMember(%q) = %s, want %s", text, got, want)
		}
	}
}

func TestMoment(t *testing.T) {
	now := time.Date(2026, 5, 2, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"90m": "2026-05-02T10:30:00Z", "7d": "2026-04-25T12:00:00Z", "0s": "2026-05-02T12:00:00Z", "2026-01-31T01:00:00+01:00": "2026-01-31T00:00:00Z",
		"-1h": "", "d": "", "99999d": "", "yesterday": "",
	} {
		at, err := moment(text, now)
		if got := stamp(at); (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("moment(%q) = %s, %v, want %s", text, got, err, want)
		}
	}
}

// TestVerifySegments: a log in several files, with signed checkpoints, is one log.
func TestVerifySegments(t *testing.T) {
	dir := t.TempDir()
	signer, err := audit.NewSigner(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	w, err := newCLIWorld(dir, func(c *audit.DrainConfig) { c.Signer, c.Rotation.MaxBytes = signer, 2000 })
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "audit.jsonl")
	segments := func() []string {
		list, err := audit.LogFiles(log)
		if err != nil {
			t.Fatal(err)
		}
		return list[:len(list)-1]
	}
	for i := 0; len(segments()) < 2 && i < 1000; i++ {
		if err := w.makeTenant(fmt.Sprintf("team-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	w.close()
	key := hex.EncodeToString(signer.Public())
	expect := func(code int, want string, args ...string) {
		t.Helper()
		stdout, stderr, got := here(t, "", append([]string{"audit", "verify", "--offline"}, args...)...)
		if got != code || !strings.Contains(stdout+stderr, want) {
			t.Errorf("audit verify %v: exit %d, want %d and %q\n%s%s", args, got, code, want, stdout, stderr)
		}
	}
	expect(0, "signed with a given key", "--file", log, "--public-key", key)
	expect(1, "sign", "--file", log, "--public-key", strings.Repeat("ab", 32))
	all := segments()
	var inOrder, reversed []string
	for _, s := range append(slices.Clone(all), log) {
		inOrder, reversed = append(inOrder, "--file", s), append([]string{"--file", s}, reversed...)
	}
	expect(0, "the chains hold", append(inOrder, "--public-key", key)...)
	expect(1, "NOT WHAT WAS WRITTEN", reversed...)
	if err := os.Remove(all[len(all)-1]); err != nil {
		t.Fatal(err)
	}
	expect(1, "NOT WHAT WAS WRITTEN", "--file", log)
}

// TestSpecOf: what a file declares and the API takes is sent.
func TestSpecOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tenants.yaml")
	text := "tenants:\n  - id: team-a\n    allowed_origins: [https://app.example.org]\n    api_keys: [{name: ci, role: viewer, expires: 2035-01-31T00:00:00Z, key_hash: \"" + tenant.HashKey("k").String() + "\"}]\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := loadDeclared(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	spec := specOf(&list[0])
	if k := (*spec.APIKeys)[0]; stamp(k.Expires) != "2035-01-31T00:00:00Z" || k.Role != tenant.Viewer || len(spec.Origins) != 1 {
		t.Errorf("got %+v with the key %+v", spec, k)
	}
}
