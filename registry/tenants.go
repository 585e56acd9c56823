package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// maxRaces is how often an update without a revision is tried again when others were faster.
const maxRaces = 32

var (
	errForeignRecord = errors.New("the audit entry is of another tenant than the change")
	errRecordReused  = errors.New("the audit entry was committed with another change already")
)

// Routing records are platform data: any replica changes them by compare-and-swap on their own revision, with or without
// a claim on the tenant. The u/ keys make hosts and key hashes unique: each is made, if absent, in the transaction of the
// record that uses it, and goes in that of the record that does not any more.
//
// Each of the three methods answers when the change is committed and this replica's index and its subscribers have seen
// it, or 2 s later if they do not. A change that has begun is not abandoned when ctx ends; the whole takes 5 s at most,
// after which fault.Unavailable says that the outcome is not known.

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
	if entry.Tenant == r.ID && entry.TenantUID == "" {
		entry.TenantUID = r.UID
	}
	t, err := planCreate(r, entry)
	if err != nil {
		return nil, err
	}
	res, err := s.commit(context.WithoutCancel(ctx), t)
	if err != nil {
		return nil, fmt.Errorf("create tenant %s: %w", r.ID, err)
	}
	rev := res.Revision
	if !res.OK {
		kv, exists := res.Else[recordKey(r.ID)]
		if !exists || !bytes.Equal(kv.Value, putOf(t, recordKey(r.ID))) { // equal: an earlier attempt was applied
			return nil, conflict(res, r, entry)
		}
		rev = kv.ModRevision
	}
	return s.changed(ctx, r, rev)
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
	t.Deletes = append(t.Deletes, ownerKey(r.ID))
	t.DeletePrefixes = append(t.DeletePrefixes, statePrefix(r.ID))
	return t, nil
}

// UpdateTenant changes a tenant's routing record by what edit does to a copy of it. ID, UID, V, Created and Updated are
// not edit's to change. With ifRevision 0 a lost race is tried again, calling edit anew; otherwise the error is
// fault.PreconditionFailed if the record has another revision. The others are fault.NotFound, fault.Conflict as in
// CreateTenant, fault.Invalid, and whatever edit returns. An edit that changes nothing writes nothing.
func (s *Store) UpdateTenant(ctx context.Context, id tenant.ID, ifRevision int64, edit func(*tenant.Record) error, entry audit.Entry) (*tenant.Entry, error) {
	for range maxRaces {
		e, err := s.updateOnce(ctx, id, ifRevision, edit, entry)
		if !errors.Is(err, errRace) {
			return e, err
		}
	}
	return nil, fault.New(fault.Unavailable, "tenant %s is being changed by others all the time", id).After(retryAdvice)
}

// errRace says that the record changed between the read and the write.
var errRace = errors.New("lost a race")

func (s *Store) updateOnce(ctx context.Context, id tenant.ID, ifRevision int64, edit func(*tenant.Record) error, entry audit.Entry) (*tenant.Entry, error) {
	kv, old, err := s.current(ctx, id, ifRevision)
	if err != nil {
		return nil, err
	}
	if _, err := auditPut(entry, id); err != nil { // even where nothing will be written, so that callers do not learn to forget it
		return nil, err
	}
	r, err := s.edited(old.Record, edit)
	if err != nil || r == nil {
		return old, err
	}
	t, err := planUpdate(kv, old.Record, r, entry)
	if err != nil {
		return nil, err
	}
	res, err := s.commit(context.WithoutCancel(ctx), t)
	if err != nil {
		return nil, fmt.Errorf("update tenant %s: %w", id, err)
	}
	if res.OK {
		return s.changed(ctx, r, res.Revision)
	}
	return s.updateFailed(ctx, t, res, kv, r, ifRevision, entry)
}

// current reads a tenant's record for a change.
func (s *Store) current(ctx context.Context, id tenant.ID, ifRevision int64) (KV, *tenant.Entry, error) {
	if err := ctx.Err(); err != nil {
		return KV{}, nil, fault.From(err)
	}
	kv, ok, err := s.get(ctx, recordKey(id))
	if err != nil {
		return KV{}, nil, fmt.Errorf("read tenant %s: %w", id, err)
	}
	if !ok {
		return KV{}, nil, fault.New(fault.NotFound, "there is no tenant %s", id)
	}
	if ifRevision != 0 && ifRevision != kv.ModRevision {
		return KV{}, nil, preconditionFailed(id)
	}
	e, err := decodeRecord(kv)
	return kv, e, err
}

