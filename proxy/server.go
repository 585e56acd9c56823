// Package proxy is the front: it takes connections from the public, finds out which tenant a request is for and who asks,
// bounds and cleans the request, has it decided on, and carries the decision out. It knows tenants from a Directory and
// leaves what a virtual gateway does to Gateways; where certificates and records come from, it does not know.
package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"

	"github.com/polygate/polygate/internal/quota"
)

// Times that nobody needs to choose.
const (
	suspendedRetry = time.Minute     // advised to callers of a suspended tenant
	shutdownRetry  = time.Second     // advised to callers of a replica that goes away
	bodyDrain      = 2 * time.Second // for the rest of a body that nobody wanted
	maxTick        = time.Second     // the longest between two looks for stalled clients
)

// frameSize is the largest HTTP/2 frame that is accepted: the smallest that RFC 9113 §4.2 allows, so that no stream can
// keep a connection busy for long.
const frameSize = 16 << 10

// Server is the front. It is made by New and does its work in Run.
type Server struct {
	cfg     Config
	limits  Limits
	log     *slog.Logger
	live    *live
	splices *splices
	door    *door // the public listener

	handshakes *handshakes
	admissions *admissions
	peers      *peers // nil = there are none

	handlers sync.WaitGroup // requests, those on hijacked connections included
	leaving  atomic.Bool    // Drain was called, or Run is ending: answers ask clients to connect anew
	draining atomic.Bool    // the time of streams is over: none is begun
	tick     atomic.Uint32  // the clock by which stalled clients are found; never 0
	strays   quota.Rate     // bounds the records of misdirected requests
}

// New checks cfg and returns a server for it. It starts nothing.
func New(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	or(&cfg.DrainStreams, 5*time.Second)
	limits := cfg.Limits.withDefaults()
	if err := limits.Validate(); err != nil {
		return nil, err
	}
	cfg.Passthrough = cfg.Passthrough.withDefaults()
	if err := cfg.Passthrough.Validate(); err != nil {
		return nil, err
	}
	cfg.Passthrough.leavePlaces(limits.Connections)
	s := &Server{cfg: cfg, limits: limits, log: cfg.Logger, live: newLive(), splices: newSplices(), admissions: newAdmissions()}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.door = newDoor(s.announcing(cfg.Public), limits.Connections)
	s.door.addresses.max = limits.ConnectionsPerAddress
	s.door.idleWrite = limits.HeaderTime
	s.tick.Store(1)
	s.peers = newPeers(&s.cfg, s.log)
	var err error
	if s.handshakes, err = newHandshakes(s); err != nil {
		return nil, err
	}
	return s, nil
}

