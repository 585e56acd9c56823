package audit

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polygate/polygate/internal/tenant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memOutbox is an Outbox in memory. Its Settle, like the registry's, is one transaction per chain.
type memOutbox struct {
	step      func(name string) // called around each effect; may panic, as a crash
	committed chan struct{}

	mu      sync.Mutex
	fail    error // guarded by mu, as all below: every call returns it
	next    int
	entries []Pending
	heads   map[string]Head
	calls   int // of Pending
}

func newOutbox() *memOutbox {
	return &memOutbox{step: func(string) {}, committed: make(chan struct{}, 1), heads: make(map[string]Head)}
}

// commit adds an entry as a transaction would and returns its id.
func (o *memOutbox) commit(id tenant.ID, action string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := entry(id, action)
	o.next++
	o.entries = append(o.entries, Pending{Key: strconv.Itoa(o.next), Entry: e})
	select {
	case o.committed <- struct{}{}:
	default:
	}
	return e.ID
}

func (o *memOutbox) setFail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fail = err
}

func (o *memOutbox) Pending(_ context.Context, limit int) ([]Pending, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls++
	return slices.Clone(o.entries[:min(limit, len(o.entries))]), o.fail
}

func (o *memOutbox) OwnHeads(context.Context) (map[string]Head, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.heads), o.fail
}

func (o *memOutbox) Settle(_ context.Context, heads map[string]Head, drained []Pending) error {
	o.mu.Lock()
	fail := o.fail
	o.mu.Unlock()
	if fail != nil {
		return fail
	}
	byChain := make(map[string][]string)
	for name := range heads {
		byChain[name] = nil
	}
	for _, p := range drained {
		byChain[p.Entry.Chain()] = append(byChain[p.Entry.Chain()], p.Key)
	}
	for _, name := range slices.Sorted(maps.Keys(byChain)) {
		head, anchor := heads[name]
		for keys := range chunks(byChain[name], 99) { // like the registry's, the head goes with the first of them
			o.step("before settling " + name)
			if err := o.settle(name, head, anchor, keys); err != nil {
				return err
			}
			o.step("after settling " + name)
		}
	}
	return nil
}

// chunks yields s in parts of at most n, and an empty s once.
func chunks(s []string, n int) iter.Seq[[]string] {
	if len(s) == 0 {
		return func(yield func([]string) bool) { yield(nil) }
	}
	return slices.Chunk(s, n)
}

func (o *memOutbox) settle(chain string, head Head, anchor bool, keys []string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if anchor && head.Seq < o.heads[chain].Seq {
		return errors.New("a head must not fall")
	}
	if anchor {
		o.heads[chain] = head
	}
	o.entries = slices.DeleteFunc(o.entries, func(p Pending) bool { return slices.Contains(keys, p.Key) })
	return nil
}

func (o *memOutbox) Committed() <-chan struct{} { return o.committed }

func (o *memOutbox) left() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.entries)
}

func entry(id tenant.ID, action string) Entry {
	return Entry{ID: NewID(), Time: time.Date(2026, 8, 1, 10, 0, 0, 0, time.UTC), Tenant: id, Principal: "key:k1", Name: "ci",
		Role: "admin", Action: action, Resource: "server/everything", Decision: Allow, Rule: "role admin", Outcome: OutcomeOK,
		RequestID: "req-1"}
}

// chainUp returns a log of n lines over some chains, and the heads that anchor all of it.
func chainUp(n int, chains ...tenant.ID) (text []byte, heads map[string]Head) {
	heads = make(map[string]Head)
	for i := range n {
		e := entry(chains[i%len(chains)], "server.create")
		e.ID = "entry-" + strconv.Itoa(i)
		l := heads[e.Chain()].Next(e.Chain(), EncodeEntry(e))
		text = AppendLine(text, l)
		heads[e.Chain()] = l.Head()
	}
	return text, heads
}
