package registrytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/registry"
)

func put(k, v string) registry.Put { return registry.Put{Key: k, Value: []byte(v)} }

func mustTxn(t *testing.T, b registry.Backend, txn *registry.Txn) *registry.TxnResult {
	t.Helper()
	res, err := b.Txn(t.Context(), txn)
	if err != nil {
		t.Fatalf("Txn: %v", err)
	}
	return res
}

func testTxn(t *testing.T, b Backend) {
	first := mustTxn(t, b, &registry.Txn{
		If:   []registry.Cmp{{Key: "c/a", Kind: registry.Absent}},
		Puts: []registry.Put{put("c/a", "1"), put("c/b", "1")},
	})
	if !first.OK {
		t.Fatal("a key that was never there is not absent")
	}
	second := mustTxn(t, b, &registry.Txn{Puts: []registry.Put{put("c/a", "2")}})
	for _, c := range []struct {
		cmp  registry.Cmp
		want bool
	}{
		{registry.Cmp{Key: "c/a", Kind: registry.Exists}, true},
		{registry.Cmp{Key: "c/a", Kind: registry.Absent}, false},
		{registry.Cmp{Key: "c/z", Kind: registry.Exists}, false},
		{registry.Cmp{Key: "c/z", Kind: registry.Absent}, true},
		{registry.Cmp{Key: "c/a", Kind: registry.ModIs, Revision: second.Revision}, true},
		{registry.Cmp{Key: "c/a", Kind: registry.ModIs, Revision: first.Revision}, false},
		{registry.Cmp{Key: "c/a", Kind: registry.CreateIs, Revision: first.Revision}, true},
		{registry.Cmp{Key: "c/a", Kind: registry.CreateIs, Revision: second.Revision}, false},
	} {
		got := mustTxn(t, b, &registry.Txn{If: []registry.Cmp{c.cmp}, Else: []string{"c/a", "c/b", "c/z"}})
		if got.OK != c.want {
			t.Errorf("%+v: got %v, want %v", c.cmp, got.OK, c.want)
		}
		if !got.OK && (len(got.Else) != 2 || string(got.Else["c/a"].Value) != "2" || got.Else["c/a"].ModRevision != second.Revision) {
			t.Errorf("%+v: else got %+v", c.cmp, got.Else)
		}
	}
	mustTxn(t, b, &registry.Txn{Deletes: []string{"c/b", "c/none"}, DeletePrefixes: []string{"t/none/"}, Puts: []registry.Put{put("c/c", "1")}})
	again := mustTxn(t, b, &registry.Txn{If: []registry.Cmp{{Key: "c/b", Kind: registry.Absent}}, Puts: []registry.Put{put("c/b", "3")}})
	if !again.OK {
		t.Error("a deleted key is not absent")
	}
	if _, err := b.Txn(t.Context(), &registry.Txn{Puts: []registry.Put{put("c/d", "1"), put("c/d", "2")}}); err == nil {
		t.Error("a key can be put twice in a transaction")
	}
	if _, err := b.Txn(t.Context(), &registry.Txn{Puts: []registry.Put{put("t/d/1", "1")}, DeletePrefixes: []string{"t/d/"}}); err == nil {
		t.Error("a key can be put and deleted in a transaction")
	}
}

func keysOf(t *testing.T, b registry.Backend, q registry.Range) (keys []string, res *registry.RangeResult) {
	t.Helper()
	res, err := b.Range(t.Context(), q)
	if err != nil {
		t.Fatalf("Range(%+v): %v", q, err)
	}
	for _, kv := range res.KVs {
		keys = append(keys, kv.Key)
	}
	return keys, res
}

func testRange(t *testing.T, b Backend) {
	for _, k := range []string{"t/t1/s/c", "t/t10/s/a", "t/t1/s/a", "t/t1/s/b", "t/t1-x/s/a"} {
		mustTxn(t, b, &registry.Txn{Puts: []registry.Put{put(k, k)}})
	}
	got, res := keysOf(t, b, registry.Range{Prefix: "t/t1/", Limit: 2})
	if want := []string{"t/t1/s/a", "t/t1/s/b"}; !slices.Equal(got, want) || !res.More {
		t.Errorf("first page: got %v more=%v, want %v", got, res.More, want)
	}
	at := res.Revision
	mustTxn(t, b, &registry.Txn{Deletes: []string{"t/t1/s/c"}, Puts: []registry.Put{put("t/t1/s/d", "")}})
	got, res = keysOf(t, b, registry.Range{Prefix: "t/t1/", After: "t/t1/s/b", Limit: 2, Revision: at})
	if want := []string{"t/t1/s/c"}; !slices.Equal(got, want) || res.More {
		t.Errorf("second page as of the first: got %v more=%v, want %v", got, res.More, want)
	}
	got, res = keysOf(t, b, registry.Range{Prefix: "t/t1/", After: "t/t1/s/a", Before: "t/t1/s/c", Limit: 2})
	if want := []string{"t/t1/s/b"}; !slices.Equal(got, want) || res.More {
		t.Errorf("up to a key: got %v more=%v, want %v", got, res.More, want)
	}
	got, _ = keysOf(t, b, registry.Range{Prefix: "t/", ByCreation: true})
	if want := []string{"t/t10/s/a", "t/t1/s/a", "t/t1/s/b", "t/t1-x/s/a", "t/t1/s/d"}; !slices.Equal(got, want) {
		t.Errorf("by creation: got %v, want %v", got, want)
	}
	got, _ = keysOf(t, b, registry.Range{Prefix: "t/", ByCreation: true, Limit: 1})
	if want := []string{"t/t10/s/a"}; !slices.Equal(got, want) {
		t.Errorf("first by creation: got %v, want %v", got, want)
	}
	got, _ = keysOf(t, b, registry.Range{Key: "t/t1/s/a"})
	if want := []string{"t/t1/s/a"}; !slices.Equal(got, want) {
		t.Errorf("one key: got %v, want %v", got, want)
	}
	if err := b.Compact(t.Context(), at+1); err != nil {
		t.Fatalf("Compact: %v", err)
	}
	if _, err := b.Range(t.Context(), registry.Range{Prefix: "t/", Revision: at}); !errors.Is(err, registry.ErrCompacted) {
		t.Errorf("a compacted revision: got error %v, want ErrCompacted", err)
	}
}