func preconditionFailed(id tenant.ID) error {
	return fault.New(fault.PreconditionFailed, "tenant %s has changed since: read it again", id)
}

// edited returns the record that edit makes of old; nil if it changes nothing.
func (s *Store) edited(old *tenant.Record, edit func(*tenant.Record) error) (*tenant.Record, error) {
	r := old.Clone()
	if err := edit(r); err != nil {
		return nil, err
	}
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
	return r, r.Validate(s.cfg.BaseDomain)
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
func (s *Store) updateFailed(ctx context.Context, t *Txn, res outcome, was KV, r *tenant.Record, ifRevision int64, entry audit.Entry) (*tenant.Entry, error) {
	kv, exists := res.Else[recordKey(r.ID)]
	a := auditKey(entry.Chain(), entry.ID)
	switch {
	case !exists:
		return nil, fault.New(fault.NotFound, "there is no tenant %s", r.ID)
	case res.attempts > 1 && bytes.Equal(kv.Value, putOf(t, kv.Key)):
		return s.changed(ctx, r, kv.ModRevision) // an earlier attempt was applied
	case res.attempts > 1 && kv.ModRevision != was.ModRevision && bytes.Equal(res.Else[a].Value, putOf(t, a)):
		e, err := decodeRecord(kv) // an earlier attempt was applied, and others have changed the record since
		return e, err
	case kv.ModRevision != was.ModRevision && ifRevision != 0:
		return nil, preconditionFailed(r.ID)
	case kv.ModRevision != was.ModRevision:
		return nil, errRace
	}
	return nil, conflict(res, r, entry)
}

// DeleteTenant erases a tenant in one transaction: its record, hosts and keys, its owner, all its state. What remains is
// its audit chain. ifRevision is as in UpdateTenant; fault.NotFound if there is no such tenant.
func (s *Store) DeleteTenant(ctx context.Context, id tenant.ID, ifRevision int64, entry audit.Entry) error {
	for range maxRaces {
		err := s.deleteOnce(ctx, id, ifRevision, entry)
		if !errors.Is(err, errRace) {
			return err
		}
	}
	return fault.New(fault.Unavailable, "tenant %s is being changed by others all the time", id).After(retryAdvice)
}

func (s *Store) deleteOnce(ctx context.Context, id tenant.ID, ifRevision int64, entry audit.Entry) error {
	kv, old, err := s.current(ctx, id, ifRevision)
	if err != nil {
		return err
	}
	if entry.Tenant == id && entry.TenantUID == "" {
		entry.TenantUID = old.Record.UID
	}
	t := &Txn{
		If:             []Cmp{{kv.Key, ModIs, kv.ModRevision}},
		Deletes:        append(names(old.Record), kv.Key, ownerKey(id)),
		DeletePrefixes: []string{statePrefix(id)},
		Else:           []string{kv.Key},
	}
	if err := t.record(entry, id); err != nil {
		return err
	}
	res, err := s.commit(context.WithoutCancel(ctx), t)
	if err != nil {
		return fmt.Errorf("delete tenant %s: %w", id, err)
	}
	if res.OK {
		s.noteCommit()
		s.awaitSeen(ctx, id, res.Revision)
		return nil
	}
	return s.deleteFailed(res, kv, id, ifRevision)
}

func (s *Store) deleteFailed(res outcome, was KV, id tenant.ID, ifRevision int64) error {
	kv, exists := res.Else[recordKey(id)]
	switch {
	case !exists && res.attempts > 1: // by an earlier attempt, or by someone else in between: gone and recorded either way
		s.noteCommit()
		return nil
	case !exists:
		return fault.New(fault.NotFound, "there is no tenant %s", id)
	case kv.ModRevision == was.ModRevision:
		return fault.Wrap(fault.Internal, errRecordReused, "")
	case ifRevision != 0:
		return preconditionFailed(id)
	}
	return errRace
}

// changed ends a successful change: it waits until the index has it, and returns the entry.
func (s *Store) changed(ctx context.Context, r *tenant.Record, rev int64) (*tenant.Entry, error) {
	s.noteCommit()
	s.awaitSeen(ctx, r.ID, rev)
	r.Revision = rev
	return &tenant.Entry{Record: r, Scope: tenant.Confine(r.ID, r.UID)}, nil
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
	if _, ok := res.Else[auditKey(entry.Chain(), entry.ID)]; ok {
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
