package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/backend"
	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/scenario"
)

// raw starts a TLS server of tenant t0 that hands each connection to a function, with its number from 1.
func raw(t testing.TB, l *lab, handle func(n int, c net.Conn)) Tenant {
	t.Helper()
	const host = "t0.bench.test"
	ln := tls.NewListener(listen(t), &tls.Config{Certificates: []tls.Certificate{l.certificate(t, host, time.Now().Add(time.Hour))}})
	var all sync.WaitGroup
	all.Go(func() {
		for n := 1; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				handle(n, c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		all.Wait()
	})
	return Tenant{Name: "t0", Host: host, Addr: ln.Addr().String(), Canary: backend.Canary(seed, 0)}
}

// answerOf is a right answer.
func answerOf(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// readRequest reads a request without a body; false = there is none.
func readRequest(r *bufio.Reader) bool {
	_, err := http.ReadRequest(r)
	return err == nil
}

// TestFaultsHaveTheirClass has a server answer the first request of each connection with what is given, and close.
func TestFaultsHaveTheirClass(t *testing.T) {
	l := newLab(t)
	canary := backend.Canary(seed, 0)
	for name, v := range map[string]struct{ answer, want string }{
		"nothing":                   {"", "reset"},
		"half a header":             {"HTTP/1.1 200 OK\r\nContent-Le", "reset"},
		"half a body":               {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + canary, "reset"},
		"half a chunk":              {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n" + canary, "reset"},
		"no HTTP":                   {"SSH-2.0-OpenSSH_9.2\r\n\r\n", "malformed"},
		"a long header":             {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", headerBytes) + "\r\n\r\n", "malformed"},
		"another status":            {"HTTP/1.1 503 Unavailable\r\nContent-Length: 4\r\n\r\nbusy", "status 503"},
		"no canary":                 {answerOf("hello"), "wrong answer"},
		"right":                     {answerOf(canary), ""},
		"right, in chunks":          {fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(canary), canary), ""},
		"right, to an end":          {"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + canary, ""},
		"right, behind early hints": {"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answerOf(canary), ""},
	} {
		t.Run(name, func(t *testing.T) {
			tenant := raw(t, l, func(_ int, c net.Conn) {
				if readRequest(bufio.NewReader(c)) {
					_, _ = io.WriteString(c, v.answer)
				}
			})
			c := newClient(t, Config{Load: loadOf(scenario.HTTP1), Tenants: []Tenant{tenant}, Roots: l.roots})
			if got := classOf(call(t, newCaller(t, c), 0)); got != v.want {
				t.Errorf("got %q, want %q", got, v.want)
			}
		})
	}
}

// TestAStaleConnectionIsReplaced has a server that answers once on each connection and then closes it without a word.
func TestAStaleConnectionIsReplaced(t *testing.T) {
	l := newLab(t)
	var connections atomic.Int64
	tenant := raw(t, l, func(_ int, c net.Conn) {
		connections.Add(1)
		if readRequest(bufio.NewReader(c)) {
			_, _ = io.WriteString(c, answerOf(backend.Canary(seed, 0)))
		}
	})
	caller := newCaller(t, newClient(t, Config{Load: loadOf(scenario.HTTP1), Tenants: []Tenant{tenant}, Roots: l.roots}))
	for range 5 {
		if err := call(t, caller, 0); err != nil {
			t.Fatal(err)
		}
	}
	if got := connections.Load(); got != 5 {
		t.Errorf("got %d connections, want 5", got)
	}
}

// TestARequestIsNotRepeatedForever has a server that answers the first request of all, and later ones not, or with a part.
func TestARequestIsNotRepeatedForever(t *testing.T) {
	l := newLab(t)
	for name, v := range map[string]struct {
		later string
		want  int64 // requests that the server sees
	}{
		"nothing": {"", 3}, // the first, the second on the kept connection, and again on a new one
		"a part":  {"HTTP/1.1 200 OK\r\n", 2},
	} {
		t.Run(name, func(t *testing.T) {
			var seen atomic.Int64
			tenant := raw(t, l, func(_ int, c net.Conn) {
				for r := bufio.NewReader(c); readRequest(r); {
					if seen.Add(1) > 1 {
						_, _ = io.WriteString(c, v.later)
						return
					}
					_, _ = io.WriteString(c, answerOf(backend.Canary(seed, 0)))
				}
			})
			caller := newCaller(t, newClient(t, Config{Load: loadOf(scenario.HTTP1), Tenants: []Tenant{tenant}, Roots: l.roots}))
			if err := call(t, caller, 0); err != nil {
				t.Fatal(err)
			}
			if got := classOf(call(t, caller, 0)); got != "reset" {
				t.Errorf("got %q, want reset", got)
			}
			if got := seen.Load(); got != v.want {
				t.Errorf("the server saw %d requests, want %d", got, v.want)
			}
		})
	}
}

// TestTheEndOfAContextEndsARequest cancels each protocol's request while the server is silent, before and after patience is at its end.
func TestTheEndOfAContextEndsARequest(t *testing.T) {
	l := newLab(t)
	for _, p := range protocols() {
		for _, wait := range []time.Duration{0, 2 * patience} {
			t.Run(fmt.Sprintf("%s after %s", p, wait), func(t *testing.T) {
				asked, release := make(chan struct{}, 1), make(chan struct{})
				tenant := serve(t, l, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					asked <- struct{}{}
					<-release
				}))
				t.Cleanup(func() { close(release) })
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				caller := newCaller(t, newClient(t, Config{Load: loadOf(p), Tenants: []Tenant{tenant}, Roots: l.roots}))
				ended := make(chan error, 1)
				go func() { ended <- caller.Call(ctx, 0) }()
				<-asked
				time.AfterFunc(wait, cancel)
				begun := time.Now()
				if got := classOf(<-ended); got != "canceled" {
					t.Errorf("got %q, want canceled", got)
				}
				if d := time.Since(begun); d > 5*time.Second {
					t.Errorf("it took %s", d)
				}
			})
		}
	}
}

// TestTimeoutsAreTimeouts has each protocol's request outlive its deadline, with one that is shorter than patience and one that is longer.
func TestTimeoutsAreTimeouts(t *testing.T) {
	l := newLab(t)
	release := make(chan struct{})
	tenant := serve(t, l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(func() { close(release) })
	for _, p := range protocols() {
		for _, timeout := range []time.Duration{patience / 2, 3 * patience} {
			caller := newCaller(t, newClient(t, Config{Load: loadOf(p), Tenants: []Tenant{tenant}, Roots: l.roots}))
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			if got := classOf(caller.Call(ctx, 0)); got != "timeout" {
				t.Errorf("%s, %s: got %q, want timeout", p, timeout, got)
			}
			cancel()
		}
	}
}

// TestASlowAnswerIsNoFault is one that comes after patience is at its end, on a connection that goes on to be used.
func TestASlowAnswerIsNoFault(t *testing.T) {
	l := newLab(t)
	var connections atomic.Int64
	tenant := raw(t, l, func(_ int, c net.Conn) {
		connections.Add(1)
		for r := bufio.NewReader(c); readRequest(r); {
			<-time.After(2 * patience)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			<-time.After(2 * patience)
			_, _ = io.WriteString(c, strings.TrimPrefix(answerOf(backend.Canary(seed, 0)), "HTTP/1.1 200 OK\r\n"))
		}
	})
	caller := newCaller(t, newClient(t, Config{Load: loadOf(scenario.HTTP1), Tenants: []Tenant{tenant}, Roots: l.roots}))
	for range 3 {
		if err := call(t, caller, 0); err != nil {
			t.Fatal(err)
		}
	}
	if got := connections.Load(); got != 1 {
		t.Errorf("got %d connections, want 1", got)
	}
}

// TestALongBodyIsSent is one that a slow reader makes the client wait for, beyond its patience.
func TestALongBodyIsSent(t *testing.T) {
	l := newLab(t)
	tenant := raw(t, l, func(_ int, c net.Conn) {
		<-time.After(3 * patience)
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		if b, err := io.ReadAll(req.Body); err == nil && bytes.Equal(b, bytes.Repeat([]byte("x"), len(b))) {
			_, _ = io.WriteString(c, answerOf(backend.Canary(seed, 0)+fmt.Sprint(len(b))))
		}
	})
	conf := loadOf(scenario.HTTP1)
	conf.BodyBytes = 16 << 20
	if err := call(t, newCaller(t, newClient(t, Config{Load: conf, Tenants: []Tenant{tenant}, Roots: l.roots})), 0); err != nil {
		t.Error(err)
	}
}

// TestProbeSaysWhatIsWrong is what a person reads whose target does not work.
func TestProbeSaysWhatIsWrong(t *testing.T) {
	l, other := newLab(t), newLab(t)
	right := serve(t, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, backend.Canary(seed, 0)) }))
	closed := listen(t)
	closed.Close()
	down, host, refused := right, right, right
	down.Addr, host.Host, refused.Addr = closed.Addr().String(), "t9.bench.test", "192.0.2.1:443"
	plain := right
	plain.Addr = plainServer(t)
	slow := raw(t, l, func(_ int, c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	broken := serve(t, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no such route", 404) }))
	expired := raw(t, l, nil)
	expired.Addr = expiredServer(t, l)
	for name, v := range map[string]struct {
		tenant Tenant
		lab    *lab
		load   scenario.Load
		want   string
	}{
		"right":     {right, l, scenario.Load{}, ""},
		"down":      {down, l, scenario.Load{}, "look whether the target runs"},
		"untrusted": {right, other, scenario.Load{}, `signed by "CN=test CA", which is not trusted`},
		"host":      {host, l, scenario.Load{}, "its certificate is not for this host"},
		"plain":     {plain, l, scenario.Load{}, "does not speak TLS"},
		"expired":   {expired, l, scenario.Load{}, "is not valid now"},
		"slow":      {slow, l, scenario.Load{Timeout: 100 * time.Millisecond}, "no answer in time"},
		"status":    {broken, l, scenario.Load{}, `status 404 (look at the load's path), and "no such route"`},
		"right, h2": {right, l, scenario.Load{Protocol: scenario.HTTP2}, ""},
		"public":    {refused, l, scenario.Load{}, "--i-own-this-target"},
		"no socket": {right, l, scenario.Load{Protocol: scenario.WebSocket}, "no WebSocket"},
		"no stream": {right, l, scenario.Load{Protocol: scenario.SSE}, "no event stream"},
		"no MCP":    {right, l, scenario.Load{Protocol: scenario.MCP}, "no JSON-RPC message"},
		"no gRPC":   {right, l, scenario.Load{Protocol: scenario.GRPC}, "no grpc-status"},
		"h2 of 1":   {slow, l, scenario.Load{Protocol: scenario.HTTP2}, "does not offer HTTP/2"},
	} {
		c := newClient(t, Config{Load: v.load, Tenants: []Tenant{v.tenant}, Roots: v.lab.roots})
		err := c.Probe(t.Context(), 0)
		if v.want == "" && err != nil || v.want != "" && (err == nil || !strings.Contains(err.Error(), v.want)) {
			t.Errorf("%s: got %v, want %q", name, err, v.want)
		}
	}
}

// plainServer answers without TLS.
func plainServer(t *testing.T) string {
	t.Helper()
	ln := listen(t)
	s := &http.Server{}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.Serve(ln) }()
	t.Cleanup(func() { s.Close(); <-ended })
	return ln.Addr().String()
}

// expiredServer shows a certificate of yesterday.
func expiredServer(t *testing.T, l *lab) string {
	t.Helper()
	ln := tls.NewListener(listen(t), &tls.Config{Certificates: []tls.Certificate{l.certificate(t, "t0.bench.test", time.Now().Add(-time.Minute))}})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1))
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-ended })
	return ln.Addr().String()
}

