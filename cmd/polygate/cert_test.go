package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// testPEM makes a certificate that vouches for itself, and its key.
func testPEM(t *testing.T, change func(*x509.Certificate), names ...string) (chain, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(77), Subject: pkix.Name{CommonName: "a test"}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
	}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// put writes files into a folder of their own and returns it.
func put(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// lines returns what a recorder was asked, one line each, without the paging.
func (r *recorder) lines() string {
	var out []string
	for _, q := range r.asked {
		line := q.method + " " + q.path
		if q.body != nil {
			b, _ := json.Marshal(q.body)
			line += " " + string(b)
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

// TestCertAndHostRequests: what each command line asks of which API, with which credential.
func TestCertAndHostRequests(t *testing.T) {
	chain, key := testPEM(t, nil, "a.example.org")
	dir := put(t, map[string]string{"c.pem": chain, "k.pem": key})
	rec := newRecorder(t, func(r request) (int, any) {
		if r.method == http.MethodDelete {
			return http.StatusNoContent, nil
		}
		item := map[string]any{"host": "a.example.org", "state": "ready", "chain": chain, "not_after": "2027-01-01T00:00:00Z"}
		if strings.HasSuffix(r.path, "/certificates") || r.method == http.MethodGet && strings.HasSuffix(r.path, "/hosts") {
			return http.StatusOK, map[string]any{"items": []any{item}}
		}
		return http.StatusOK, item
	})
	rec.settle(t)
	t.Chdir(dir)
	body, _ := json.Marshal(map[string]string{"chain": chain, "key": key})
	for _, tt := range []struct{ line, want string }{
		{"cert list", "GET /api/v1/certificates"},
		{"cert list --tenant team-a", "GET /api/v1/tenants/team-a/certificates"},
		{"cert list --platform", "GET /api/v1/certificates"},
		{"cert show *.example.org --platform", "GET /api/v1/certificates/%2A.example.org"},
		{"cert show a.example.org --chain", "GET /api/v1/certificates/a.example.org"},
		{"cert renew a.example.org", "POST /api/v1/certificates/a.example.org/renew"},
		{"cert renew a.example.org --tenant team-a", "POST /api/v1/tenants/team-a/certificates/a.example.org/renew"},
		{"cert revoke a/b --yes", `POST /api/v1/certificates/a%2Fb/revoke {"reason":0}`},
		{"cert revoke a --reason cessation-of-operation --yes", `POST /api/v1/certificates/a/revoke {"reason":5}`},
		{"cert remove a.example.org", "DELETE /api/v1/certificates/a.example.org"},
		{"cert import --cert c.pem --key k.pem --host x.example.org", "PUT /api/v1/certificates/x.example.org " + string(body)},
		{"cert import --cert c.pem --key k.pem", "GET /api/v1/certificates\nPUT /api/v1/certificates/a.example.org " + string(body)},
		{"cert import --cert c.pem --key k.pem --tenant team-a", "GET /api/v1/tenants/team-a/certificates\nPUT /api/v1/tenants/team-a/certificates/a.example.org " + string(body)},
		{"host list", "GET /api/v1/hosts"},
		{"host list --tenant team-a", "GET /api/v1/tenants/team-a/hosts"},
		{"host add a.example.org", `POST /api/v1/hosts {"host":"a.example.org"}`},
		{"host verify a.example.org", "POST /api/v1/hosts/a.example.org/verify"},
		{"host remove a.example.org", "DELETE /api/v1/hosts/a.example.org"},
	} {
		rec.asked = nil
		stdout, stderr, code := here(t, "", strings.Fields(tt.line)...)
		if got := strings.ReplaceAll(rec.lines(), "/*.", "/%2A."); code != 0 || got != tt.want {
			t.Errorf("polygate %s: exit %d\ngot  %s\nwant %s\n%s", tt.line, code, got, tt.want, stderr)
		}
		credential := "Bearer a-key"
		if strings.Contains(tt.line, "--tenant") || strings.Contains(tt.line, "--platform") {
			credential = "Bearer a-token"
		}
		for _, q := range rec.asked {
			if q.authorization != credential {
				t.Errorf("polygate %s: it came with %q, want %q", tt.line, q.authorization, credential)
			}
		}
		if strings.Contains(stdout+stderr, "PRIVATE KEY") {
			t.Errorf("polygate %s shows a key", tt.line)
		}
		if strings.Contains(tt.line, "--chain") && stdout != chain {
			t.Errorf("the chain is printed as %q", stdout)
		}
	}
}

// TestCertWrongLines: what the commands refuse before they ask anybody.
func TestCertWrongLines(t *testing.T) {
	rec := newRecorder(t, func(request) (int, any) { return http.StatusOK, map[string]any{} })
	rec.settle(t)
	leaf, key := testPEM(t, nil, "a.example.org")
	over, _ := testPEM(t, func(c *x509.Certificate) { c.IsCA, c.NotAfter = true, time.Now().Add(-time.Minute) })
	t.Chdir(put(t, map[string]string{"leaf.pem": leaf, "key.pem": key, "over.pem": over, "large.pem": strings.Repeat("x", maxCertFile+1), "words.pem": "hello\n"}))
	for _, tt := range []struct{ line, want string }{
		{"cert list --platform --tenant team-a", "choose one"},
		{"cert list -o xml", "table, json or yaml"},
		{"cert revoke a.example.org", "--yes"},
		{"cert revoke a.example.org --yes --reason because", "key-compromise"},
		{"cert revoke a.example.org --yes --reason privilege-withdrawn", "key-compromise"}, // an issuer's own reason
		{"cert renew a.example.org --wait --timeout 0s", "not positive"},
		{"cert import --cert leaf.pem", "required flag"},
		{"cert import --cert - --key -", "both -"},
		{"cert import --cert none.pem --key key.pem", "read the certificate: open none.pem"},
		{"cert import --cert leaf.pem --key large.pem", "read the key: large.pem is over 65536 bytes"},
		{"cert import --cert words.pem --key key.pem", "is it the right file"},
		{"cert import --cert key.pem --key leaf.pem", "is it the right file"},
		{"cert trust", "no root"},
		{"cert trust --root words.pem", "holds no PEM certificate"},
		{"cert trust --root key.pem", "only certificates belong in it"},
		{"cert trust --root leaf.pem", "no authority's certificate"},
		{"cert trust --root over.pem --install", "expired at"},
		{"cert trust --root over.pem --install --uninstall", "install uninstall"},
		{"cert trust --config none.yaml", "none.yaml"},
		{"host verify a.example.org --timeout -1s", "not positive"},
		{"host add", "accepts 1 arg"},
	} {
		rec.asked = nil
		_, stderr, code := here(t, "", strings.Fields(tt.line)...)
		if code == 0 || !strings.Contains(stderr, tt.want) || len(rec.asked) > 0 {
			t.Errorf("polygate %s: exit %d and %d requests, want none and %q\n%s", tt.line, code, len(rec.asked), tt.want, stderr)
		}
	}
}

// TestCertImportForSome: without --host every host that the certificate names gets it; if one is refused, the others go on.
func TestCertImportForSome(t *testing.T) {
	chain, key := testPEM(t, nil, "*.example.org", "b.example.net")
	t.Chdir(put(t, map[string]string{"c.pem": chain, "k.pem": key}))
	rec := newRecorder(t, func(r request) (int, any) {
		if r.method == http.MethodGet {
			var items []any
			for _, h := range []string{"a.example.org", "b.example.net", "b.a.example.org", "*.example.org", "*.example.net", "team-a.gateway"} {
				items = append(items, map[string]any{"host": h})
			}
			return http.StatusOK, map[string]any{"items": items}
		}
		if strings.HasSuffix(r.path, "b.example.net") {
			return http.StatusConflict, map[string]any{}
		}
		return http.StatusOK, map[string]any{"host": filepath.Base(r.path), "new_field": "kept"}
	})
	rec.settle(t)
	out, stderr, code := here(t, "", "cert", "import", "--cert", "c.pem", "--key", "k.pem", "-o", "json")
	var imported []string
	for _, q := range rec.asked[1:] {
		imported = append(imported, filepath.Base(strings.ReplaceAll(q.path, "%2A", "*")))
	}
	if want := []string{"a.example.org", "b.example.net", "*.example.org"}; code != 1 || !slices.Equal(imported, want) || strings.Count(out, "new_field") != 2 {
		t.Errorf("exit %d, imported for %v, want %v\n%s", code, imported, want, out)
	}
	if !strings.Contains(stderr, `for "b.example.net"`) || !strings.Contains(stderr, "1 of 3 hosts did not take") {
		t.Errorf("it tells %s", stderr)
	}
	chain, _ = testPEM(t, nil, "elsewhere.example")
	t.Chdir(put(t, map[string]string{"c.pem": chain, "k.pem": key}))
	if _, stderr, code := here(t, "", "cert", "import", "--cert", "c.pem", "--key", "k.pem"); code != 1 || !strings.Contains(stderr, "is for elsewhere.example, and for none of the hosts: a.example.org, ") {
		t.Errorf("of no host: exit %d\n%s", code, stderr)
	}
}

// TestCertImportWildcard: the base domain's wildcard is imported before it is listed, for the platform alone.
func TestCertImportWildcard(t *testing.T) {
	chain, key := testPEM(t, nil, "*.gw.example.org", "gw.example.org")
	t.Chdir(put(t, map[string]string{"c.pem": chain, "k.pem": key}))
	rec := newRecorder(t, func(r request) (int, any) {
		return http.StatusOK, map[string]any{"items": []any{map[string]any{"host": "gw.example.org"}}}
	})
	rec.settle(t)
	for line, want := range map[string]int{"--platform": 2, "--tenant team-a": 1} {
		rec.asked = nil
		_, stderr, code := here(t, "", append([]string{"cert", "import", "--cert", "c.pem", "--key", "k.pem"}, strings.Fields(line)...)...)
		if code != 0 || len(rec.asked) != want+1 {
			t.Errorf("%s: exit %d, %s\n%s", line, code, rec.lines(), stderr)
		}
	}
}

// runCert runs the certificate commands with short waits.
func runCert(t *testing.T, change func(*certCommands), args ...string) (stdout, stderr string, err error) {
	t.Helper()
	s := &certCommands{scoped: newScoped(true), every: time.Millisecond}
	if change != nil {
		change(s)
	}
	cmd := commandGroup("cert", "x", "x", s.certRenew())
	s.bind(cmd)
	return carryOut(t.Context(), cmd, args...)
}

func carryOut(ctx context.Context, cmd *cobra.Command, args ...string) (stdout, stderr string, err error) {
	var out, errs strings.Builder
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetIn(strings.NewReader(""))
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(ctx)
	return out.String(), errs.String(), err
}

// TestCertRenewWait follows an order through all that may come of it.
func TestCertRenewWait(t *testing.T) {
	old := map[string]any{"host": "h", "state": "ready", "fingerprint": "old", "not_after": "2999-01-01T00:00:00Z", "attempts": 0}
	with := func(base map[string]any, change ...any) map[string]any {
		m := map[string]any{}
		for k, v := range base {
			m[k] = v
		}
		for i := 0; i < len(change); i += 2 {
			m[change[i].(string)] = change[i+1]
		}
		return m
	}
	fresh := with(old, "fingerprint", "new", "issuer", "Pebble")
	for _, tt := range []struct {
		name     string
		before   map[string]any
		begun    map[string]any
		then     []any // an answer, or a status
		want     string
		wantErr  string
		lookedAt int
	}{
		{"at once", old, fresh, nil, "is served: Pebble, until 2999", "", 0},
		{"in a while", old, old, []any{old, 503, 429, with(old, "state", "pending"), fresh}, "is served", "", 5},
		{"of the local authority", with(old, "source", "local"), with(old, "source", "local", "state", "pending", "fingerprint", ""), nil, "with its next handshake", "", 0},
		{"the first one", with(old, "fingerprint", "", "state", "pending"), with(old, "fingerprint", "", "state", "pending"), []any{fresh}, "is served", "", 1},
		{"it fails", old, old, []any{with(old, "error", "CAA forbids it", "code", "caa", "attempts", 1, "next_attempt", "2999-01-02T00:00:00Z")},
			"", "the order for h failed: CAA forbids it (caa); the gateway tries again at 2999-01-02T00:00:00Z; the certificate before it is served until 2999-01-01", 1},
		{"an earlier failure is not this one's", with(old, "error", "x", "attempts", 3, "state", "failing", "fingerprint", ""), with(old, "error", "x", "attempts", 3, "state", "failing", "fingerprint", ""),
			[]any{with(old, "error", "x", "attempts", 3, "state", "failing", "fingerprint", ""), fresh}, "is served", "", 2},
		{"it fails again", with(old, "error", "x", "attempts", 3, "fingerprint", ""), with(old, "error", "x", "attempts", 3, "fingerprint", ""),
			[]any{with(old, "error", "y", "attempts", 4, "fingerprint", "")}, "", "failed: y", 1},
		{"begun anew, it fails", with(old, "error", "x", "attempts", 1), with(old, "error", "x", "attempts", 1),
			[]any{old, with(old, "error", "y", "attempts", 1)}, "", "failed: y", 2},
		{"the host is taken away", old, old, []any{404}, "", "not found", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			looks := -1
			rec := newRecorder(t, func(r request) (int, any) {
				if r.method == http.MethodPost {
					return http.StatusAccepted, tt.begun
				}
				if looks++; looks == 0 {
					return http.StatusOK, tt.before
				}
				switch next := tt.then[min(looks, len(tt.then))-1].(type) {
				case int:
					return next, map[string]any{}
				default:
					return http.StatusOK, next
				}
			})
			rec.settle(t)
			_, stderr, err := runCert(t, nil, "renew", "h", "--wait", "--timeout", "30s")
			switch {
			case tt.wantErr == "" && (err != nil || !strings.Contains(stderr, tt.want)):
				t.Errorf("got %v\n%s", err, stderr)
			case tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)):
				t.Errorf("got %v, want %q", err, tt.wantErr)
			}
			if looks != tt.lookedAt {
				t.Errorf("it looked %d times, want %d", looks, tt.lookedAt)
			}
		})
	}
}

// TestCertRenewIsNotWaitedForForEver: the time is over, or the user has gone; the order goes on.
func TestCertRenewIsNotWaitedForForEver(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var counts atomic.Bool // a question of the first command may come when it is over
	var asked atomic.Int32
	rec := newRecorder(t, func(r request) (int, any) {
		if r.method == http.MethodGet && counts.Load() && asked.Add(1) == 3 {
			cancel()
		}
		return http.StatusOK, map[string]any{"host": "h", "state": "pending"}
	})
	rec.settle(t)
	if _, _, err := runCert(t, nil, "renew", "h", "--wait", "--timeout", "20ms"); err == nil || !strings.Contains(err.Error(), "after 20ms: the order goes on") {
		t.Errorf("got %v", err)
	}
	s := &certCommands{scoped: newScoped(true), every: time.Millisecond}
	cmd := commandGroup("cert", "x", "x", s.certRenew())
	s.bind(cmd)
	counts.Store(true)
	if _, _, err := carryOut(ctx, cmd, "renew", "h", "--wait"); err == nil || !strings.Contains(err.Error(), "the order for h goes on") {
		t.Errorf("interrupted: got %v", err)
	}
}

// TestCertTables: what is wrong with a certificate is in the list, and nothing of it reaches the terminal as it is.
func TestCertTables(t *testing.T) {
	item := map[string]any{"host": "h", "state": "failing", "source": "acme", "error": "rate\x1b[2J limited", "code": "rate_limited", "attempts": 2,
		"next_attempt": "2027-01-01T00:00:00Z", "names": []string{"h"}, "fingerprint": "abcd", "not_after": "2026-12-31T00:00:00Z"}
	rec := newRecorder(t, func(r request) (int, any) {
		if strings.HasSuffix(r.path, "/certificates") {
			return http.StatusOK, map[string]any{"items": []any{item}}
		}
		return http.StatusOK, item
	})
	rec.settle(t)
	out, _, code := here(t, "", "cert", "list")
	if code != 0 || !strings.Contains(out, `failing  acme    2026-12-31T00:00:00Z  -       -       rate\u001b[2J limited`) {
		t.Errorf("exit %d\n%s", code, out)
	}
	out, _, code = here(t, "", "cert", "show", "h")
	if code != 0 || !strings.Contains(out, `limited (rate_limited)`) || !strings.Contains(out, "2 failed, the next at 2027-01-01T00:00:00Z") || strings.Contains(out, "\x1b") {
		t.Errorf("exit %d\n%s", code, out)
	}
	if _, stderr, code := here(t, "", "cert", "show", "h", "--chain"); code != 1 || !strings.Contains(stderr, "has no certificate to print: rate") || strings.Contains(stderr, "\x1b") {
		t.Errorf("no chain: exit %d\n%s", code, stderr)
	}
	item = map[string]any{"host": "h", "state": "pending", "source": "local"} // of the gateway's own authority
	for _, line := range []string{"cert list", "cert show h --chain", "cert renew h", "cert renew h --wait"} {
		if out, stderr, _ := here(t, "", strings.Fields(line)...); !strings.Contains(out+stderr, "signed with its next handshake") {
			t.Errorf("%s: %q\n%s", line, out, stderr)
		}
	}
}

// TestHostCompletion completes hosts of the right kind, of the right API.
func TestHostCompletion(t *testing.T) {
	rec := newRecorder(t, func(r request) (int, any) {
		kind := filepath.Base(r.path)
		return http.StatusOK, map[string]any{"items": []any{
			map[string]any{"host": "a." + kind, "state": "pending"}, map[string]any{"host": "b." + kind, "state": "active"}, map[string]any{"host": "c\x1b", "state": "pending"}}}
	})
	rec.settle(t)
	for line, want := range map[string]string{
		"cert show ":                  "a.certificates b.certificates",
		"cert renew b":                "b.certificates",
		"cert show --platform ":       "a.certificates b.certificates",
		"cert import --host ":         "a.certificates b.certificates",
		"host verify ":                "a.hosts",
		"host remove ":                "a.hosts b.hosts",
		"cert show --tenant team-a a": "a.certificates",
	} {
		rec.asked = nil
		args := append([]string{"__complete"}, strings.Split(line, " ")...)
		out, _, _ := here(t, "", args...)
		var got []string
		for l := range strings.Lines(out) {
			if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, ":") {
				got = append(got, l)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("polygate %s: got %v, want %s", line, got, want)
		}
		tenants := strings.Contains(line, "--tenant")
		for _, q := range rec.asked {
			if strings.Contains(q.path, "/tenants/team-a/") != tenants {
				t.Errorf("polygate %s asks %s", line, q.path)
			}
		}
	}
}

// TestSpecOfConnections: what a file declares of certificates and connections is sent, secrets too: the gateway seals them.
func TestSpecOfConnections(t *testing.T) {
	ca, _ := testPEM(t, func(c *x509.Certificate) { c.IsCA = true })
	chain, key := testPEM(t, nil, "client.example.org")
	dir := put(t, map[string]string{"ca.pem": ca, "c.pem": chain, "c.key": key, "eab": "bWFj\n", "tenants.yaml": `tenants:
  - id: a
    mode: dedicated
    dedicated: {upstream: "https://gw.example.org", ca_file: ca.pem, server_name: gw.example.net, client_cert_file: c.pem, client_key_file: c.key}
    tls: {min_version: "1.3", client_ca_file: ca.pem}
    certificates: {source: acme, acme: {directory: "https://acme.example.org", eab_key_id: k, eab_key_file: eab, ca_file: ca.pem, profile: p}}
  - id: b
    mode: passthrough
    passthrough: {upstream: "gw.example.org:8443", proxy_protocol: true}
`})
	list, err := loadDeclared(filepath.Join(dir, "tenants.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	a, b := specOf(&list[0]), specOf(&list[1])
	if d := a.Dedicated; d.CA != ca || d.ServerName != "gw.example.net" || d.Client.Chain != chain || d.Client.Key != key {
		t.Errorf("dedicated %+v", d)
	}
	if a.TLS.MinVersion != "1.3" || a.TLS.ClientCA != ca {
		t.Errorf("tls %+v", a.TLS)
	}
	if c := a.Certificates; c.Source != "acme" || c.ACME.EABKey != "bWFj" || c.ACME.EABKeyID != "k" || c.ACME.CA != ca || c.ACME.Profile != "p" {
		t.Errorf("certificates %+v", c)
	}
	if b.Passthrough == nil || !b.Passthrough.ProxyProtocol || b.Certificates != nil {
		t.Errorf("passthrough %+v", b)
	}
}
