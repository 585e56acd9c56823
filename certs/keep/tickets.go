package keep

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/vault"
)

// MaxTicketKeys is how many session ticket keys there are at most: one to come, one that encrypts, two of before.
const MaxTicketKeys = 4

// leadShare is the part of a rotation that lies at least between the storing of a key and its first use.
const leadShare = 8

// ring is the record of the session ticket keys, in the order in which they were made.
type ring struct {
	V       int         `json:"v"`
	Keys    []ticketKey `json:"keys"`
	unknown map[string]json.RawMessage
}

// ticketKey is a key that encrypts from a time on, until the next one does.
type ticketKey struct {
	Key     []byte    `json:"k"`
	From    time.Time `json:"from"`
	unknown map[string]json.RawMessage
}

// TicketKeys returns the platform's session ticket keys at a time: the first encrypts, all of them decrypt. They are the same
// for all replicas whose clocks agree, and a key is stored a rotation (after a standstill of the platform an eighth of one)
// before anybody encrypts with it: if every replica asks at least each rotate/16, and when IsTickets says so, and clocks differ
// by no more than that, no replica meets a ticket that it cannot open. A replica whose clock is off by more than two rotations
// makes keys of its own beside those of the others, which costs some resumptions, and does not hold up their rotation. When
// this fails, go on with the keys there are: nothing is made anew over keys that do not open.
func (k *Keeper) TicketKeys(ctx context.Context, now time.Time, rotate time.Duration) ([][32]byte, error) {
	if rotate < time.Second {
		return nil, fault.New(fault.Invalid, "a rotation of session ticket keys each %s: at least 1s is needed", rotate)
	}
	for turn := 1; ; turn++ {
		if err := ended(ctx); err != nil {
			return nil, err
		}
		r, rev, err := k.readRing(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the session ticket keys: %w", err)
		}
		next, changed := r.rotated(now, rotate, newTicketKey)
		if changed {
			err = k.writeRing(ctx, next, rev)
		}
		if err == nil {
			return next.choose(now), nil
		}
		if !fault.Is(err, fault.PreconditionFailed) || turn == maxTurns { // else another replica rotated: take what it made
			return nil, fmt.Errorf("rotate the session ticket keys: %w", err)
		}
	}
}

func newTicketKey() []byte {
	b := make([]byte, 32)
	rand.Read(b) // never fails (crypto/rand)
	return b
}

// rotated adds the keys that are missing at a time, and takes out the oldest ones. Pure but for make.
func (r ring) rotated(now time.Time, rotate time.Duration, make func() []byte) (_ ring, changed bool) {
	keys := slices.Clone(r.Keys)
	add := func(from time.Time) {
		keys = append(keys, ticketKey{Key: make(), From: from.UTC().Truncate(time.Second)})
	}
	if len(keys) == 0 {
		add(now) // all replicas read before they serve, so nobody has tickets that he cannot open
	}
	current := keys[newest(keys, now)]
	if !slices.ContainsFunc(keys, func(t ticketKey) bool { return upcoming(t, now, rotate) }) {
		from, soonest := current.From.Add(rotate), now.Add(rotate/leadShare)
		if from.Before(soonest) || from.After(now.Add(rotate)) { // after a standstill; or made by a clock ahead of ours
			from = soonest
		}
		add(from)
	}
	changed = len(keys) != len(r.Keys)
	// By age of making, not by From: keys of a replica whose clock is ahead must not push out those of all others.
	keys = keys[max(0, len(keys)-MaxTicketKeys):]
	return ring{V: max(r.V, version), Keys: keys, unknown: r.unknown}, changed
}

// upcoming says whether a key comes next. One that is further ahead is of a replica whose clock is wrong, or of a time when
// the rotation was slower: to wait for it would mean to encrypt with the present one for as long.
func upcoming(t ticketKey, now time.Time, rotate time.Duration) bool {
	return t.From.After(now) && !t.From.After(now.Add(2*rotate))
}

// newest returns the key that encrypts at a time: the last one whose time has come, or the first of all.
func newest(keys []ticketKey, now time.Time) int {
	best := 0
	for i, t := range keys {
		was, is := !keys[best].From.After(now), !t.From.After(now)
		switch {
		case is && (!was || t.From.After(keys[best].From)), !is && !was && t.From.Before(keys[best].From):
			best = i
		}
	}
	return best
}

// choose returns the keys with the one that encrypts at a time first, then the latest made.
func (r ring) choose(now time.Time) [][32]byte {
	first := newest(r.Keys, now)
	out := [][32]byte{[32]byte(r.Keys[first].Key)}
	for i := len(r.Keys) - 1; i >= 0; i-- {
		if i != first {
			out = append(out, [32]byte(r.Keys[i].Key))
		}
	}
	return out
}

func (k *Keeper) readRing(ctx context.Context) (r ring, rev int64, err error) {
	it, err := k.vault.Get(ctx, vault.Owner{}, keyTickets)
	if fault.Is(err, fault.NotFound) {
		return ring{}, 0, nil
	}
	if err != nil {
		return r, 0, err
	}
	plain, err := k.openFile(ctx, vault.Owner{}, keyTickets, it.Value)
	if err == nil {
		r, err = decodeRing(plain)
	}
	if err != nil {
		return r, 0, fmt.Errorf("%w (to have new ones made, delete the value of v/%s/%s from the registry)", err, vault.PlatformOwner, keyTickets)
	}
	return r, it.Revision, nil
}

func (k *Keeper) writeRing(ctx context.Context, r ring, rev int64) error {
	plain, err := r.encode()
	if err != nil {
		return err
	}
	_, err = k.commit(ctx, vault.Owner{}, func(d *dataKey) (vault.Batch, error) {
		value, err := sealFile(d, vault.Owner{}, keyTickets, plain)
		return vault.Batch{
			If:   []vault.Compare{{Key: keyTickets, Revision: rev}},
			Puts: []vault.Put{{Key: keyTickets, Value: value}},
		}, err
	})
	return err
}

// encode keeps what a newer version wrote.
func (r ring) encode() ([]byte, error) {
	keys := make([]json.RawMessage, len(r.Keys))
	for i, t := range r.Keys {
		b, err := json.Marshal(t)
		if err == nil {
			b, err = merge(b, t.unknown)
		}
		if err != nil {
			return nil, fmt.Errorf("encode a session ticket key: %w", err)
		}
		keys[i] = b
	}
	b, err := json.Marshal(struct {
		V    int               `json:"v"`
		Keys []json.RawMessage `json:"keys"`
	}{r.V, keys})
	if err != nil {
		return nil, fmt.Errorf("encode the session ticket keys: %w", err)
	}
	return merge(b, r.unknown)
}

func decodeRing(b []byte) (ring, error) {
	var r ring
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return ring{}, fmt.Errorf("%w (%w)", vault.ErrDamaged, err)
	}
	if err := checkVersion(r.V); err != nil {
		return ring{}, err
	}
	if r.V > version && json.Unmarshal(b, &raw) == nil {
		r.unknown = unknown(b, reflect.TypeFor[ring]())
		for i := range r.Keys {
			r.Keys[i].unknown = unknown(raw.Keys[i], reflect.TypeFor[ticketKey]())
		}
	}
	for _, t := range r.Keys {
		if len(t.Key) != 32 {
			return ring{}, fmt.Errorf("a key of %d bytes: %w", len(t.Key), vault.ErrDamaged)
		}
	}
	return r, nil
}
