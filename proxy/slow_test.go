package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/tenant"
)

// impatient makes the timeouts that a slow client meets short; but not that of idle connections, which pings go by.
func impatient(c *Config) {
	c.Limits.WriteIdle, c.Limits.HeaderTime = 300*time.Millisecond, 500*time.Millisecond
}

// running counts the goroutines that are in a function.
func running(function string) int {
	b := make([]byte, 4<<20)
	return strings.Count(string(b[:runtime.Stack(b, true)]), function+"(")
}

// openStream sends a request of header fields and waits for nothing.
func (h *h2) openStream(fields ...string) {
	h.t.Helper()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	id := h.next
	h.next += 2
	if err := h.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}); err != nil {
		h.t.Fatal(err)
	}
}

// newNoWindow is a connection on which no response's body can be sent.
func newNoWindow(t *testing.T, f *front) *h2 {
	t.Helper()
	h := newH2(t, f, hostA)
	if err := h.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
		t.Fatal(err)
	}
	return h
}

// What net/http has to send after a handler is bounded in time: a stranger keeps no goroutine by taking none of his 401s.
func TestUnreadRefusals(t *testing.T) {
	f := newFront(t, impatient)
	h := newNoWindow(t, f)
	for range 50 {
		h.openStream(":method", "GET", ":scheme", "https", ":authority", hostA, ":path", "/x")
	}
	eventually(t, "all are answered", func() bool { return strings.Count(f.log.String(), `"status":401`) == 50 })
	eventually(t, "no handler is left", func() bool { return running("runHandler") == 0 })
}

// The same for HTTP/1.1: a client that pipelines and does not read is cut, though no handler is blocked in a write.
func TestUnreadPipeline(t *testing.T) {
	t.Parallel()
	f := newFront(t, impatient)
	f.gateways.decide = func(context.Context, *tenant.Entry, *exchange.Request) (exchange.Decision, error) {
		return &exchange.Reply{Status: 200, Body: make([]byte, 3000)}, nil // net/http holds it until the handler has returned
	}
	c := f.raw(hostA)
	_ = c.SetDeadline(time.Time{})
	sent := make(chan struct{})
	go func() { // until the server hangs up
		defer close(sent)
		for {
			if _, err := io.WriteString(c, "GET /x HTTP/1.1\r\nHost: "+hostA+"\r\n"+bearer(keyA)+"\r\n\r\n"); err != nil {
				return
			}
		}
	}()
	select {
	case <-sent:
	case <-time.After(20 * time.Second):
		t.Error("it is kept")
	}
	c.Close()
	<-sent
}

// A request that was killed, and whose client does not take the answer to that, is cut all the same.
func TestUnreadAnswerToRevocation(t *testing.T) {
	f := newFront(t, impatient)
	f.gateways.decide = func(ctx context.Context, _ *tenant.Entry, _ *exchange.Request) (exchange.Decision, error) {
		<-ctx.Done()
		return &exchange.Reply{Status: 200, Body: make([]byte, 1<<20)}, nil
	}
	newNoWindow(t, f).openStream(":method", "GET", ":scheme", "https", ":authority", hostA, ":path", "/x", "authorization", "Bearer "+keyA)
	e, _ := f.dir.ByID("team-a")
	eventually(t, "it runs", func() bool { return f.gateways.entered("team-a") == 1 })
	f.change("team-a", func(r *tenant.Record) { r.Keys = nil })
	eventually(t, "none is in flight", func() bool { return f.guards.For(e).InFlight() == 0 })
}

// The bound on what is sent after a handler is none on a request that lasts, nor on the end of one.
func TestLongRequestsOutliveTheTimeout(t *testing.T) {
	t.Parallel()
	f := newFront(t, impatient)
	f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 15 {
			time.Sleep(100 * time.Millisecond) // an upstream that takes its time is what is tested
			_, _ = io.WriteString(w, "part ")
			_ = http.NewResponseController(w).Flush()
		}
		w.Header().Set(http.TrailerPrefix+"X-End", "yes")
	}))
	for _, proto := range []string{"", "h2"} {
		res, err := f.client(proto).Get("https://" + hostD + "/x")
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, res); got.body != strings.Repeat("part ", 15) || res.Trailer.Get("X-End") != "yes" {
			t.Errorf("%q: %+v, trailer %v", proto, got, res.Trailer)
		}
	}
}

// A client of the plain listener whose body never comes is cut, and keeps nobody else from a graceful end.
func TestPlainBodyThatNeverComes(t *testing.T) {
	f := newFront(t, impatient, func(c *Config) { c.Limits.ShutdownGrace = 10 * time.Second })
	for _, host := range []string{hostA, "nobody.example"} {
		c := f.plainPost(host)
		if b, err := io.ReadAll(c); err != nil {
			t.Errorf("%s: not cut: %v after %q", host, err, b)
		}
	}
}

// plainPost sends the header of a request with a body to the plain listener.
func (f *front) plainPost(host string) net.Conn {
	f.t.Helper()
	c, err := net.Dial("tcp", f.plain)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintf(c, "POST /x HTTP/1.1\r\nHost: %s\r\nContent-Length: 10\r\n\r\n", host); err != nil {
		f.t.Fatal(err)
	}
	return c
}

