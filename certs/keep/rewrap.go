package keep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/vault"
)

// errOneKey says that the keeper was made with a key-encryption key that knows no other.
var errOneKey = errors.New("the keeper has one key-encryption key: there is nothing to change to")

// Rewrap has the owner's data key wrapped by the key-encryption key that is in force now, and says whether it was by another one.
// The data key and all that it seals stay as they are. An owner without one is no error. entry is recorded in the same
// transaction. Any replica may call it at any time: of several at once, each finds the others' work done.
func (k *Keeper) Rewrap(ctx context.Context, o vault.Owner, entry *audit.Entry) (changed bool, err error) {
	ring, ok := k.kek.(seal.Rewrapper)
	if !ok {
		return false, fault.Wrap(fault.Internal, errOneKey, "")
	}
	for turn := 1; ; turn++ {
		changed, err = k.rewrap(ctx, o, ring, entry)
		if turn == maxTurns || !fault.Is(err, fault.PreconditionFailed) {
			break
		}
	}
	if err != nil {
		return false, fmt.Errorf("wrap the data key of %s anew: %w", o.Segment(), err)
	}
	return changed, nil
}

func (k *Keeper) rewrap(ctx context.Context, o vault.Owner, ring seal.Rewrapper, entry *audit.Entry) (bool, error) {
	it, err := k.vault.Get(ctx, o, keyData)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	value, changed, err := rewrapped(it.Value, ring, place(o, keyData))
	if err != nil || !changed {
		return false, err
	}
	_, err = k.vault.Commit(ctx, o, vault.Batch{
		If: []vault.Compare{{Key: keyData, Revision: it.Revision}}, Puts: []vault.Put{{Key: keyData, Value: value}}, Audit: entry,
	})
	if err != nil {
		return false, err
	}
	k.keys.Remove(o) // it has another revision now
	return true, nil
}

// rewrapped makes the stored form of a data key that is wrapped anew, and keeps what a newer version wrote beside it.
func rewrapped(value []byte, ring seal.Rewrapper, place []string) ([]byte, bool, error) {
	var s storedKey
	members := make(map[string]json.RawMessage)
	if err := errors.Join(json.Unmarshal(value, &s), json.Unmarshal(value, &members)); err != nil {
		return nil, false, fmt.Errorf("%w (%w)", vault.ErrDamaged, err)
	}
	if err := checkVersion(s.V); err != nil {
		return nil, false, err
	}
	envelope, changed, err := ring.Rewrap(s.Key, place...)
	if err != nil || !changed {
		return nil, false, err
	}
	if members["k"], err = json.Marshal(envelope); err != nil {
		return nil, false, err
	}
	next, err := json.Marshal(members)
	return next, err == nil, err
}
