package admin_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/tenant"
)

// TestOneRefusal: whoever has no valid token gets the same bytes, whatever the path, method, tenant or form of the token.
func TestOneRefusal(t *testing.T) {
	f := newFixture(t)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a"}`)
	refusal := f.want(401, "GET", "/api/v1/tenants", "", "Authorization", "")
	if refusal.header.Get("Www-Authenticate") == "" {
		t.Error("no WWW-Authenticate")
	}
	var tries [][]string
	for _, r := range f.server.Routes() {
		if r.Action != "" {
			path := fillPath(r.Pattern, "team-a")
			tries = append(tries, []string{r.Method, path})
			tries = append(tries, []string{r.Method, strings.Replace(path, "team-a", "nobody", 1)})
		}
	}
	for _, value := range []string{"Bearer wrong", "Bearer", "Bearer ", "Basic " + token, token, "Bearer " + token + " ", "Bearer\t" + token,
		"Bearer " + tenant.HashKey(token).String(), "Bearer " + strings.Repeat("x", 10000)} {
		tries = append(tries, []string{"GET", "/api/v1/tenants", "Authorization", "", "Authorization", value})
	}
	tries = append(tries,
		[]string{"GET", "/nothing"}, []string{"PATCH", "/api/v1/tenants"}, []string{"TRACE", "/"}, []string{"GET", "/api/v1/tenants/a--b"},
		[]string{"GET", "/api/v1/tenants", "Authorization", "Bearer " + token}, // two of them
		[]string{"GET", "/api/v1/tenants?token=" + token})
	for _, try := range tries {
		headers := try[2:]
		if len(headers) == 0 {
			headers = []string{"Authorization", ""}
		}
		got := f.send(try[0], try[1], "", headers...)
		got.header.Del("X-Request-Id")
		want := refusal.header.Clone()
		want.Del("X-Request-Id")
		if got.status != 401 || got.body != refusal.body || fmt.Sprint(got.header) != fmt.Sprint(want) {
			t.Errorf("%v: %d %v %s\nwant the same as: %v %s", try, got.status, got.header, got.body, want, refusal.body)
		}
	}
}

func TestZeroTokenAdmitsNobody(t *testing.T) {
	f := newFixture(t)
	cfg := f.config()
	cfg.Token = func() tenant.Hash { return tenant.Hash{} }
	f.rebuild(cfg)
	f.want(401, "GET", "/api/v1/tenants", "")
	f.want(401, "GET", "/api/v1/tenants", "", "Authorization", "")
}

// TestOtherSites: what a browser sends for another site is refused before anything else (X58).
func TestOtherSites(t *testing.T) {
	f := newFixture(t)
	for _, tc := range []struct {
		name   string
		header []string
		status int
	}{
		{"our host", nil, 200},
		{"our host in capitals", []string{"Host", "ADMIN.localhost:9443"}, 200},
		{"our host without port", []string{"Host", "admin.localhost"}, 200},
		{"our address", []string{"Host", "127.0.0.1:9443"}, 200},
		{"a rebound name", []string{"Host", "evil.example:9443"}, 403},
		{"a tenant's name", []string{"Host", "team-a.localhost:9443"}, 403},
		{"a name that begins like ours", []string{"Host", "admin.localhost.evil.example"}, 403},
		{"a name that ends like ours", []string{"Host", "evil-admin.localhost"}, 403},
		{"a final dot", []string{"Host", "admin.localhost.:9443"}, 403},
		{"no host", []string{"Host", ""}, 403},
		{"another address", []string{"Host", "[::1]:9443"}, 403},
		{"our own origin", []string{"Origin", "https://" + host}, 200},
		{"another origin", []string{"Origin", "https://evil.example"}, 403},
		{"an opaque origin", []string{"Origin", "null"}, 403},
		{"our origin in clear text", []string{"Origin", "http://" + host}, 403},
		{"our host at another port", []string{"Origin", "https://admin.localhost:8443"}, 403},
		{"our origin and another", []string{"Origin", "https://" + host, "Origin", "https://evil.example"}, 403},
		{"another site", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"a sibling site", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"our own page", []string{"Sec-Fetch-Site", "same-origin"}, 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := *f
			f.t = t
			f.want(tc.status, "GET", "/api/v1/tenants", "", tc.header...)
			if tc.status == http.StatusForbidden {
				f.want(403, "GET", "/healthz", "", tc.header...)
				f.want(403, "GET", "/api/v1/tenants", "", append(tc.header, "Authorization", "")...)
			}
		})
	}
	if n := len(f.store.committed()); n != 0 {
		t.Errorf("%d changes were committed", n)
	}
}

