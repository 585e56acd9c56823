package proxy

import (
	"errors"
	"maps"
	"time"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// maxAsked bounds how many replicas one request is taken to, this one included: the one that has the tenant, the one that has
// it then, and one more, since in a rolling restart a tenant may move twice in a row. No attempt but the last does anything.
const maxAsked = 3

// search is the way of one request to the replica that serves its tenant.
type search struct {
	until time.Time // when it gives up; zero before the first wait
	asked int
	last  Location  // asked last
	again time.Time // when last may be asked once more, should nothing have changed
	err   error     // what it said
}

// step is what a search does next.
type step uint8

const (
	stepServe   step = iota // it is here
	stepForward             // it is at the location
	stepWait                // nobody can be asked, or only one who has just refused
	stepGiveUp
)

// next chooses. It is pure.
func (s *search) next(loc Location, now time.Time) step {
	switch {
	case !s.until.IsZero() && !now.Before(s.until) || s.asked == maxAsked:
		return stepGiveUp
	case loc.Moving || s.asked > 0 && loc.same(s.last) && now.Before(s.again):
		return stepWait
	case loc.Self:
		return stepServe
	}
	return stepForward
}

func (l Location) same(m Location) bool {
	return l.Self == m.Self && l.Replica == m.Replica && l.Address == m.Address
}

// refused notes that loc did nothing of the request, and why.
func (s *search) refused(loc Location, err error, now time.Time, wait time.Duration) {
	s.begin(now, wait)
	s.asked++
	s.last, s.err, s.again = loc, err, now.Add(wait/2)
}

// begin starts the time that a search has.
func (s *search) begin(now time.Time, wait time.Duration) {
	if s.until.IsZero() {
		s.until = now.Add(wait)
	}
}

// notServed is the error of an attempt of which nothing was done: it may be made again elsewhere.
type notServed struct{ err error }

func (n *notServed) Error() string { return n.err.Error() }
func (n *notServed) Unwrap() error { return n.err }

// ownerOnly says whether only the tenant's owner can serve the request. One that another replica forwarded is served here
// or refused, whatever this replica believes: two that believe otherwise would send it to and fro.
func (f *flight) ownerOnly() bool {
	p, e := f.s.peers, f.place.entry
	if p == nil || f.hop.from != nil || f.place.own && e.Record.Mode == tenant.ModeDedicated {
		return false
	}
	return p.owners.Owner(e, f.r.Method, f.place.path) == exchange.OwnerRequired
}

// serveAtOwner serves the request where its tenant is. While that changes it waits, and asks again where it is safe.
func (f *flight) serveAtOwner() error {
	if err := f.judgeChain(); err != nil {
		return err
	}
	p, s := f.s.peers, search{}
	for {
		loc := p.Locate.Locate(f.place.entry.Scope)
		var err error
		switch s.next(loc, time.Now()) {
		case stepServe:
			err = f.tryHere()
		case stepForward:
			err = f.tryThere(loc)
		case stepWait:
			if err := f.awaitMove(&s, loc.Changed); err != nil {
				return err
			}
			continue
		case stepGiveUp:
			return s.giveUp()
		}
		no, ok := errors.AsType[*notServed](err)
		if !ok {
			return err
		}
		s.refused(loc, no.err, time.Now(), p.Wait)
	}
}

// awaitMove waits until it is worth while to look again. It holds a place among this replica's requests meanwhile.
func (f *flight) awaitMove(s *search, changed <-chan struct{}) error {
	now := time.Now()
	s.begin(now, f.s.peers.Wait)
	if err := f.enterTransit(); err != nil {
		return err
	}
	d := s.until.Sub(now)
	if now.Before(s.again) {
		d = min(d, s.again.Sub(now))
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	case <-f.ctx.Done():
		return f.ctx.Err()
	}
	return nil
}

// giveUp is what a client is told whose tenant could not be found in time.
func (s *search) giveUp() error {
	err := s.err
	if err == nil {
		err = &exchange.Elsewhere{}
	}
	return fault.Wrap(fault.Unavailable, err, "this tenant is on its way from one replica to another: try again").After(moveRetry)
}

// moveRetry is advised to callers of a tenant that nobody serves at the moment.
const moveRetry = time.Second

// tryHere serves the request here. If the gateway is, after all, another replica's, everything is as it was before.
func (f *flight) tryHere() error {
	f.leaveTransit()
	f.hop.to = ""
	if f.hop.body != nil { // another replica refused it, and may have been sent some of it
		var ok bool
		if f.hop.here, ok = f.hop.body.attempt(); !ok {
			return errBodySpent
		}
	}
	header := maps.Clone(f.r.Header) // the credential is taken out of the one that the gateway sees
	err := f.serveHere()
	if !f.untouched(err) {
		return err
	}
	if f.visit != nil {
		f.visit.Leave()
		f.visit = nil
	}
	f.r.Header = header
	return &notServed{err}
}

// untouched says whether err means that the tenant is elsewhere and nothing of the request was done.
func (f *flight) untouched(err error) bool {
	_, ok := errors.AsType[*exchange.Elsewhere](err)
	return ok && f.status == 0 && !f.begun()
}

// begun says whether this replica's gateway has read of the body.
func (f *flight) begun() bool {
	if f.hop.here != nil {
		return f.hop.here.read.Load()
	}
	return f.body.n.Load() > 0
}