func TestGuardTarget(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:443": true, "127.64.3.2:443": true, "[::1]:443": true, "10.1.2.3:443": true, "192.168.0.1:443": true, "172.16.0.1:443": true,
		"[fe80::1%lo]:443": false, "169.254.169.254:443": false, "[fd00::1]:443": true, "localhost:443": true, "[::ffff:10.0.0.1]:443": true,
		"8.8.8.8:443": false, "172.32.0.1:443": false, "[2001:db8::1]:443": false, "0.0.0.0:443": false, "[::ffff:8.8.8.8]:443": false, "100.64.0.1:443": false,
	} {
		if err := GuardTarget(t.Context(), addr, false); (err == nil) != want {
			t.Errorf("%s: got %v, want allowed %v", addr, err, want)
		}
		if err := GuardTarget(t.Context(), addr, true); err != nil {
			t.Errorf("%s, own: got %v", addr, err)
		}
	}
	for _, addr := range []string{"", "localhost", ":443", "localhost:"} {
		if err := GuardTarget(t.Context(), addr, true); err == nil {
			t.Errorf("%q: no error", addr)
		}
	}
}

// TestTheDiallerRefusesAPublicAddress is the guard that a change of a name cannot get around.
func TestTheDiallerRefusesAPublicAddress(t *testing.T) {
	tenant := Tenant{Name: "a", Host: "a.test", Addr: "192.0.2.1:443", Canary: "canary=a;"}
	err := call(t, newCaller(t, newClient(t, Config{Tenants: []Tenant{tenant}})), 0)
	var stop load.Stop
	if !errors.As(err, &stop) || classOf(err) != "target refused" {
		t.Errorf("got %v, want what stops the run", err)
	}
}

