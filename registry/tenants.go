package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

var (
	errForeignRecord = errors.New("the audit entry is of another tenant than the change")
	errOvertaken     = errors.New("others have changed the record since")
	errRecordReused  = errors.New("the audit entry was committed with another change already")
)

// Routing records are platform data: any replica changes them by compare-and-swap on their own revision, with or without
// a claim on the tenant. The u/ keys make hosts and key hashes unique: each is made, if absent, in the transaction of the
// record that uses it, and goes in that of the record that does not any more.
//
// Each of the three methods answers when the change is committed and this replica's index and its subscribers have seen
// it, or 2 s later if they do not. A change that has begun is not abandoned when ctx ends. Where the store does not say
// within 5 s what became of it, or cannot since others have changed the record since, the error is fault.Unavailable
// wrapping ErrUnknown.
//
// A change of a tenant is of the one that its audit entry names by UID, or else of the one that it finds first. One that
// is made under the same id while it is under way is another, and not touched (X41).

// CreateTenant registers a tenant. It sets UID, V, Created, Updated and Revision itself. The error is fault.Conflict if
// the id, a host or a key's hash is in use, without saying whose, and fault.Invalid if the record is not valid. entry may
// be of the platform's chain or of the tenant's; of the latter the TenantUID is filled in.
func (s *Store) CreateTenant(ctx context.Context, record *tenant.Record, entry audit.Entry) (*tenant.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, fault.From(err)
	}
	r := record.Clone()
	r.V, r.UID = tenant.RecordVersion, uuid.NewString()
	r.Created = s.cfg.Now().UTC()
	r.Updated = r.Created
	if err := r.Validate(s.cfg.BaseDomain); err != nil {
		return nil, err
	}
	if err := checkSettings(nil, r); err != nil {
		return nil, err
	}
	if err := s.budgets.admitSettings(nil, r, entry); err != nil {
		return nil, err
	}
	if entry.Tenant == r.ID && entry.TenantUID == "" {
		entry.TenantUID = r.UID
	}
	t, err := planCreate(r, entry)
	if err != nil {
		return nil, err
	}
	before := s.follow.seenUpTo(prefixRecord)
	res, err := s.commit(context.WithoutCancel(ctx), t)
	if err != nil {
		return nil, fmt.Errorf("create tenant %s: %w", r.ID, err)
	}
	e, err := created(res, r, entry, before)
	if err != nil {
		return nil, err
	}
	s.noteCommit()
	s.awaitSeen(ctx, r.ID, e.Record.Revision)
	return e, nil
}

// created says what became of a creation that was answered; before is a revision from before it was sent.
func created(res outcome, r *tenant.Record, entry audit.Entry, before int64) (*tenant.Entry, error) {
	if res.OK {
		return written(r, res.Revision), nil
	}
	if kv := res.Else[recordKey(r.ID)]; isOf(kv, r.UID) {
		return decodeRecord(kv) // an earlier attempt was applied; others may have changed the record since
	}
	if res.attempts > 1 && !stoodBefore(res, before) { // perhaps one was, and the tenant has been deleted since
		return nil, unknown(errOvertaken)
	}
	return nil, conflict(res, r, entry)
}

// stoodBefore says whether what kept a transaction of absent keys from being applied was there before its first attempt,
// so that none can have been.
func stoodBefore(res outcome, before int64) bool {
	for _, kv := range res.Else {
		if kv.CreateRevision <= before {
			return true
		}
	}
	return false
}

func planCreate(r *tenant.Record, entry audit.Entry) (*Txn, error) {
	val, err := encodeRecord(r, nil)
	if err != nil {
		return nil, err
	}
	t := new(Txn)
	t.putAbsent(Put{Key: recordKey(r.ID), Value: val})
	if err := t.claimNames(names(r), nil, r.ID); err != nil {
		return nil, err
	}
	if err := t.record(entry, r.ID); err != nil {
		return nil, err
	}
	// There is nothing under these unless a tenant of this id was lost other than by DeleteTenant. Whatever it was, the
	// new tenant must not find it (X41).
	t.Deletes = append(t.Deletes, ownerKey(r.ID), usedKey(r.ID))
	t.DeletePrefixes = append(t.DeletePrefixes, statePrefix(r.ID), vaultPrefix(string(r.ID)))
	return t, nil
}

