// Package keeptest is the suite that certs/keep passes on every registry: certmagic's storage contract line by line, and what
// keep promises beyond it. It knows no registry; whoever runs it opens the replicas.
package keeptest

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
)

// World is two replicas on one store, with two tenants.
type World struct {
	A, B  keep.Vault   // the replicas' vaults
	KEK   seal.Wrapper // the platform's
	Other seal.Wrapper // a key-encryption key that is another one
	T1    vault.Owner  // the tenant t1
	T10   vault.Owner  // the tenant t10

	Pause  func()                // stops replica A until its session is over for all others, without its noticing
	Resume func()                // lets A go on; returns when it can write again
	Reborn func() vault.Owner    // deletes t1 and makes it again
	Audits func() []string       // actions in the outbox
	Raw    func() [][]byte       // every value in the store
	Due    func(string) []string // what is due at any time of an owner's segment: "name@unix milliseconds"
}

// keepers returns a keeper on each replica.
func (w *World) keepers() (a, b *keep.Keeper) {
	return keep.New(w.A, w.KEK), keep.New(w.B, w.KEK)
}

// Run runs the suite. open returns an empty world each time.
func Run(t *testing.T, open func(t *testing.T) *World) {
	Files(t, func(t *testing.T) (a, b Storage) {
		w := open(t)
		ka, kb := w.keepers()
		return ka.Storage(w.T1), kb.Storage(w.T1)
	})
	for _, c := range []struct {
		name string
		f    func(*testing.T, *World)
	}{
		{"storage/ends", testStorageEnds},
		{"storage/names", testStorageNames},
		{"storage/bounds", testStorageBounds},
		{"storage/owners", testStorageOwners},
		{"lock/story", testLock},
		{"lock/names", testLockNames},
		{"lock/concurrent", testLockConcurrent},
		{"lock/paused", testLockPaused},
		{"host/story", testHost},
		{"host/conditions", testHostConditions},
		{"host/fenced", testHostFenced},
		{"host/due", testHostDue},
		{"host/audit", testHostAudit},
		{"host/list", testHostList},
		{"host/bad", testHostBad},
		{"seal/rest", testSealed},
		{"seal/moved", testMoved},
		{"seal/damaged", testDamaged},
		{"seal/wrongkek", testWrongKEK},
		{"seal/lostkey", testLostKey},
		{"seal/race", testKeyRace},
		{"seal/replaced", testKeyReplaced},
		{"X41", testX41},
		{"versions", testVersions},
		{"tickets/agree", testTickets},
		{"tickets/race", testTicketRace},
		{"tickets/damaged", testTicketsDamaged},
		{"tickets/newer", testTicketsNewer},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, open(t)) })
	}
}

// host returns a record with a certificate, as far as keep knows.
func host(name, key string) *keep.Host {
	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	return &keep.Host{
		Host: name, Source: tenant.SourceACME, Chain: []byte("-----BEGIN CERTIFICATE-----\nchain of " + name + "\n-----END CERTIFICATE-----\n"),
		Key: []byte(key), NotBefore: at, NotAfter: at.AddDate(0, 3, 0), RenewAt: at.AddDate(0, 2, 0), Issuer: "Test CA",
		OCSP: []byte{0x30, 0}, Order: keep.Order{Attempts: 1, Code: "caa", Error: "a CAA record", Next: at.Add(time.Hour)},
	}
}

func mustSave(t *testing.T, k *keep.Keeper, o vault.Owner, h *keep.Host, opt keep.SaveOptions) {
	t.Helper()
	if err := k.Save(t.Context(), o, h, opt); err != nil {
		t.Fatalf("Save(%s): %v", h.Host, err)
	}
}

func mustLoad(t *testing.T, k *keep.Keeper, o vault.Owner, name string) *keep.Host {
	t.Helper()
	h, err := k.Load(t.Context(), o, name)
	if err != nil {
		t.Fatalf("Load(%s): %v", name, err)
	}
	return h
}

func wantKind(t *testing.T, what string, err error, want fault.Kind) {
	t.Helper()
	if err == nil || fault.KindOf(err) != want {
		t.Errorf("%s: got error %v, want kind %v", what, err, want)
	}
}

func wantIs(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

// raw returns a stored value.
func (w *World) raw(t *testing.T, o vault.Owner, key string) vault.Item {
	t.Helper()
	it, err := w.A.Get(t.Context(), o, key)
	if err != nil {
		t.Fatalf("Get(%s): %v", key, err)
	}
	return it
}

// plant stores a value past the keeper; nil deletes it.
func (w *World) plant(t *testing.T, o vault.Owner, key string, value []byte) {
	t.Helper()
	b := vault.Batch{Puts: []vault.Put{{Key: key, Value: value}}}
	if value == nil {
		b = vault.Batch{Deletes: []string{key}}
	}
	if _, err := w.A.Commit(t.Context(), o, b); err != nil {
		t.Fatalf("plant %s: %v", key, err)
	}
}

// meeting is a vault on which the first n callers who find that something is not there yet wait for each other, so that all
// of them make it.
type meeting struct {
	keep.Vault
	key  string // what they look for with Get; "" = anything at all, with List
	n    int32
	seen atomic.Int32
	all  chan struct{}
}

func meet(v keep.Vault, key string, n int) *meeting {
	return &meeting{Vault: v, key: key, n: int32(n), all: make(chan struct{})}
}

func (m *meeting) wait() {
	switch n := m.seen.Add(1); {
	case n == m.n:
		close(m.all)
	case n < m.n:
		<-m.all
	}
}

// Get implements keep.Vault.
func (m *meeting) Get(ctx context.Context, o vault.Owner, key string) (vault.Item, error) {
	it, err := m.Vault.Get(ctx, o, key)
	if key == m.key {
		m.wait()
	}
	return it, err
}

// List implements keep.Vault: it is the last thing that is asked before a data key is made.
func (m *meeting) List(ctx context.Context, o vault.Owner, prefix, after string, limit int) ([]vault.Item, bool, error) {
	items, more, err := m.Vault.List(ctx, o, prefix, after, limit)
	if m.key == "" && prefix == "" {
		m.wait()
	}
	return items, more, err
}

// flip alters a value somewhere inside.
func flip(b []byte, find string) []byte {
	out := bytes.Clone(b)
	i := bytes.Index(out, []byte(find)) + len(find) + 8
	if out[i] == 'A' {
		out[i] = 'B'
	} else {
		out[i] = 'A'
	}
	return out
}