// TestResumptionIsAsTheLoadSays has the server tell whether handshakes were resumed.
func TestResumptionIsAsTheLoadSays(t *testing.T) {
	l := newLab(t)
	for _, resume := range []bool{false, true} {
		var resumed atomic.Int64
		tenant := serve(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.TLS.DidResume {
				resumed.Add(1)
			}
			io.WriteString(w, backend.Canary(seed, 0))
		}))
		conf := loadOf(scenario.HTTP1)
		conf.Connections, conf.Resume = scenario.New, resume
		caller := newCaller(t, newClient(t, Config{Load: conf, Tenants: []Tenant{tenant}, Roots: l.roots}))
		for range 5 {
			if err := call(t, caller, 0); err != nil {
				t.Fatal(err)
			}
		}
		want := int64(0)
		if resume {
			want = 4
		}
		if got := resumed.Load(); got != want {
			t.Errorf("resume %v: got %d resumed handshakes of 5, want %d", resume, got, want)
		}
	}
}

// TestKeyExchangesAreAsTheyAreGiven has the server tell which one was taken.
func TestKeyExchangesAreAsTheyAreGiven(t *testing.T) {
	l := newLab(t)
	var took atomic.Uint32
	tenant := serve(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		took.Store(uint32(r.TLS.CurveID))
		io.WriteString(w, backend.Canary(seed, 0))
	}))
	for want, groups := range map[tls.CurveID][]tls.CurveID{tls.X25519MLKEM768: nil, tls.X25519: {tls.X25519}, tls.CurveP256: {tls.CurveP256}} {
		if err := call(t, newCaller(t, newClient(t, Config{Groups: groups, Tenants: []Tenant{tenant}, Roots: l.roots})), 0); err != nil {
			t.Fatal(err)
		}
		if got := tls.CurveID(took.Load()); got != want {
			t.Errorf("groups %v: got %s, want %s", groups, got, want)
		}
	}
}

