package proxy

import (
	"errors"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// fresh says why tenants may not be served now: what was revoked would not be known here.
func (s *Server) fresh(needsClaim bool) error {
	if s.cfg.Fresh == nil {
		return nil
	}
	err := s.cfg.Fresh(needsClaim)
	if err == nil {
		return nil
	}
	var known *fault.Error
	if errors.As(err, &known) && known.Kind == fault.Unavailable {
		return known.After(max(known.RetryAfter, shutdownRetry))
	}
	return fault.Wrap(fault.Unavailable, err, "this replica does not see changes and revocations at present, and serves nobody without: try again").After(shutdownRetry)
}

// needsClaim says whether what the request is about is served under a claim: all but the own host of a dedicated tenant.
func (f *flight) needsClaim() bool {
	return !f.place.own || f.place.entry.Record.Mode != tenant.ModeDedicated
}

// endStale ends what runs and could not begin now. A stream gets a word with it, since other replicas may see more.
func (s *Server) endStale() {
	if s.cfg.Fresh == nil {
		return
	}
	claimed, unclaimed := s.fresh(true), s.fresh(false)
	if claimed == nil && unclaimed == nil {
		return
	}
	why := func(f *flight) error {
		if f.needsClaim() {
			return claimed
		}
		return unclaimed
	}
	s.live.each(func(f *flight) bool { return why(f) != nil }, func(f *flight) {
		if f.stream.Load() {
			f.depart(&exchange.Reconnect{After: shutdownRetry, Err: why(f)})
			return
		}
		f.kill(why(f))
	})
	if unclaimed != nil {
		s.splices.kill(func(*splice) error { return unclaimed })
	}
}
