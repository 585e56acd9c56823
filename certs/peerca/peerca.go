// Package peerca is the authority under which the replicas of one platform know each other: it keeps the authority's
// certificates and sealed keys in the registry, and makes this replica's own certificate, whose key never leaves memory. It
// opens no connection and judges no peer; that is for whoever speaks to one.
package peerca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
)

// Overlap is how long a new authority is known to all replicas before any of them uses it. A replica that the registry does not
// reach for so long has lost its session, and serves nobody until it has read what there is.
const Overlap = time.Minute

// The lives of certificates. Each begins earlier than it is made, for replicas whose clocks differ.
const (
	rootLife  = 10 * 365 * 24 * time.Hour
	leafLife  = 24 * time.Hour // renewed at half
	backdate  = time.Hour
	lastYear  = 365 * 24 * time.Hour // of an authority: a replica that meets it makes the next one
	recheck   = time.Minute          // between two readings of the store, should an event be missed
	readAgain = time.Second          // after one that failed
	maxTurns  = 8                    // how often a change is tried again when others were faster
)

// name is that of the secret under which the authorities are kept.
const name = "peerca"

// Vault is what is asked of the registry. *registry.Vault is one.
type Vault interface {
	keep.Vault
	// Subscribe calls fn after each change, with the owner's segment and the key; with no owner where anything may have changed.
	Subscribe(fn func(owner, key string)) (cancel func())
}

// Authority is the peers' authority as one replica sees it. It is safe for concurrent use. Nothing but Open may be called before
// Open has succeeded.
type Authority struct {
	vault   Vault
	keeper  *keep.Keeper
	replica string
	now     func() time.Time
	log     *slog.Logger

	mu      sync.Mutex // guards what follows
	stored  stored
	leaf    *tls.Certificate
	signer  string // fingerprint of the authority that signed leaf
	roots   *x509.CertPool
	trusted []string // fingerprints of what is in roots
	changed chan struct{}
}

// New returns the authority of the replica of a name, which is kept in v under data keys that w wraps. It touches nothing until
// Open. now nil is time.Now, log nil discards.
func New(v Vault, w seal.Wrapper, replica string, now func() time.Time, log *slog.Logger) *Authority {
	if now == nil {
		now = time.Now
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Authority{vault: v, keeper: keep.New(v, w), replica: replica, now: now, log: log, changed: make(chan struct{})}
}

// Open reads the authority, or makes it at the platform's first start: of replicas that make one at once, one succeeds and the
// others take its. What is there and does not open is never made anew. It then makes this replica's certificate.
func (a *Authority) Open(ctx context.Context) error {
	if err := a.read(ctx); err != nil {
		return fmt.Errorf("the replicas' authority: %w", err)
	}
	return nil
}

// Run follows changes of the authority and renews the certificate until ctx ends. Trouble with the store is logged, and leaves
// what there is: a certificate that is valid goes on.
func (a *Authority) Run(ctx context.Context) error {
	wake := make(chan struct{}, 1)
	defer a.vault.Subscribe(func(owner, key string) {
		if keep.IsSecret(name, owner, key) {
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	})()
	timer := time.NewTimer(0) // what changed between Open and the subscription is read at once
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-timer.C:
		}
		timer.Reset(a.look(ctx))
	}
}

// look reads what is stored, mends it where that is due, and says when to look again.
func (a *Authority) look(ctx context.Context) time.Duration {
	err := a.read(ctx)
	if err == nil {
		err = a.maintain(ctx)
	}
	if ctx.Err() != nil {
		return recheck
	}
	if err != nil {
		a.log.Error("the replicas' authority cannot be read or renewed: this replica goes on with the certificate it has", "error", err)
		_ = a.refresh() // with what is in memory; Certificate says what is wrong
		return readAgain
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return min(recheck, a.stored.next(a.now()))
}

// Certificate returns this replica's certificate for both sides of a connection. It is never one that has expired.
func (a *Authority) Certificate() (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.renew()
	if a.leaf != nil && a.now().Before(a.leaf.Leaf.NotAfter) {
		return a.leaf, nil
	}
	return nil, fault.Wrap(fault.Unavailable, err, "this replica has no valid certificate for its peers: see its log, and whether its clock is right")
}

// Roots returns the certificates of the authorities whose replicas are to be believed. It is not to be changed.
func (a *Authority) Roots() *x509.CertPool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = a.renew() // what is wrong with the certificate is said by Certificate
	return a.roots
}

