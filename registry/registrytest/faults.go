package registrytest

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/registry"
)

// Process is the store as one process reaches it, which can be killed: from then on nothing goes out, no answer comes in,
// and the lease is not given back.
type Process struct {
	registry.Backend
	once sync.Once
	dead chan struct{}
}

// NewProcess returns the store of a process that lives.
func NewProcess(b registry.Backend) *Process { return &Process{Backend: b, dead: make(chan struct{})} }

// Kill is kill -9.
func (p *Process) Kill() { p.once.Do(func() { close(p.dead) }) }

func (p *Process) check() error {
	select {
	case <-p.dead:
		return fault.New(fault.Unavailable, "the process is dead")
	default:
		return nil
	}
}

// Range implements registry.Backend.
func (p *Process) Range(ctx context.Context, q registry.Range) (*registry.RangeResult, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	return p.Backend.Range(ctx, q)
}

// Txn implements registry.Backend. What is applied when the process dies has no answer.
func (p *Process) Txn(ctx context.Context, t *registry.Txn) (*registry.TxnResult, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	res, err := p.Backend.Txn(ctx, t)
	if dead := p.check(); dead != nil {
		return nil, dead
	}
	return res, err
}

// Watch implements registry.Backend.
func (p *Process) Watch(ctx context.Context, from int64, prefixes []string, deliver func(registry.Batch)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-p.dead:
			cancel()
		case <-done:
		}
	}()
	if err := p.check(); err != nil {
		return err
	}
	return p.Backend.Watch(ctx, from, prefixes, deliver)
}

// Grant implements registry.Backend.
func (p *Process) Grant(ctx context.Context, ttl time.Duration) (registry.LeaseID, time.Duration, error) {
	if err := p.check(); err != nil {
		return 0, 0, err
	}
	return p.Backend.Grant(ctx, ttl)
}

// KeepAlive implements registry.Backend.
func (p *Process) KeepAlive(ctx context.Context, id registry.LeaseID) (time.Duration, error) {
	if err := p.check(); err != nil {
		return 0, err
	}
	return p.Backend.KeepAlive(ctx, id)
}

// Revoke implements registry.Backend.
func (p *Process) Revoke(ctx context.Context, id registry.LeaseID) error {
	if err := p.check(); err != nil {
		return err
	}
	return p.Backend.Revoke(ctx, id)
}

// The planted defects. Each test of a fault is run with one of them too, and must then fail, or it proves nothing.

// Forgetful says that it has stored every seventh write of tenants' state, and has not: a disk that lies.
type Forgetful struct {
	registry.Backend
	n atomic.Int32
}

// Txn implements registry.Backend.
func (f *Forgetful) Txn(ctx context.Context, t *registry.Txn) (*registry.TxnResult, error) {
	c := *t
	c.Puts = slices.DeleteFunc(slices.Clone(t.Puts), func(p registry.Put) bool {
		return strings.HasPrefix(p.Key, "t/") && !strings.Contains(p.Key, "/_/") && f.n.Add(1)%7 == 0
	})
	return f.Backend.Txn(ctx, &c)
}

// Generous grants leases of a second and says that they last an hour: a replica whose clock is wrong.
type Generous struct{ registry.Backend }

// Grant implements registry.Backend.
func (g Generous) Grant(ctx context.Context, _ time.Duration) (registry.LeaseID, time.Duration, error) {
	id, _, err := g.Backend.Grant(ctx, time.Second)
	return id, time.Hour, err
}

// Stale reads single keys as they were some changes ago: a member that has fallen behind, and is asked all the same.
type Stale struct{ registry.Backend }

// Range implements registry.Backend.
func (s Stale) Range(ctx context.Context, q registry.Range) (*registry.RangeResult, error) {
	if !strings.HasPrefix(q.Key, "x/") || q.Revision != 0 {
		return s.Backend.Range(ctx, q)
	}
	now, err := s.Backend.Range(ctx, registry.Range{Key: "c/none"})
	if err != nil {
		return nil, err
	}
	q.Revision = max(1, now.Revision-rand.Int64N(10)) //nolint:gosec // not a secret
	return s.Backend.Range(ctx, q)
}

// NoDeletes is a watch that tells of no deletion.
type NoDeletes struct{ registry.Backend }

// Watch implements registry.Backend.
func (n NoDeletes) Watch(ctx context.Context, from int64, prefixes []string, deliver func(registry.Batch)) error {
	return n.Backend.Watch(ctx, from, prefixes, func(b registry.Batch) {
		b.Events = slices.DeleteFunc(slices.Clone(b.Events), func(ev registry.Event) bool { return ev.Delete })
		deliver(b)
	})
}

// Bleeding leaves out the '/' at the end of a prefix.
type Bleeding struct{ registry.Backend }

// Range implements registry.Backend.
func (b Bleeding) Range(ctx context.Context, q registry.Range) (*registry.RangeResult, error) {
	q.Prefix = strings.TrimSuffix(q.Prefix, "/")
	return b.Backend.Range(ctx, q)
}

// Txn implements registry.Backend.
func (b Bleeding) Txn(ctx context.Context, t *registry.Txn) (*registry.TxnResult, error) {
	if len(t.DeletePrefixes) == 0 || !slices.ContainsFunc(t.Deletes, func(k string) bool { return strings.HasPrefix(k, "x/") }) {
		return b.Backend.Txn(ctx, t)
	}
	c := *t
	c.DeletePrefixes = nil
	for _, p := range t.DeletePrefixes {
		c.DeletePrefixes = append(c.DeletePrefixes, strings.TrimSuffix(p, "/"))
	}
	return b.Backend.Txn(ctx, &c)
}

// Lagging delivers what is watched late, by up to Delay.
type Lagging struct {
	registry.Backend
	Delay time.Duration
}

// Watch implements registry.Backend.
func (l Lagging) Watch(ctx context.Context, from int64, prefixes []string, deliver func(registry.Batch)) error {
	return l.Backend.Watch(ctx, from, prefixes, func(b registry.Batch) {
		if len(b.Events) > 0 {
			late := time.NewTimer(rand.N(l.Delay)) //nolint:gosec // not a secret
			defer late.Stop()
			select {
			case <-late.C:
			case <-ctx.Done():
				return // what was under way when the watch broke is lost
			}
		}
		deliver(b)
	})
}
