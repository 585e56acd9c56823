package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/tenant"
)

// balancer sends connections to one of several addresses, as a TCP load balancer in front of replicas does.
type balancer struct {
	net.Listener
	to atomic.Pointer[string]
	wg sync.WaitGroup
}

func newBalancer(t *testing.T, to string) *balancer {
	b := &balancer{Listener: listen(t)}
	b.to.Store(&to)
	b.wg.Go(func() {
		for {
			c, err := b.Accept()
			if err != nil {
				return
			}
			b.wg.Go(func() { b.pass(c) })
		}
	})
	t.Cleanup(func() { b.Close(); b.wg.Wait() })
	return b
}

func (b *balancer) pass(c net.Conn) {
	defer c.Close()
	up, err := net.Dial("tcp", *b.to.Load())
	if err != nil {
		return
	}
	defer up.Close()
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(up, c); _ = up.(*net.TCPConn).CloseWrite() })
	both.Go(func() { _, _ = io.Copy(c, up); _ = c.(*net.TCPConn).CloseWrite() })
	both.Wait()
}

// X59: a replica that is drained under load, while the load balancer learns of it late, fails no request: clients of HTTP/1.1 are
// asked to close, those of HTTP/2 get GOAWAY, and all come again elsewhere.
func TestX59RollingRestart(t *testing.T) {
	old, next := newFront(t), newFront(t)
	lb := newBalancer(t, old.addr)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var done, failed atomic.Int64
	var clients sync.WaitGroup
	for i := range 8 {
		tr := old.transport([]string{"", "h2"}[i%2])
		tr.TLSClientConfig.InsecureSkipVerify = true // two issuers
		tr.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, lb.Addr().String())
		}
		clients.Go(func() {
			c := &http.Client{Transport: tr}
			for ctx.Err() == nil {
				req, _ := http.NewRequest("POST", "https://"+hostA+"/x", strings.NewReader("a body"))
				req.Header.Set("Authorization", "Bearer "+keyA)
				res, err := c.Do(req)
				if err != nil || res.StatusCode != 200 {
					failed.Add(1)
					t.Errorf("a request failed: %v %v", res, err)
					return
				}
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				done.Add(1)
			}
			tr.CloseIdleConnections()
		})
	}
	eventually(t, "there is load", func() bool { return done.Load() > 100 })
	drained := make(chan struct{})
	go func() { defer close(drained); old.Drain(ctx) }()
	before := done.Load()
	eventually(t, "it serves while it drains", func() bool { return done.Load() > before+50 })
	lb.to.Store(&next.addr)
	<-drained
	old.stop()
	old.wait()
	before = done.Load()
	eventually(t, "the load goes on", func() bool { return done.Load() > before+100 })
	cancel()
	clients.Wait()
	if next.gateways.entered("team-a") == 0 {
		t.Error("nobody came to the other replica")
	}
}

// X59: nghttp2's load generator has every request answered that it began, when the replica is drained beneath it.
func TestX59H2Load(t *testing.T) {
	f := newFront(t, func(c *Config) { c.DrainStreams = 200 * time.Millisecond })
	_, port, _ := net.SplitHostPort(f.addr)
	cmd := exec.CommandContext(t.Context(), "h2load", "-n", "2000", "-c", "4", "-m", "1", "-H", bearer(keyA), "--connect-to=127.0.0.1:"+port, "https://"+hostA+":"+port+"/x")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Skip("h2load is not there")
	}
	eventually(t, "there is load", func() bool { return f.gateways.entered("team-a") > 50 })
	f.leaving.Store(true) // drained, but not gone: every answer gives its connection up
	_ = cmd.Wait()
	var total, started, done, succeeded int // it does not connect anew, so that the rest is not even begun
	_, report, _ := strings.Cut(out.String(), "requests: ")
	if _, err := fmt.Sscanf(report, "%d total, %d started, %d done, %d succeeded", &total, &started, &done, &succeeded); err != nil ||
		started == 0 || started == total || succeeded != started {
		t.Errorf("%d of %d requests that were begun succeeded, of %d (%v): %s", succeeded, started, total, err, out.String())
	}
}

// While a replica drains, each answer asks for its connection to be given up, and streams are let alone for their time.
func TestDrainAnswers(t *testing.T) {
	f := newFront(t, func(c *Config) { c.DrainStreams = 30 * time.Second })
	up := &events{next: make(chan string)}
	f.withUpstream(up)
	_, r := f.sse(f.client(), hostD)
	ctx, cancel := context.WithCancel(t.Context())
	drained := make(chan struct{})
	go func() { defer close(drained); f.Drain(ctx) }()
	eventually(t, "it drains", f.leaving.Load)
	c := f.raw(hostA)
	c.send("GET /x HTTP/1.1\nHost: " + hostA + "\n" + bearer(keyA) + "\n\n")
	if got := c.answer(); got.status != 200 || !c.closed() {
		t.Errorf("HTTP/1.1: %+v", got)
	}
	f.wantGoaway()
	give(t, up.next, "still here")
	if got := event(t, r); got != "still here" {
		t.Errorf("the stream got %q", got)
	}
	cancel() // whoever cannot wait
	<-drained
	if rest, err := io.ReadAll(r); err != nil || !isHint(string(rest)) {
		t.Errorf("then %q, %v", rest, err)
	}
	if got := f.ask(hostD, "GET /x HTTP/1.1\nHost: "+hostD+"\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n"); got.status != 503 {
		t.Errorf("a WebSocket after the time of streams: %+v", got)
	}
}

