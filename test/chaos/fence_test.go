package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// storeRoot is the prefix of the platform's keys.
const storeRoot = "polygate/"

// fence checks each revision of the store: that what changed of a tenant was changed by its owner. It knows who made a
// change by the audit entry that is in the same transaction, and who owned the tenant by what the store said just before.
type fence struct {
	owners   map[string]owner
	replicas map[string]int64 // leases of the replicas' records

	commits, claims, handoffs int
	faults                    []string
}

type owner struct {
	replica string
	lease   int64
	epoch   int64
}

// edit is one key's part in a revision.
type edit struct {
	key   string // without the root
	gone  bool
	value []byte
	lease int64
}

func newFence() *fence {
	return &fence{owners: make(map[string]owner), replicas: make(map[string]int64)}
}

// revision takes all edits of one revision.
func (f *fence) revision(rev int64, edits []edit) {
	entries := entriesIn(edits)
	for _, e := range edits {
		rest, ok := strings.CutPrefix(e.key, "t/")
		if !ok {
			continue
		}
		tenant, object, _ := strings.Cut(rest, "/")
		if strings.HasPrefix(object, "_/") {
			f.marker(rev, tenant, e, entries)
			continue
		}
		f.state(rev, tenant, e.key, entries)
	}
	for _, e := range edits { // after what was done under the old ones
		f.note(rev, e)
	}
}

// entry is an audit entry that was put in a revision.
type entry struct{ ID, Tenant, Replica string }

func entriesIn(edits []edit) (out []entry) {
	for _, e := range edits {
		if strings.HasPrefix(e.key, "a/") && !e.gone {
			var v struct{ Entry entry }
			_ = json.Unmarshal(e.value, &v)
			out = append(out, v.Entry)
		}
	}
	return out
}

// state checks one change of a tenant's state.
func (f *fence) state(rev int64, tenant, key string, entries []entry) {
	f.commits++
	o, owned := f.owners[tenant]
	if !owned {
		f.fail("revision %d changes %s while nobody owns %s", rev, key, tenant)
		return
	}
	for _, e := range entries {
		if e.Tenant != tenant {
			continue
		}
		if e.Replica != o.replica {
			f.fail("revision %d: %s changes %s, of which %s is the owner since revision %d", rev, e.Replica, key, o.replica, o.epoch)
		}
		return
	}
	f.fail("revision %d changes %s without an audit entry of %s", rev, key, tenant)
}

// marker checks that a commit's marker names its own entry. Claiming removes the markers.
func (f *fence) marker(rev int64, tenant string, e edit, entries []entry) {
	if e.gone {
		return
	}
	var m struct{ Entry string }
	_ = json.Unmarshal(e.value, &m)
	for _, x := range entries {
		if x.ID == m.Entry && x.Tenant == tenant {
			return
		}
	}
	f.fail("revision %d: the marker %s names entry %q, which is not in it", rev, e.key, m.Entry)
}

// note keeps who owns what and which replicas live.
func (f *fence) note(rev int64, e edit) {
	if name, ok := strings.CutPrefix(e.key, "n/"); ok {
		if e.gone {
			delete(f.replicas, name)
		} else {
			f.replicas[name] = e.lease
		}
		return
	}
	tenant, ok := strings.CutPrefix(e.key, "o/")
	if !ok {
		return
	}
	if e.gone {
		delete(f.owners, tenant)
		return
	}
	var v struct{ Replica string }
	_ = json.Unmarshal(e.value, &v)
	if lease, live := f.replicas[v.Replica]; !live || lease != e.lease || e.lease == 0 {
		f.fail("revision %d: %s goes to %q on lease %x, which is not that of its session (%x, live: %v)", rev, tenant, v.Replica, e.lease, lease, live)
	}
	was, owned := f.owners[tenant]
	f.claims++
	if owned && was.replica != v.Replica {
		f.handoffs++
	}
	f.owners[tenant] = owner{v.Replica, e.lease, rev}
}

func (f *fence) fail(format string, args ...any) {
	f.faults = append(f.faults, fmt.Sprintf(format, args...))
}

// storeWatch follows the store from its first revision, on a way of its own.
type storeWatch struct {
	mu     sync.Mutex // guards what follows
	fence  *fence
	seen   int64
	broken error
	client *clientv3.Client
}

// watchStore starts to follow; it ends with the test.
func (f *fleet) watchStore() *storeWatch {
	w := &storeWatch{fence: newFence(), client: f.etcd.Client()}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	f.t.Cleanup(func() {
		cancel()
		<-ended
		_ = w.client.Close()
	})
	go func() {
		defer close(ended)
		for next := int64(1); ctx.Err() == nil; {
			next = w.follow(ctx, next)
		}
	}()
	return w
}

// follow takes revisions until the watch ends, and returns where to go on.
func (w *storeWatch) follow(ctx context.Context, from int64) int64 {
	for resp := range w.client.Watch(ctx, storeRoot, clientv3.WithPrefix(), clientv3.WithRev(from)) {
		w.mu.Lock()
		if resp.CompactRevision > from {
			w.broken = fmt.Errorf("revisions %d to %d were compacted before they were seen", from, resp.CompactRevision)
			from = resp.CompactRevision
		}
		var edits []edit
		for i, ev := range resp.Events {
			edits = append(edits, edit{
				key: strings.TrimPrefix(string(ev.Kv.Key), storeRoot), gone: ev.Type == mvccpb.DELETE, value: ev.Kv.Value, lease: ev.Kv.Lease,
			})
			if i+1 == len(resp.Events) || resp.Events[i+1].Kv.ModRevision != ev.Kv.ModRevision {
				w.fence.revision(ev.Kv.ModRevision, edits)
				from, edits = ev.Kv.ModRevision+1, nil
			}
		}
		w.seen = from - 1
		w.mu.Unlock()
	}
	return from
}

// check waits until the watch has all that is in the store, and says what it found.
func (w *storeWatch) check(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	got, err := w.client.Get(ctx, storeRoot, clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend))
	if err != nil || len(got.Kvs) == 0 {
		t.Errorf("read the store's last revision: %v", err)
		return
	}
	for {
		w.mu.Lock()
		seen := w.seen
		w.mu.Unlock()
		if seen >= got.Kvs[0].ModRevision || ctx.Err() != nil {
			break
		}
		<-time.After(50 * time.Millisecond)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil || w.seen < got.Kvs[0].ModRevision {
		t.Errorf("the watch of the store saw revisions up to %d of %d: %v", w.seen, got.Kvs[0].ModRevision, w.broken)
	}
	for i, s := range w.fence.faults {
		if i == 10 {
			t.Errorf("… %d breaches of the fence in all", len(w.fence.faults))
			break
		}
		t.Errorf("fence: %s", s)
	}
	t.Logf("fence: %d revisions, %d changes of tenants' state, %d claims, of which %d from another owner", w.seen, w.fence.commits, w.fence.claims, w.fence.handoffs)
}
