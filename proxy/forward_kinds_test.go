package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// relayTo makes replicas relay what is theirs to an upstream.
func (c *cluster) relayTo(h http.Handler) {
	up := httptest.NewServer(h)
	c.r[0].t.Cleanup(up.Close)
	url := up.URL
	for _, r := range c.r {
		r.gateways.decide = r.owned(c.owners, func(_ context.Context, e *tenant.Entry, req *exchange.Request) (exchange.Decision, error) {
			return &exchange.Relay{Target: exchange.Target{Scheme: "http", Authority: strings.TrimPrefix(url, "http://"), Pool: e.Scope.UID()},
				Method: req.Method, Path: req.Path, Query: req.Query, Header: req.Header.Clone(), Rest: req.Body, Length: req.Length, Upgrade: req.Upgrade != ""}, nil
		})
	}
}

// parrot answers with what it was sent.
func parrot(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Method", r.Method)
	w.Header().Set("X-Length", fmt.Sprint(r.ContentLength))
	b, _ := io.ReadAll(r.Body)
	_, _ = w.Write(b)
}

// Bodies of every size and kind arrive whole, once.
func TestForwardBodies(t *testing.T) {
	c := newCluster(t, 2)
	c.relayTo(http.HandlerFunc(parrot))
	for _, proto := range []string{"", "h2"} {
		for _, size := range []int{0, 1, keptBody, keptBody + 1, 3 << 20} {
			want := strings.Repeat("x", size)
			for _, length := range []bool{true, false} {
				var body io.Reader = strings.NewReader(want)
				if !length {
					body = io.MultiReader(body)
				}
				got := c.r[1].do(c.r[1].client(proto), "POST", "https://"+hostA+"/b", body, bearer(keyA))
				check(t, "POST", got.status, 200)
				if got.body != want {
					t.Errorf("%s, %d bytes, length known: %v: %d bytes came back", proto, size, length, len(got.body))
				}
				if length && size > 0 && got.header.Get("X-Length") != fmt.Sprint(size) {
					t.Errorf("Content-Length upstream is %s of %d", got.header.Get("X-Length"), size)
				}
			}
		}
	}
	got := c.r[1].do(c.r[1].client(), "HEAD", "https://"+hostA+"/b", nil, bearer(keyA))
	check(t, "HEAD", got.status, 200)
}

// Events pass one by one, the upstream learns that the client is gone, and a revocation ends the stream.
func TestForwardStreams(t *testing.T) {
	c := newCluster(t, 2)
	up := &events{next: make(chan string)}
	c.relayTo(up)
	f := c.r[1]
	for i, proto := range []string{"", "h2"} {
		res, r := f.sse(f.client(proto), hostA, bearer(keyA))
		for _, v := range []string{"one", "two"} {
			give(t, up.next, v)
			if got := event(t, r); got != v {
				t.Errorf("event %q, want %q", got, v)
			}
		}
		res.Body.Close()
		eventually(t, "the upstream sees the end", func() bool { return up.gone.Load() == int32(i+1) })
	}
	_, r := f.sse(f.client(), hostA, bearer(keyA))
	revoke := func(rec *tenant.Record) { rec.Keys = rec.Keys[1:] }
	f.change("team-a", revoke) // the replica with the connection alone knows of it
	if took := ended(t, func() error { _, err := r.ReadString('\n'); return err }); took > time.Second {
		t.Errorf("the end took %v", took)
	}
	eventually(t, "the upstream sees the end", func() bool { return up.gone.Load() == 3 })
	got := f.do(f.client(), "GET", "https://"+hostA+"/b", nil, bearer(keyA))
	check(t, "after the revocation", got.status, 401)
}

// A revocation that the owner alone has seen ends the stream, and the owner judges by itself.
func TestForwardRevokedAtOwner(t *testing.T) {
	c := newCluster(t, 2)
	up := &events{next: make(chan string)}
	c.relayTo(up)
	f := c.r[1]
	_, r := f.sse(f.client(), hostA, bearer(keyA))
	c.r[0].change("team-a", func(rec *tenant.Record) { rec.Keys = rec.Keys[1:] })
	ended(t, func() error { _, err := r.ReadString('\n'); return err })
	got := f.do(f.client(), "GET", "https://"+hostA+"/b", nil, bearer(keyA))
	check(t, "the owner judges again", got.status, 401)
}

