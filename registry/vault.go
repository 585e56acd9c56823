package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/vault"
)

// Bounds of the vault's names.
const (
	maxVaultKey = 1024 // bytes of a key within its owner
	maxLockName = 1024
	maxDueName  = 512
)

// Vault keeps values for each owner beside its routing record: certificates and what belongs to ordering them. A tenant's
// are written by any replica, not only by its owner: what keeps two from the same work are locks on the replica's lease,
// and each change compares those that it was made under. Values are the caller's to seal. Nothing of the vault is in
// memory; who keeps something of it subscribes to its changes. It is safe for concurrent use.
type Vault struct {
	store  *Store
	events vaultEvents
	lanes  chan *vaultLane
	doubt  doubtfulLanes
	locks  lockTable
}

func newVault(s *Store) *Vault {
	v := &Vault{store: s, lanes: make(chan *vaultLane, vaultLanes)}
	for i := range vaultLanes {
		v.lanes <- &vaultLane{n: i}
	}
	v.doubt.init()
	v.events.init()
	v.locks.init()
	return v
}

// Vault returns the vault.
func (s *Store) Vault() *Vault { return s.vault }

// vaultValue is the value of a key under v/.
type vaultValue struct {
	V        int       `json:"v"`
	Modified time.Time `json:"m"`
	UID      string    `json:"u,omitempty"` // of the tenant that it is of
	Body     []byte    `json:"b"`
}

// Get returns one value. The error is fault.NotFound if there is none under this key, or if the owner is a tenant that is
// gone, or another one of the same id (X41). With an error that wraps vault.ErrDamaged or vault.ErrNewer it returns the key
// and the revision all the same, so that the value can be removed.
func (v *Vault) Get(ctx context.Context, o vault.Owner, key string) (vault.Item, error) {
	k, err := vaultKey(o, key)
	if err != nil {
		return vault.Item{}, err
	}
	found, err := v.get(ctx, o, k)
	if err != nil {
		return vault.Item{}, fmt.Errorf("read %s of %s: %w", key, o.Segment(), err)
	}
	return v.itemOf(ctx, o, key, found[k])
}

// GetWith returns one value as Get does, and of the same read another of the owner's. That is zero if it is not there.
func (v *Vault) GetWith(ctx context.Context, o vault.Owner, key, also string) (it, other vault.Item, err error) {
	k, err := vaultKey(o, key)
	if err != nil {
		return it, other, err
	}
	a, err := vaultKey(o, also)
	if err != nil {
		return it, other, err
	}
	found, err := v.get(ctx, o, k, a)
	if err != nil {
		return it, other, fmt.Errorf("read %s of %s: %w", key, o.Segment(), err)
	}
	if kv, ok := found[a]; ok {
		var former bool
		if other, former = vaultItem(o, kv); former {
			other = vault.Item{}
		}
	}
	it, err = v.itemOf(ctx, o, key, found[k])
	return it, other, err
}

// itemOf returns what was read of a key, unless nothing was, or it is of a former tenant.
func (v *Vault) itemOf(ctx context.Context, o vault.Owner, key string, kv KV) (vault.Item, error) {
	none := fault.New(fault.NotFound, "there is no %s", key)
	if kv.Key == "" {
		return vault.Item{}, none
	}
	it, former := vaultItem(o, kv)
	if !former {
		return it, it.Err
	}
	if err := v.eraseFormer(ctx, o); err != nil {
		return vault.Item{}, fmt.Errorf("read %s of %s: %w", key, o.Segment(), err)
	}
	return vault.Item{}, none
}

// get reads keys, of a tenant together with the record that says that the tenant is the one that is meant. Those that do not
// exist are missing from the result.
func (v *Vault) get(ctx context.Context, o vault.Owner, keys ...string) (map[string]KV, error) {
	if o.Platform() {
		return v.store.readKeys(ctx, keys...)
	}
	x := recordKey(o.Scope().ID())
	found, err := v.store.readKeys(ctx, append([]string{x}, keys...)...)
	if err != nil {
		return nil, err
	}
	if !isOf(found[x], o.Scope().UID()) {
		return nil, ownerGone(o)
	}
	return found, nil
}

// List returns up to limit values whose keys lie below prefix, which is whole segments ("" is all of the owner's), sorted,
// those that come after a key. more says that there are others. All are of one moment. With limit 0 it is 1000 at most.
// One that cannot be read harms itself alone: it is there with its Err. No values are no error.
func (v *Vault) List(ctx context.Context, o vault.Owner, prefix, after string, limit int) (items []vault.Item, more bool, err error) {
	q, some, err := listRange(o, prefix, after, limit)
	if err != nil {
		return nil, false, err
	}
	for {
		items, more, err = v.listOnce(ctx, o, q)
		if errors.Is(err, ErrCompacted) || errors.Is(err, errErased) {
			continue // between the two reads; or there was something of a former tenant
		}
		if err != nil {
			return nil, false, fmt.Errorf("list %s of %s: %w", prefix, o.Segment(), err)
		}
		if !some {
			return nil, false, nil
		}
		return items, more, nil
	}
}

