package gateway

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// double stands for a replica: it tells its name to whoever has said all, and says whether it is ready.
type double struct {
	*replica
	ln    net.Listener
	ready atomic.Bool
	asked chan struct{} // gets one for each question whether it is ready
}

func newDouble(t *testing.T, name string) *double {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &double{ln: ln, asked: make(chan struct{}, 1000)}
	d.ready.Store(true)
	health := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !d.ready.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		d.asked <- struct{}{}
	}))
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				b, _ := io.ReadAll(c)
				fmt.Fprintf(c, "%s heard %s", name, b)
			})
		}
	})
	t.Cleanup(func() { health.Close(); ln.Close(); serving.Wait() })
	d.replica = &replica{
		platform: platform{public: ln.Addr().String(), telemetry: health.Listener.Addr().String()},
		plain:    &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	}
	return d
}

// say says something through the balancer and returns what comes back.
func say(t *testing.T, b *balancer, what string) string {
	t.Helper()
	c, err := net.Dial("tcp", b.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, what); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

func TestBalancer(t *testing.T) {
	doubles := []*double{newDouble(t, "a"), newDouble(t, "b"), newDouble(t, "c")}
	b, err := startBalancer([]*replica{doubles[0].replica, doubles[1].replica, doubles[2].replica})
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	heard := func(times int) map[string]int {
		count := map[string]int{}
		for range times {
			count[say(t, b, "hello")]++
		}
		return count
	}
	if got := heard(6); got["a heard hello"] != 2 || got["b heard hello"] != 2 || got["c heard hello"] != 2 {
		t.Errorf("six connections went to %v, want two to each", got)
	}
	// One that drains says so, and gets no more connections.
	doubles[0].ready.Store(false)
	for len(doubles[0].asked) > 0 {
		<-doubles[0].asked
	}
	<-doubles[0].asked // a question that began before may still say ready
	<-doubles[0].asked
	if err := await(t.Context(), func() error {
		if b.targets[0].isReady.Load() {
			return fmt.Errorf("it counts as ready")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got := heard(6); got["a heard hello"] != 0 || len(got) != 2 {
		t.Errorf("with one that is not ready: %v", got)
	}
	// One that is dead is passed over at once, before anybody has asked whether it is ready.
	doubles[1].ln.Close()
	if got := heard(4); got["c heard hello"] != 4 {
		t.Errorf("with one that is dead too: %v", got)
	}
}

// TestBalancerCloses ends connections that nobody else would end.
func TestBalancerCloses(t *testing.T) {
	d := newDouble(t, "a")
	b, err := startBalancer([]*replica{d.replica})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", b.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := await(t.Context(), func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.conns) != 2 {
			return fmt.Errorf("%d connections are known", len(b.conns))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	b.close()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection lives on")
	}
}
