package proxy

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// X19: what is never forwarded.
func TestX19MethodsAndUpgrades(t *testing.T) {
	f := newFront(t)
	key := bearer(keyA) + "\n"
	for _, tc := range []struct {
		request string
		want    int
	}{
		{"CONNECT " + hostA + ":443 HTTP/1.1\nHost: " + hostA + "\n" + key, 405},
		{"CONNECT /x HTTP/1.1\nHost: " + hostA + "\n" + key, 405},
		{"TRACE /x HTTP/1.1\nHost: " + hostA + "\n" + key, 405},
		{"get /x HTTP/1.1\nHost: " + hostA + "\n" + key, 400},
		{"GeT /x HTTP/1.1\nHost: " + hostA + "\n" + key, 400},
		{"G_T /x HTTP/1.1\nHost: " + hostA + "\n" + key, 400},
		{"OPTIONS * HTTP/1.1\nHost: " + hostA + "\n" + key, 400},
		{"PROPFIND /x HTTP/1.1\nHost: " + hostA + "\n" + key, 200},
		{"GET /x HTTP/1.1\nHost: " + hostA + "\n" + key + "Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\n", 400},
		{"GET /x HTTP/1.1\nHost: " + hostA + "\n" + key + "Connection: Upgrade\nUpgrade: TLS/1.2\n", 400},
		{"GET /x HTTP/1.1\nHost: " + hostA + "\n" + key + "Connection: Upgrade\nUpgrade: websocket, h2c\n", 400},
		{"GET /x HTTP/1.1\nHost: " + hostA + "\n" + key + "Connection: Upgrade\nUpgrade: websocket\nUpgrade: h2c\n", 400},
		{"GET /x HTTP/1.1\nHost: " + hostA + "\n" + key + "Upgrade: websocket\n", 400},
		{"POST /x HTTP/1.1\nHost: " + hostA + "\n" + key + "Connection: Upgrade\nUpgrade: websocket\nContent-Length: 0\n", 400},
		{"GET /x HTTP/1.0\nHost: " + hostA + "\n" + key + "Connection: Upgrade\nUpgrade: websocket\n", 400},
	} {
		got := f.ask(hostA, tc.request+"\n")
		check(t, tc.request, got.status, tc.want)
		if tc.want == 405 && got.header.Get("Allow") == "" {
			t.Error("405 without Allow")
		}
	}
	if n := f.gateways.entered("team-a"); n != 1 {
		t.Errorf("team-a was entered %d times, want 1", n)
	}
}

// X18: numbers of things.
func TestX18TooMany(t *testing.T) {
	f := newFront(t)
	head := " HTTP/1.1\nHost: " + hostA + "\n" + bearer(keyA) + "\n"
	for _, tc := range []struct {
		name, request string
		want          int
	}{
		{"10001 query parameters", "GET /?" + strings.Repeat("a&", 10001) + head, 414},
		{"1001 query parameters", "GET /?" + strings.Repeat("a&", 1001) + head, 414},
		{"1000 query parameters", "GET /?" + strings.Repeat("&", 999) + head, 200},
		{"a target of 9 KiB", "GET /" + strings.Repeat("a", 9<<10) + head, 414},
		{"header of 70 KiB", "GET /x" + head + "X: " + strings.Repeat("a", 70<<10) + "\n", 431},
		{"5000 cookies", "GET /x" + head + "Cookie: " + strings.Repeat("a=b;", 5000) + "\n", 431},
		{"200 fields", "GET /x" + head + strings.Repeat("X: y\n", 200), 431},
		{"100 fields", "GET /x" + head + strings.Repeat("X: y\n", 100), 200},
		{"announced body over the limit", "POST /x" + head + "Content-Length: 99999999\n", 413},
	} {
		check(t, tc.name, f.ask(hostA, tc.request+"\n").status, tc.want)
	}
	if n := f.gateways.entered("team-a"); n != 2 {
		t.Errorf("team-a was entered %d times, want 2", n)
	}
}

// X27: liveness and nothing that resembles it.
func TestX27NoOtherDoorWithoutKey(t *testing.T) {
	f := newFront(t)
	for _, tc := range []struct {
		host, path, line string
		want             int
	}{
		{hostA, "/healthz", "", 200},
		{hostA, "/healthz?x=y", "", 200},
		{hostA, "/healthz", "X-Tenant-ID: team-a", 200},
		{hostA, "/healthz", "X-Tenant-ID: team-b", 401},
		{hostA, "/healthz/", "", 401},
		{hostA, "/healthz;x", "", 401},
		{hostA, "/HEALTHZ", "", 401},
		{hostA, "/%68ealthz", "", 401},
		{hostA, "/healthz%2f", "", 401},
		{hostA, "/x/../healthz", "", 400},
		{hostA, "/tenant/team-a/healthz", "", 401},
		{hostA, "/metrics", "", 401},
		{hostA, "/x", "User-Agent: kube-probe/1.30", 401},
		{hostA, "/x", "User-Agent: ELB-HealthChecker/2.0", 401},
		{base, "/healthz", "", 401},
		{base, "/tenant/team-a/healthz", "", 401},
	} {
		line := tc.line
		if line != "" {
			line += "\n"
		}
		check(t, tc.host+tc.path+" "+tc.line, f.ask(tc.host, "GET "+tc.path+" HTTP/1.1\nHost: "+tc.host+"\n"+line+"\n").status, tc.want)
	}
	if n := f.gateways.entered("team-a"); n != 0 {
		t.Errorf("team-a was entered %d times", n)
	}
	check(t, "POST /healthz", f.ask(hostA, "POST /healthz HTTP/1.1\nHost: "+hostA+"\nContent-Length: 0\n\n").status, 405)
}

