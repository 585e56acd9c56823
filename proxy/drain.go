package proxy

import (
	"context"
	"net/http"
	"time"

	"github.com/polygate/polygate/internal/exchange"
)

// Times of draining.
const (
	drainSettle = time.Second            // without a new connection: nobody sends any more
	drainEmpty  = 100 * time.Millisecond // the same, where no connection is open
	drainLook   = 20 * time.Millisecond  // between two looks
)

// Drain prepares the end of Run, and returns when ctx may be ended without loss, or its own ctx has. New connections and
// requests are taken all the while, since load balancers go on sending them for a time; but each answer asks for its
// connection to be given up. Streams go on for Config.DrainStreams and are then told to come again. There is no way back.
func (s *Server) Drain(ctx context.Context) {
	s.leaving.Store(true)
	over := time.Now().Add(s.cfg.DrainStreams)
	s.await(ctx, over, s.quiet())
	s.endStreams()
	s.await(ctx, time.Now().Add(2*farewellTime), func(time.Time) bool { return s.streams() == 0 })
}

// quiet returns what says whether no stream runs, and no new connection has come for a time: those who were told to connect
// anew have gone elsewhere.
func (s *Server) quiet() func(now time.Time) bool {
	seen, since := s.door.accepted.Load(), time.Now()
	return func(now time.Time) bool {
		if n := s.door.accepted.Load(); n != seen {
			seen, since = n, now
		}
		enough := drainSettle
		if s.door.open() == 0 {
			enough = drainEmpty
		}
		return now.Sub(since) >= enough && s.streams() == 0
	}
}

// await waits until done says so, but not beyond a time and ctx.
func (s *Server) await(ctx context.Context, until time.Time, done func(now time.Time) bool) {
	t := time.NewTicker(drainLook)
	defer t.Stop()
	for now := time.Now(); now.Before(until) && !done(now); now = time.Now() {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// streams returns how many there are.
func (s *Server) streams() (n int) {
	s.live.each(func(f *flight) bool {
		if f.stream.Load() {
			n++
		}
		return false
	}, nil)
	return n
}

// endStreams tells every stream to come again, those too that begin from now on.
func (s *Server) endStreams() {
	s.leaving.Store(true)
	s.draining.Store(true)
	s.live.each(func(f *flight) bool { return f.stream.Load() }, func(f *flight) { f.depart(leave()) })
}

// depart asks a stream to end, with a word to its client. It does not wait; sweep cuts what is still there after farewellTime.
func (f *flight) depart(r *exchange.Reconnect) {
	f.departed.CompareAndSwap(0, time.Now().UnixNano())
	f.cancel(r)
}

// lingers says whether the time for a farewell is over.
func (f *flight) lingers(now time.Time) bool {
	d := f.departed.Load()
	return d != 0 && now.UnixNano()-d > int64(farewellTime)
}

// farewell ends the answer of a handler that has returned since its client is to come again, as tail ends a relay's.
func (f *flight) farewell(r *exchange.Reconnect) error {
	err := comeAgain(r)
	if f.frames == nil || !f.frames.whole() {
		return err
	}
	f.err = err
	if _, ok := f.frames.(*grpcFraming); ok {
		f.trailer(grpcTrailer())
		return nil
	}
	if _, werr := f.Write(eventHint(max(r.After, shutdownRetry))); werr != nil {
		return err
	}
	if f.FlushError() != nil || f.r.Method != http.MethodGet {
		return err
	}
	return nil
}

// trailer sends fields behind the body, where the handler did not.
func (f *flight) trailer(t http.Header) {
	h := f.w.Header()
	for name, v := range t {
		if len(h[http.TrailerPrefix+name]) == 0 {
			h[http.TrailerPrefix+name] = v
		}
	}
}