// listRange makes the range of a listing; some is false where after lies behind all of it.
func listRange(o vault.Owner, prefix, after string, limit int) (q Range, some bool, err error) {
	if limit <= 0 || limit > pageSize {
		limit = pageSize
	}
	q = Range{Prefix: vaultPrefix(o.Segment()), Limit: limit}
	if prefix != "" {
		k, err := vaultKey(o, prefix)
		if err != nil {
			return q, false, err
		}
		q.Prefix = k + "/"
	} else if err := checkOwner(o); err != nil {
		return q, false, err
	}
	if after == "" {
		return q, true, nil
	}
	from := vaultPrefix(o.Segment()) + after
	if strings.HasPrefix(from, q.Prefix) {
		q.After = from
	}
	return q, from <= q.Prefix || q.After != "", nil
}

func (v *Vault) listOnce(ctx context.Context, o vault.Owner, q Range) ([]vault.Item, bool, error) {
	res, err := v.store.read(ctx, q)
	if err != nil {
		return nil, false, err
	}
	if err := v.checkTenant(ctx, o, res.Revision); err != nil {
		return nil, false, err
	}
	items := make([]vault.Item, 0, len(res.KVs))
	for _, kv := range res.KVs {
		it, former := vaultItem(o, kv)
		if former {
			if err := v.eraseFormer(ctx, o); err != nil {
				return nil, false, err
			}
			return nil, false, errErased
		}
		items = append(items, it)
	}
	return items, res.More, nil
}

// checkTenant returns fault.NotFound unless the owner was there at a revision.
func (v *Vault) checkTenant(ctx context.Context, o vault.Owner, rev int64) error {
	if o.Platform() {
		return nil
	}
	res, err := v.store.read(ctx, Range{Key: recordKey(o.Scope().ID()), Revision: rev})
	if err != nil {
		return err
	}
	if len(res.KVs) == 0 || !isOf(res.KVs[0], o.Scope().UID()) {
		return ownerGone(o)
	}
	return nil
}

// errErased says that a listing met values of a former tenant of the id.
var errErased = errors.New("values of a former tenant were erased")

// eraseFormer erases what a former tenant of the id left, which must not take effect (X41) nor be in the way. A version that
// knows no vault deletes a tenant and makes it again without doing so.
func (v *Vault) eraseFormer(ctx context.Context, o vault.Owner) error {
	record, _, err := v.store.get(ctx, recordKey(o.Scope().ID()))
	if err != nil {
		return err
	}
	if !isOf(record, o.Scope().UID()) {
		return ownerGone(o)
	}
	q := Range{Prefix: vaultPrefix(o.Segment()), Limit: etcdOps / 2}
	for {
		res, err := v.store.read(ctx, q)
		if err != nil {
			return err
		}
		t := &Txn{If: []Cmp{{Key: record.Key, Kind: CreateIs, Revision: record.CreateRevision}}}
		for _, kv := range res.KVs {
			q.After = kv.Key
			if _, former := vaultItem(o, kv); former {
				t.If = append(t.If, unchanged(kv.Key, kv))
				t.Deletes = append(t.Deletes, kv.Key)
			}
		}
		if len(t.Deletes) > 0 { // if it is refused, another replica erases them
			if _, err := v.store.commit(context.WithoutCancel(ctx), t); err != nil {
				return fmt.Errorf("erase what a former tenant left: %w", err)
			}
		}
		if !res.More {
			return nil
		}
	}
}

func ownerGone(o vault.Owner) error {
	return fault.New(fault.NotFound, "there is no tenant %s", o.Scope())
}

// vaultItem decodes what lies under a key, or says in Err why it cannot. former says that it is of a former tenant of the id.
func vaultItem(o vault.Owner, kv KV) (it vault.Item, former bool) {
	it = vault.Item{Key: strings.TrimPrefix(kv.Key, vaultPrefix(o.Segment())), Revision: kv.ModRevision}
	var val vaultValue
	err := json.Unmarshal(kv.Value, &val)
	switch {
	case val.V > storedVersion+1: // whatever else it holds, it is not to be taken for damaged, and mended
		it.Err = fmt.Errorf("%s has version %d: %w", kv.Key, val.V, vault.ErrNewer)
	case err != nil:
		it.Err = fmt.Errorf("%s: %w (%w)", kv.Key, vault.ErrDamaged, err)
	case val.V < 1:
		it.Err = fmt.Errorf("%s has no version: %w", kv.Key, vault.ErrDamaged)
	default:
		it.Value, it.Modified = val.Body, val.Modified
	}
	return it, val.UID != "" && val.UID != o.Scope().UID()
}

// vaultKey checks a name within an owner: segments joined by '/', so that no name reaches what is another owner's, nor one
// segment what begins alike (X37).
func vaultKey(o vault.Owner, key string) (string, error) {
	if err := checkOwner(o); err != nil {
		return "", err
	}
	if !segmentsOK(key, maxVaultKey) {
		return "", fault.New(fault.Invalid, "%q cannot name a value of the vault", key)
	}
	return vaultPrefix(o.Segment()) + key, nil
}

// checkOwner refuses a scope that nobody confined.
func checkOwner(o vault.Owner) error {
	if seg := o.Segment(); seg == "" || !o.Platform() && o.Scope().UID() == "" || strings.Contains(seg, "/") || !o.Platform() && seg == vault.PlatformOwner {
		return fault.New(fault.Invalid, "%q cannot own anything", seg)
	}
	return nil
}

// segmentsOK says whether a name is of segments joined by '/', none empty, without control characters.
func segmentsOK(name string, most int) bool {
	if len(name) > most || !utf8.ValidString(name) {
		return false
	}
	for seg := range strings.SplitSeq(name, "/") {
		if seg == "" || strings.ContainsFunc(seg, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return false
		}
	}
	return true
}
