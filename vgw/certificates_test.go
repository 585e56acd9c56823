package vgw_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// pemKey looks like a private key, and its lines are found wherever they go.
func pemKey() string {
	body := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("a private key that nobody may see ", 12)))
	var b strings.Builder
	b.WriteString("-----BEGIN PRIVATE KEY-----\n")
	for line := range slices.Chunk([]byte(body), 64) {
		b.Write(line)
		b.WriteByte('\n')
	}
	return b.String() + "-----END PRIVATE KEY-----\n"
}

// leaks says whether a text has 16 characters in a row of a key's lines.
func leaks(text string) bool {
	lines := strings.Split(pemKey(), "\n")
	for _, line := range lines[1 : len(lines)-2] {
		for i := 0; i+16 <= len(line); i++ {
			if strings.Contains(text, line[i:i+16]) {
				return true
			}
		}
	}
	return false
}

const mine = "mcp.example.com"

// certWorld is a world with team-a, which has a host of its own.
func certWorld(t testing.TB) (*world, tenant.Principal) {
	w := full(t)
	w.store.add("team-a")
	w.haveHost(t, "team-a", mine)
	return w, w.principal("team-a", tenant.Admin)
}

// A certificate is seen, provided, renewed, revoked and taken back.
func TestCertificatesStory(t *testing.T) {
	w, admin := certWorld(t)
	const path = "/api/v1/certificates/" + mine
	none := w.do("team-a", admin, get(path))
	if want := `{"host":"mcp.example.com","source":"acme","state":"pending"}` + "\n"; none.body != want || none.header.Get("Etag") != "" {
		t.Errorf("before there is one: %s %v, want %s", none.body, none.header, want)
	}
	w.says(t, "team-a", admin, pair("CHAIN", "KEY").to(mine).with("If-Match", `"7"`), 412, "")
	w.says(t, "team-a", admin, pair("CHAIN", "KEY").to(mine).with("If-Match", `"0"`), 412, "")
	if len(w.certs.keys) != 0 {
		t.Error("imported though the precondition does not hold")
	}
	provided := w.must(t, "team-a", admin, pair("CHAIN", "KEY").to(mine), 200)
	if provided["source"] != "provided" || provided["chain"] != "CHAIN" || provided["resource_version"] != "7" || w.certs.keys[0] != "KEY" {
		t.Errorf("provided %v with the key %q", provided, w.certs.keys)
	}
	seen := w.as(tenant.Viewer, "team-a", get(path))
	if seen.header.Get("Etag") != `"7"` || !strings.Contains(seen.body, `"chain":"CHAIN"`) {
		t.Errorf("seen %s %v", seen.body, seen.header)
	}
	w.must(t, "team-a", admin, pair("CHAIN2", "KEY2").to(mine).with("If-Match", `"3", "7"`), 200)
	if got := w.certs.last(); got != "import mcp.example.com 7\n" {
		t.Errorf("the change is bound to another revision than If-Match names: %s", got)
	}
	w.says(t, "team-a", admin, del(path).with("If-Match", `"7"`), 412, "")
	list := w.as(tenant.Viewer, "team-a", get("/api/v1/certificates"))
	var hosts []string
	var page struct {
		Items []struct{ Host, Chain string }
	}
	if err := json.Unmarshal([]byte(list.body), &page); err != nil {
		t.Fatal(err)
	}
	for _, s := range page.Items {
		hosts = append(hosts, s.Host+s.Chain)
	}
	if !slices.Equal(hosts, []string{mine, "team-a.gw.test"}) {
		t.Errorf("listed %v: one for each host that is served, without chains", hosts)
	}
	if got := w.must(t, "team-a", admin, post(path+"/renew", "{}"), 202); got["state"] != "ready" {
		t.Errorf("renewed %v", got)
	}
	if got := w.must(t, "team-a", admin, post(path+"/revoke", `{"reason":1}`), 200); got["state"] != "revoked" || w.certs.last() != "revoke mcp.example.com 1\n" {
		t.Errorf("revoked %v by %s", got, w.certs.last())
	}
	for _, body := range []string{`{"reason":2}`, `{"reason":-1}`, `{"reason":256}`, `{"reason":"1"}`, `{"reason":1.5}`} {
		w.says(t, "team-a", admin, post(path+"/revoke", body), 400, "reason")
	}
	w.says(t, "team-a", admin, post(path+"/renew", `{"force":true}`), 400, "force")
	w.must(t, "team-a", admin, del(path).with("If-Match", w.do("team-a", admin, get(path)).header.Get("Etag")), 204)
	for action, want := range map[string][]string{
		"certificate.update": {"ok", "ok", "precondition-failed", "precondition-failed"}, "certificate.delete": {"ok", "precondition-failed"},
		"certificate.renew": {"ok"}, "certificate.revoke": {"ok"}, "certificate.list": {"ok"},
	} {
		var got []string
		for _, o := range w.outcomes(action) {
			_, outcome, _ := strings.Cut(o, " ")
			got = append(got, outcome)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s is recorded as %v, want %v", action, got, want)
		}
	}
}

