package load_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/scenario"
)

// TestPercentilesOfARealServerThatStalls sends 400 requests a second for 5 s to a server that answers nothing through one of them, on
// four connections. A fifth of the requests is due in the stall, so that the 90th percentile is half of it and the 99th is 0.95 s.
// What the callers measure by themselves, from when they send, hides it: four slow requests of 2000.
func TestPercentilesOfARealServerThatStalls(t *testing.T) {
	address := stalling(t, 2*time.Second, time.Second)
	var mu sync.Mutex
	var naive []time.Duration // as it would be measured without the time that a request is due
	took := func(d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		naive = append(naive, d)
	}
	g, err := load.New(load.Config{
		Load: scenario.Load{Name: "real", Loop: scenario.Open, Rate: 400, Concurrency: 4}, Tenants: names(1),
		New: func() (load.Caller, error) { return dial(address, took) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	f := run(t, g, load.Span{Duration: 5 * time.Second})
	if f.Requests != 2000 || f.Errors != nil {
		t.Errorf("got %d requests and %v, want 2000", f.Requests, f.Errors)
	}
	if l := f.Latency; l.P90 < 450_000 || l.P99 < 900_000 || l.Max < 950_000 {
		t.Errorf("the stall is missing: p90 %v, p99 %v, max %v µs", l.P90, l.P99, l.Max)
	}
	if f.Late < 350 {
		t.Errorf("%d requests were late, want those of the stall", f.Late)
	}
	slices.Sort(naive)
	if p99 := naive[len(naive)*99/100]; p99 > 450*time.Millisecond {
		t.Errorf("from when they were sent, p99 is %v: this server is no example of what is hidden", p99)
	}
}

// stalling serves HTTP. It answers nothing for a while, some time after the first request.
func stalling(t *testing.T, after, length time.Duration) (address string) {
	var once sync.Once
	var begin time.Time
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		once.Do(func() { begin = time.Now() })
		if at := time.Since(begin); at >= after && at < after+length {
			time.Sleep(after + length - at)
		}
		_, _ = io.WriteString(w, "ok")
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// dialed is a caller with a connection of its own.
type dialed struct {
	conn net.Conn
	took func(time.Duration)
}

func dial(address string, took func(time.Duration)) (load.Caller, error) {
	conn, err := net.Dial("tcp", address)
	return &dialed{conn: conn, took: took}, err
}

func (d *dialed) Call(ctx context.Context, _ int) error {
	sent := time.Now()
	deadline, _ := ctx.Deadline()
	_ = d.conn.SetDeadline(deadline)
	if _, err := io.WriteString(d.conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	b := make([]byte, 4096) // an answer is one segment
	n, err := d.conn.Read(b)
	if err != nil {
		return err
	}
	if string(b[:15]) != "HTTP/1.1 200 OK" {
		return fmt.Errorf("answered %q", b[:n])
	}
	d.took(time.Since(sent))
	return nil
}

func (d *dialed) Close() error { return d.conn.Close() }
