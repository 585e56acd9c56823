package registry

import (
	"context"
	"errors"
	"time"
)

// Backend is the little of etcd that the registry stands on: a store of keys in which every change has a revision,
// several changes can be one conditional transaction, changes can be watched, and keys can hang on leases. Keys are
// relative to a root that the backend knows. Implementations are safe for concurrent use, and every method returns
// soon after its context ends.
//
// Errors are classified: fault.Unavailable where the store cannot be reached or did not answer in time, and then a
// transaction may or may not have been applied; fault.TooLarge where a request is over the store's bound. ErrCompacted
// and ErrLeaseNotFound are returned wrapped.
type Backend interface {
	// Range reads keys, linearizably unless q names a revision.
	Range(ctx context.Context, q Range) (*RangeResult, error)
	// Txn applies t if all its comparisons hold, or else reads the keys of t.Else; either as one act.
	Txn(ctx context.Context, t *Txn) (*TxnResult, error)
	// Watch delivers every change under the prefixes from a revision on, each prefix in the order of revisions and a
	// revision never in two batches, on one stream, one call of deliver at a time. While it is in contact with the store
	// it delivers for each prefix at least every ProgressEvery, if need be a batch without events. It returns when ctx
	// ends, when the store can no longer be followed, or with ErrCompacted when the changes asked for are gone.
	Watch(ctx context.Context, from int64, prefixes []string, deliver func(Batch)) error
	// Grant makes a lease and returns the time to live that the store grants, which may be longer than asked.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, time.Duration, error)
	// KeepAlive renews a lease once and returns its time to live, counted from when the store handled the renewal.
	KeepAlive(ctx context.Context, id LeaseID) (time.Duration, error)
	// Revoke ends a lease and deletes the keys that hang on it. Revoking one that is gone is no error.
	Revoke(ctx context.Context, id LeaseID) error
}

// ProgressEvery is how often a Watch delivers at least while it is in contact with the store.
const ProgressEvery = time.Second

// Sentinels of a Backend.
var (
	ErrCompacted     = errors.New("the revision asked for has been compacted")
	ErrLeaseNotFound = errors.New("the lease has expired or was revoked")
	// ErrRejected marks a fault.Unavailable that has a sure outcome: the store answered, and refused. It is full, or does
	// not accept our user.
	ErrRejected = errors.New("the store refused")
)

// LeaseID names a lease; 0 is none.
type LeaseID int64

// KV is one key as stored.
type KV struct {
	Key            string
	Value          []byte
	CreateRevision int64 // of the change that made the key; a key deleted and made again has a new one
	ModRevision    int64 // of the key's last change
	Lease          LeaseID
}

// Range says what to read: the one key Key, or the keys that begin with Prefix and lie after After.
type Range struct {
	Key        string
	Prefix     string // ends in '/', so that t1 never bleeds into t10
	After      string // exclusive; "" = from the start
	Before     string // exclusive; "" = to the end. Neither may lie outside Prefix.
	Limit      int    // 0 = all
	Revision   int64  // as of this revision; 0 = now
	ByCreation bool   // sorted by CreateRevision (key within one revision) instead of by key
}

// RangeResult is what a Range found. Revision is that of the store when it was read (of the whole store, not the keys).
type RangeResult struct {
	KVs      []KV
	More     bool // there are more than Limit
	Revision int64
}

// CmpKind says what a comparison asks of a key.
type CmpKind uint8

// The comparisons.
const (
	Absent   CmpKind = iota // the key does not exist
	Exists                  // it does
	ModIs                   // its ModRevision is Revision
	CreateIs                // its CreateRevision is Revision
)

// Cmp is one condition of a transaction.
type Cmp struct {
	Key      string
	Kind     CmpKind
	Revision int64
}

// Put sets a key; with a Lease, the key goes when the lease does.
type Put struct {
	Key   string
	Value []byte
	Lease LeaseID
}

// Txn is a conditional transaction. No key may be put twice, nor put and deleted.
type Txn struct {
	If             []Cmp
	Puts           []Put
	Deletes        []string
	DeletePrefixes []string // each ends in '/'
	Else           []string // keys to read if a condition does not hold
}

// TxnResult is the outcome of a Txn. When OK, Revision is the ModRevision of all that was put. Otherwise Else holds
// those of the keys in Txn.Else that exist.
type TxnResult struct {
	OK       bool
	Revision int64
	Else     map[string]KV
}

// Event is one change. A deletion's KV holds Key and ModRevision (that of the deletion) alone.
type Event struct {
	Delete bool
	KV     KV
}

// Batch is what a Watch delivers: changes under one prefix. Every change under it up to Revision has then been delivered.
type Batch struct {
	Prefix   string
	Revision int64
	Events   []Event
}
