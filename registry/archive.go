package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/polygate/polygate/internal/archive"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
)

// archivePage is how many keys of everything are read at first: there may be large objects among them.
const archivePage = 64

// errCompactedUnder says that the history that a backup reads from was forgotten while it was read.
var errCompactedUnder = errors.New("the store has forgotten the revision that was being read")

// Progress hears how many keys are done; total is 0 where it is not known.
type Progress func(done, total int)

// Backup writes every key of the root, as of one revision, but those that hang on the lease of a replica: they are of a session
// and not of the platform. It holds a page in memory. software is the version to name as the writer. What is secret is sealed
// with the key-encryption keys that the manifest names, and worth nothing without them. It fails with fault.Unavailable where
// the store forgets the revision before the end (etcd's auto-compaction): another attempt, or a faster writer, may succeed.
func (s *Store) Backup(ctx context.Context, w io.Writer, software string, progress Progress) (archive.Manifest, error) {
	rev, err := s.revision(ctx)
	if err != nil {
		return archive.Manifest{}, fmt.Errorf("back up: %w", err)
	}
	a, err := archive.NewWriter(w, archive.Manifest{Kind: archive.Backup, Created: s.cfg.Now().UTC(), Revision: rev, Software: software})
	if err != nil {
		return archive.Manifest{}, fmt.Errorf("write the backup: %w", err)
	}
	keks, done := make(map[string]bool), 0
	err = s.eachKey(ctx, "", rev, func(kv KV) error {
		if ephemeral(kv) {
			return nil
		}
		for _, id := range seal.KeyIDs(kv.Value) {
			keks[id] = true
		}
		if done++; progress != nil && done%archivePage == 0 {
			progress(done, 0)
		}
		return a.Put(kv.Key, kv.Value)
	})
	if err != nil {
		return archive.Manifest{}, fmt.Errorf("back up: %w", err)
	}
	m, err := a.Close(sortedKeys(keks), nil)
	if err != nil {
		return m, fmt.Errorf("write the backup: %w", err)
	}
	if progress != nil {
		progress(done, done)
	}
	return m, nil
}

func sortedKeys(set map[string]bool) []string {
	keys := make([]string, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// revision returns the store's present one.
func (s *Store) revision(ctx context.Context) (int64, error) {
	res, err := s.read(ctx, Range{Key: restoreKey})
	if err != nil {
		return 0, err
	}
	if len(res.KVs) > 0 {
		return 0, unfinished(res.KVs[0])
	}
	return res.Revision, nil
}

// ephemeral says whether a key is of a replica's session.
func ephemeral(kv KV) bool {
	return kv.Lease != 0 || sessionKey(kv.Key)
}

func sessionKey(key string) bool {
	for _, p := range []string{prefixOwner, prefixReplica, prefixLock, prefixLane} {
		if strings.HasPrefix(key, p) {
			return true
		}
	}
	return false
}

// eachKey calls f with each key below a prefix as of a revision, 0 = now, in their order, some in memory at a time.
func (s *Store) eachKey(ctx context.Context, prefix string, rev int64, f func(KV) error) error {
	q := Range{Prefix: prefix, Limit: archivePage, Revision: rev}
	for {
		res, err := s.read(ctx, q)
		if errors.Is(err, ErrCompacted) {
			return fault.Wrap(fault.Unavailable, errCompactedUnder, "the store forgot the revision %d while it was read: try again, or keep history for longer", q.Revision)
		}
		if err != nil {
			return err
		}
		if q.Revision == 0 {
			q.Revision = res.Revision
		}
		size := 0
		for _, kv := range res.KVs {
			size += len(kv.Key) + len(kv.Value)
			if err := f(kv); err != nil {
				return err
			}
		}
		if !res.More || len(res.KVs) == 0 {
			return nil
		}
		q.After, q.Limit = res.KVs[len(res.KVs)-1].Key, nextPage(len(res.KVs), size)
	}
}

// TenantSnapshot is what the registry has of a tenant, all of one moment.
type TenantSnapshot struct {
	Entry    *tenant.Entry
	Objects  []tenant.Object // its state, in the order of kinds and ids
	Revision int64
}

// maxSnapshot bounds a snapshot, in bytes: it is in memory as a whole.
const maxSnapshot = 128 << 20

// Snapshot reads a tenant's routing record and state as of one revision, whoever owns it. fault.NotFound if there is none, or
// another one of the same id; fault.TooLarge over 128 MiB.
func (s *Store) Snapshot(ctx context.Context, scope tenant.Scope) (*TenantSnapshot, error) {
	res, err := s.read(ctx, Range{Key: recordKey(scope.ID())})
	if err != nil {
		return nil, fmt.Errorf("read tenant %s: %w", scope, err)
	}
	if len(res.KVs) == 0 || !isOf(res.KVs[0], scope.UID()) {
		return nil, fault.New(fault.NotFound, "there is no tenant %s", scope)
	}
	e, err := decodeRecord(res.KVs[0])
	if err != nil {
		return nil, err
	}
	snap := &TenantSnapshot{Entry: e, Revision: res.Revision}
	prefix, size := statePrefix(scope.ID()), 0
	err = s.eachKey(ctx, prefix, res.Revision, func(kv KV) error {
		kind, id, ok := strings.Cut(strings.TrimPrefix(kv.Key, prefix), "/")
		if kind == markerKind || !ok {
			return nil
		}
		if size += len(kv.Value); size > maxSnapshot {
			return fault.New(fault.TooLarge, "the state of tenant %s takes more than %d bytes: back up the platform as a whole instead", scope, maxSnapshot)
		}
		snap.Objects = append(snap.Objects, tenant.Object{Kind: kind, ID: id, Value: kv.Value, Revision: kv.ModRevision})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the state of %s: %w", scope, err)
	}
	return snap, nil
}
