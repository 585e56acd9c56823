package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// isHint says whether s tells an EventSource to come again, and nothing else.
func isHint(s string) bool { return regexp.MustCompile(`^retry: [1-9][0-9]{2,4}\n\n$`).MatchString(s) }

// moved is why relays end whose tenant moves.
var moved = &exchange.Reconnect{After: time.Second, Err: errors.New("the tenant moves")}

// moving makes the gateways relay to an upstream, until leave is called: as a virtual gateway that moves to another replica.
func (f *front) moving(url string) (leave func()) {
	live, cancel := context.WithCancelCause(context.Background())
	f.t.Cleanup(func() { cancel(nil) })
	f.gateways.decide = func(_ context.Context, _ *tenant.Entry, r *exchange.Request) (exchange.Decision, error) {
		return &exchange.Relay{Target: exchange.Target{Scheme: "http", Authority: strings.TrimPrefix(url, "http://"), Pool: "x", Trusted: true},
			Method: r.Method, Path: r.Path, Header: r.Header, Rest: r.Body, Length: r.Length, Upgrade: r.Upgrade != "", Live: live}, nil
	}
	return func() { cancel(moved) }
}

// departs waits until a stream knows that it is to end.
func (f *front) departs() {
	f.t.Helper()
	eventually(f.t, "a stream departs", func() (found bool) {
		f.live.each(func(fl *flight) bool { return fl.departed.Load() != 0 }, func(*flight) { found = true })
		return found
	})
}

// A stream ends with a word, and in order, between two events: never in one, and never with a part of one.
func TestX59EventStreamHint(t *testing.T) {
	for _, proto := range []string{"", "h2"} {
		f := newFront(t)
		next := make(chan string)
		up := f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: hello\n\n")
			for {
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					return
				case s := <-next:
					_, _ = io.WriteString(w, s)
				}
			}
		}))
		for name, pieces := range map[string][]string{
			"between two events": nil,
			"in an event":        {"data: be", "gun\n\ndata: not any more"},
			"in an end of line":  {"data: begun\r", "\n\r\n"},
		} {
			leave := f.moving(up.URL)
			_, r := f.sse(f.client(proto), hostA, bearer(keyA))
			want := "^"
			if pieces != nil {
				give(t, next, pieces[0])
				got := make([]byte, len(pieces[0])) // it is on its way through us
				if _, err := io.ReadFull(r, got); err != nil {
					t.Fatal(err)
				}
				whole, _, _ := strings.Cut(pieces[1], "data: not")
				want += regexp.QuoteMeta(whole)
			}
			leave()
			if pieces != nil {
				f.departs()
				give(t, next, pieces[1])
			}
			rest, err := io.ReadAll(r)
			if err != nil || !regexp.MustCompile(want+`retry: [12][0-9]{3}\n\n$`).Match(rest) {
				t.Errorf("%s, %q: %q, %v; want %s and a hint", proto, name, rest, err, want)
			}
		}
	}
}

// An event that does not end in time is not passed off as one, and what answers a POST is not passed off as the whole: the
// client is told, and then the answer is broken off.
func TestX59EventStreamBroken(t *testing.T) {
	for _, proto := range []string{"", "h2"} {
		f := newFront(t)
		first := ""
		up := f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, first)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))
		for _, tc := range []struct {
			method, first string
			hint          bool
		}{
			{"GET", "data: never ended", false},
			{"POST", "data: {}\n\n", true},
		} {
			first = tc.first
			leave := f.moving(up.URL)
			req, _ := http.NewRequest(tc.method, "https://"+hostA+"/x", nil)
			req.Header.Set("Authorization", "Bearer "+keyA)
			res, err := f.client(proto).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(res.Body, make([]byte, len(first))); err != nil {
				t.Fatal(err)
			}
			leave()
			rest, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err == nil || isHint(string(rest)) != tc.hint || !tc.hint && len(rest) > 0 {
				t.Errorf("%s %q: then %q, %v", tc.method, first, rest, err)
			}
		}
	}
}