// gRPC ends with trailers, which pass, announced or not; a stream goes both ways at once.
func TestForwardTrailers(t *testing.T) {
	c := newCluster(t, 2)
	c.relayTo(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		_ = http.NewResponseController(w).EnableFullDuplex()
		in := bufio.NewReader(r.Body)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				break
			}
			_, _ = io.WriteString(w, "got "+line)
			_ = http.NewResponseController(w).Flush()
		}
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "fine")
	}))
	f := c.r[1]
	pr, pw := io.Pipe()
	req, _ := http.NewRequest("POST", "https://"+hostA+"/x.Y/Z", pr)
	req.Header = http.Header{"Authorization": {"Bearer " + keyA}, "Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	go func() { _, _ = io.WriteString(pw, "one\n") }()
	res, err := f.client("h2").Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r := bufio.NewReader(res.Body)
	for _, v := range []string{"one", "two", "three"} {
		if v != "one" {
			_, _ = io.WriteString(pw, v+"\n")
		}
		if line, err := r.ReadString('\n'); err != nil || line != "got "+v+"\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	pw.Close()
	_, _ = io.Copy(io.Discard, r)
	if res.Trailer.Get("Grpc-Status") != "0" || res.Trailer.Get("Grpc-Message") != "fine" {
		t.Errorf("trailers: %v", res.Trailer)
	}
}

// A WebSocket crosses, both ways, and ends with a close frame.
func TestForwardWebSocket(t *testing.T) {
	c := newCluster(t, 2)
	c.relayTo(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer ws.CloseNow()
		ws.SetReadLimit(1 << 20)
		for {
			kind, p, err := ws.Read(r.Context())
			if err != nil {
				return
			}
			if string(p) == "bye" {
				ws.Close(websocket.StatusNormalClosure, "bye")
				return
			}
			_ = ws.Write(r.Context(), kind, append([]byte("echo "), p...))
		}
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ws := c.r[1].dialSocket(ctx, hostA)
	defer ws.CloseNow()
	for _, n := range []int{1, 100, 100_000} {
		want := bytes.Repeat([]byte("x"), n)
		if err := ws.Write(ctx, websocket.MessageBinary, want); err != nil {
			t.Fatal(err)
		}
		ws.SetReadLimit(1 << 20)
		_, got, err := ws.Read(ctx)
		if err != nil || !bytes.Equal(got, append([]byte("echo "), want...)) {
			t.Fatalf("%d bytes came back of %d: %v", len(got), n, err)
		}
	}
	_ = ws.Write(ctx, websocket.MessageText, []byte("bye"))
	_, _, err := ws.Read(ctx)
	if code := websocket.CloseStatus(err); code != websocket.StatusNormalClosure {
		t.Errorf("close status %d: %v", code, err)
	}
	// one that is revoked is cut
	ws = c.r[1].dialSocket(ctx, hostA)
	defer ws.CloseNow()
	c.r[1].change("team-a", func(rec *tenant.Record) { rec.Keys = rec.Keys[1:] })
	if _, _, err := ws.Read(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("a revoked WebSocket goes on: %v", err)
	}
}

func (r *replica) dialSocket(ctx context.Context, host string) *websocket.Conn {
	r.t.Helper()
	ws, res, err := websocket.Dial(ctx, "wss://"+host+"/ws", &websocket.DialOptions{HTTPClient: r.client(),
		HTTPHeader: http.Header{"Authorization": {"Bearer " + keyA}}})
	if err != nil {
		r.t.Fatalf("dial: %v (%v)", err, res)
	}
	return ws
}

// The request waits while its tenant is on its way, and arrives once, whole.
func TestForwardWaits(t *testing.T) {
	c := newCluster(t, 3)
	c.owners.set("team-a", "")
	got := make(chan answer, 1)
	go func() {
		got <- c.r[1].do(c.r[1].client(), "POST", "https://"+hostA+"/b", strings.NewReader("body"), bearer(keyA))
	}()
	eventually(t, "it waits", func() bool { return c.r[1].flights() == 1 })
	c.owners.set("team-a", "r2")
	a := <-got
	check(t, "after the move", a.status, 200)
	if by := a.header.Get("X-Served-By"); by != "r2" {
		t.Errorf("served by %q", by)
	}
}

func (r *replica) flights() (n int) {
	r.live.each(func(*flight) bool { n++; return false }, nil)
	return n
}

func (r *replica) bodyRead() (n int64) {
	r.live.each(func(f *flight) bool { n += f.body.n.Load(); return false }, nil)
	return n
}

// whileAsked sends a request of team-a's to r1, which takes at for the owner, and tells it of r2 when at was asked.
func (c *cluster) whileAsked(at *replica, send func() answer) answer {
	got := make(chan answer, 1)
	go func() { got <- send() }()
	eventually(at.t, at.name+" was asked", func() bool { return at.gateways.entered("team-a") == 1 })
	c.r[1].locator.believe("team-a", "r2")
	c.owners.set("team-a", "r2")
	return <-got
}

// Whoever is asked and has the tenant no more says so, before anything is done; the request goes to the one that has it.
func TestForwardRetries(t *testing.T) {
	for _, at := range []int{0, 1} {
		c := newCluster(t, 3)
		c.relayTo(http.HandlerFunc(parrot))
		c.owners.set("team-a", "r2")
		c.r[1].locator.believe("team-a", fmt.Sprintf("r%d", at)) // r1 asks r0, or itself
		body := strings.Repeat("x", keptBody)
		got := c.whileAsked(c.r[at], func() answer {
			return c.r[1].do(c.r[1].client(), "POST", "https://"+hostA+"/b", strings.NewReader(body), bearer(keyA))
		})
		check(t, "at the new owner", got.status, 200)
		if got.body != body {
			t.Errorf("%d bytes came back", len(got.body))
		}
		if n := c.r[2].gateways.entered("team-a"); n != 1 {
			t.Errorf("the owner was entered %d times", n)
		}
	}
}

// A tenant that comes to the very replica that forwarded the request: its gateway gets the body that the other was sent.
func TestForwardComesHome(t *testing.T) {
	c := newCluster(t, 3)
	c.relayTo(http.HandlerFunc(parrot))
	c.owners.set("team-a", "r2")
	c.r[1].locator.believe("team-a", "r0")
	body := strings.Repeat("x", 1000)
	refuse := c.r[0].gateways.decide
	c.r[0].gateways.decide = func(ctx context.Context, e *tenant.Entry, req *exchange.Request) (exchange.Decision, error) {
		eventually(t, "r1 has sent the body", func() bool { return c.r[1].bodyRead() == int64(len(body)) })
		c.r[1].locator.believe("team-a", "r1")
		d, err := refuse(ctx, e, req)
		c.owners.set("team-a", "r1")
		return d, err
	}
	got := c.r[1].do(c.r[1].client(), "POST", "https://"+hostA+"/b", strings.NewReader(body), bearer(keyA))
	check(t, "at home", got.status, 200)
	if got.body != body {
		t.Errorf("%d bytes came back of %d", len(got.body), len(body))
	}
}

// A large body is not sent before somebody wants it, so it can be sent elsewhere.
func TestForwardRetriesLargeBody(t *testing.T) {
	c := newCluster(t, 3)
	c.relayTo(http.HandlerFunc(parrot))
	c.owners.set("team-a", "r2")
	c.r[1].locator.believe("team-a", "r0")
	refuse := c.r[0].gateways.decide
	c.r[0].gateways.decide = func(ctx context.Context, e *tenant.Entry, req *exchange.Request) (exchange.Decision, error) {
		for end := time.Now().Add(300 * time.Millisecond); c.r[1].bodyRead() <= keptBody && time.Now().Before(end); { // time to send too much
			time.Sleep(time.Millisecond)
		}
		return refuse(ctx, e, req)
	}
	body := strings.Repeat("x", 1<<20)
	got := c.whileAsked(c.r[0], func() answer {
		return c.r[1].do(c.r[1].client("h2"), "POST", "https://"+hostA+"/b", strings.NewReader(body), bearer(keyA))
	})
	check(t, "at the new owner", got.status, 200)
	if got.body != body {
		t.Errorf("%d bytes came back", len(got.body))
	}
}

// With nobody to ask in time, the client is told to come again.
func TestForwardGivesUp(t *testing.T) {
	c := newCluster(t, 2, func(cfg *Config) { cfg.Peers.Wait = 100 * time.Millisecond })
	away := listen(t)
	_ = away.Close()
	for _, tc := range []struct {
		name string
		set  func()
	}{
		{"moving", func() { c.owners.set("team-a", "") }},
		{"refused", func() { c.owners.set("team-a", "r9"); c.r[1].locator.believe("team-a", "r0") }},
		{"unreachable", func() { c.owners.at("r0", away.Addr().String()) }},
	} {
		tc.set()
		got := c.r[1].do(c.r[1].client(), "POST", "https://"+hostA+"/b", strings.NewReader("b"), bearer(keyA))
		check(t, tc.name, got.status, 503)
		if got.header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", tc.name)
		}
	}
}

// Two replicas that take each other for the owner send a request to and fro once: a second hop there is not.
func TestHopLoop(t *testing.T) {
	c := newCluster(t, 2, func(cfg *Config) { cfg.Peers.Wait = 500 * time.Millisecond })
	c.owners.set("team-a", "r7") // nobody's: both refuse
	c.r[0].locator.believe("team-a", "r1")
	c.r[1].locator.believe("team-a", "r0")
	got := c.r[1].do(c.r[1].client(), "GET", "https://"+hostA+"/b", nil, bearer(keyA))
	check(t, "loop", got.status, 503)
	if n := c.r[1].gateways.entered("team-a"); n != 0 {
		t.Errorf("the request came back %d times", n)
	}
	if n := c.r[0].gateways.entered("team-a"); n == 0 || n > maxAsked {
		t.Errorf("the other replica was asked %d times", n)
	}
	// what is forwarded is served, whatever the receiver believes
	c.owners.set("team-a", "r0")
	got = c.r[1].do(c.r[1].client(), "GET", "https://"+hostA+"/b", nil, bearer(keyA))
	check(t, "served by the receiver", got.status, 200)
}

// What any replica can serve does not hop.
func TestAnyDoesNotHop(t *testing.T) {
	c := newCluster(t, 2)
	got := c.r[1].do(c.r[1].client(), "GET", "https://"+hostA+"/any/thing", nil, bearer(keyA))
	check(t, "any", got.status, 200)
	if by := got.header.Get("X-Served-By"); by != "r1" {
		t.Errorf("served by %q", by)
	}
}

// A client that sends garbage is told so by the replica that it reached.
func TestGarbageDoesNotHop(t *testing.T) {
	c := newCluster(t, 2)
	for _, tc := range []struct {
		what   string
		status int
		lines  []string
	}{
		{"no credential", 401, nil},
		{"a foreign key", 401, []string{bearer(keyB)}},
		{"an unknown key", 401, []string{bearer("nobody's")}},
		{"another tenant's name", 403, []string{bearer(keyA), "X-Tenant-Id: team-b"}},
	} {
		got := c.r[1].do(c.r[1].client(), "GET", "https://"+hostA+"/b", nil, tc.lines...)
		check(t, tc.what, got.status, tc.status)
	}
	if strings.Contains(c.r[0].log.String(), "forwarded_from") {
		t.Error("garbage was forwarded")
	}
}

// An error of the gateway's at the owner is the same bytes everywhere.
func TestForwardErrors(t *testing.T) {
	c := newCluster(t, 2)
	for _, r := range c.r {
		r.gateways.decide = r.owned(c.owners, func(_ context.Context, _ *tenant.Entry, req *exchange.Request) (exchange.Decision, error) {
			switch req.Path {
			case "/panic":
				panic("in a handler")
			case "/404":
				return nil, fault.New(fault.NotFound, "")
			case "/429":
				return nil, fault.New(fault.RateLimited, "slow down").After(3 * time.Second)
			}
			return nil, errors.New("unknown")
		})
	}
	for path, status := range map[string]int{"/panic": 500, "/404": 404, "/429": 429, "/500": 500} {
		var got [2]answer
		for i, r := range c.r {
			got[i] = r.do(r.client(), "GET", "https://"+hostA+path, nil, bearer(keyA))
			check(t, path, got[i].status, status)
			for _, h := range []string{"X-Request-Id", "Date"} {
				got[i].body = strings.ReplaceAll(got[i].body, got[i].header.Get(h), "-")
				got[i].header.Del(h)
			}
		}
		if got[0].body != got[1].body || fmt.Sprint(got[0].header) != fmt.Sprint(got[1].header) {
			t.Errorf("%s differs:\n%v\n%v", path, got[0], got[1])
		}
	}
}

// A connection of before its tenant was changed to passthrough is served as it was, by the owner too, and given up.
func TestForwardAfterPassthrough(t *testing.T) {
	c := newCluster(t, 2)
	for i, r := range c.r {
		l := r.mustConnect(hostA, &tls.Config{})
		if status, err := l.ask(hostA, keyA); status != 200 {
			t.Fatal(status, err)
		}
		for _, all := range c.r {
			all.change("team-a", func(rec *tenant.Record) {
				rec.Mode, rec.Passthrough = tenant.ModePassthrough, &tenant.Passthrough{Upstream: "127.0.0.1:1"}
			})
		}
		if status, err := l.ask(hostA, keyA); status != 200 || !l.ended(5*time.Second) {
			t.Errorf("%s: on the connection of before: %d %v", r.name, status, err)
		}
		if n := c.r[0].gateways.entered("team-a"); n != 2*(i+1) {
			t.Errorf("%s: the owner was entered %d times", r.name, n)
		}
		for _, all := range c.r {
			all.change("team-a", func(rec *tenant.Record) { rec.Mode, rec.Passthrough = tenant.ModeVirtual, nil })
		}
	}
}
