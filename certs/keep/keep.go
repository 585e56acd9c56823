// Package keep is the sealed keeper of certificates: it keeps, for each owner, one record per host, the files of the ACME
// engine (certmagic's Storage), and the platform's session ticket keys, all of it sealed with keys that only the platform's
// key-encryption key opens. It decides nothing about certificates, orders none, and leaves durability, locks and fences to
// the vault.
package keep

import (
	"context"
	"errors"
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/vault"
)

// The keys within an owner. The registry's subscribers see them.
const (
	keyData    = "dek"      // the owner's data key, wrapped
	keyTickets = "tickets"  // session ticket keys; the platform's only
	dirFiles   = "s"        // files of Storage
	dirHosts   = "h"        // host records
	lockFiles  = "storage/" // before the names of Storage's locks
)

// version is that of all records of this package. Readers take the next one too.
const version = 1

const (
	residentKeys = 4096 // data keys in memory, some 1.5 KiB each
	maxTurns     = 8    // how often a change is tried again when others were faster
)

// ErrKeyLost is in the error for an owner that has sealed values but no data key any more. No new one is made over them.
//
// The others for which a program has an answer of its own are vault.ErrDamaged, for a value that does not open or cannot be read
// (it stays as it is: Save without IfRevision, Store, Remove and Delete replace or remove it), and vault.ErrNewer, for a value of a
// version after the next.
var ErrKeyLost = errors.New("the data key is gone although values sealed with it are there: restore the registry from a backup, " +
	"or remove everything that is stored under this owner")

// Vault is what is asked of the registry. Its errors are faults: NotFound for a key or a tenant that is not there (or that
// was made again: another UID), PreconditionFailed for a condition that does not hold, Conflict wrapping vault.ErrFenced for
// a lost fence.
type Vault interface {
	// Get returns key and revision also of a value that it cannot read.
	Get(ctx context.Context, o vault.Owner, key string) (vault.Item, error)
	// List returns the items at and below prefix, which is whole segments, in the order of their keys, after the key after.
	List(ctx context.Context, o vault.Owner, prefix, after string, limit int) (items []vault.Item, more bool, err error)
	// Commit applies a batch as a whole or not at all, and returns the revision that what it put has now.
	Commit(ctx context.Context, o vault.Owner, b vault.Batch) (rev int64, err error)
	// TryLock takes a lock unless it is held, also by this replica.
	TryLock(ctx context.Context, name string) (vault.Lock, bool, error)
	// Lock waits for a lock.
	Lock(ctx context.Context, name string) (vault.Lock, error)
	// Unlock gives a lock back; one that was lost is no error. After an error it is given back as soon as that can be done.
	Unlock(ctx context.Context, l vault.Lock) error
}

// Keeper keeps what belongs to certificates. It is safe for concurrent use, and starts no goroutine.
type Keeper struct {
	vault Vault
	kek   seal.Wrapper
	keys  *lru.Cache[vault.Owner, *dataKey] // an owner that was made again is another one: its UID differs (X41)
}

// New returns a Keeper on a vault whose data keys are wrapped by w.
func New(v Vault, w seal.Wrapper) *Keeper {
	keys, _ := lru.New[vault.Owner, *dataKey](residentKeys) // fails only for a size of 0
	return &Keeper{vault: v, kek: w, keys: keys}
}

// ended returns the error of a context that is over, before anything is asked for it.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fault.From(err)
	}
	return nil
}

// checkVersion judges the version of a record.
func checkVersion(v int) error {
	switch {
	case v < 1:
		return fmt.Errorf("it has no version: %w", vault.ErrDamaged)
	case v > version+1:
		return fmt.Errorf("it has version %d, and this one reads up to %d: %w", v, version+1, vault.ErrNewer)
	}
	return nil
}