// A host that is only asked for has no certificate, and neither has what lies within or beside the tenant's hosts.
func TestCertificateHostsAreTheTenants(t *testing.T) {
	w, admin := certWorld(t)
	w.must(t, "team-a", admin, ask("pending.example.com"), 201)
	want := ""
	for _, host := range []string{
		"nowhere.example.com", "pending.example.com", "MCP.example.com", "mcp.example.com.", "x.mcp.example.com", "example.com", "*.gw.test", "*.example.com",
		"gw.test", "team-b.gw.test", "shared.example.com", "left.example.com",
	} {
		path := "/api/v1/certificates/" + host
		for _, q := range []request{get(path), del(path), pair("CHAIN", "KEY").to(host), post(path+"/renew", ""), post(path+"/revoke", "")} {
			got := w.do("team-a", admin, q)
			if want == "" {
				want = got.bytes()
			}
			if got.status != 404 || got.bytes() != want {
				t.Errorf("%s %s: %s, want %s", q.method, q.path, got.bytes(), want)
			}
		}
	}
	for _, call := range w.certs.calls {
		t.Errorf("the keeper was asked: %s", call)
	}
}

// What comes of a certificate is told as the keeper tells it.
func TestCertificateRefusals(t *testing.T) {
	w, admin := certWorld(t)
	big := strings.Repeat("x", 64<<10)
	for _, tc := range []struct {
		q      request
		status int
		says   string
	}{
		{pair("", "KEY"), 400, "missing"},
		{pair("CHAIN", ""), 400, "missing"},
		{request{method: "PUT", body: `{"chain":"x"}`}, 400, "missing"},
		{request{method: "PUT", body: `{"chain":"x","key":null,"key":"y"}`}, 400, `\"key\"`},
		{request{method: "PUT", body: `{"chain":"x","key":5}`}, 400, `\"key\"`},
		{request{method: "PUT", body: `{"chain":"x","private_key":"y"}`}, 400, `\"private_key\"`},
		{request{method: "PUT", body: `[]`}, 400, "JSON object"},
		{request{method: "PUT", body: `{"chain":"x"`}, 400, "JSON object"},
		{pair(big, big), 200, ""},
		{pair(big, big+"y"), 413, ""},
		{pair(big, big+strings.Repeat("y", 64<<10)), 413, ""},
		{pair("CHAIN", "KEY").with("Content-Type", "application/x-pem-file"), 415, ""},
		{pair("CHAIN", "KEY").with("If-Match", `7`), 400, "If-Match"},
	} {
		w.says(t, "team-a", admin, tc.q.to(mine), tc.status, tc.says)
	}
	for kind, status := range map[fault.Kind]int{
		fault.Invalid: 400, fault.Conflict: 409, fault.PreconditionFailed: 412, fault.RateLimited: 429, fault.Unavailable: 503, fault.BadUpstream: 502,
	} {
		w.certs.fail = func(string) error { return fault.New(kind, "certificate 1 is expired since January") }
		w.says(t, "team-a", admin, pair("CHAIN", "KEY").to(mine), status, "expired since January")
		w.says(t, "team-a", admin, post("/api/v1/certificates/"+mine+"/renew", ""), status, "expired since January")
		w.says(t, "team-a", admin, post("/api/v1/certificates/"+mine+"/revoke", ""), status, "expired since January")
		w.says(t, "team-a", admin, del("/api/v1/certificates/"+mine), status, "expired since January")
		w.says(t, "team-a", admin, get("/api/v1/certificates"), status, "expired since January")
	}
}

// A change is not broken off by a caller who leaves: its outcome would be unknown.
func TestCertificateChangeOutlivesCaller(t *testing.T) {
	w, admin := certWorld(t)
	ctx, leave := context.WithCancel(t.Context())
	w.certs.fail = func(op string) error {
		leave()
		return nil
	}
	if _, err := w.decide(ctx, "team-a", admin, pair("CHAIN", "KEY").to(mine)); err != nil || len(w.certs.keys) != 1 {
		t.Errorf("got %v, imported %d", err, len(w.certs.keys))
	}
}