// wantGoaway asks on HTTP/2, and wants the whole answer and a GOAWAY.
func (f *front) wantGoaway() {
	f.t.Helper()
	c, err := tls.Dial("tcp", f.addr, &tls.Config{RootCAs: f.issuer.pool(), ServerName: hostA, NextProtos: []string{"h2"}})
	if err != nil {
		f.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, http2.ClientPreface)
	fr := http2.NewFramer(c, c)
	_ = fr.WriteSettings()
	var block strings.Builder
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", hostA}, {":path", "/x"}, {"authorization", "Bearer " + keyA}} {
		_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndStream: true, EndHeaders: true})
	ended, away := false, false
	for !ended || !away {
		frame, err := fr.ReadFrame()
		if err != nil {
			f.t.Fatalf("ended %v, away %v: %v", ended, away, err)
		}
		switch frame := frame.(type) {
		case *http2.GoAwayFrame:
			away = frame.ErrCode == http2.ErrCodeNo
		case *http2.DataFrame:
			ended = ended || frame.StreamEnded()
		}
	}
}

// Drain returns at once where nobody is, and a stream that takes no farewell is cut.
func TestDrainEnds(t *testing.T) {
	f := newFront(t, func(c *Config) { c.DrainStreams = 10 * time.Minute })
	f.Drain(t.Context())
	f.stop()
	f.wait()

	f = newFront(t, func(c *Config) { c.DrainStreams = 10 * time.Millisecond })
	f.gateways.decide = func(context.Context, *tenant.Entry, *exchange.Request) (exchange.Decision, error) {
		return &exchange.Serve{Handle: func(_ context.Context, s exchange.Stream) error {
			s.Start(200, exchange.Header{"Content-Type": {"text/event-stream"}})
			_, _ = s.Write([]byte("data: hello\n\n"))
			_, err := s.Read(make([]byte, 1)) // it looks at no context
			return err
		}}, nil
	}
	c := f.raw(hostA)
	c.send("POST /events HTTP/1.1\nHost: " + hostA + "\n" + bearer(keyA) + "\nContent-Length: 10\n\n")
	if res, err := http.ReadResponse(c.r, nil); err != nil || res.StatusCode != 200 {
		t.Fatal(err)
	}
	began := time.Now()
	f.Drain(t.Context())
	if took := time.Since(began); took > 2*farewellTime+time.Second {
		t.Errorf("took %v", took)
	}
	eventually(t, "none is in flight", func() bool { return f.streams() == 0 })
}

// What this replica cannot know to be so any more it does not serve, each mode by its own rule, and what runs ends.
func TestX48Fresh(t *testing.T) {
	var claimed, unclaimed atomic.Bool
	f := newFront(t, func(c *Config) {
		c.Limits.BodyIdle, c.Limits.WriteIdle = 800*time.Millisecond, 800*time.Millisecond // looks every 100 ms
		c.Fresh = func(needsClaim bool) error {
			if needsClaim && claimed.Load() || !needsClaim && unclaimed.Load() {
				return errors.New("etcd is away: 10.0.0.7")
			}
			return nil
		}
	})
	f.withUpstream(&events{})
	_, r := f.sse(f.client(), hostD)
	ask := func(host, path, key string) answer {
		return f.do(f.client(), "GET", "https://"+host+path, nil, bearer(key))
	}
	check(t, "all is well", ask(hostA, "/x", keyA).status, 200)
	claimed.Store(true)
	got := ask(hostA, "/x", keyA)
	if got.status != 503 || got.header.Get("Retry-After") == "" || strings.Contains(got.body, "10.0.0.7") || !strings.Contains(got.body, "revocations") {
		t.Errorf("virtual: %+v", got)
	}
	check(t, "a stranger learns nothing", ask(base, "/tenant/team-a/x", "nobody's").status, 401)
	check(t, "our own surface of a dedicated tenant", ask(base, "/tenant/team-g/x", keyG).status, 503)
	_, other := f.sse(f.client("h2"), hostG, bearer(keyG)) // dedicated: longer
	unclaimed.Store(true)
	for _, r := range []io.Reader{r, other} {
		if rest, err := io.ReadAll(r); err != nil || !isHint(string(rest)) {
			t.Errorf("a stream: %q, %v", rest, err)
		}
	}
	check(t, "dedicated", ask(hostD, "/x", "").status, 503)
	claimed.Store(false)
	unclaimed.Store(false)
	check(t, "all is well again", ask(hostA, "/x", keyA).status, 200)
}

// Spliced connections too: those that are there are cut, and none begins.
func TestX48FreshSpliced(t *testing.T) {
	var stale atomic.Bool
	g := newRawGateway(t)
	f := newFront(t, splicing(t), func(c *Config) {
		c.Limits.BodyIdle, c.Limits.WriteIdle = 800*time.Millisecond, 800*time.Millisecond
		c.Fresh = func(needsClaim bool) error {
			if stale.Load() && !needsClaim {
				return errors.New("etcd is away")
			}
			return nil
		}
	})
	f.put(passthrough("team-p", g.addr()))
	c, up := f.spliced(g)
	talk(t, c, up)
	stale.Store(true)
	wantReset(t, "one that was there", c)
	c = f.tcp()
	_, _ = c.Write(helloBytes(t, &tls.Config{ServerName: hostP}))
	wantReset(t, "a new one", c)
}
