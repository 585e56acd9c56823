package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// DefaultCapacity is a replica's share where its record has none: that of a version before shares.
const DefaultCapacity = 100

// Replica is a replica whose session is live: the value of n/<replica>.
type Replica struct {
	V        int       `json:"v"`
	Name     string    `json:"name"`
	Address  string    `json:"address,omitempty"` // where the other replicas reach it
	Lease    LeaseID   `json:"lease"`             // the one lease on which its record and all its claims hang
	Version  string    `json:"version,omitempty"` // of the program
	Capacity int       `json:"capacity,omitempty"`
	Draining bool      `json:"draining,omitempty"` // it gives its tenants up and takes none
	Started  time.Time `json:"started,omitzero"`   // the process, not the session
	Load     Load      `json:"load,omitzero"`
}

// Load is what a replica says of the work that it has. It is up to half a TTL old, and up to a tenth wrong.
type Load struct {
	Tenants  int     `json:"tenants,omitempty"`  // whose gateways are open
	Requests int64   `json:"requests,omitempty"` // in flight
	Streams  int64   `json:"streams,omitempty"`
	CPU      float64 `json:"cpu,omitempty"`    // share of the cores, 0 to 1
	Memory   int64   `json:"memory,omitempty"` // bytes
}

// moved says whether a load is worth a write that every replica's watch delivers: something changed by more than a tenth,
// and by more than what comes and goes on an idle replica.
func (l Load) moved(to Load) bool {
	const mib = 1 << 20
	return differ(float64(l.Tenants), float64(to.Tenants), 0) ||
		differ(float64(l.Requests), float64(to.Requests), 10) ||
		differ(float64(l.Streams), float64(to.Streams), 10) ||
		differ(l.CPU, to.CPU, 0.05) ||
		differ(float64(l.Memory), float64(to.Memory), 32*mib)
}

func differ(was, is, floor float64) bool {
	by := max(was, is) - min(was, is)
	return by > floor && by > max(was, is)/10
}

// readReplica reads the record of a live replica, whatever wrote it. Of a record that this build cannot read only its
// name and lease count: the replica is live and keeps its claims, but nothing is sent to it.
func readReplica(name string, kv KV) (Replica, error) {
	var r Replica
	err := json.Unmarshal(kv.Value, &r)
	if err == nil && !accepts(r.V, storedVersion) {
		err = fmt.Errorf("the record of replica %s has version %d: this build reads 1 to %d", name, r.V, storedVersion+1)
	}
	if err != nil {
		r = Replica{V: r.V, Draining: true}
	}
	r.Name, r.Lease = name, kv.Lease
	if r.Capacity <= 0 {
		r.Capacity = DefaultCapacity
	}
	return r, err
}

// announcer keeps n/<self> true: what this replica says of itself beside that it lives.
type announcer struct {
	draining atomic.Bool
	turn     chan struct{} // cap 1: one write of the record at a time; held by whoever has put something in
	kick     chan struct{} // cap 1: there is a new session, or something else to say
}

func (a *announcer) init() {
	a.turn, a.kick = make(chan struct{}, 1), make(chan struct{}, 1)
}

func (a *announcer) poke() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// said is what the store has of a session's n/ key as far as we know. The holder of announcer.turn uses it.
type said struct {
	record Replica
	mod    int64 // its ModRevision
	unsure bool  // a write of it was not answered, and may still arrive
}

// self returns what this replica is to say of itself now.
func (s *Store) self(lease LeaseID) Replica {
	r := Replica{
		V: storedVersion, Name: s.cfg.Replica, Address: s.cfg.Address, Lease: lease, Version: s.cfg.Version,
		Capacity: s.cfg.Capacity, Draining: s.announce.draining.Load(), Started: s.begun,
	}
	if s.cfg.Load != nil {
		r.Load = s.cfg.Load()
	}
	if math.IsNaN(r.Load.CPU) || math.IsInf(r.Load.CPU, 0) {
		r.Load.CPU = 0 // JSON has neither, and the record must be written
	}
	return r
}

// SetDraining says in this replica's record that it takes no more tenants, or that it does again. nil means that it is
// stored, and known here. With an error, which is fault.Unavailable, it is stored as soon as the registry answers: what
// was set last holds for all sessions of this process.
func (s *Store) SetDraining(ctx context.Context, draining bool) error {
	s.announce.draining.Store(draining)
	rev, err := s.say(ctx)
	if err != nil {
		s.announce.poke()
		return fmt.Errorf("say that replica %s drains (%v): %w", s.cfg.Replica, draining, err)
	}
	if !s.follow.await(ctx, prefixReplica, rev) {
		s.log.Warn("registry: this replica's record is written but its index has not seen it yet", "revision", rev)
	}
	return nil
}

// runAnnounce publishes the load at most every half TTL, when it changed, and what could not be said before.
func (s *Store) runAnnounce(ctx context.Context) {
	tick := time.NewTicker(s.cfg.TTL / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.announce.kick:
			pause(ctx, s.cfg.TTL/20) // after a failure, not at once again
		case <-tick.C:
		}
		if s.session.Load() == nil {
			continue // the next session pokes
		}
		if _, err := s.say(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("registry: this replica's record was not brought up to date; it is tried again", "error", err)
		}
	}
}

// say writes n/<self> if it differs from what the store has, and returns the revision at which it says so.
func (s *Store) say(ctx context.Context) (int64, error) {
	select {
	case s.announce.turn <- struct{}{}:
		defer func() { <-s.announce.turn }()
	case <-ctx.Done():
		return 0, fault.From(ctx.Err())
	}
	ses := s.session.Load()
	if ses == nil || !ses.live() {
		return 0, s.noSession()
	}
	next := s.self(ses.lease)
	if !ses.said.record.Load.moved(next.Load) {
		next.Load = ses.said.record.Load
	}
	if next == ses.said.record && !ses.said.unsure {
		return ses.said.mod, nil
	}
	return s.sayOn(ctx, ses, next)
}

// sayOn compares the revision of what it replaces, so that of two writes the later one stays, also if the first was not
// answered and arrives late.
func (s *Store) sayOn(ctx context.Context, ses *session, next Replica) (int64, error) {
	val, err := encode(next)
	if err != nil {
		return 0, err
	}
	key := replicaKey(s.cfg.Replica)
	ses.said.unsure = true
	for range 3 {
		t := &Txn{If: []Cmp{{key, ModIs, ses.said.mod}}, Puts: []Put{{key, val, ses.lease}}, Else: []string{key}}
		res, err := s.commit(ctx, t) // broken off, it is settled by the next
		if err != nil {
			return 0, err
		}
		kv := res.Else[key]
		switch {
		case res.OK:
			ses.said = said{record: next, mod: res.Revision}
			return res.Revision, nil
		case kv.Lease != ses.lease:
			return 0, s.noSession()
		case bytes.Equal(kv.Value, val): // an earlier attempt was applied
			ses.said = said{record: next, mod: kv.ModRevision}
			return kv.ModRevision, nil
		}
		ses.said.mod = kv.ModRevision
	}
	return 0, fault.New(fault.Unavailable, "the record of replica %s is being changed by others: give each replica its own name", s.cfg.Replica).After(retryAdvice)
}