// TestLogLines: nothing that a caller sends breaks out of its log line, and no credential is in it (X57).
func TestLogLines(t *testing.T) {
	f := newFixture(t)
	breakers := "x\r\nlevel=ERROR msg=forged\x1b[2J\"}\n{\"msg\":\"forged\"}\u2028\x00"
	escaped := "x%0d%0a%1b%5b2J%22%7d%0a%7b%22msg%22%3a%22forged%22%7d%00"
	f.send("GET", "/api/v1/tenants/"+escaped, "")
	f.send("GET", "/"+strings.Repeat(escaped, 50), "")
	f.send("GET", "/api/v1/tenants", "", "Host", breakers)
	f.send("GET", "/api/v1/tenants", "", "X-Request-Id", breakers, "Origin", breakers, "User-Agent", breakers)
	f.send("GET", "/api/v1/tenants", "", "Authorization", "", "Authorization", "Bearer canary-wrong-token")
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a"}`)
	f.send("POST", "/api/v1/tenants/team-a/keys", `{"name":"x\r\n\u001b[2J"}`)
	f.send("DELETE", "/api/v1/tenants/team-a/keys/"+escaped, "")
	f.send("POST", "/api/v1/tenants", `{"id":"`+strings.ReplaceAll(escaped, "%", "\\u00")+`","api_keys":[{"key_hash":"pgk_canary"}]}`)
	made := f.want(201, "POST", "/api/v1/tenants/team-a/keys", `{"name":"ci"}`)

	var key struct{ Key string }
	if err := json.Unmarshal([]byte(made.body), &key); err != nil || key.Key == "" {
		t.Fatalf("%s: %v", made.body, err)
	}
	lines := 0
	for sc := bufio.NewScanner(strings.NewReader(f.log.String())); sc.Scan(); lines++ {
		var event map[string]any
		if err := json.Unmarshal(sc.Bytes(), &event); err != nil {
			t.Errorf("line %q: %v", sc.Text(), err)
			continue
		}
		if msg := event["msg"]; msg != "admin request" && msg != "operator token refused" {
			t.Errorf("msg = %v in %s", msg, sc.Text())
		}
		if p, _ := event["path"].(string); len(p) > 256 {
			t.Errorf("a path of %d bytes was logged", len(p))
		}
		if strings.ContainsFunc(sc.Text(), func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			t.Errorf("control characters in %q", sc.Text())
		}
	}
	if lines < 11 {
		t.Errorf("%d lines, want one for each request and one for the refusal", lines)
	}
	for _, secret := range []string{token, "canary", key.Key, key.Key[4:20]} {
		if strings.Contains(f.log.String(), secret) {
			t.Errorf("the log holds the secret %q", secret)
		}
	}
	for _, e := range append(f.records.all(), f.store.committed()...) {
		b, err := json.Marshal(e)
		if err != nil || strings.ContainsFunc(string(b), func(r rune) bool { return r < 0x20 }) || strings.Contains(string(b), "forged") {
			t.Errorf("record %s (%v)", b, err)
		}
	}
}

// TestFloodOfRefusals: wrong tokens cannot fill the log, and do not lock the operators out.
func TestFloodOfRefusals(t *testing.T) {
	f := newFixture(t)
	for range 500 {
		f.want(401, "GET", "/api/v1/tenants", "", "Authorization", "")
	}
	if n := strings.Count(f.log.String(), "operator token refused"); n > 50 {
		t.Errorf("%d log lines of 500 refusals", n)
	}
	f.want(200, "GET", "/api/v1/tenants", "")
}

// TestPanicFailsOneRequest: a defect in one request is a 500 without its cause, and the next request works.
func TestPanicFailsOneRequest(t *testing.T) {
	f := newFixture(t)
	cfg := f.config()
	cfg.Counts = panicking{}
	f.rebuild(cfg)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a"}`)
	if got := f.want(500, "PUT", "/api/v1/tenants/team-a", `{"quotas":{"max_servers":1}}`); strings.Contains(got.body, "boom") {
		t.Errorf("body = %s", got.body)
	}
	if !strings.Contains(f.log.String(), "boom") {
		t.Error("the cause is not in the log")
	}
	f.want(200, "GET", "/api/v1/tenants/team-a", "")
}

func FuzzBody(f *testing.F) {
	for _, s := range []string{`{"id":"team-a"}`, `{"id":"a","id":"b"}`, `{"quotas":{"burst":1e999}}`, `[`, `{"api_keys":[{}]}`, "", "\xff", `{"id":null}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		fx := newFixture(t)
		for _, path := range []string{"/api/v1/tenants", "/api/v1/tenants/team-a/keys", "/api/v1/tenants/team-a/suspend"} {
			got := fx.send("POST", path, body)
			if got.status >= 500 {
				t.Errorf("POST %s %q: %d %s", path, body, got.status, got.body)
			}
			if !json.Valid([]byte(got.body)) {
				t.Errorf("POST %s %q: the answer %q is no JSON", path, body, got.body)
			}
		}
	})
}
