package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/archive"
	"github.com/polygate/polygate/internal/fault"
)

// restoreKey is there while a restore is under way. Who finds it at a start does not serve: what is there is not whole.
const restoreKey = "c/restore"

// Bounds of the transactions of a restore.
const (
	restoreOps   = 100
	restoreBytes = 1 << 20
)

// restoreMark is the value of restoreKey.
type restoreMark struct {
	V       int       `json:"v"`
	Sum     string    `json:"sum"` // of the backup
	Started time.Time `json:"started"`
	Erased  bool      `json:"erased"` // nothing of before is left
}

// RestoreOptions say how a backup is restored.
type RestoreOptions struct {
	// Force erases what is there first. Without it, only an empty root is restored into, or one in which a restore of the
	// same backup did not come to its end.
	Force bool
	// Accept may refuse a backup, which is whole, before anything is written; nil = none.
	Accept func(archive.Manifest) error
	// Patience is how long the leases of replicas that crashed are waited for. While members of etcd are still to come, or have
	// no leader, what is read is read again, until the context ends. 0 = a replica that is live, or a store that does not
	// answer, is an error at once.
	Patience time.Duration
	// Waiting is told now and then of the replica whose lease is waited for, "" = of the store; nil = nobody is told.
	Waiting func(replica string)
}

// Restore makes the root what it was when a backup was made. The whole backup is read and verified before anything is written.
// While it is under way a mark keeps replicas from serving; after a crash, the same call goes on. No replica may be live: that is
// fault.Conflict, once Patience is over, as is data that is there without Force. Run need not be running.
func (s *Store) Restore(ctx context.Context, r io.ReadSeeker, opt RestoreOptions, progress Progress) (archive.Manifest, error) {
	m, err := archive.Verify(r)
	if err == nil && m.Kind != archive.Backup {
		err = fault.New(fault.Invalid, "this is the archive of the tenant %s and no backup: import it", m.Tenant)
	}
	if err == nil && opt.Accept != nil {
		err = opt.Accept(m)
	}
	if err != nil {
		return m, err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return m, fmt.Errorf("read the backup again: %w", err)
	}
	if progress == nil {
		progress = func(int, int) {}
	}
	if opt.Waiting == nil {
		opt.Waiting = func(string) {}
	}
	re := &restore{store: s, opt: opt, progress: progress, total: m.End.Entries}
	if err := re.run(ctx, r, m.End.Sum); err != nil {
		return m, fmt.Errorf("restore: %w", err)
	}
	return m, nil
}

// CheckRestored returns an error if a restore into this root has not come to its end: fault.Conflict.
func (s *Store) CheckRestored(ctx context.Context) error {
	kv, ok, err := s.get(ctx, restoreKey)
	if err != nil {
		return fmt.Errorf("look for a restore: %w", err)
	}
	if ok {
		return unfinished(kv)
	}
	return nil
}

func unfinished(kv KV) error {
	var m restoreMark
	_ = json.Unmarshal(kv.Value, &m) // what cannot be read keeps nobody from the message
	return fault.New(fault.Conflict, "a restore of the backup %.12s into this registry began at %s and has not ended: run polygate restore with the same file again, or with --force and another",
		m.Sum, m.Started.UTC().Format(time.RFC3339))
}

// restore is one under way.
type restore struct {
	store    *Store
	opt      RestoreOptions
	progress Progress
	total    int
	done     int
	mark     KV // with the revision that every write compares
	value    restoreMark
	puts     []Put
	size     int
}

func (re *restore) run(ctx context.Context, r io.Reader, sum string) error {
	if err := re.begin(ctx, sum); err != nil {
		return err
	}
	if !re.value.Erased {
		if err := re.erase(ctx); err != nil {
			return err
		}
	}
	if err := re.write(ctx, r, sum); err != nil {
		return err
	}
	return re.end(ctx)
}

// begin sets the mark. Replicas register before they look for it, so one that starts at this moment is seen here, or sees it.
func (re *restore) begin(ctx context.Context, sum string) error {
	if err := re.nobodyLive(ctx); err != nil {
		return err
	}
	var was KV
	var ok bool
	err := re.patiently(ctx, func() (err error) {
		was, ok, err = re.store.get(ctx, restoreKey)
		return err
	})
	if err != nil {
		return err
	}
	force := re.opt.Force
	var have restoreMark
	resumed := ok && json.Unmarshal(was.Value, &have) == nil && have.Sum == sum
	switch {
	case resumed:
	case ok && !force:
		return unfinished(was)
	case !force:
		if err := re.patiently(ctx, func() error { return re.empty(ctx) }); err != nil {
			return err
		}
	}
	next := restoreMark{V: storedVersion, Sum: sum, Started: re.store.cfg.Now().UTC(), Erased: resumed && have.Erased || !ok && !force}
	if err := re.setMark(ctx, was, next); err != nil {
		return err
	}
	return re.nobodyLive(ctx)
}