// curl takes the end of a stream for one that is in order.
func TestX59Curl(t *testing.T) {
	for _, version := range []string{"--http1.1", "--http2"} {
		f := newFront(t, func(c *Config) { c.DrainStreams = 50 * time.Millisecond })
		f.withUpstream(&events{})
		_, port, _ := net.SplitHostPort(f.addr)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "curl", "-sSNk", version, "--resolve", hostD+":"+port+":127.0.0.1", "https://"+hostD+":"+port+"/events")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var complaint strings.Builder
		cmd.Stderr = &complaint
		if err := cmd.Start(); err != nil {
			t.Skip("curl is not there")
		}
		r := bufio.NewReader(out)
		if got := event(t, r); got != "hello" {
			t.Fatalf("first event: %q", got)
		}
		f.Drain(ctx)
		rest, _ := io.ReadAll(r)
		if err := cmd.Wait(); err != nil || !isHint(string(rest)) {
			t.Errorf("%s: then %q, %v %s", version, rest, err, complaint.String())
		}
	}
}

// A handler's stream ends as a relay's does.
func TestX59ServeHint(t *testing.T) {
	f := newFront(t, func(c *Config) { c.DrainStreams = 50 * time.Millisecond })
	f.gateways.decide = func(context.Context, *tenant.Entry, *exchange.Request) (exchange.Decision, error) {
		return &exchange.Serve{Handle: func(ctx context.Context, s exchange.Stream) error {
			s.Start(200, exchange.Header{"Content-Type": {"text/event-stream"}})
			_, _ = s.Write([]byte("data: hello\n\n"))
			<-ctx.Done()
			return context.Cause(ctx)
		}}, nil
	}
	_, r := f.sse(f.client(), hostA, bearer(keyA))
	f.Drain(t.Context())
	if rest, err := io.ReadAll(r); err != nil || !isHint(string(rest)) {
		t.Errorf("then %q, %v", rest, err)
	}
}

// gRPC gets UNAVAILABLE, behind a whole message.
func TestX59GRPC(t *testing.T) {
	f := newFront(t)
	up := f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = io.WriteString(w, "\x00\x00\x00\x00\x02hi")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	leave := f.moving(up.URL)
	req, _ := http.NewRequest("POST", "https://"+hostA+"/openshell.v1.OpenShell/Watch", strings.NewReader("\x00\x00\x00\x00\x00"))
	req.Header.Set("Authorization", "Bearer "+keyA)
	res, err := f.client("h2").Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadFull(res.Body, make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	leave()
	rest, err := io.ReadAll(res.Body)
	if err != nil || len(rest) > 0 || res.Trailer.Get("Grpc-Status") != "14" {
		t.Errorf("then %q, %v, trailers %v", rest, err, res.Trailer)
	}
}

// What has an end of its own reaches it, and what has not begun is answered.
func TestX59WholeAnswers(t *testing.T) {
	f := newFront(t)
	f.cfg.Engine.(*ReverseProxyEngine).grace = 500 * time.Millisecond
	half, finish := make(chan struct{}), make(chan struct{})
	up := f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/never" {
			half <- struct{}{}
			<-r.Context().Done()
			return
		}
		w.Header().Set("Content-Type", "text/event-stream") // but of known length
		w.Header().Set("Content-Length", "12")
		_, _ = io.WriteString(w, "data: o")
		_ = http.NewResponseController(w).Flush()
		half <- struct{}{}
		<-finish
		_, _ = io.WriteString(w, "ne\n\n\n")
	}))
	leave := f.moving(up.URL)
	answers := make(chan answer)
	ask := func(path string) {
		go func() { answers <- f.do(f.client(), "GET", "https://"+hostA+path, nil, bearer(keyA)) }()
		<-half
	}
	ask("/known")
	leave()
	close(finish)
	if got := <-answers; got.body != "data: one\n\n\n" {
		t.Errorf("an answer of known length: %+v", got)
	}
	leave = f.moving(up.URL)
	ask("/never")
	leave()
	if got := <-answers; got.status != 503 || got.header.Get("Retry-After") == "" {
		t.Errorf("an answer that had not begun: %+v", got)
	}
}