// While a slow client of the plain listener is waited for, the public one has stopped to listen: it would otherwise take
// requests for which there is no grace left.
func TestShutdownStopsBothListenersAtOnce(t *testing.T) {
	f := newFront(t)
	f.plainPost(hostA)
	eventually(t, "the plain request runs", func() bool { return running("net/http.(*body).Read") > 0 })
	f.stop()
	eventually(t, "the public listener is closed", func() bool {
		c, err := net.Dial("tcp", f.addr)
		if err == nil {
			c.Close()
		}
		return err != nil && running("net/http.(*body).Read") > 0
	})
}

// Interim responses are cleaned of what an upstream may not say, and carry the request's own id.
func TestInterimHeader(t *testing.T) {
	f := newFront(t)
	up := newRawUpstream(t, func(c net.Conn, r *http.Request) {
		_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nAlt-Svc: h3=\":1\"\r\nX-Request-Id: forged\r\nX-Polygate-A: 1\r\n"+
			"Keep-Alive: timeout=9\r\nSet-Cookie: a=b; Domain="+base+"\r\n\r\n")
		ok(c, r)
	})
	f.relayTo("http://" + up.Addr().String())
	for head, want := range map[string]int{
		"GET / HTTP/1.1\n": 1, "GET / HTTP/1.0\n": 0, "POST / HTTP/1.1\nExpect: 100-continue\nContent-Length: 0\n": 0,
	} {
		proto := head
		c := f.raw(hostD)
		c.send(head + "Host: " + hostD + "\nConnection: close\n\n")
		b, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		got := string(b)
		if strings.Count(got, "Link: </a>") != want || strings.Count(got, "X-Request-Id: ") != want+1 {
			t.Errorf("%s: %s", proto, got)
		}
		for _, bad := range []string{"Alt-Svc", "forged", "X-Polygate", "Keep-Alive", "Set-Cookie"} {
			if strings.Contains(got, bad) {
				t.Errorf("%s: %s passes", proto, bad)
			}
		}
	}
}

// Changes of records, requests that clients give up at any time, and interim responses, all at once: nothing panics, and in
// the end nothing is in flight. The race detector is the other half of this test.
func TestRevalidateUnderLoad(t *testing.T) {
	f := newFront(t)
	f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.Copy(w, r.Body)
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, "end")
	}))
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	var all sync.WaitGroup
	all.Go(func() {
		roles, states := []tenant.Role{tenant.Viewer, tenant.Editor}, []tenant.State{tenant.StateSuspended, tenant.StateActive}
		for n := 0; ctx.Err() == nil || n%2 == 1; n++ {
			f.change("team-g", func(r *tenant.Record) { r.Keys[0].Role = roles[n%2] })
			f.change("team-d", func(r *tenant.Record) { r.State = states[n%2] })
			time.Sleep(time.Millisecond) // the requests' turn
		}
	})
	for i := range 8 {
		c := f.client([]string{"", "h2"}[i%2])
		all.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				f.giveUp(ctx, c, []string{hostD, hostG}[n%2], time.Duration(n%7*500)*time.Microsecond, n%5*20000)
			}
		})
	}
	all.Wait()
	for _, id := range []tenant.ID{"team-d", "team-g"} {
		e, _ := f.dir.ByID(id)
		eventually(t, "none is in flight", func() bool { return f.guards.For(e).InFlight() == 0 })
	}
	if strings.Contains(f.log.String(), "panic") {
		t.Error("there was a panic")
	}
}

// giveUp posts size bytes, and waits for the answer for as long as it says; 0 = to its end.
func (f *front) giveUp(ctx context.Context, c *http.Client, host string, after time.Duration, size int) {
	if after > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, after)
		defer cancel()
	}
	r, err := http.NewRequestWithContext(ctx, "POST", "https://"+host+"/x", strings.NewReader(strings.Repeat("b", size)))
	if err != nil {
		f.t.Error(err)
		return
	}
	r.Header.Set("Authorization", "Bearer "+keyG)
	res, err := c.Do(r)
	if err != nil {
		return
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	switch res.StatusCode {
	case 200, 401, 403, 503:
	default:
		f.t.Errorf("status %d", res.StatusCode)
	}
}

// A client that reads none of its interim responses is cut as one that reads nothing else.
func TestUnreadInterimResponses(t *testing.T) {
	f := newFront(t, impatient)
	hint := "HTTP/1.1 103 Early Hints\r\nLink: </" + strings.Repeat("a", 1000) + ">\r\n\r\n"
	up := newRawUpstream(t, func(c net.Conn, r *http.Request) {
		_, _ = io.WriteString(c, strings.Repeat(hint, 20000))
		ok(c, r)
	})
	f.relayTo("http://" + up.Addr().String())
	f.raw(hostD).send("GET / HTTP/1.1\nHost: " + hostD + "\n\n")
	e, _ := f.dir.ByID("team-d")
	eventually(t, "it runs", func() bool { return f.guards.For(e).InFlight() == 1 })
	eventually(t, "none is in flight", func() bool { return f.guards.For(e).InFlight() == 0 })
}

// A status that net/http reads and does not write is the upstream's fault, and no panic of ours.
func TestStatusThatIsNone(t *testing.T) {
	f := newFront(t)
	up := newRawUpstream(t, func(c net.Conn, _ *http.Request) {
		_, _ = io.WriteString(c, "HTTP/1.1 099 What\r\nContent-Length: 2\r\n\r\nok")
	})
	f.relayTo("http://" + up.Addr().String())
	check(t, "099", f.do(f.client(), "GET", "https://"+hostD+"/", nil).status, 502)
	if strings.Contains(f.log.String(), "panic") {
		t.Error("there was a panic")
	}
}
