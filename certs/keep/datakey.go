package keep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/vault"
)

// dataKey is an owner's data key as it was stored at a revision.
type dataKey struct {
	*seal.DataKey
	revision int64
}

// storedKey is the record of a data key.
type storedKey struct {
	V   int    `json:"v"`
	Key []byte `json:"k"` // envelope of the key-encryption key
}

// place returns what a value is bound to: moved to another owner, to a tenant that was made again under the same id (X41), or
// to another key, it does not open.
func place(o vault.Owner, key string) []string {
	return []string{"certs", o.Segment(), o.Scope().UID(), key}
}

// dataKey returns the owner's data key, from memory if it is there; fault.NotFound if it has none.
func (k *Keeper) dataKey(ctx context.Context, o vault.Owner) (key *dataKey, cached bool, err error) {
	if key, ok := k.keys.Get(o); ok {
		return key, true, nil
	}
	key, err = k.readKey(ctx, o)
	return key, false, err
}

// readKey reads the owner's data key from the vault, whatever is in memory.
func (k *Keeper) readKey(ctx context.Context, o vault.Owner) (*dataKey, error) {
	k.keys.Remove(o)
	it, err := k.vault.Get(ctx, o, keyData)
	if err != nil {
		return nil, fmt.Errorf("read the data key of %s: %w", o.Segment(), err)
	}
	key, err := k.unwrap(o, it.Value)
	if err != nil {
		return nil, fmt.Errorf("the data key for the certificates of %s does not open: %w", o.Segment(), err)
	}
	d := &dataKey{key, it.Revision}
	k.keys.Add(o, d)
	return d, nil
}

// pairGetter reads two values at once. *registry.Vault is one.
type pairGetter interface {
	GetWith(ctx context.Context, o vault.Owner, key, also string) (it, other vault.Item, err error)
}

// getWithKey returns a value. The owner's data key comes with it, unless it is in memory, so that a cold name costs one read. One
// that does not open is left to whoever asks for it.
func (k *Keeper) getWithKey(ctx context.Context, o vault.Owner, key string) (vault.Item, error) {
	both, ok := k.vault.(pairGetter)
	if !ok || k.keys.Contains(o) {
		return k.vault.Get(ctx, o, key)
	}
	it, dek, err := both.GetWith(ctx, o, key, keyData)
	if err != nil || dek.Err != nil || dek.Revision == 0 {
		return it, err
	}
	if d, failed := k.unwrap(o, dek.Value); failed == nil {
		k.keys.Add(o, &dataKey{d, dek.Revision})
	}
	return it, nil
}

// unwrap opens a stored data key. With another key-encryption key the error is a *seal.WrongKEKError, which says what to do.
func (k *Keeper) unwrap(o vault.Owner, value []byte) (*seal.DataKey, error) {
	var s storedKey
	if err := json.Unmarshal(value, &s); err != nil {
		return nil, fmt.Errorf("%w: restore the registry from a backup (%w)", vault.ErrDamaged, err)
	}
	if err := checkVersion(s.V); err != nil {
		return nil, err
	}
	b, err := k.kek.Unwrap(s.Key, place(o, keyData)...)
	if errors.Is(err, seal.ErrOpen) {
		return nil, fmt.Errorf("%w: restore the registry from a backup (%w)", vault.ErrDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	return seal.DataKeyFrom(b)
}

// ensureKey returns the owner's data key, and makes it if nothing was ever sealed for the owner. Of replicas that make one at
// once, one succeeds, and the others take its key.
func (k *Keeper) ensureKey(ctx context.Context, o vault.Owner) (*dataKey, error) {
	for range maxTurns {
		key, _, err := k.dataKey(ctx, o)
		if !fault.Is(err, fault.NotFound) {
			return key, err
		}
		key, err = k.makeKey(ctx, o)
		if !fault.Is(err, fault.PreconditionFailed) {
			return key, err
		}
	}
	return nil, fault.New(fault.Unavailable, "the data key of %s is being changed all the time: try again", o.Segment())
}

// makeKey makes the owner's data key; fault.PreconditionFailed if others were faster. Where sealed values lie already, the
// key that was there is lost: a new one would bury them for good, and hide that.
func (k *Keeper) makeKey(ctx context.Context, o vault.Owner) (*dataKey, error) {
	items, _, err := k.vault.List(ctx, o, "", "", 1)
	if err != nil {
		return nil, fmt.Errorf("look for what %s has: %w", o.Segment(), err)
	}
	if len(items) > 0 {
		return k.lostKey(ctx, o)
	}
	key := seal.NewDataKey()
	envelope, err := k.kek.Wrap(key.Bytes(), place(o, keyData)...)
	if err != nil {
		return nil, fmt.Errorf("wrap the data key of %s: %w", o.Segment(), err)
	}
	value, err := json.Marshal(storedKey{V: version, Key: envelope})
	if err != nil {
		return nil, fmt.Errorf("encode the data key of %s: %w", o.Segment(), err)
	}
	rev, err := k.vault.Commit(ctx, o, vault.Batch{
		If: []vault.Compare{{Key: keyData}}, Puts: []vault.Put{{Key: keyData, Value: value}},
	})
	if err != nil {
		return nil, fmt.Errorf("make the data key of %s: %w", o.Segment(), err)
	}
	d := &dataKey{key, rev}
	k.keys.Add(o, d)
	return d, nil
}

// lostKey settles what it means that an owner has values: its key was made a moment ago, or it is lost.
func (k *Keeper) lostKey(ctx context.Context, o vault.Owner) (*dataKey, error) {
	key, err := k.readKey(ctx, o)
	if fault.Is(err, fault.NotFound) {
		return nil, fmt.Errorf("the certificates of %s: %w", o.Segment(), ErrKeyLost)
	}
	return key, err
}

// open opens a value that lies under key. One that does not open may have been sealed with a key that this replica does not
// know of yet, so the key in memory is read again once.
func (k *Keeper) open(ctx context.Context, o vault.Owner, key string, sealed []byte) ([]byte, error) {
	d, cached, err := k.dataKey(ctx, o)
	if fault.Is(err, fault.NotFound) {
		return nil, fmt.Errorf("%s of %s: %w", key, o.Segment(), ErrKeyLost)
	}
	if err != nil {
		return nil, err
	}
	plain, err := d.Open(sealed, place(o, key)...)
	if err != nil && cached {
		k.keys.Remove(o)
		return k.open(ctx, o, key, sealed)
	}
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w: %w", key, o.Segment(), vault.ErrDamaged, err)
	}
	return plain, nil
}

// commit applies the batch that build makes with the owner's data key, on the condition that this is still its key: what is
// sealed with a key that was replaced meanwhile would never open again.
func (k *Keeper) commit(ctx context.Context, o vault.Owner, build func(*dataKey) (vault.Batch, error)) (int64, error) {
	for turn := 1; ; turn++ {
		d, err := k.ensureKey(ctx, o)
		if err != nil {
			return 0, err
		}
		b, err := build(d)
		if err != nil {
			return 0, err
		}
		b.If = append(b.If, vault.Compare{Key: keyData, Revision: d.revision})
		rev, err := k.vault.Commit(ctx, o, b)
		if err == nil || !fault.Is(err, fault.PreconditionFailed) || turn == maxTurns || !k.replaced(ctx, o, d) {
			return rev, err
		}
	}
}

// replaced says whether the owner's data key is another one than d by now.
func (k *Keeper) replaced(ctx context.Context, o vault.Owner, d *dataKey) bool {
	now, err := k.readKey(ctx, o)
	return fault.Is(err, fault.NotFound) || err == nil && now.revision != d.revision
}
