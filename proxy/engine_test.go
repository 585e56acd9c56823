package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

func newEngine(t testing.TB, edit func(*EngineConfig)) *ReverseProxyEngine {
	t.Helper()
	cfg := EngineConfig{DialContext: func(bool) func(context.Context, string, string) (net.Conn, error) { return new(net.Dialer).DialContext }}
	if edit != nil {
		edit(&cfg)
	}
	e, err := NewReverseProxyEngine(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// relayTo returns a relay to a test server, as a gateway would make it, and where its outcomes arrive.
func relayTo(url string) (*exchange.Relay, chan exchange.Outcome) {
	done := make(chan exchange.Outcome, 10)
	return &exchange.Relay{
		Target: exchange.Target{Scheme: "http", Authority: strings.TrimPrefix(url, "http://"), Pool: "p"}, Method: "POST", Path: "/mcp",
		Header: exchange.Header{"Content-Type": {"application/json"}}, Prefix: []byte(`{"a":`), Rest: strings.NewReader(`1}`), Length: 7,
		Done: func(o exchange.Outcome) { done <- o },
	}, done
}

// Done is called once, whatever happens.
func TestDoneIsCalledOnce(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/cut":
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write(b)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/hang":
			<-r.Context().Done()
		default:
			_, _ = w.Write(b)
		}
	}))
	t.Cleanup(up.Close)
	boom := errors.New("boom")
	for _, tc := range []struct {
		name   string
		edit   func(*exchange.Relay)
		status int
		kind   string
	}{
		{"whole", func(*exchange.Relay) {}, 200, ""},
		{"edit refuses", func(d *exchange.Relay) {
			d.EditResponse = func(int, exchange.Header) error { return fault.New(fault.NotFound, "") }
		}, 404, "not-found"},
		{"edit fails", func(d *exchange.Relay) { d.EditResponse = func(int, exchange.Header) error { return boom } }, 500, "internal"},
		{"edit panics", func(d *exchange.Relay) { d.EditResponse = func(int, exchange.Header) error { panic(boom) } }, 500, "internal"},
		{"down", func(d *exchange.Relay) { d.Target.Authority = "127.0.0.1:1" }, 502, "bad-upstream"},
		{"no such scheme", func(d *exchange.Relay) { d.Target.Scheme = "gopher" }, 502, "bad-upstream"},
		{"cut", func(d *exchange.Relay) { d.Path = "/cut" }, 200, "bad-upstream"},
		{"silent", func(d *exchange.Relay) { d.Path, d.HeaderTimeout = "/hang", 20*time.Millisecond }, 504, "upstream-timeout"},
		{"client's part fails", func(d *exchange.Relay) { d.Rest, d.Length = failing{fault.New(fault.TooLarge, "")}, -1 }, 413, "too-large"},
		{"ended by its owner", func(d *exchange.Relay) {
			ctx, cancel := context.WithCancelCause(context.Background())
			time.AfterFunc(20*time.Millisecond, func() { cancel(fault.New(fault.Unavailable, "the claim was lost")) })
			d.Path, d.Live = "/hang", ctx
		}, 503, "unavailable"},
		{"ended by a plain cause", func(d *exchange.Relay) {
			ctx, cancel := context.WithCancelCause(context.Background())
			time.AfterFunc(20*time.Millisecond, func() { cancel(errors.New("the claim is lost")) })
			d.Path, d.Live = "/hang", ctx
		}, 503, "unavailable"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFront(t)
			d, done := relayTo(up.URL)
			tc.edit(d)
			f.gateways.decide = func(context.Context, *tenant.Entry, *exchange.Request) (exchange.Decision, error) { return d, nil }
			req, _ := http.NewRequest("POST", "https://"+hostA+"/x", strings.NewReader("{}"))
			req.Header.Set("Authorization", "Bearer "+keyA)
			res, err := f.client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			check(t, tc.name, res.StatusCode, tc.status)
			_, err = io.ReadAll(res.Body)
			if (err != nil) != (tc.name == "cut") {
				t.Errorf("read: %v", err)
			}
			o := <-done
			if kind := ""; o.Err != nil {
				kind = fault.KindOf(o.Err).String()
				if kind != tc.kind {
					t.Errorf("outcome %+v, want %s", o, tc.kind)
				}
			} else if tc.kind != kind {
				t.Errorf("outcome %+v, want %s", o, tc.kind)
			}
			if tc.name == "whole" && (o.Status != 200 || o.BytesIn != 7 || o.BytesOut != 7) {
				t.Errorf("outcome %+v", o)
			}
			f.stop()
			f.wait()
			if len(done) != 0 {
				t.Errorf("Done was called %d times", 1+len(done))
			}
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// A gateway renders the errors of its relay in its caller's own tongue.
func TestRenderError(t *testing.T) {
	f := newFront(t)
	d, _ := relayTo("127.0.0.1:1")
	var asked string
	d.RenderError = func(e *fault.Error, id string) *exchange.Reply {
		asked = id
		return &exchange.Reply{Status: 200, Header: exchange.Header{"Content-Type": {"application/json"}}, Body: []byte(e.Kind.String())}
	}
	f.gateways.decide = func(context.Context, *tenant.Entry, *exchange.Request) (exchange.Decision, error) { return d, nil }
	got := f.do(f.client(), "POST", "https://"+hostA+"/x", nil, bearer(keyA))
	if got.status != 200 || got.body != "bad-upstream" || got.header.Get("X-Request-Id") != asked || asked == "" {
		t.Errorf("%+v, asked with id %q", got, asked)
	}
}

// flaky is a connection that can die without anybody noticing.
type flaky struct {
	net.Conn
	dead *atomic.Bool
}

func (f flaky) Write(p []byte) (int, error) {
	if f.dead.Load() {
		return 0, net.ErrClosed
	}
	return f.Conn.Write(p)
}

// A request of which nothing could be written, on a connection that was kept, is sent on another.
// Interim responses pass by EditResponse, so only a relay that says so lets them through.
func TestInterimResponses(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Mcp-Session-Id", "the server's own")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Mcp-Session-Id")
		_, _ = io.WriteString(w, "{}")
	}))
	t.Cleanup(up.Close)
	for _, may := range []bool{false, true} {
		e := newEngine(t, nil)
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			d, _ := relayTo(up.URL)
			d.Interim = may
			e.Relay(w, r, d)
		}))
		hints := 0
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(int, textproto.MIMEHeader) error { hints++; return nil }})
		r, err := http.NewRequestWithContext(ctx, "GET", front.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := front.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if got := hints == 1; got != may || res.StatusCode != 200 {
			t.Errorf("interim %v: %d came, status %d", may, hints, res.StatusCode)
		}
		front.Close()
	}
}