// X57: what a client sends cannot make lines in the log, and no credential is in it.
func TestX57LogLines(t *testing.T) {
	f := newFront(t)
	const canary = "canary-71f3"
	f.ask(hostA, "GET /x%0a%22}?token="+canary+" HTTP/1.1\nHost: "+hostA+"\n"+bearer(canary)+"\nX-Request-Id: forged\nCookie: "+canary+"\nUser-Agent: \x1b[31m\"}\n\n")
	f.ask(hostA, "GET /x\x7f HTTP/1.1\nHost: "+hostA+"\n\n")
	f.ask(hostA, "GET /y HTTP/1.1\nHost: "+hostA+"\n"+bearer(keyA)+"\nX-Request-Id: forged\n\n")
	eventually(t, "events", func() bool { return strings.Count(f.log.String(), `"path":"/y"`) == 1 })
	for line := range strings.SplitSeq(strings.TrimSpace(f.log.String()), "\n") {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Errorf("not a record: %s", line)
		}
		if strings.Contains(line, canary) || strings.Contains(line, keyA) || strings.Contains(line, "forged") {
			t.Errorf("in the log: %s", line)
		}
	}
}

func TestQuota(t *testing.T) {
	f := newFront(t)
	f.change("team-a", func(r *tenant.Record) { r.Quotas = tenant.Quotas{RequestsPerSecond: 0.01, Burst: 2} })
	c := f.client()
	for _, want := range []int{200, 200, 429} {
		got := f.do(c, "GET", "https://"+hostA+"/x", nil, bearer(keyA))
		check(t, "rate", got.status, want)
		if want == 429 && got.header.Get("Retry-After") == "" {
			t.Error("429 without Retry-After")
		}
	}
	check(t, "another tenant", f.do(c, "GET", "https://"+hostB+"/x", nil, bearer(keyB)).status, 200)
	if d := (quota.Limit{}); d.PerSecond != 0 {
		t.Error("the zero limit is none")
	}
}

func TestSuspended(t *testing.T) {
	f := newFront(t)
	c := f.client()
	f.change("team-a", func(r *tenant.Record) { r.State, r.SuspendReason = tenant.StateSuspended, "unpaid" })
	got := f.do(c, "GET", "https://"+hostA+"/x", nil, bearer(keyA))
	if got.status != 503 || !strings.Contains(got.body, "unpaid") || got.header.Get("Retry-After") == "" {
		t.Errorf("member: %+v", got)
	}
	check(t, "stranger", f.do(c, "GET", "https://"+hostA+"/x", nil).status, 401)
	if got := f.do(c, "GET", "https://"+hostA+"/healthz", nil); got.status != 503 || strings.Contains(got.body, "unpaid") {
		t.Errorf("liveness: %+v", got)
	}
	check(t, "another tenant", f.do(c, "GET", "https://"+hostB+"/x", nil, bearer(keyB)).status, 200)
	f.change("team-a", func(r *tenant.Record) { r.State = tenant.StateActive })
	check(t, "resumed", f.do(c, "GET", "https://"+hostA+"/x", nil, bearer(keyA)).status, 200)
}

// X39, as far as the request's own goroutine goes.
func TestX39PanicFailsOneRequest(t *testing.T) {
	f := newFront(t)
	f.gateways.decide = func(ctx context.Context, e *tenant.Entry, r *exchange.Request) (exchange.Decision, error) {
		if r.Path == "/panic" {
			panic("boom")
		}
		return describe(ctx, e, r)
	}
	c := f.client()
	got := f.do(c, "GET", "https://"+hostA+"/panic", nil, bearer(keyA))
	if got.status != 500 || strings.Contains(got.body, "boom") || got.header.Get("X-Request-Id") == "" {
		t.Errorf("panic: %+v", got)
	}
	check(t, "the next", f.do(c, "GET", "https://"+hostA+"/x", nil, bearer(keyA)).status, 200)
	e, _ := f.dir.ByID("team-a")
	eventually(t, "nothing is in flight", func() bool { return f.guards.For(e).InFlight() == 0 })
	if !strings.Contains(f.log.String(), "boom") {
		t.Error("the panic is not in the log")
	}
}