func testLease(t *testing.T, b Backend) {
	lease, ttl, err := b.Grant(t.Context(), time.Second)
	if err != nil || ttl < time.Second {
		t.Fatalf("Grant: got %v, %v", ttl, err)
	}
	mustTxn(t, b, &registry.Txn{Puts: []registry.Put{{Key: "o/a", Lease: lease}, {Key: "o/b", Lease: lease}}})
	if _, res := keysOf(t, b, registry.Range{Key: "o/a"}); len(res.KVs) != 1 || res.KVs[0].Lease != lease {
		t.Errorf("the lease of a key: got %+v, want %d", res.KVs, lease)
	}
	if _, err := b.KeepAlive(t.Context(), lease); err != nil {
		t.Errorf("KeepAlive: %v", err)
	}
	mustTxn(t, b, &registry.Txn{Puts: []registry.Put{put("o/b", "free")}}) // takes the key off its lease
	Eventually(t, "the lease has expired with its key", func() bool {
		got, _ := keysOf(t, b, registry.Range{Prefix: "o/"})
		return slices.Equal(got, []string{"o/b"})
	})
	if _, err := b.KeepAlive(t.Context(), lease); !errors.Is(err, registry.ErrLeaseNotFound) {
		t.Errorf("KeepAlive of an expired lease: got %v, want ErrLeaseNotFound", err)
	}
	if _, err := b.Txn(t.Context(), &registry.Txn{Puts: []registry.Put{{Key: "o/a", Lease: lease}}}); !errors.Is(err, registry.ErrLeaseNotFound) {
		t.Errorf("Txn on an expired lease: got %v, want ErrLeaseNotFound", err)
	}
	if err := b.Revoke(t.Context(), lease); err != nil {
		t.Errorf("Revoke of an expired lease: %v", err)
	}
}

func testWatch(t *testing.T, b Backend) {
	start := mustTxn(t, b, &registry.Txn{Puts: []registry.Put{put("x/a", "1"), put("t/a/s/1", "1")}}).Revision
	mustTxn(t, b, &registry.Txn{Puts: []registry.Put{put("x/b", "1"), put("o/a", "1")}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	batches := make(chan registry.Batch)
	ended := make(chan error, 1)
	go func() {
		ended <- b.Watch(ctx, start+1, []string{"x/", "o/"}, func(bt registry.Batch) {
			select {
			case batches <- bt:
			case <-ctx.Done():
			}
		})
	}()
	last := mustTxn(t, b, &registry.Txn{Deletes: []string{"x/a"}, Puts: []registry.Put{put("t/a/s/2", "1")}}).Revision
	got := map[string][]string{}
	upTo := map[string]int64{}
	for upTo["x/"] < last || upTo["o/"] < last { // o/ gets there by progress alone
		select {
		case bt := <-batches:
			upTo[bt.Prefix] = bt.Revision
			for _, ev := range bt.Events {
				got[bt.Prefix] = append(got[bt.Prefix], fmt.Sprintf("%s %v", ev.KV.Key, ev.Delete))
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no word of revision %d: %v", last, upTo)
		}
	}
	if want := "x/b false,x/a true"; strings.Join(got["x/"], ",") != want {
		t.Errorf("x/: got %v, want %s", got["x/"], want)
	}
	if want := "o/a false"; strings.Join(got["o/"], ",") != want {
		t.Errorf("o/: got %v, want %s", got["o/"], want)
	}
	cancel()
	<-ended
	if err := b.Compact(t.Context(), last); err != nil {
		t.Fatalf("Compact: %v", err)
	}
	if err := b.Watch(t.Context(), start, []string{"x/", "o/"}, func(registry.Batch) {}); !errors.Is(err, registry.ErrCompacted) {
		t.Errorf("a watch from before the compaction: got %v, want ErrCompacted", err)
	}
}