func TestRetryOnStaleConnection(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(up.Close)
	for name, edit := range map[string]func(*exchange.Relay){
		"judged whole":           func(d *exchange.Relay) { d.Prefix, d.Rest = []byte(`{"a":1}`), nil },
		"with a rest to be read": func(*exchange.Relay) {},
		"without a body":         func(d *exchange.Relay) { d.Prefix, d.Rest, d.Length = nil, nil, 0 },
	} {
		dead := new(atomic.Bool)
		e := newEngine(t, func(c *EngineConfig) {
			c.DialContext = func(bool) func(context.Context, string, string) (net.Conn, error) {
				return func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := new(net.Dialer).DialContext(ctx, network, addr)
					mine := dead
					dead = new(atomic.Bool)
					return flaky{c, mine}, err
				}
			}
		})
		first := dead
		for i := range 2 {
			d, done := relayTo(up.URL)
			edit(d)
			w := httptest.NewRecorder()
			e.Relay(w, httptest.NewRequest("POST", "https://"+hostA+"/x", nil), d)
			if o := <-done; w.Code != 200 {
				t.Errorf("%s, request %d: %d %+v", name, i, w.Code, o)
			}
			first.Store(true)
		}
	}
}

// A body of which a part is gone is not sent again.
func TestNoRetryOfHalfABody(t *testing.T) {
	d, _ := relayTo("")
	c := &call{d: d, e: &ReverseProxyEngine{}, cancel: func(error) {}}
	c.body.c, c.body.prefix, c.timer = c, d.Prefix, time.NewTimer(time.Hour)
	_, _ = c.body.Read(make([]byte, 2))
	again, err := c.rewind()
	if b, rerr := io.ReadAll(again); err != nil || rerr != nil || string(b) != `{"a":1}` {
		t.Errorf("before the rest: %q, %v, %v", b, err, rerr)
	}
	if _, err := c.rewind(); err == nil {
		t.Error("after the rest: rewound")
	}
}