// Run serves until ctx ends: then it takes no more connections, ends streams at once, gives other requests the grace of
// its limits, and returns when every one of its goroutines has ended. The error is nil if it was ctx that ended it.
func (s *Server) Run(ctx context.Context) error {
	base, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	public, plain := s.publicServer(base), s.plainServer(base)
	sweep, stopSweep := context.WithCancel(base)
	servers := []*http.Server{public, plain}
	failed := make(chan error, 3)
	var all sync.WaitGroup
	all.Go(func() { s.sweep(sweep) })
	all.Go(func() { s.watchAdmissions(sweep) })
	all.Go(func() { failed <- public.ServeTLS(s.door, "", "") })
	if s.cfg.Plain != nil {
		all.Go(func() { failed <- plain.Serve(netutil.LimitListener(s.announcing(s.cfg.Plain), s.limits.Connections)) })
	}
	if s.peers != nil {
		peer := s.peerServer(base)
		servers = append(servers, peer)
		defer s.peers.links.close()
		if s.peers.Changed != nil {
			all.Go(func() { s.watchPeers(sweep) })
		}
		all.Go(func() {
			failed <- peer.ServeTLS(netutil.LimitListener(s.peers.Listener, s.limits.Connections), "", "")
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.shutdown(base, servers...)
	stopSweep()
	all.Wait()
	return err
}

// shutdown ends what is open, the impatient way for streams and the patient way for the rest.
func (s *Server) shutdown(base context.Context, servers ...*http.Server) {
	s.endStreams()
	s.splices.close()
	grace, cancel := context.WithTimeout(base, s.limits.ShutdownGrace)
	defer cancel()
	err := shutdownAll(grace, servers...)
	waitFor(grace, &s.handlers)
	if n := s.splices.shutdown(grace); n > 0 {
		s.log.Warn("spliced connections were cut at shutdown", slog.Int("connections", n))
	}
	s.live.each(func(*flight) bool { return true }, func(f *flight) { f.kill(errShutdown) })
	if err != nil {
		s.log.Warn("requests were broken off at shutdown", slog.Any("error", err))
		for _, srv := range servers {
			_ = srv.Close() // the listeners are closed already; this is for the connections
		}
	}
	s.handlers.Wait()
}

// shutdownAll shuts servers down at the same time: a slow client of one takes nothing of the grace of another.
func shutdownAll(grace context.Context, servers ...*http.Server) error {
	errs := make([]error, len(servers))
	var all sync.WaitGroup
	for i, srv := range servers {
		all.Go(func() { errs[i] = srv.Shutdown(grace) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// waitFor waits for a group, but not beyond ctx.
func waitFor(ctx context.Context, group *sync.WaitGroup) {
	done := make(chan struct{})
	go func() { // ends with the last of the group, which shutdown waits for
		group.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

func (s *Server) publicServer(base context.Context) *http.Server {
	srv := s.httpServer(base, http.HandlerFunc(s.serveHTTP))
	srv.TLSConfig = s.handshakes.base.Clone() // net/http writes to it
	srv.ConnState = s.follow
	if s.peers != nil {
		inherited := srv.ConnContext
		srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(inherited(ctx, c), passportsKey{}, &passports{})
		}
	}
	srv.HTTP2 = &http.HTTP2Config{
		MaxConcurrentStreams:          s.limits.Streams,
		MaxReadFrameSize:              frameSize,
		MaxReceiveBufferPerConnection: 1 << 20,
		MaxReceiveBufferPerStream:     256 << 10,
		SendPingTimeout:               s.limits.IdleTime / 2, // finds peers that vanished
		PingTimeout:                   s.limits.HeaderTime,
		WriteByteTimeout:              s.limits.WriteIdle,
	}
	return srv
}

// httpServer is what both listeners have in common. There is no limit on the time of a whole request or response: streams
// last for days. Their pauses are bounded by sweep, which lifts WriteTimeout from every request that lasts. That one is for
// what net/http sends after a handler: a client that takes none of it, for want of a window or by not reading, would keep
// a goroutine for as long as it likes, even one that was answered 401.
func (s *Server) httpServer(base context.Context, h http.Handler) *http.Server {
	return &http.Server{
		Handler:                      h,
		ReadHeaderTimeout:            s.limits.HeaderTime,
		IdleTimeout:                  s.limits.IdleTime,
		WriteTimeout:                 s.limits.HeaderTime + s.limits.WriteIdle, // handshakes have the shortest of all timeouts
		MaxHeaderBytes:               s.limits.HeaderBytes,
		DisableGeneralOptionsHandler: true, // `OPTIONS *` is judged like everything else
		ErrorLog:                     slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		BaseContext:                  func(net.Listener) context.Context { return base },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
}

// sweep ends the requests whose client neither sends nor reads on. One look at all of them now and then costs less than a
// timer for each, and sees both protocols alike.
func (s *Server) sweep(ctx context.Context) {
	every := max(min(s.limits.BodyIdle, s.limits.WriteIdle)/8, time.Millisecond)
	every = min(every, maxTick)
	bodyTicks, writeTicks := uint32(s.limits.BodyIdle/every), uint32(s.limits.WriteIdle/every)
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := s.tick.Add(1)
		if now == 0 { // 0 means "nothing pending"
			now = s.tick.Add(1)
		}
		clock := time.Now()
		old := clock.Add(-s.limits.WriteIdle / 2)
		due := func(f *flight) bool {
			return f.stalled(now, bodyTicks, writeTicks) != nil || f.expired(clock) || f.lingers(clock) || !f.lifted.Load() && f.began.Before(old)
		}
		s.live.each(due, func(f *flight) {
			if err := f.stalled(now, bodyTicks, writeTicks); err != nil {
				f.kill(err)
				return
			}
			if f.expired(clock) {
				f.kill(errExpired)
				return
			}
			if f.lingers(clock) {
				f.kill(errShutdown)
				return
			}
			f.lift()
		})
		s.endStale()
		s.endStranded()
		s.splices.sweep(clock.UnixNano(), &s.cfg.Passthrough)
	}
}