func (re *restore) setMark(ctx context.Context, was KV, next restoreMark) error {
	val, err := encode(next)
	if err != nil {
		return err
	}
	t := &Txn{
		If: []Cmp{unchanged(restoreKey, was)}, Puts: []Put{{Key: restoreKey, Value: val}}, Deletes: []string{restoredKey},
		Else: []string{restoreKey},
	}
	res, err := re.store.commit(context.WithoutCancel(ctx), t)
	if err != nil {
		return err
	}
	rev := res.Revision
	if !res.OK {
		have := res.Else[restoreKey]
		if !bytes.Equal(have.Value, val) { // else an attempt was applied whose answer got lost
			return otherRestore()
		}
		rev = have.ModRevision
	}
	re.mark, re.value = KV{Key: restoreKey, ModRevision: rev}, next
	return nil
}

func otherRestore() error {
	return fault.New(fault.Conflict, "another restore into this registry is under way, or this one's answer got lost: run it again once no other runs")
}

// empty refuses a root that holds anything that a backup would.
func (re *restore) empty(ctx context.Context) error {
	found := errors.New("found")
	err := re.store.eachKey(ctx, "", 0, func(kv KV) error {
		if ephemeral(kv) {
			return nil
		}
		return found
	})
	if errors.Is(err, found) {
		return fault.New(fault.Conflict, "the registry holds data: restore into another etcd.prefix or data_dir, or erase what is there with --force")
	}
	return err
}

// erase removes everything but the mark, and notes in the mark that it did.
func (re *restore) erase(ctx context.Context) error {
	if err := re.patiently(ctx, func() error { return re.eraseKeys(ctx) }); err != nil {
		return err
	}
	next := re.value
	next.Erased = true
	return re.setMark(ctx, re.mark, next)
}

func (re *restore) eraseKeys(ctx context.Context) error {
	var keys []string
	flush := func() error {
		err := re.apply(ctx, &Txn{Deletes: keys})
		keys = nil
		return err
	}
	err := re.store.eachKey(ctx, "", 0, func(kv KV) error {
		if kv.Key == restoreKey {
			return nil
		}
		if keys = append(keys, kv.Key); len(keys) < restoreOps {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	return err
}

// apply makes a change if the restore is still this one's. To make it twice does no harm.
func (re *restore) apply(ctx context.Context, t *Txn) error {
	if len(t.Puts)+len(t.Deletes) == 0 {
		return ctx.Err()
	}
	if err := ctx.Err(); err != nil {
		return fault.From(err)
	}
	t.If = []Cmp{unchanged(restoreKey, re.mark)}
	res, err := re.store.commit(context.WithoutCancel(ctx), t)
	if err != nil {
		return err
	}
	if !res.OK {
		return otherRestore()
	}
	return nil
}

// write puts the entries of the backup. What it reads is verified again: a file may change between two looks.
func (re *restore) write(ctx context.Context, r io.Reader, sum string) error {
	a, err := archive.NewReader(r)
	if err != nil {
		return err
	}
	for {
		key, value, err := a.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && !sessionKey(key) && !strings.HasPrefix(key, restoreKey) {
			err = re.put(ctx, Put{Key: key, Value: value})
		}
		if err != nil {
			return err
		}
	}
	if a.Manifest().End.Sum != sum {
		return fault.New(fault.Conflict, "the backup changed while it was read: run the restore again with a file that stays as it is")
	}
	return re.flush(ctx)
}

func (re *restore) put(ctx context.Context, p Put) error {
	n := len(p.Key) + len(p.Value)
	if len(re.puts) == restoreOps || len(re.puts) > 0 && re.size+n > restoreBytes {
		if err := re.flush(ctx); err != nil {
			return err
		}
	}
	re.puts, re.size = append(re.puts, p), re.size+n
	return nil
}

func (re *restore) flush(ctx context.Context) error {
	if err := re.patiently(ctx, func() error { return re.apply(ctx, &Txn{Puts: re.puts}) }); err != nil {
		return err
	}
	re.done += len(re.puts)
	re.puts, re.size = nil, 0
	re.progress(re.done, re.total)
	return nil
}

// end takes the mark away: from here on the root is whole. What members that were lent may have missed stays for a moment.
func (re *restore) end(ctx context.Context) error {
	t := &Txn{If: []Cmp{unchanged(restoreKey, re.mark)}, Deletes: []string{restoreKey}, Else: []string{restoreKey}}
	if lease, _, err := re.store.backend.Grant(ctx, restoredTime); err == nil { // without it, only who listens hears of the end
		t.Puts = []Put{{Key: restoredKey, Value: []byte(`{"v":1}`), Lease: lease}}
	}
	res, err := re.store.commit(context.WithoutCancel(ctx), t)
	if err != nil {
		return err
	}
	if _, there := res.Else[restoreKey]; !res.OK && (there || res.attempts == 1) {
		return otherRestore()
	}
	return nil
}
