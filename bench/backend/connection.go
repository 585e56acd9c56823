package backend

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// conn is a connection of a tenant's gateway. Bytes that were read to find out what it speaks are read again.
type conn struct {
	net.Conn
	tenant int
	again  []byte
	close  func()
}

func (c *conn) Read(p []byte) (int, error) {
	if len(c.again) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.again)
	c.again = c.again[n:]
	return n, nil
}

func (c *conn) Close() error {
	c.close()
	return c.Conn.Close()
}

// accept serves the connections of a listener until it is closed.
func (s *Server) accept(ctx context.Context, l net.Listener, certs *tls.Config) error {
	for {
		raw, err := l.Accept()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			if err == nil {
				raw.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept connections on %s: %w (too many open files? raise ulimit -n)", l.Addr(), err)
		}
		s.admit(ctx, raw, certs)
	}
}

// admit serves a connection if it came from this machine to a tenant's address. Others are closed without a word: the port is
// open on every address, and a canary must not be had from outside.
func (s *Server) admit(ctx context.Context, raw net.Conn, certs *tls.Config) {
	n, ok := tenantOf(raw.LocalAddr(), raw.RemoteAddr())
	if !ok {
		raw.Close()
		return
	}
	c := &conn{Conn: raw, tenant: n}
	if !s.conns.add(c) {
		raw.Close()
		return
	}
	go func() {
		defer s.conns.running.Done()
		s.serve(ctx, c, certs)
	}()
}

func tenantOf(local, remote net.Addr) (int, bool) {
	l, err := netip.ParseAddrPort(local.String())
	if err != nil {
		return 0, false
	}
	r, err := netip.ParseAddrPort(remote.String())
	if err != nil || !r.Addr().Unmap().IsLoopback() {
		return 0, false
	}
	return Number(l.Addr())
}

// serve answers simple requests itself and hands a connection with any other over to net/http.
func (s *Server) serve(ctx context.Context, c *conn, certs *tls.Config) {
	if certs == nil {
		s.serveSimple(c)
		return
	}
	t := tls.Server(c, certs)
	if err := handshake(ctx, t); err != nil {
		_ = c.Close()
		return
	}
	if t.ConnectionState().NegotiatedProtocol == "h2" {
		s.handed.give(t)
		return
	}
	s.serveSimple(&conn{Conn: t, tenant: c.tenant, close: func() {}})
}

func handshake(ctx context.Context, t *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return t.HandshakeContext(ctx)
}

// connections are all open ones, so that Run can end them: net/http forgets those that became WebSockets.
type connections struct {
	running sync.WaitGroup // of the goroutines that began with a connection
	mu      sync.Mutex     // guards the following
	open    map[*conn]struct{}
	ended   bool
}

// add takes a connection in, unless all have been closed.
func (s *connections) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	if s.open == nil {
		s.open = map[*conn]struct{}{}
	}
	s.open[c] = struct{}{}
	c.close = func() { s.remove(c) }
	s.running.Add(1)
	return true
}

func (s *connections) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

func (s *connections) closeAll() {
	s.mu.Lock()
	s.ended = true
	open := s.open
	s.open = nil
	s.mu.Unlock()
	for c := range open {
		c.Conn.Close()
	}
}

func (s *connections) wait() { s.running.Wait() }

// handover is the listener from which net/http takes the connections that are not simple.
type handover struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newHandover() *handover { return &handover{conns: make(chan net.Conn), done: make(chan struct{})} }

func (h *handover) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.done:
		c.Close()
	}
}

// Accept implements net.Listener.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (h *handover) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