// A key that somebody provides is handed to the keeper, and is nowhere else: in no answer, error, cause, record or explanation,
// whatever is wrong with the request, and even if the keeper quotes it.
func TestProvidedKeyIsNowhere(t *testing.T) {
	w, admin := certWorld(t)
	key, line := pemKey(), strings.Split(pemKey(), "\n")[2]
	quoted, err := json.Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	bodies := []string{
		pair("CHAIN", key).body, pair(key, "CHAIN").body, pair(key, key).body, string(quoted), key, `{"chain":"x","key":` + string(quoted),
		`{"chain":"x","key":[` + string(quoted) + `]}`, `{"chain":"x","key":{"pem":` + string(quoted) + `}}`, `{` + string(quoted) + `:"x"}`,
		`{"chain":"x","key":{` + string(quoted) + `:1}}`, `{"` + line + `":1}`, `{"` + line + `":{},"` + line + `":{}}`, `{"key":"` + line + "\n" + `"}`,
		`{"key":` + line + `}`, `[` + string(quoted) + `]`, `{"key":"` + line + `\u00"}`, `{"key":` + string(quoted) + `,"key":` + string(quoted) + `}`,
		pair("CHAIN", key+strings.Repeat("x", 256<<10)).body,
	}
	for _, fail := range []error{
		nil, fault.New(fault.Invalid, "the key %s does not fit", key), fault.New(fault.Invalid, "the key %q does not fit", line[:40]),
		fault.Wrap(fault.Conflict, errors.New("store "+key), "it could not be stored"), fmt.Errorf("panic-like: %q", key),
	} {
		w.certs.fail = func(op string) error {
			if op == "import" {
				return fail
			}
			return nil
		}
		for i, body := range bodies {
			for _, path := range []string{"/api/v1/certificates/" + mine, "/api/v1/certificates/nowhere.example.com"} {
				q := request{method: "PUT", path: path, body: body}
				if d := w.do("team-a", admin, q); leaks(d.bytes()) {
					t.Errorf("body %d, %v: answered %s", i, fail, d.bytes())
				}
				_, err := w.decide(t.Context(), "team-a", admin, q)
				for ; err != nil; err = errors.Unwrap(err) {
					if leaks(fmt.Sprintf("%v %+v %q", err, err, err)) {
						t.Errorf("body %d, %v: the error is %v", i, fail, err)
					}
				}
			}
		}
	}
	if len(w.certs.keys) == 0 {
		t.Fatal("no key was handed over")
	}
	explained := w.as(tenant.Admin, "team-a", post("/api/v1/policies/explain", `{"action":"certificate.update","resource":"certificate/`+mine+`"}`))
	if !strings.Contains(explained.body, `"allow":true`) {
		t.Errorf("explained %s", explained.body)
	}
	records := fmt.Sprintf("%+v", w.rec.entries)
	for name, text := range map[string]string{
		"the store": w.store.dump(), "the records": records, "the list": w.as(tenant.Admin, "team-a", get("/api/v1/certificates")).body,
		"the audit log": w.as(tenant.Admin, "team-a", get("/api/v1/audit")).body, "the explanation": explained.body,
	} {
		if leaks(text) {
			t.Errorf("the key is in %s", name)
		}
	}
}

// FuzzProvidedPair sends bodies of all kinds: what is refused is not quoted.
func FuzzProvidedPair(f *testing.F) {
	key := pemKey()
	for _, s := range []string{pair("CHAIN", key).body, key, `{"key":["` + key[30:70] + `"]}`, `{"` + key[30:70] + `":1}`, `{"key":1,"key":2}`, `null`, ``} {
		f.Add(s)
	}
	w, admin := certWorld(f)
	f.Fuzz(func(t *testing.T, body string) {
		w.t = t
		got := w.do("team-a", admin, request{method: "PUT", path: "/api/v1/certificates/" + mine, body: body})
		switch got.status {
		case 200:
			var pair struct{ Chain, Key string }
			if err := json.Unmarshal([]byte(body), &pair); err != nil || pair.Chain == "" || pair.Key == "" {
				t.Errorf("%q was imported: %v", body, err)
			}
		case 400, 413, 415:
			if leaks(got.body) {
				t.Errorf("%q: %s", body, got.body)
			}
		default:
			t.Errorf("%q: %d %s", body, got.status, got.body)
		}
	})
}
