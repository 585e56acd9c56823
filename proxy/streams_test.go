package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/polygate/polygate/internal/tenant"
)

// events answers with an event, and then one for each value of next, until the client goes away.
type events struct {
	next chan string
	gone atomic.Int32
}

func (e *events) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = io.WriteString(w, "data: hello\n\n")
	_ = http.NewResponseController(w).Flush()
	for {
		select {
		case <-r.Context().Done():
			e.gone.Add(1)
			return
		case v := <-e.next:
			fmt.Fprintf(w, "data: %s\n\n", v)
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// sse opens a stream and reads its first event.
func (f *front) sse(c *http.Client, host string, lines ...string) (*http.Response, *bufio.Reader) {
	f.t.Helper()
	req, _ := http.NewRequest("GET", "https://"+host+"/events", nil)
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		req.Header.Add(name, value)
	}
	res, err := c.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { res.Body.Close() })
	r := bufio.NewReader(res.Body)
	if got := event(f.t, r); got != "hello" {
		f.t.Fatalf("first event: %q", got)
	}
	return res, r
}

// give hands a value to an upstream, which may be gone.
func give(t testing.TB, to chan<- string, v string) {
	t.Helper()
	select {
	case to <- v:
	case <-time.After(20 * time.Second):
		t.Fatalf("nobody takes %q", v)
	}
}

func event(t testing.TB, r *bufio.Reader) string {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("event: %v", err)
	}
	_, _ = r.ReadString('\n')
	return strings.TrimSuffix(strings.TrimPrefix(line, "data: "), "\n")
}

// Events pass one by one, and the upstream learns that the client is gone.
func TestStreaming(t *testing.T) {
	f := newFront(t)
	up := &events{next: make(chan string)}
	f.withUpstream(up)
	for i, proto := range []string{"", "h2"} {
		res, r := f.sse(f.client(proto), hostD)
		for _, v := range []string{"one", "two"} {
			give(t, up.next, v)
			if got := event(t, r); got != v {
				t.Errorf("event %q, want %q", got, v)
			}
		}
		res.Body.Close()
		eventually(t, "the upstream sees the end", func() bool { return up.gone.Load() == int32(i+1) })
	}
	eventually(t, "two canceled", func() bool {
		n := 0
		for _, e := range f.recorder.all() {
			if e.Outcome == "canceled" {
				n++
			}
		}
		return n == 2
	})
}

// ended waits for the end of a stream and returns how long it took.
func ended(t testing.TB, read func() error) time.Duration {
	t.Helper()
	began, done := time.Now(), make(chan error, 1)
	go func() { done <- read() }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("the stream goes on")
		}
	case <-time.After(5 * time.Second):
		t.Error("the stream does not end")
	}
	return time.Since(began)
}

// Streams end within a second when the right to them does.
func TestRevocationEndsStreams(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(f *front)
	}{
		{"key revoked", func(f *front) { f.change("team-g", func(r *tenant.Record) { r.Keys = r.Keys[1:] }) }},
		{"role changed", func(f *front) { f.change("team-g", func(r *tenant.Record) { r.Keys[0].Role = tenant.Viewer }) }},
		{"suspended", func(f *front) { f.change("team-g", func(r *tenant.Record) { r.State = tenant.StateSuspended }) }},
		{"deleted", func(f *front) { f.drop("team-g") }},
		{"deleted and made again", func(f *front) { f.change("team-g", func(r *tenant.Record) { r.UID = "another" }) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFront(t)
			f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/ws" {
					wsEcho(w, r)
					return
				}
				(&events{}).ServeHTTP(w, r)
			}))
			var reads []func() error
			for _, proto := range []string{"", "h2"} {
				_, r := f.sse(f.client(proto), hostG, bearer(keyG))
				reads = append(reads, func() error { _, err := r.ReadString('\n'); return err })
			}
			ws := f.websocket(hostG, bearer(keyG))
			reads = append(reads, func() error { _, _, err := ws.Read(t.Context()); return err })
			_, other := f.sse(f.client(), hostD)
			tc.end(f)
			for i, r := range reads {
				if took := ended(t, r); took > time.Second {
					t.Errorf("stream %d took %v", i, took)
				}
			}
			go f.stop() // ends the other
			if rest, err := io.ReadAll(other); err != nil || !isHint(string(rest)) {
				t.Errorf("the other tenant's stream got %q, %v", rest, err)
			}
		})
	}
}

// A client that does not read cannot hold on to what it may no longer have.
func TestRevocationEndsBlockedWrites(t *testing.T) {
	f := newFront(t)
	f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" {
			c, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer c.CloseNow()
			for c.Write(r.Context(), websocket.MessageBinary, make([]byte, 1<<20)) == nil {
			}
			return
		}
		for {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}))
	_ = f.websocket(hostG, bearer(keyG))
	for _, proto := range []string{"", "h2"} {
		req, _ := http.NewRequest("GET", "https://"+hostG+"/x", nil)
		req.Header.Set("Authorization", "Bearer "+keyG)
		res, err := f.client(proto).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
	}
	blocked := func() int {
		n := 0
		f.live.each(func(fl *flight) bool { return fl.writing.Load() != 0 }, func(*flight) { n++ })
		return n
	}
	eventually(t, "two writes are blocked", func() bool { return blocked() == 2 })
	e, _ := f.dir.ByID("team-g")
	if n := f.guards.For(e).InFlight(); n != 3 {
		t.Fatalf("%d in flight", n)
	}
	f.change("team-g", func(r *tenant.Record) { r.Keys = nil })
	began := time.Now()
	eventually(t, "none is in flight", func() bool { return f.guards.For(e).InFlight() == 0 })
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
}

