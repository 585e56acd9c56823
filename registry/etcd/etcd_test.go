package etcd_test

import (
	"context"
	"testing"
	"time"

	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/etcd"
)

func TestSmoke(t *testing.T) {
	start := time.Now()
	e, err := etcd.StartEmbedded(t.Context(), etcd.EmbeddedConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Log("ready", time.Since(start))
	b, err := e.Backend("")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		start = time.Now()
		res, err := b.Txn(t.Context(), &registry.Txn{Puts: []registry.Put{{Key: "x/a", Value: []byte("1")}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Log(i, res.Revision, time.Since(start))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	defer cancel()
	err = b.Watch(ctx, 2, []string{"x/", "o/", "n/"}, func(bt registry.Batch) { t.Log(time.Since(start), bt) })
	t.Log(err)
	start = time.Now()
	t.Log(b.Close())
	t.Log(e.Close(), time.Since(start))
}
