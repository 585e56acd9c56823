// Package vault holds the words in which the keeper of certificates and the registry speak of what is kept for each owner,
// beside its routing record: values under names, changed in transactions that can be fenced by locks, and due at times. It
// says what is asked for; the registry does it, and what is kept is sealed before it comes here.
package vault

import (
	"errors"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/tenant"
)

// PlatformOwner is the place of a tenant's id in the keys of what is the platform's own. No tenant can have it.
const PlatformOwner = "_"

// Owner says whose values are meant. The zero Owner is the platform. A tenant's owner comes from its scope, so whoever
// serves a tenant has no way to name another's.
type Owner struct {
	scope  tenant.Scope
	tenant bool // Of was called, with whatever scope
}

// Of returns the owner that is a tenant. A scope that somebody forgot to confine owns nothing: it is refused wherever it
// is used, and is not taken for the platform.
func Of(s tenant.Scope) Owner { return Owner{s, true} }

// Platform says whether the owner is the platform.
func (o Owner) Platform() bool { return !o.tenant }

// Scope returns the tenant's scope; the zero one of the platform.
func (o Owner) Scope() tenant.Scope { return o.scope }

// Segment returns what stands for the owner in a key, and in what values are sealed for.
func (o Owner) Segment() string {
	if o.Platform() {
		return PlatformOwner
	}
	return string(o.scope.ID())
}

// Item is one value.
type Item struct {
	Key      string // within its owner: segments joined by '/', none empty
	Value    []byte
	Revision int64 // of its last change
	Modified time.Time
	Err      error // in a list: why the value cannot be read, ErrDamaged or ErrNewer; what is beside it can be
}

// Compare is a condition: the key has this revision; 0 = it does not exist.
type Compare struct {
	Key      string
	Revision int64
}

// Put sets a key.
type Put struct {
	Key   string
	Value []byte
}

// Due is something that is to be looked at at a time.
type Due struct {
	Owner string // see Owner.Segment
	Name  string // such as a host; no '/'
	At    time.Time
}

// Move changes when a name of the batch's owner is due. The zero time is never. From is what it was: a wrong one leaves a
// second mark, which costs one needless look.
type Move struct {
	Name     string
	From, To time.Time
}

// Batch is one change, applied as a whole or not at all.
type Batch struct {
	If      []Compare
	Puts    []Put
	Deletes []string // keys
	Trees   []string // prefixes in whole segments: everything below "a/b" and "a/b" itself
	Moves   []Move
	Fences  []Lock       // the change is refused unless all of them are still held
	Audit   *audit.Entry // recorded in the same transaction; nil = nothing
}

// Lock is held by one replica at a time, until it is given back or the replica's session ends. It is worth no more than its
// fence: a holder that was stopped for a while may have lost it without knowing.
type Lock struct {
	Name     string
	Revision int64 // tells one holding from the next
}

var (
	// ErrFenced is in the error of a change that a lost lock refused (a fault.Conflict).
	ErrFenced = errors.New("the lock was lost before the change")
	// ErrDamaged is in the error for a value that does not open or cannot be read. It stays as it is until it is replaced.
	ErrDamaged = errors.New("the stored value is damaged, or was moved here from another place")
	// ErrNewer is in the error for a value of a version after the next.
	ErrNewer = errors.New("the stored value was written by a newer version: upgrade this replica")
)