// X59: a WebSocket's client is told to come again, and its upstream that the client has gone away.
func TestX59WebSocket(t *testing.T) {
	for _, how := range []string{"drain", "move"} {
		f := newFront(t, func(c *Config) { c.DrainStreams = 50 * time.Millisecond })
		upstreamSaw := make(chan error, 1)
		up := f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer c.CloseNow()
			_ = c.Write(r.Context(), websocket.MessageText, []byte("hello"))
			_, _, err = c.Read(r.Context())
			upstreamSaw <- err
		}))
		end := func() { f.Drain(t.Context()) }
		if how == "move" {
			end = f.moving(up.URL)
		} else {
			f.moving(up.URL)
		}
		ws := f.websocket(hostA, bearer(keyA))
		if _, b, err := ws.Read(t.Context()); err != nil || string(b) != "hello" {
			t.Fatalf("%q, %v", b, err)
		}
		go end()
		began := time.Now()
		_, _, err := ws.Read(t.Context())
		if got := websocket.CloseStatus(err); got != websocket.StatusServiceRestart {
			t.Errorf("%s: the client saw %v (%v)", how, got, err)
		}
		if got := <-upstreamSaw; websocket.CloseStatus(got) != websocket.StatusGoingAway {
			t.Errorf("%s: the upstream saw %v", how, got)
		}
		eventually(t, "none is in flight", func() bool { return f.guards.For(f.entry("team-a")).InFlight() == 0 })
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s: took %v", how, took)
		}
	}
}

// A frame that was begun is finished first, in both directions; one that never is does not hold the connection.
func TestX59WebSocketMidFrame(t *testing.T) {
	t.Parallel()
	for _, finished := range []bool{true, false} {
		f := newFront(t)
		began, finish := make(chan net.Conn, 1), make(chan struct{})
		up := newRawUpstream(t, func(c net.Conn, _ *http.Request) {
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x82\x06abc")
			began <- c
			<-finish
		})
		leave := f.moving("http://" + up.Addr().String())
		c := f.raw(hostA)
		c.send("GET /x HTTP/1.1\nHost: " + hostA + "\n" + bearer(keyA) + "\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n")
		if res, err := http.ReadResponse(c.r, nil); err != nil || res.StatusCode != 101 {
			t.Fatal(res, err)
		}
		upstream := <-began
		head := make([]byte, 5)
		if _, err := io.ReadFull(c.r, head); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "\x82\x83mask"); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 6)
		if _, err := io.ReadFull(upstream, got); err != nil {
			t.Fatal(err)
		}
		leave()
		eventually(t, "it is told", func() bool {
			told := false
			f.live.each(func(fl *flight) bool { told = told || fl.departed.Load() != 0; return false }, nil)
			return told
		})
		want := ""
		if finished {
			_, _ = io.WriteString(c, "xyz")
			_, _ = io.WriteString(upstream, "def")
			want = "def" + string(closeFrame(1012, "the gateway moves: connect again", nil))
		}
		started := time.Now()
		rest, _ := io.ReadAll(c.r)
		if string(rest) != want {
			t.Errorf("finished: %v: the client got %q, want %q", finished, rest, want)
		}
		if took := time.Since(started); took > 2*farewellTime+2*time.Second {
			t.Errorf("finished: %v: took %v", finished, took)
		}
		_ = upstream.SetReadDeadline(time.Now().Add(5 * time.Second))
		toUpstream, _ := io.ReadAll(upstream)
		if finished && (len(toUpstream) < 11 || string(toUpstream[:3]) != "xyz" || toUpstream[3] != 0x88 || toUpstream[4]&0x80 == 0) || !finished && len(toUpstream) > 0 {
			t.Errorf("finished: %v: the upstream got %q", finished, toUpstream)
		}
		close(finish)
	}
}

// Whoever is told to come again before an answer began sees 503 with the time.
func TestComeAgain(t *testing.T) {
	for _, tc := range []struct {
		r    *exchange.Reconnect
		want time.Duration
	}{
		{&exchange.Reconnect{Err: errors.New("secret")}, shutdownRetry},
		{&exchange.Reconnect{After: 3 * time.Second, Err: errShutdown}, 3 * time.Second},
		{&exchange.Reconnect{Err: fault.New(fault.Unavailable, "x").After(7 * time.Second)}, 7 * time.Second},
	} {
		if e := comeAgain(tc.r); e.Kind != fault.Unavailable || e.RetryAfter != tc.want || strings.Contains(e.Detail, "secret") {
			t.Errorf("%v: %+v", tc.r, e)
		}
	}
}
