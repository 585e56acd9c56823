// Package registrytest is the one suite that every registry.Backend passes, and the tools to build such tests: replicas
// that run in the test, and wrappers that make a backend hang, lose answers, go deaf, or forget the fence.
package registrytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
)

// BaseDomain is that of the stores that Start makes.
const BaseDomain = "test.localhost"

// Backend is what the suite runs on: a registry.Backend whose history can be compacted.
type Backend interface {
	registry.Backend
	Compact(ctx context.Context, rev int64) error
}

// Replica is a running store.
type Replica struct {
	*registry.Store
	stop func()
}

// Stop ends the store and waits.
func (r *Replica) Stop() { r.stop() }

// Option changes the configuration of a replica.
type Option func(*registry.Config)

// TTL sets the lease's time to live.
func TTL(d time.Duration) Option { return func(c *registry.Config) { c.TTL = d } }

// TakeOver lets the replica end its predecessor's session.
func TakeOver(c *registry.Config) { c.TakeOver = true }

// Launch starts a replica without waiting for it.
func Launch(t testing.TB, b registry.Backend, name string, opts ...Option) *Replica {
	t.Helper()
	cfg := registry.Config{Backend: b, Replica: name, Address: name + ":7443", BaseDomain: BaseDomain}
	for _, o := range opts {
		o(&cfg)
	}
	s, err := registry.New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run of %s: %v", name, err)
		}
	}()
	stop := sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return &Replica{s, stop}
}

// Start starts a replica and waits until it is ready.
func Start(t testing.TB, b registry.Backend, name string, opts ...Option) *Replica {
	t.Helper()
	r := Launch(t, b, name, opts...)
	select {
	case <-r.Ready():
	case <-time.After(20 * time.Second):
		t.Fatalf("replica %s is not ready: %v", name, r.Healthy())
	}
	return r
}

// Record returns a valid routing record.
func Record(id string, edits ...func(*tenant.Record)) *tenant.Record {
	r := &tenant.Record{ID: tenant.ID(id), State: tenant.StateActive, Mode: tenant.ModeVirtual, Source: tenant.SourceAPI}
	for _, e := range edits {
		e(r)
	}
	return r
}

// Host adds a custom host.
func Host(h string) func(*tenant.Record) {
	return func(r *tenant.Record) { r.Hosts = append(r.Hosts, h) }
}

// Key adds an API key, whose id and name are the key itself.
func Key(key string) func(*tenant.Record) {
	return func(r *tenant.Record) {
		r.Keys = append(r.Keys, tenant.Key{ID: key, Name: key, Hash: tenant.HashKey(key), Role: tenant.Editor, Source: tenant.SourceAPI})
	}
}

// Entry returns an audit entry for a change of a tenant; of the platform if id is empty.
func Entry(id tenant.ID, action string) audit.Entry {
	return audit.Entry{ID: audit.NewID(), Time: time.Now().UTC(), Tenant: id, Principal: "system:test", Action: action, Decision: audit.Allow}
}

// Create makes a tenant.
func Create(t testing.TB, r *Replica, id string, edits ...func(*tenant.Record)) *tenant.Entry {
	t.Helper()
	e, err := r.CreateTenant(t.Context(), Record(id, edits...), Entry("", "tenant.create"))
	if err != nil {
		t.Fatalf("CreateTenant(%s): %v", id, err)
	}
	return e
}

// Claim claims a tenant.
func Claim(t testing.TB, r *Replica, scope tenant.Scope) *registry.Claim {
	t.Helper()
	c, err := r.Claim(t.Context(), scope)
	if err != nil {
		t.Fatalf("Claim(%s): %v", scope, err)
	}
	return c
}

// Write commits one object.
func Write(t testing.TB, c *registry.Claim, kind, id, value string) {
	t.Helper()
	if err := c.Commit(t.Context(), Entry(c.Scope().ID(), "server.create"), tenant.Write{Kind: kind, ID: id, Value: []byte(value)}); err != nil {
		t.Fatalf("Commit(%s/%s): %v", kind, id, err)
	}
}