// changing gives another token each time.
type changing struct{ n atomic.Int64 }

func (c *changing) Token(context.Context, int) (string, error) {
	return fmt.Sprintf("token-%d", c.n.Add(1)), nil
}

// broken gives none, or a bad one.
type brokenSource struct{ text string }

func (b brokenSource) Token(context.Context, int) (string, error) {
	if b.text == "" {
		return "", errors.New("the issuer is down")
	}
	return b.text, nil
}

// TestEveryProtocolShowsItsCredential has the server see what came.
func TestEveryProtocolShowsItsCredential(t *testing.T) {
	l := newLab(t)
	var mu sync.Mutex
	var seen []string
	tenant := serve(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusUnauthorized)
	}))
	for _, p := range protocols() {
		for name, v := range map[string]struct {
			config Config
			want   []string
		}{
			"none":   {Config{Load: scenario.Load{Credential: scenario.NoCredential}}, []string{"", ""}},
			"key":    {Config{Load: scenario.Load{Credential: scenario.Key}}, []string{"Bearer pk_t0", "Bearer pk_t0"}},
			"tokens": {Config{Credential: new(changing)}, []string{"Bearer token-1", "Bearer token-2"}},
		} {
			seen = nil
			v.config.Load.Protocol, v.config.Tenants, v.config.Roots = p, []Tenant{tenant}, l.roots
			caller := newCaller(t, newClient(t, v.config))
			for range v.want {
				if got := classOf(call(t, caller, 0)); got != "status 401" {
					t.Errorf("%s, %s: got %q, want status 401", p, name, got)
				}
			}
			if fmt.Sprint(seen) != fmt.Sprint(v.want) {
				t.Errorf("%s, %s: the server saw %q, want %q", p, name, seen, v.want)
			}
		}
		for _, text := range []string{"", "a\r\nX-Injected: b", "a b"} {
			caller := newCaller(t, newClient(t, Config{Load: loadOf(p), Credential: brokenSource{text}, Tenants: []Tenant{tenant}, Roots: l.roots}))
			if got := classOf(call(t, caller, 0)); got != "credential" {
				t.Errorf("%s: token %q: got %q, want credential", p, text, got)
			}
		}
	}
}

// TestCloseEndsRequests closes a client while a request waits.
func TestCloseEndsRequests(t *testing.T) {
	l := newLab(t)
	asked := make(chan struct{})
	tenant := raw(t, l, func(n int, c net.Conn) {
		if readRequest(bufio.NewReader(c)) && n == 1 {
			close(asked)
		}
		_, _ = io.Copy(io.Discard, c)
	})
	c := newClient(t, Config{Load: loadOf(scenario.HTTP1), Tenants: []Tenant{tenant}, Roots: l.roots})
	ended := make(chan error, 1)
	caller := newCaller(t, c)
	go func() { ended <- caller.Call(t.Context(), 0) }()
	<-asked
	c.Close()
	if got := classOf(<-ended); got != "reset" {
		t.Errorf("got %q, want reset", got)
	}
	if got := classOf(call(t, caller, 0)); got != "canceled" {
		t.Errorf("afterwards: got %q, want canceled", got)
	}
}
