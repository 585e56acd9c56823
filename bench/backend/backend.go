// Package backend is the upstream of all tenants of a measurement, in one process: HTTP/1.1, HTTP/2, WebSocket, event streams, MCP and
// gRPC at one port of every loopback address. The address at which a connection came tells the tenant, and each answer holds that
// tenant's canary, so that an answer proves the route that its request took. It is made to cost little, because it shares cores with
// the load generator, and serves nobody but this machine.
package backend

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

// Config of a Server.
type Config struct {
	Seed        string // of the canaries; required
	AnswerBytes int    // of each answer's body, canary included; 64 to 16 MiB; 0 = 520
	Port        int    // of the plain listener; 0 = any that is free
	TLS         *TLS   // nil = no TLS listener
	Control     string // loopback host:port of the control listener; port 0 = any that is free; empty = none
}

// TLS is a second listener, with which a load reaches the upstream with nothing between.
type TLS struct {
	CertDir string // holds <host>.pem (the chain) and <host>-key.pem of each server name; read when first asked for
	Port    int    // 0 = any that is free
}

const (
	defaultAnswer = 520
	minAnswer     = 64
	maxAnswer     = 16 << 20
)

// Ports are what a Server listens on.
type Ports struct {
	Plain   int    `json:"port"`
	TLS     int    `json:"tls_port,omitempty"`
	Control string `json:"control,omitempty"` // host:port
}

// Server is the upstream. It listens from New on and serves in Run, which has to be called to let go of the ports.
type Server struct {
	cfg      Config
	stall    *stall
	plain    net.Listener
	tls      net.Listener // nil = none
	control  net.Listener // nil = none
	certs    *tls.Config
	web      *http.Server
	handed   *handover
	conns    connections
	padding  string
	sessions *sessions
}

// New checks the configuration and listens.
func New(cfg Config) (*Server, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	open, err := newSessions()
	if err != nil {
		return nil, fmt.Errorf("remember MCP sessions: %w", err)
	}
	s := &Server{cfg: cfg, stall: newStall(), padding: padding(cfg.AnswerBytes), handed: newHandover(), sessions: open}
	if err := s.listen(); err != nil {
		s.closeListeners()
		return nil, err
	}
	if cfg.TLS != nil {
		s.certs = tlsConfig(cfg.TLS.CertDir)
	}
	s.web = s.newWeb()
	return s, nil
}

func (c *Config) complete() error {
	if c.AnswerBytes == 0 {
		c.AnswerBytes = defaultAnswer
	}
	if c.Seed == "" {
		return errors.New("the upstream has no seed for its canaries: give it any text")
	}
	if c.AnswerBytes < minAnswer || c.AnswerBytes > maxAnswer {
		return fmt.Errorf("the upstream's answers cannot have %d bytes: choose %d to %d", c.AnswerBytes, minAnswer, maxAnswer)
	}
	return checkControl(c.Control)
}

// checkControl refuses a control listener that others could reach: whoever does can hold up all answers.
func checkControl(addr string) error {
	if addr == "" {
		return nil
	}
	at, err := netip.ParseAddrPort(addr)
	if err != nil || !at.Addr().IsLoopback() {
		return fmt.Errorf("the upstream's control listener cannot be at %q: give it a loopback address and port, such as 127.0.0.1:0", addr)
	}
	return nil
}

// listen binds the ports. Binding all of 127.0.0.0/8 means binding every address; who is not of this machine is refused as the
// connection comes (tenantOf).
func (s *Server) listen() (err error) {
	if s.plain, err = listen(net.JoinHostPort("0.0.0.0", strconv.Itoa(s.cfg.Port))); err != nil {
		return err
	}
	if s.cfg.TLS != nil {
		if s.tls, err = listen(net.JoinHostPort("0.0.0.0", strconv.Itoa(s.cfg.TLS.Port))); err != nil {
			return err
		}
	}
	if s.cfg.Control == "" {
		return nil
	}
	s.control, err = listen(s.cfg.Control)
	return err
}

func listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		return nil, fmt.Errorf("the upstream cannot listen: %w; give it another port, or 0 for one that is free", err)
	}
	return l, nil
}

func (s *Server) closeListeners() {
	for _, l := range []net.Listener{s.plain, s.tls, s.control} {
		if l != nil {
			l.Close()
		}
	}
}

// Ports are where it listens.
func (s *Server) Ports() Ports {
	p := Ports{Plain: portOf(s.plain)}
	if s.tls != nil {
		p.TLS = portOf(s.tls)
	}
	if s.control != nil {
		p.Control = s.control.Addr().String()
	}
	return p
}

func portOf(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// Stall makes all answers wait for that long from now.
func (s *Server) Stall(d time.Duration) { s.stall.begin(d) }

// Run serves until ctx ends, and returns when the ports are free and every connection is closed.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.accept(ctx, s.plain, nil) })
	if s.tls != nil {
		g.Go(func() error { return s.accept(ctx, s.tls, s.certs) })
	}
	if s.control != nil {
		g.Go(func() error { return s.serveControl(ctx) })
	}
	g.Go(func() error {
		if err := s.web.Serve(s.handed); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		s.closeListeners()
		s.stall.end()
		_ = s.web.Close()
		s.conns.closeAll()
		return nil
	})
	err := g.Wait()
	s.conns.wait()
	return err
}