// Objects returns id=value of all objects of a kind.
func Objects(t testing.TB, c *registry.Claim, kind string) []string {
	t.Helper()
	objs, err := c.Load(t.Context(), kind)
	if err != nil {
		t.Fatalf("Load(%s): %v", kind, err)
	}
	var out []string
	for _, o := range objs {
		out = append(out, o.ID+"="+string(o.Value))
	}
	return out
}

// Dump reads the whole store.
func Dump(t testing.TB, b registry.Backend) map[string]registry.KV {
	t.Helper()
	out := make(map[string]registry.KV)
	for _, prefix := range []string{"x/", "u/", "o/", "n/", "c/", "t/", "a/", "v/"} {
		res, err := b.Range(t.Context(), registry.Range{Prefix: prefix})
		if err != nil {
			t.Fatalf("Range(%s): %v", prefix, err)
		}
		for _, kv := range res.KVs {
			out[kv.Key] = kv
		}
	}
	return out
}

// Eventually waits until f holds.
func Eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("still not so: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// WaitLost waits until a claim is lost, and checks the cause.
func WaitLost(t testing.TB, c *registry.Claim) {
	t.Helper()
	select {
	case <-c.Context().Done():
	case <-time.After(15 * time.Second):
		t.Fatalf("the claim on %s is not lost", c.Scope())
	}
	if cause := context.Cause(c.Context()); !errors.Is(cause, registry.ErrClaimLost) {
		t.Errorf("the claim on %s ended with the cause %v", c.Scope(), cause)
	}
}

// WantKind checks an error's kind.
func WantKind(t testing.TB, what string, err error, want fault.Kind) {
	t.Helper()
	if err == nil || fault.KindOf(err) != want {
		t.Errorf("%s: got error %v, want kind %v", what, err, want)
	}
}

// Unfenced is the planted defect: a backend that forgets the comparison of a commit with its epoch, and of a change of
// the vault with its lock. Under it the change of a stale owner or holder must pass, or the test of the fence proves
// nothing.
type Unfenced struct{ registry.Backend }

// Txn implements registry.Backend without the fence.
func (u Unfenced) Txn(ctx context.Context, t *registry.Txn) (*registry.TxnResult, error) {
	c := *t
	c.If = slices.DeleteFunc(slices.Clone(t.If), func(c registry.Cmp) bool {
		return c.Kind == registry.ModIs && (strings.HasPrefix(c.Key, "o/") || strings.HasPrefix(c.Key, "c/lock/"))
	})
	return u.Backend.Txn(ctx, &c)
}

// Faulty is a backend with faults that can be switched on and off.
type Faulty struct {
	registry.Backend
	hang     atomic.Bool  // requests wait until their context ends
	lose     atomic.Int32 // so many transactions are applied, but their answers lost
	refuse   atomic.Int32 // so many transactions are not applied, and it is not said so
	deafened atomic.Bool  // the watch delivers nothing
	mu       sync.Mutex   // guards gate and cut
	gate     chan struct{}
	match    string
	arrived  chan struct{}
	cut      context.CancelFunc
	watches  atomic.Int32
	noRevoke atomic.Bool
}

// Hang makes every request hang, or ends that.
func (f *Faulty) Hang(on bool) { f.hang.Store(on) }

// Deafen stops the watch from delivering, progress too, or ends that. What it missed in the meantime it never delivers.
func (f *Faulty) Deafen(on bool) { f.deafened.Store(on) }

// LoseAnswers makes the next n transactions that write apply, and fail as far as the caller can tell.
func (f *Faulty) LoseAnswers(n int) { f.lose.Store(int32(n)) }

// Drop makes the next n transactions not apply, and fail in the same way.
func (f *Faulty) Drop(n int) { f.refuse.Store(int32(n)) }

// Hold keeps the next transaction that puts a key beginning with prefix from the store, whatever becomes of its context,
// until release is called. arrived is closed when it is there.
func (f *Faulty) Hold(prefix string) (arrived <-chan struct{}, release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	gate := make(chan struct{})
	f.gate, f.match, f.arrived = gate, prefix, make(chan struct{})
	return f.arrived, sync.OnceFunc(func() { close(gate) })
}

// CutWatch breaks the watch that is open.
func (f *Faulty) CutWatch() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cut != nil {
		f.cut()
	}
}

