package keep

import (
	"context"
	"fmt"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
)

// dirSecrets is where the platform's other secrets lie, within its owner.
const dirSecrets = "p"

// IsSecret says whether the platform's secret of a name lies under a key of the vault; also where anything may have changed.
func IsSecret(name, owner, key string) bool {
	return owner == "" || owner == vault.PlatformOwner && key == dirSecrets+"/"+name
}

// Secret returns a secret of the platform, and its revision; fault.NotFound if there is none. It is sealed with the platform's
// data key, so a change of the key-encryption key needs no other care for it.
func (k *Keeper) Secret(ctx context.Context, name string) (value []byte, rev int64, err error) {
	key, err := secretKey(ctx, name)
	if err != nil {
		return nil, 0, err
	}
	it, err := k.vault.Get(ctx, vault.Owner{}, key)
	if err == nil {
		value, err = k.openFile(ctx, vault.Owner{}, key, it.Value)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read the platform's %s: %w", name, err)
	}
	return value, it.Revision, nil
}

// SetSecret stores a secret of the platform if it has the revision ifRev, 0 = if there is none yet; else the error is
// fault.PreconditionFailed.
func (k *Keeper) SetSecret(ctx context.Context, name string, value []byte, ifRev int64) error {
	key, err := secretKey(ctx, name)
	if err != nil {
		return err
	}
	if len(value) > MaxFile {
		return fault.New(fault.TooLarge, "the platform's %s has %d bytes: at most %d are kept", name, len(value), MaxFile)
	}
	_, err = k.commit(ctx, vault.Owner{}, func(d *dataKey) (vault.Batch, error) {
		b, err := sealFile(d, vault.Owner{}, key, value)
		return vault.Batch{
			If:   []vault.Compare{{Key: key, Revision: ifRev}},
			Puts: []vault.Put{{Key: key, Value: b}},
		}, err
	})
	if err != nil {
		return fmt.Errorf("store the platform's %s: %w", name, err)
	}
	return nil
}

func secretKey(ctx context.Context, name string) (string, error) {
	if err := tenant.CheckSegment(name); err != nil {
		return "", fault.Wrap(fault.Invalid, err, "%q cannot name a secret", name)
	}
	return dirSecrets + "/" + name, ended(ctx)
}
