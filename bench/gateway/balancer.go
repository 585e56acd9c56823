package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// balancer is what stands before several replicas: it takes TCP connections and splices each to a replica that is ready, one after the
// other. It looks at /readyz as those in front of a real installation do, and tries the next replica where one takes no connection.
// It runs in the generator's process, on the generator's processors.
type balancer struct {
	ln      net.Listener
	targets []*target
	next    atomic.Uint64
	stop    context.CancelFunc
	all     sync.WaitGroup // its goroutines

	mu    sync.Mutex
	conns map[net.Conn]bool // under mu; nil = closed
}

// target is a replica as the balancer sees it.
type target struct {
	*replica
	isReady atomic.Bool
}

// The balancer's spans.
const (
	healthEvery = 250 * time.Millisecond
	dialLimit   = time.Second
)

// startBalancer starts one before replicas that are ready.
func startBalancer(replicas []*replica) (*balancer, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the replicas: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	b := &balancer{ln: ln, stop: stop, conns: make(map[net.Conn]bool)}
	for _, r := range replicas {
		t := &target{replica: r}
		t.isReady.Store(true)
		b.targets = append(b.targets, t)
		b.all.Go(func() { t.watch(ctx) })
	}
	b.all.Go(func() { b.accept(ctx) })
	return b, nil
}

func (b *balancer) addr() string { return b.ln.Addr().String() }

// close ends it with all its connections.
func (b *balancer) close() {
	b.stop()
	_ = b.ln.Close()
	b.mu.Lock()
	for c := range b.conns {
		_ = c.Close()
	}
	b.conns = nil
	b.mu.Unlock()
	b.all.Wait()
}

// watch follows whether a replica is ready.
func (t *target) watch(ctx context.Context) {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			one, cancel := context.WithTimeout(ctx, dialLimit)
			t.isReady.Store(t.ready(one) == nil)
			cancel()
		}
	}
}

func (b *balancer) accept(ctx context.Context) {
	for {
		c, err := b.ln.Accept()
		if err != nil {
			return // it was closed
		}
		b.all.Go(func() { b.serve(ctx, c) })
	}
}

func (b *balancer) serve(ctx context.Context, client net.Conn) {
	defer client.Close()
	server, err := b.dial(ctx)
	if err != nil {
		return
	}
	defer server.Close()
	if !b.keep(client, server) {
		return
	}
	defer b.forget(client, server)
	splice(client, server)
}

// keep notes connections to be closed with the balancer. It refuses if that has been.
func (b *balancer) keep(conns ...net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range conns {
		if b.conns != nil {
			b.conns[c] = true
		}
	}
	return b.conns != nil
}

func (b *balancer) forget(conns ...net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range conns {
		delete(b.conns, c)
	}
}

// dial connects to the next replica that is ready, or to any that takes a connection if none says so.
func (b *balancer) dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: dialLimit}
	for _, t := range b.order() {
		if c, err := d.DialContext(ctx, "tcp", t.public); err == nil {
			return c, nil
		}
		t.isReady.Store(false)
	}
	return nil, errors.New("no replica takes a connection")
}

// order is the targets as they are to be tried: by turns, those that are ready first.
func (b *balancer) order() []*target {
	first := int(b.next.Add(1) % uint64(len(b.targets)))
	var ready, others []*target
	for i := range b.targets {
		t := b.targets[(first+i)%len(b.targets)]
		if t.isReady.Load() {
			ready = append(ready, t)
		} else {
			others = append(others, t)
		}
	}
	return append(ready, others...)
}

// splice carries bytes both ways until both sides have said all, or one is gone.
func splice(a, b net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		carry(a, b)
	}()
	carry(b, a)
	<-done
}

// carry carries from one to the other, and passes on how it ended: an end as an end, a break as a break.
func carry(from, to net.Conn) {
	_, err := io.Copy(to, from) // by splice(2) between TCP connections
	if half, ok := to.(*net.TCPConn); ok && err == nil {
		_ = half.CloseWrite()
		return
	}
	_ = to.Close()
	_ = from.Close()
}
