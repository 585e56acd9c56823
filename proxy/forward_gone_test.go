package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// cable is what connects replicas, to be cut or frozen.
type cable struct {
	mu    sync.Mutex
	conns []net.Conn
	ice   atomic.Bool
	full  atomic.Bool // nothing more can be written
}

// cabled makes the replicas' connections pass through w.
func cabled(w *cable) func(*Config) {
	return func(cfg *Config) {
		cfg.Peers.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.conns = append(w.conns, c)
			return &cabledConn{Conn: c, w: w, closed: make(chan struct{})}, nil
		}
	}
}

type cabledConn struct {
	net.Conn
	w      *cable
	once   sync.Once
	closed chan struct{}
}

// Read implements net.Conn. What arrives on a frozen cable is not seen.
func (c *cabledConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.w.ice.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

// Write implements net.Conn.
func (c *cabledConn) Write(p []byte) (int, error) {
	if c.w.full.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

// Close implements net.Conn.
func (c *cabledConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// cut ends every connection, as the end of a process does.
func (w *cable) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
}

// The clients of an owner that is gone, or frozen, are told to come again, however they listen.
func TestOwnerGone(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		end    func(w *cable)
		within time.Duration
	}{
		{"gone", (*cable).cut, 2 * time.Second},
		{"frozen", func(w *cable) { w.ice.Store(true) }, 3*peerPing + time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := &cable{}
			c := newCluster(t, 2, cabled(w))
			c.relayTo(&events{next: make(chan string)})
			f := c.r[1]
			_, r := f.sse(f.client(), hostA, bearer(keyA))
			began := time.Now()
			tc.end(w)
			rest, err := io.ReadAll(r)
			if err != nil || !strings.Contains(string(rest), "retry: ") {
				t.Errorf("the rest of the stream: %q, %v", rest, err)
			}
			if took := time.Since(began); took > tc.within {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// What waits for a frozen replica ends as soon as its session does, and not only when its connection is given up.
func TestOwnerFrozenAndNotLive(t *testing.T) {
	w := &cable{}
	c := newCluster(t, 2, cabled(w))
	f := c.r[1]
	cl := f.client()
	if got := f.do(cl, "GET", "https://"+hostA+"/x", nil, bearer(keyA)); got.status != 200 {
		t.Fatalf("before: %d %s", got.status, got.body)
	}
	w.ice.Store(true)
	time.AfterFunc(100*time.Millisecond, func() { c.owners.gone("r0") })
	began := time.Now()
	got := f.do(cl, "GET", "https://"+hostA+"/x", nil, bearer(keyA))
	if took := time.Since(began); got.status != 503 || took > time.Second {
		t.Errorf("%d after %v, want 503 at once: %s", got.status, took, got.body)
	}
}

// A message that was begun, and an answer that is a whole, are broken off: nobody takes a part for the whole.
func TestOwnerGoneMidAnswer(t *testing.T) {
	w := &cable{}
	c := newCluster(t, 2, cabled(w))
	hold := make(chan struct{})
	t.Cleanup(func() { close(hold) })
	c.relayTo(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/half" {
			rw.Header().Set("Content-Type", "text/event-stream")
		}
		_, _ = io.WriteString(rw, "data: ha")
		_ = http.NewResponseController(rw).Flush()
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}))
	for _, path := range []string{"/half", "/plain"} {
		req, _ := http.NewRequest("GET", "https://"+hostA+path, nil)
		req.Header.Set("Authorization", "Bearer "+keyA)
		res, err := c.r[1].client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(res.Body)
		_, _ = r.Peek(8)
		w.cut()
		rest, err := io.ReadAll(r)
		res.Body.Close()
		if err == nil || string(rest) != "data: ha" {
			t.Errorf("%s: %q, %v", path, rest, err)
		}
	}
}

// Before an answer has begun: what may have been carried out is not sent again, and the client is told which it is.
func TestOwnerGoneBeforeAnswer(t *testing.T) {
	w := &cable{}
	c := newCluster(t, 2, cabled(w))
	began := make(chan struct{}, 4)
	c.relayTo(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-r.Context().Done()
	}))
	for method, want := range map[string]int{"GET": 503, "POST": 502} {
		got := make(chan answer, 1)
		go func() {
			got <- c.r[1].do(c.r[1].client(), method, "https://"+hostA+"/b", strings.NewReader(""), bearer(keyA))
		}()
		<-began
		w.cut()
		check(t, method, (<-got).status, want)
	}
	if len(began) != 0 {
		t.Error("a request was made twice")
	}
}

// A WebSocket whose owner is gone is closed with 1012: come again. So is one whose owner is frozen, once the others know, even
// if it takes nothing of what the client says; and nothing is left of it.
func TestOwnerGoneWebSocket(t *testing.T) {
	t.Parallel()
	for _, frozen := range []bool{false, true} {
		w := &cable{}
		c := newCluster(t, 2, cabled(w))
		c.relayTo(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ws, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer ws.CloseNow()
			_, _, _ = ws.Read(context.WithoutCancel(r.Context()))
		}))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		ws := c.r[1].dialSocket(ctx, hostA)
		defer ws.CloseNow()
		if frozen {
			w.ice.Store(true)
			w.full.Store(true)
			_ = ws.Write(ctx, websocket.MessageText, []byte("is anybody there?"))
			c.owners.at("r0", "")
		} else {
			w.cut()
		}
		_, _, err := ws.Read(ctx)
		if code := websocket.CloseStatus(err); code != websocket.StatusServiceRestart {
			t.Errorf("frozen: %v: close status %d: %v", frozen, code, err)
		}
		eventually(t, "nothing is left", func() bool { return c.r[1].flights() == 0 })
	}
}

// A replica that gives its clients up tells those too whose streams come from another.
func TestForwarderDrains(t *testing.T) {
	c := newCluster(t, 2, func(cfg *Config) { cfg.DrainStreams = 50 * time.Millisecond })
	c.relayTo(&events{next: make(chan string)})
	f := c.r[1]
	_, r := f.sse(f.client(), hostA, bearer(keyA))
	done := make(chan struct{})
	go func() { defer close(done); f.Drain(t.Context()) }()
	rest, err := io.ReadAll(r)
	<-done
	if err != nil || !strings.Contains(string(rest), "retry: ") {
		t.Errorf("the rest of the stream: %q, %v", rest, err)
	}
}