// Changed is closed when the certificate or the roots have changed; then there is another one.
func (a *Authority) Changed() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changed
}

// Rotate makes a new authority beside the present one. All replicas believe both from the moment they read it; certificates come
// from the new one after Overlap, and the present one is believed until the last certificate from it has ended. Where a rotation
// is under way it does nothing, so that all replicas may be asked at once.
func (a *Authority) Rotate(ctx context.Context) error {
	err := a.change(ctx, func(s stored, now time.Time) (stored, bool, error) { return s.rotated(now) })
	if err != nil {
		return fmt.Errorf("rotate the replicas' authority: %w", err)
	}
	return nil
}

// Status tells what there is.
type Status struct {
	Roots []Root    `json:"roots"`
	Until time.Time `json:"until"` // the end of this replica's certificate
}

// Root is one authority.
type Root struct {
	Fingerprint string    `json:"fingerprint"` // SHA-256 of its certificate, hexadecimal
	From        time.Time `json:"from"`        // when certificates come from it
	NotAfter    time.Time `json:"not_after"`
	Signs       bool      `json:"signs"` // certificates come from it now
}

// Status returns what this replica knows.
func (a *Authority) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out Status
	for _, r := range a.stored.believed(a.now()) {
		out.Roots = append(out.Roots, Root{Fingerprint: r.print, From: r.From, NotAfter: r.cert.NotAfter, Signs: r.print == a.signer})
	}
	if a.leaf != nil {
		out.Until = a.leaf.Leaf.NotAfter
	}
	return out
}

// read takes what is stored into memory, and makes the first authority.
func (a *Authority) read(ctx context.Context) error {
	return a.change(ctx, func(s stored, now time.Time) (stored, bool, error) {
		if len(s.Authorities) > 0 {
			return s, false, nil
		}
		first, err := newAuthority(now, now) // at the first start nobody has to learn of it before
		s.Authorities = []authority{first}
		return s, true, err
	})
}

// maintain rotates an authority that comes to its end, and removes those that nobody needs.
func (a *Authority) maintain(ctx context.Context) error {
	a.mu.Lock()
	due := a.stored.upkeep(a.now())
	a.mu.Unlock()
	if !due {
		return nil
	}
	return a.change(ctx, func(s stored, now time.Time) (stored, bool, error) {
		s, pruned := s.pruned(now)
		if !s.ending(now) {
			return s, pruned, nil
		}
		s, rotated, err := s.rotated(now)
		return s, pruned || rotated, err
	})
}

// change applies edit to what is stored, by compare-and-swap, and takes the outcome into memory.
func (a *Authority) change(ctx context.Context, edit func(stored, time.Time) (stored, bool, error)) error {
	for turn := 1; ; turn++ {
		s, rev, err := a.load(ctx)
		if err != nil {
			return err
		}
		s, changed, err := edit(s, a.now())
		if err == nil && changed {
			err = a.store(ctx, s, rev)
		}
		if err == nil {
			return a.take(s)
		}
		if !fault.Is(err, fault.PreconditionFailed) || turn == maxTurns { // else another replica was faster: take what it made
			return err
		}
	}
}

func (a *Authority) load(ctx context.Context) (stored, int64, error) {
	b, rev, err := a.keeper.Secret(ctx, name)
	if fault.Is(err, fault.NotFound) && !errors.Is(err, keep.ErrKeyLost) {
		return stored{V: version}, 0, nil
	}
	if err != nil {
		return stored{}, 0, err
	}
	s, err := decode(b)
	return s, rev, err
}

func (a *Authority) store(ctx context.Context, s stored, rev int64) error {
	b, err := s.encode()
	if err != nil {
		return err
	}
	return a.keeper.SetSecret(ctx, name, b, rev)
}

func (a *Authority) take(s stored) error {
	a.mu.Lock()
	a.stored = s
	a.mu.Unlock()
	return a.refresh()
}

// refresh brings certificate and roots up to what is stored, and to the time.
func (a *Authority) refresh() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.renew()
}