// A client that stops reading is cut.
func TestWriteIdle(t *testing.T) {
	f := newFront(t, func(c *Config) { c.Limits.WriteIdle = 200 * time.Millisecond })
	f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}))
	for _, proto := range []string{"", "h2"} {
		res, err := f.client(proto).Get("https://" + hostD + "/x")
		if err != nil {
			t.Fatal(err)
		}
		e, _ := f.dir.ByID("team-d")
		eventually(t, "it is cut", func() bool { return f.guards.For(e).InFlight() == 0 })
		res.Body.Close()
	}
}

// revoking is a Directory in which a key is revoked just after it was found.
type revoking struct {
	*directory
	revoke func()
}

func (r *revoking) ByKey(h tenant.Hash) (*tenant.Entry, *tenant.Key, bool) {
	e, k, ok := r.directory.ByKey(h)
	if r.revoke != nil {
		r.revoke()
	}
	return e, k, ok
}

// A revocation between authentication and registration is not missed.
func TestRevocationRace(t *testing.T) {
	dir := &revoking{}
	f := newFront(t, func(c *Config) { dir.directory = c.Directory.(*directory); c.Directory = dir })
	dir.revoke = func() { f.change("team-a", func(r *tenant.Record) { r.Keys = nil }) }
	check(t, "revoked while authenticating", f.do(f.client(), "GET", "https://"+hostA+"/x", nil, bearer(keyA)).status, 401)
	if n := f.gateways.entered("team-a"); n != 0 {
		t.Errorf("entered %d times", n)
	}
}

// A change of mode holds for new requests; those in flight finish where they are.
func TestModeChange(t *testing.T) {
	f := newFront(t)
	release, entered := make(chan struct{}), make(chan struct{})
	f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		_, _ = io.WriteString(w, "from upstream")
	}))
	slow := make(chan answer)
	go func() { slow <- f.do(f.client(), "GET", "https://"+hostD+"/x", nil, bearer(keyD)) }()
	<-entered
	f.change("team-d", func(r *tenant.Record) { r.Mode, r.Dedicated = tenant.ModeVirtual, nil })
	if got := f.do(f.client(), "GET", "https://"+hostD+"/x", nil, bearer(keyD)); !strings.HasPrefix(got.body, "tenant=team-d") {
		t.Errorf("new: %+v", got)
	}
	close(release)
	if got := <-slow; got.body != "from upstream" {
		t.Errorf("in flight: %+v", got)
	}
}

// Everybody on a suspended dedicated host hears the reason where the gateway knows nobody.
func TestSuspendedDedicated(t *testing.T) {
	f := newFront(t)
	f.withUpstream(http.HandlerFunc(echo))
	for _, id := range []tenant.ID{"team-d", "team-g"} {
		f.change(id, func(r *tenant.Record) { r.State, r.SuspendReason = tenant.StateSuspended, "moving" })
	}
	c := f.client()
	if got := f.do(c, "GET", "https://"+hostD+"/x", nil); got.status != 503 || !strings.Contains(got.body, "moving") {
		t.Errorf("auth: upstream: %+v", got)
	}
	check(t, "auth: gateway, stranger", f.do(c, "GET", "https://"+hostG+"/x", nil).status, 401)
	check(t, "auth: gateway, member", f.do(c, "GET", "https://"+hostG+"/x", nil, bearer(keyG)).status, 503)
	for _, id := range []tenant.ID{"team-d", "team-g"} {
		f.change(id, func(r *tenant.Record) { r.State = tenant.StateActive })
	}
	check(t, "resumed", f.do(c, "GET", "https://"+hostD+"/x", nil).status, 200)
}

// Run ends streams at once, lets requests finish, and takes no new ones.
func TestShutdown(t *testing.T) {
	f := newFront(t)
	release, entered := make(chan struct{}), make(chan struct{})
	f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ws":
			wsEcho(w, r)
		case "/events":
			(&events{}).ServeHTTP(w, r)
		default:
			close(entered)
			<-release
			_, _ = io.WriteString(w, "finished")
		}
	}))
	ws := f.websocket(hostD)
	_, r := f.sse(f.client("h2"), hostD)
	slow := make(chan answer)
	go func() { slow <- f.do(f.client(), "GET", "https://"+hostD+"/slow", nil) }()
	<-entered
	f.stop()
	if took := ended(t, func() error { _, _, err := ws.Read(context.Background()); return err }); took > time.Second {
		t.Errorf("WebSocket: %v", took)
	}
	if rest, err := io.ReadAll(r); err != nil || !isHint(string(rest)) {
		t.Errorf("events: %q, %v", rest, err)
	}
	close(release)
	if got := <-slow; got.body != "finished" {
		t.Errorf("request: %+v", got)
	}
	f.wait()
	if c, err := net.Dial("tcp", f.addr); err == nil {
		c.Close()
		t.Error("the listener is open")
	}
}

// Requests that outlast the grace are broken off.
func TestShutdownGrace(t *testing.T) {
	f := newFront(t, func(c *Config) { c.Limits.ShutdownGrace = 50 * time.Millisecond })
	entered := make(chan struct{})
	f.withUpstream(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	}))
	go func() {
		if res, err := f.client().Get("https://" + hostD + "/slow"); err == nil {
			res.Body.Close()
		}
	}()
	<-entered
	f.stop()
	f.wait()
}
