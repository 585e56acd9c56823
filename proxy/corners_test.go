package proxy

import (
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

// The corners of HTTP that a proxy has to get right.
func TestHTTPCorners(t *testing.T) {
	f := newFront(t)
	f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/head":
			w.Header().Set("Content-Length", "12345")
			w.Header().Set("Server", "theirs")
		case "/redirect":
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(302)
		case "/hints":
			w.Header().Set("Link", "</x.css>")
			w.WriteHeader(103)
			w.WriteHeader(200)
		case "/trailers":
			w.Header().Set("Trailer", "Grpc-Status")
			w.Header().Set("X-Te", r.Header.Get("Te"))
			_, _ = io.WriteString(w, "message")
			w.Header().Set("Grpc-Status", "0")
			w.Header().Set(http.TrailerPrefix+"Grpc-Message", "fine")
		case "/hygiene":
			w.Header().Set("X-Request-Id", "theirs")
			w.Header().Set("X-Polygate-Tenant", "theirs")
			w.Header().Set("Alt-Svc", `h3="evil.example:443"`)
			w.Header().Set("Keep-Alive", "timeout=5")
			w.Header().Set("Proxy-Authenticate", "Basic")
			w.Header().Add("Set-Cookie", "a=domain; Path=/; Domain=.gw.test; Secure")
			w.Header().Add("Set-Cookie", "b=1; domain = gw.test")
		case "/nocontent":
			w.WriteHeader(204)
		case "/expect":
			if r.ContentLength > 100 {
				w.WriteHeader(417)
				return
			}
			echo(w, r)
		}
	}))
	c := f.client()
	url := func(path string) string { return "https://" + hostD + path }
	head := f.do(c, "HEAD", url("/head"), nil)
	if head.header.Get("Content-Length") != "12345" || head.header.Get("Server") != "theirs" {
		t.Errorf("HEAD: %+v", head)
	}
	if got := f.do(c, "GET", url("/redirect"), nil); got.status != 302 || got.header.Get("Location") != "http://127.0.0.1:1/" {
		t.Errorf("redirect: %+v", got)
	}
	check(t, "no content", f.do(c, "GET", url("/nocontent"), nil).status, 204)
	for proto, want := range map[string]int{"": 103, "h2": 0} { // flight.interim says why
		hinted := 0
		req, _ := http.NewRequest("GET", url("/hints"), nil)
		req = req.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, _ textproto.MIMEHeader) error { hinted = code; return nil }}))
		res, err := f.client(proto).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, res); hinted != want || got.status != 200 || len(got.header["X-Request-Id"]) != 1 {
			t.Errorf("hints: %d, then %+v", hinted, got)
		}
		req, _ = http.NewRequest("POST", url("/trailers"), strings.NewReader("x"))
		req.Header.Set("Te", "trailers")
		if res, err = f.client(proto).Do(req); err != nil {
			t.Fatal(err)
		}
		if got := read(t, res); res.Trailer.Get("Grpc-Status") != "0" || res.Trailer.Get("Grpc-Message") != "fine" || got.header.Get("X-Te") != "trailers" {
			t.Errorf("trailers over %q: %v, %+v", proto, res.Trailer, got)
		}
	}
	got := f.do(c, "GET", url("/hygiene"), nil)
	for name, want := range map[string]string{"X-Polygate-Tenant": "", "Alt-Svc": "", "Keep-Alive": "", "Proxy-Authenticate": "", "Set-Cookie": "a=domain; Path=/; Secure|b=1"} {
		if v := strings.Join(got.header[name], "|"); v != want {
			t.Errorf("%s = %q, want %q", name, v, want)
		}
	}
	if id := got.header["X-Request-Id"]; len(id) != 1 || id[0] == "theirs" {
		t.Errorf("X-Request-Id = %q", id)
	}
	raw := f.raw(hostD)
	raw.send("POST /expect HTTP/1.1\nHost: " + hostD + "\nExpect: 100-continue\nContent-Length: 4\n\n")
	check(t, "expect", raw.answer().status, 100)
	raw.send("body")
	if got := raw.answer(); got.status != 200 || got.seen(t).Body != "body" {
		t.Errorf("after 100: %+v", got)
	}
	raw = f.raw(hostD)
	raw.send("POST /expect HTTP/1.1\nHost: " + hostD + "\nExpect: 100-continue\nContent-Length: 4000\n\n")
	check(t, "refused expectation", raw.answer().status, 417)
}

// An answer does not wait for a body that nobody reads, and what is left of one does not hold the connection for long.
func TestEarlyAnswer(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	up := newRawUpstream(t, func(c net.Conn, _ *http.Request) {
		_, _ = io.WriteString(c, "HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\nno")
	})
	f.relayTo("http://" + up.Addr().String())
	for host, want := range map[string]int{hostD: 409, hostA: 401} {
		c := f.raw(host)
		c.send("POST /x HTTP/1.1\nHost: " + host + "\nContent-Length: 100000\n\nbeginning")
		check(t, host, c.answer().status, want)
		if !c.closed() {
			t.Errorf("%s: the connection waits for the body", host)
		}
		c = f.raw(host)
		c.send("POST /x HTTP/1.1\nHost: " + host + "\nContent-Length: 60\n\nGET /smuggled HTTP/1.1\nHost: " + host + "\n\n")
		check(t, host, c.answer().status, want)
		if !c.closed() {
			t.Errorf("%s: the rest of the body was taken for a request, or waited for", host)
		}
	}
	e, _ := f.dir.ByID("team-d")
	eventually(t, "none is in flight", func() bool { return f.guards.For(e).InFlight() == 0 })
}

// What fails at the upstream has its status, and says nothing of the inside.
func TestUpstreamFailures(t *testing.T) {
	f := newFront(t)
	engine := f.cfg.Engine.(*ReverseProxyEngine)
	engine.headerTimeout = time.Second // more than a busy machine needs for /close
	release := make(chan struct{})
	up := newRawUpstream(t, func(c net.Conn, r *http.Request) {
		switch r.URL.Path {
		case "/silent":
			<-release
		case "/nonsense":
			_, _ = io.WriteString(c, "SSH-2.0-OpenSSH\r\n\r\n")
		case "/cut":
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
		}
		c.Close()
	})
	f.relayTo("http://" + up.Addr().String())
	for path, want := range map[string]int{"/silent": 504, "/nonsense": 502, "/close": 502} {
		got := f.do(f.client(), "GET", "https://"+hostD+path, nil)
		if got.status != want || strings.Contains(got.body, "127.0.0.1") || got.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %+v", path, got)
		}
	}
	close(release)
	res, err := f.client().Get("https://" + hostD + "/cut")
	if err == nil { // else the connection broke before anything of it was sent
		if b, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("a response that was cut looks whole: %q", b)
		}
		res.Body.Close()
	}
	up.Close()
	check(t, "down", f.do(f.client(), "GET", "https://"+hostD+"/x", nil).status, 502)
	outcomes := map[string]int{}
	eventually(t, "5 audit records", func() bool { return len(f.recorder.all()) == 5 })
	for _, e := range f.recorder.all() {
		outcomes[e.Outcome]++
	}
	if outcomes["bad-upstream"] != 4 || outcomes["upstream-timeout"] != 1 {
		t.Errorf("outcomes: %v", outcomes)
	}
}
