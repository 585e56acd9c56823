package etcd_test

import (
	"testing"

	"github.com/polygate/polygate/registry/etcd"
)

// TestShrinkEmbedded: the way out of a full store works where etcd is in the process, and leaves it well.
func TestShrinkEmbedded(t *testing.T) {
	e, err := etcd.StartEmbedded(t.Context(), etcd.EmbeddedConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	b, err := e.Backend("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	for range 2 {
		if err := b.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Status(t.Context()); err != nil {
		t.Error(err)
	}
}