func TestRedirect(t *testing.T) {
	f := newFront(t, func(c *Config) { c.PublicPort = 8443 })
	for _, tc := range []struct {
		request  string
		want     int
		location string
	}{
		{"GET /x?y=%2f HTTP/1.1\nHost: " + hostA, 308, "https://team-a.gw.test:8443/x?y=%2f"},
		{"POST / HTTP/1.1\nHost: TEAM-A.gw.test.:80\nContent-Length: 0", 308, "https://team-a.gw.test:8443/"},
		{"GET / HTTP/1.1\nHost: " + base, 308, "https://gw.test:8443/"},
		{"GET / HTTP/1.1\nHost: example.com", 421, ""},
		{"GET //example.com HTTP/1.1\nHost: " + hostA, 400, ""},
		{"GET https://example.com/ HTTP/1.1\nHost: " + hostA, 421, ""},
		{"GET / HTTP/1.1\nHost: " + hostA + "@example.com", 400, ""},
		{"GET / HTTP/1.0", 400, ""},
	} {
		nc, err := net.Dial("tcp", f.plain)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Write([]byte(strings.ReplaceAll(tc.request, "\n", "\r\n") + "\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(newReader(nc), nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != tc.want || res.Header.Get("Location") != tc.location {
			t.Errorf("%s: %d %s, want %d %s", tc.request, res.StatusCode, res.Header.Get("Location"), tc.want, tc.location)
		}
		res.Body.Close()
		nc.Close()
	}
}

// P5: the defaults of the edge are safe ones.
func TestEdgeDefaults(t *testing.T) {
	l := Limits{}.withDefaults()
	if l != DefaultLimits() {
		t.Errorf("the zero Limits are %+v", l)
	}
	if err := l.Validate(); err != nil {
		t.Error(err)
	}
	f := newFront(t, func(c *Config) { c.Limits = Limits{} })
	srv := f.publicServer(t.Context())
	for _, tc := range []struct {
		name string
		ok   bool
	}{
		{"a bound on the header's time", srv.ReadHeaderTimeout > 0 && srv.ReadHeaderTimeout <= 10*time.Second},
		{"a bound on idle connections, of a minute at most", srv.IdleTimeout > 0 && srv.IdleTimeout <= time.Minute},
		{"a bound on the header's size", srv.MaxHeaderBytes > 0 && srv.MaxHeaderBytes <= 64<<10},
		{"no limit on reading a whole stream", srv.ReadTimeout == 0},
		{"one on writing, late enough for sweep to lift it", srv.WriteTimeout >= l.WriteIdle/2+2*maxTick && srv.WriteTimeout <= 2*time.Minute},
		{"100 streams", srv.HTTP2.MaxConcurrentStreams == 100},
		{"the smallest frames", srv.HTTP2.MaxReadFrameSize == 16384},
		{"bounded windows", srv.HTTP2.MaxReceiveBufferPerStream <= 1<<20 && srv.HTTP2.MaxReceiveBufferPerConnection <= 1<<20},
		{"dead peers are found", srv.HTTP2.SendPingTimeout > 0 && srv.HTTP2.PingTimeout > 0},
		{"TLS 1.2", srv.TLSConfig.MinVersion == tls.VersionTLS12},
		{"a bound on connections", l.Connections > 0 && l.Connections <= 20000},
		{"a bound on bodies", l.Body > 0 && l.Body <= 32<<20},
		{"bodies and readers that stall are cut", l.BodyIdle > 0 && l.BodyIdle <= time.Minute && l.WriteIdle > 0 && l.WriteIdle <= time.Minute},
		{"no answer of net/http's own to OPTIONS *", srv.DisableGeneralOptionsHandler},
		{"HTTP/1 only in the clear", !f.plainServer(t.Context()).Protocols.UnencryptedHTTP2()},
	} {
		if !tc.ok {
			t.Errorf("not so: %s", tc.name)
		}
	}
	for _, id := range srv.TLSConfig.CipherSuites {
		if n := tls.CipherSuiteName(id); !strings.Contains(n, "GCM") && !strings.Contains(n, "POLY1305") || !strings.Contains(n, "ECDHE") {
			t.Errorf("cipher suite %s is not AEAD with forward secrecy", n)
		}
	}
	for _, v := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		if c, err := tls.Dial("tcp", f.addr, &tls.Config{InsecureSkipVerify: true, ServerName: hostA, MinVersion: v, MaxVersion: v}); err == nil {
			c.Close()
			t.Errorf("TLS %x is spoken", v)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("New(Config{}) succeeds")
	}
	if err := (Limits{IdleTime: time.Hour}).withDefaults().Validate(); err == nil || !strings.Contains(err.Error(), "idle_time") {
		t.Errorf("an idle time of an hour: %v", err)
	}
}