func (f *Faulty) wait(ctx context.Context) error {
	if !f.hang.Load() {
		return nil
	}
	<-ctx.Done()
	return fault.Wrap(fault.Unavailable, ctx.Err(), "no answer")
}

// Range implements registry.Backend.
func (f *Faulty) Range(ctx context.Context, q registry.Range) (*registry.RangeResult, error) {
	if err := f.wait(ctx); err != nil {
		return nil, err
	}
	return f.Backend.Range(ctx, q)
}

// Txn implements registry.Backend.
func (f *Faulty) Txn(ctx context.Context, t *registry.Txn) (*registry.TxnResult, error) {
	if err := f.wait(ctx); err != nil {
		return nil, err
	}
	if len(t.Puts)+len(t.Deletes)+len(t.DeletePrefixes) == 0 {
		return f.Backend.Txn(ctx, t) // it only reads
	}
	if f.refuse.Load() > 0 {
		f.refuse.Add(-1)
		return nil, fault.New(fault.Unavailable, "the request was lost")
	}
	if f.held(t) {
		ctx = context.WithoutCancel(ctx)
	}
	res, err := f.Backend.Txn(ctx, t)
	if err == nil && f.lose.Load() > 0 {
		f.lose.Add(-1)
		return nil, fault.New(fault.Unavailable, "the answer was lost")
	}
	return res, err
}

func (f *Faulty) held(t *registry.Txn) bool {
	f.mu.Lock()
	gate, arrived := f.gate, f.arrived
	match := gate != nil && slices.ContainsFunc(t.Puts, func(p registry.Put) bool { return strings.HasPrefix(p.Key, f.match) })
	if match {
		f.gate = nil
	}
	f.mu.Unlock()
	if match {
		close(arrived)
		<-gate
	}
	return match
}

// Watch implements registry.Backend.
func (f *Faulty) Watch(ctx context.Context, from int64, prefixes []string, deliver func(registry.Batch)) error {
	for f.hang.Load() { // unlike a request, it has no deadline with which to be tried again
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.mu.Lock()
	f.cut = cancel
	f.mu.Unlock()
	f.watches.Add(1)
	err := f.Backend.Watch(ctx, from, prefixes, func(b registry.Batch) {
		if !f.deafened.Load() && !f.hang.Load() {
			deliver(b)
		}
	})
	return fmt.Errorf("watch: %w", err)
}

// Watches returns how many times a watch was opened.
func (f *Faulty) Watches() int { return int(f.watches.Load()) }

// Grant implements registry.Backend.
func (f *Faulty) Grant(ctx context.Context, ttl time.Duration) (registry.LeaseID, time.Duration, error) {
	if err := f.wait(ctx); err != nil {
		return 0, 0, err
	}
	return f.Backend.Grant(ctx, ttl)
}

// KeepAlive implements registry.Backend.
func (f *Faulty) KeepAlive(ctx context.Context, id registry.LeaseID) (time.Duration, error) {
	if err := f.wait(ctx); err != nil {
		return 0, err
	}
	return f.Backend.KeepAlive(ctx, id)
}

// Revoke implements registry.Backend.
func (f *Faulty) Revoke(ctx context.Context, id registry.LeaseID) error {
	if err := f.wait(ctx); err != nil {
		return err
	}
	if f.noRevoke.Load() {
		return nil
	}
	return f.Backend.Revoke(ctx, id)
}

// Crash makes the next stop of the replica look like a kill -9: its lease stays.
func (f *Faulty) Crash() { f.noRevoke.Store(true) }