// Pools are bounded, and never shared between trusted and other upstreams.
func TestPools(t *testing.T) {
	var dialed [2]atomic.Int32
	e := newEngine(t, func(c *EngineConfig) {
		c.Pools = 2
		c.DialContext = func(trusted bool) func(context.Context, string, string) (net.Conn, error) {
			return func(ctx context.Context, network, addr string) (net.Conn, error) {
				if trusted {
					dialed[1].Add(1)
				} else {
					dialed[0].Add(1)
				}
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
		}
	})
	up := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(up.Close)
	relay := func(pool string, trusted bool) {
		d, done := relayTo(up.URL)
		d.Target.Pool, d.Target.Trusted = pool, trusted
		e.Relay(httptest.NewRecorder(), httptest.NewRequest("POST", "https://"+hostA+"/x", nil), d)
		<-done
	}
	relay("a", false)
	relay("a", false)
	relay("b", false)
	if n := dialed[0].Load(); n != 2 {
		t.Errorf("%d dials for two pools", n)
	}
	relay("a", true)
	if n := dialed[1].Load(); n != 1 {
		t.Errorf("%d trusted dials", n)
	}
	if n := e.pools.lru.Len(); n != 2 {
		t.Errorf("%d pools, want 2", n)
	}
}

// A Serve reads, starts and writes by itself, and ends when its caller may no longer.
func TestServe(t *testing.T) {
	f := newFront(t)
	ends := make(chan error, 1)
	f.gateways.decide = func(_ context.Context, _ *tenant.Entry, r *exchange.Request) (exchange.Decision, error) {
		return &exchange.Serve{Handle: func(ctx context.Context, s exchange.Stream) error {
			if r.Path == "/refuse" {
				return fault.New(fault.Conflict, "not now")
			}
			b, err := io.ReadAll(s)
			if err != nil {
				return err
			}
			s.Start(200, exchange.Header{"Content-Type": {"text/event-stream"}})
			if _, err := s.Write(append(b, '\n')); err != nil || r.Path == "/short" {
				return err
			}
			<-ctx.Done()
			_, err = s.Write([]byte("late"))
			ends <- err
			return nil
		}}, nil
	}
	c := f.client()
	check(t, "an error before the answer", f.do(c, "POST", "https://"+hostA+"/refuse", nil, bearer(keyA)).status, 409)
	if got := f.do(c, "POST", "https://"+hostA+"/short", strings.NewReader("hi"), bearer(keyA)); got.status != 200 || got.body != "hi\n" {
		t.Errorf("short: %+v", got)
	}
	req, _ := http.NewRequest("POST", "https://"+hostA+"/long", strings.NewReader("hi"))
	req.Header.Set("Authorization", "Bearer "+keyA)
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r := newReader(res.Body)
	if line, _ := r.ReadString('\n'); line != "hi\n" {
		t.Errorf("first line: %q", line)
	}
	f.change("team-a", func(r *tenant.Record) { r.Keys = nil })
	if took := ended(t, func() error { _, err := r.ReadString('\n'); return err }); took > time.Second {
		t.Errorf("took %v", took)
	}
	if err := <-ends; !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("write after the end: %v", err)
	}
}

// Virtual gateways see no credential and no cookie.
func TestVirtualSeesNoCredential(t *testing.T) {
	f := newFront(t)
	var h exchange.Header
	f.gateways.decide = func(ctx context.Context, e *tenant.Entry, r *exchange.Request) (exchange.Decision, error) {
		h = r.Header.Clone()
		return describe(ctx, e, r)
	}
	check(t, "request", f.do(f.client(), "GET", "https://"+hostA+"/x", nil, bearer(keyA), "X-Api-Key: "+keyA, "Cookie: a=b", "Accept: x", "X-Forwarded-For: 6.6.6.6").status, 200)
	for _, name := range []string{"Authorization", "X-Api-Key", "Cookie", "X-Forwarded-For"} {
		if _, ok := h[name]; ok {
			t.Errorf("%s is there", name)
		}
	}
	if h.Get("Accept") != "x" {
		t.Errorf("Accept is not: %v", h)
	}
}