// change is one change of a routing record, over all its attempts.
type change struct {
	id         tenant.ID
	ifRevision int64 // 0 = any
	entry      audit.Entry
	uid        string // of the tenant that is meant; empty until one is found
}

func newChange(id tenant.ID, ifRevision int64, entry audit.Entry) *change {
	c := &change{id: id, ifRevision: ifRevision, entry: entry}
	if entry.Tenant == id {
		c.uid = entry.TenantUID
	}
	return c
}

// UpdateTenant changes a tenant's routing record by what edit does to a copy of it. ID, UID, V, Created and Updated are
// not edit's to change. With ifRevision 0 a lost race is tried again, calling edit anew; otherwise the error is
// fault.PreconditionFailed if the record has another revision. The others are fault.NotFound, fault.Conflict as in
// CreateTenant, fault.Invalid, and whatever edit returns. An edit that changes nothing writes nothing.
func (s *Store) UpdateTenant(ctx context.Context, id tenant.ID, ifRevision int64, edit func(*tenant.Record) error, entry audit.Entry) (*tenant.Entry, error) {
	c := newChange(id, ifRevision, entry)
	var e *tenant.Entry
	err := s.race(ctx, id, func(ctx context.Context) (rev int64, err error) {
		if e, err = s.updateOnce(ctx, c, edit); err != nil {
			return 0, err
		}
		return e.Record.Revision, nil
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

func (s *Store) updateOnce(ctx context.Context, c *change, edit func(*tenant.Record) error) (*tenant.Entry, error) {
	kv, old, err := s.current(ctx, c)
	if err != nil {
		return nil, err
	}
	if _, err := auditPut(c.entry, c.id); err != nil { // even where nothing will be written, so that callers do not learn to forget it
		return nil, err
	}
	r, err := s.edited(old.Record, edit)
	if err != nil || r == nil {
		return old, err
	}
	if err := s.budgets.admitSettings(old.Record, r, c.entry); err != nil {
		return nil, err
	}
	t, err := planUpdate(kv, old.Record, r, c.entry)
	if err != nil {
		return nil, err
	}
	res, err := s.commit(context.WithoutCancel(ctx), t)
	if err != nil {
		return nil, fmt.Errorf("update tenant %s: %w", c.id, err)
	}
	if res.OK {
		return written(r, res.Revision), nil
	}
	return c.updateFailed(t, res, kv, r)
}

// current reads a tenant's record for a change.
func (s *Store) current(ctx context.Context, c *change) (KV, *tenant.Entry, error) {
	if err := ctx.Err(); err != nil {
		return KV{}, nil, fault.From(err)
	}
	kv, ok, err := s.get(ctx, recordKey(c.id))
	if err != nil {
		return KV{}, nil, fmt.Errorf("read tenant %s: %w", c.id, err)
	}
	if !ok || c.uid != "" && !isOf(kv, c.uid) {
		return KV{}, nil, c.gone()
	}
	if c.ifRevision != 0 && c.ifRevision != kv.ModRevision {
		return KV{}, nil, c.preconditionFailed()
	}
	e, err := decodeRecord(kv)
	if err != nil {
		return KV{}, nil, err
	}
	c.uid = e.Record.UID
	return kv, e, nil
}

func (c *change) gone() error { return fault.New(fault.NotFound, "there is no tenant %s", c.id) }

func (c *change) preconditionFailed() error {
	return fault.New(fault.PreconditionFailed, "tenant %s has changed since: read it again", c.id)
}

// isOf says whether a routing record, be it too new to be read, is of the tenant with this UID.
func isOf(kv KV, uid string) bool {
	var r struct {
		UID string `json:"uid"`
	}
	return json.Unmarshal(kv.Value, &r) == nil && r.UID == uid
}

// edited returns the record that edit makes of old; nil if it changes nothing.
func (s *Store) edited(old *tenant.Record, edit func(*tenant.Record) error) (*tenant.Record, error) {
	r := old.Clone()
	if err := edit(r); err != nil {
		return nil, err
	}
	r.Settle()
	r.ID, r.UID, r.V, r.Created, r.Updated, r.Revision = old.ID, old.UID, old.V, old.Created, old.Updated, old.Revision
	before, err := encodeRecord(old, nil)
	if err != nil {
		return nil, err
	}
	after, err := encodeRecord(r, nil)
	if err != nil || bytes.Equal(before, after) {
		return nil, err
	}
	r.Updated = s.cfg.Now().UTC()
	if err := withoutUnknown(old, r).Validate(s.cfg.BaseDomain); err != nil {
		return nil, err
	}
	return r, checkSettings(old, r)
}

// maxSettings bounds what people write into a routing record, which leaves room in a stored value for what must never fail:
// to suspend the tenant, to revoke a credential (tenant.Record.Revoke bounds these), to put a policy in force. A tenant's
// admin could otherwise fill the record to the last byte and be out of everybody's reach.
const maxSettings = 640 << 10

// checkSettings refuses settings that are too large, but not to make them smaller or leave them as they are.
func checkSettings(old, next *tenant.Record) error {
	size, err := settingsSize(next)
	if err != nil || size <= maxSettings {
		return err
	}
	if old != nil {
		if was, err := settingsSize(old); err == nil && size <= was {
			return nil
		}
	}
	return fault.New(fault.TooLarge, "the settings of the tenant take %d bytes: at most %d are allowed; make lists and certificates of authenticators shorter, or give roles to groups", size, maxSettings)
}

func settingsSize(r *tenant.Record) (int, error) {
	val, err := settingsOf(r)
	return len(val), err
}

// settingsOf encodes what people write into a record.
func settingsOf(r *tenant.Record) ([]byte, error) {
	c := *r
	c.SuspendReason, c.Policy, c.CatalogDigest, c.Revoked = "", nil, "", nil
	c.State, c.NotBefore, c.SessionsNotBefore, c.Updated = "", time.Time{}, time.Time{}, time.Time{}
	return encodeRecord(&c, nil)
}

func planUpdate(kv KV, old, r *tenant.Record, entry audit.Entry) (*Txn, error) {
	val, err := encodeRecord(r, kv.Value)
	if err != nil {
		return nil, err
	}
	t := &Txn{
		If:   []Cmp{{kv.Key, ModIs, kv.ModRevision}},
		Puts: []Put{{Key: kv.Key, Value: val}},
		Else: []string{kv.Key},
	}
	if err := t.claimNames(names(r), names(old), r.ID); err != nil {
		return nil, err
	}
	return t, t.record(entry, r.ID)
}

// updateFailed says what a failed comparison of an update means.
func (c *change) updateFailed(t *Txn, res outcome, was KV, r *tenant.Record) (*tenant.Entry, error) {
	kv, exists := res.Else[recordKey(c.id)]
	a := auditKey(&c.entry)
	switch {
	case (!exists || !isOf(kv, c.uid)) && res.attempts > 1: // perhaps it was changed, and deleted then
		return nil, unknown(errOvertaken)
	case !exists || !isOf(kv, c.uid):
		return nil, c.gone()
	case kv.ModRevision == was.ModRevision:
		return nil, conflict(res, r, c.entry)
	case res.attempts > 1 && (bytes.Equal(kv.Value, putOf(t, kv.Key)) || bytes.Equal(res.Else[a].Value, putOf(t, a))):
		return decodeRecord(kv) // an earlier attempt was applied; others may have changed the record since
	case res.attempts > 1: // perhaps it was, and its entry has been drained: to edit again could be to edit twice
		return nil, unknown(errOvertaken)
	case c.ifRevision != 0:
		return nil, c.preconditionFailed()
	}
	return nil, errRace
}

// DeleteTenant erases a tenant in one transaction: its record, hosts and keys, its owner, all its state, all that the
// vault has of it, and when its keys were used. What remains is its audit chain, and the marks of when something of it
// would be due, which whoever comes upon them removes. ifRevision is as in UpdateTenant; fault.NotFound if there is no such tenant.
func (s *Store) DeleteTenant(ctx context.Context, id tenant.ID, ifRevision int64, entry audit.Entry) error {
	c := newChange(id, ifRevision, entry)
	return s.race(ctx, id, func(ctx context.Context) (int64, error) { return s.deleteOnce(ctx, c) })
}

func (s *Store) deleteOnce(ctx context.Context, c *change) (rev int64, err error) {
	kv, old, err := s.current(ctx, c)
	if err != nil {
		return 0, err
	}
	if c.entry.Tenant == c.id {
		c.entry.TenantUID = c.uid
	}
	t := &Txn{
		If:             []Cmp{{kv.Key, ModIs, kv.ModRevision}},
		Deletes:        append(names(old.Record), kv.Key, ownerKey(c.id), usedKey(c.id)),
		DeletePrefixes: []string{statePrefix(c.id), vaultPrefix(string(c.id))},
		Else:           []string{kv.Key},
	}
	if err := t.record(c.entry, c.id); err != nil {
		return 0, err
	}
	res, err := s.commit(context.WithoutCancel(ctx), t)
	if err != nil {
		return 0, fmt.Errorf("delete tenant %s: %w", c.id, err)
	}
	if !res.OK {
		return res.Revision, c.deleteFailed(res, kv)
	}
	return res.Revision, nil
}

// deleteFailed says what a failed comparison of a deletion means; nil that the tenant is gone all the same.
func (c *change) deleteFailed(res outcome, was KV) error {
	kv, exists := res.Else[recordKey(c.id)]
	switch {
	case (!exists || !isOf(kv, c.uid)) && res.attempts > 1: // by an earlier attempt, or by someone else: gone and recorded either way
		return nil
	case !exists || !isOf(kv, c.uid):
		return c.gone()
	case kv.ModRevision == was.ModRevision:
		return fault.Wrap(fault.Internal, errRecordReused, "")
	case c.ifRevision != 0:
		return c.preconditionFailed()
	}
	return errRace
}

// written is the entry of a record that was written.
func written(r *tenant.Record, rev int64) *tenant.Entry {
	r.Revision = rev
	return &tenant.Entry{Record: r, Scope: tenant.Confine(r.ID, r.UID)}
}

func (s *Store) awaitSeen(ctx context.Context, id tenant.ID, rev int64) {
	if !s.follow.await(ctx, prefixRecord, rev) {
		s.log.Warn("registry: a change is committed but this replica's index has not seen it yet", "tenant", string(id), "revision", rev)
	}
}

// conflict says which name of r is in use. It never says by whom: that belongs to another tenant.
func conflict(res outcome, r *tenant.Record, entry audit.Entry) error {
	if kv, ok := res.Else[recordKey(r.ID)]; ok && kv.ModRevision != r.Revision {
		return fault.New(fault.Conflict, "tenant id %s is in use", r.ID)
	}
	for _, h := range r.Hosts {
		if _, ok := res.Else[hostKey(h)]; ok {
			return fault.New(fault.Conflict, "host %s is in use", h)
		}
	}
	for i := range r.Keys {
		if _, ok := res.Else[hashKey(r.Keys[i].Hash)]; ok {
			return fault.New(fault.Conflict, "the hash of key %q is in use", r.Keys[i].Name)
		}
	}
	if _, ok := res.Else[auditKey(&entry)]; ok {
		return fault.Wrap(fault.Internal, errRecordReused, "")
	}
	return errRace
}

// names returns the u/ keys of a record.
func names(r *tenant.Record) []string {
	keys := make([]string, 0, len(r.Hosts)+len(r.Keys)+2)
	for _, h := range r.Hosts {
		keys = append(keys, hostKey(h))
	}
	for i := range r.Keys {
		keys = append(keys, hashKey(r.Keys[i].Hash))
	}
	return keys
}

// nameValue is the value of a u/ key.
type nameValue struct {
	V      int       `json:"v"`
	Tenant tenant.ID `json:"tenant"`
}

// putAbsent adds a put of a key that must not exist.
func (t *Txn) putAbsent(p Put) {
	t.If = append(t.If, Cmp{Key: p.Key, Kind: Absent})
	t.Puts = append(t.Puts, p)
	t.Else = append(t.Else, p.Key)
}

// claimNames takes the u/ keys in want that are not in have, and gives up those in have that are not in want.
func (t *Txn) claimNames(want, have []string, id tenant.ID) error {
	val, err := encode(nameValue{storedVersion, id})
	if err != nil {
		return err
	}
	for _, k := range want {
		if !slices.Contains(have, k) {
			t.putAbsent(Put{Key: k, Value: val})
		}
	}
	for _, k := range have {
		if !slices.Contains(want, k) {
			t.Deletes = append(t.Deletes, k)
		}
	}
	return nil
}

// record adds the audit entry. An entry that lies in the outbox already is not overwritten: that would lose a record.
func (t *Txn) record(e audit.Entry, id tenant.ID) error {
	p, err := auditPut(e, id)
	if err != nil {
		return err
	}
	t.putAbsent(p)
	return nil
}

func putOf(t *Txn, key string) []byte {
	for _, p := range t.Puts {
		if p.Key == key {
			return p.Value
		}
	}
	return nil
}
