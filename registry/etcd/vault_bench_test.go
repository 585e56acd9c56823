package etcd_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/vault"
	"github.com/polygate/polygate/registry/etcd"
	"github.com/polygate/polygate/registry/registrytest"
)

// TestVaultFigures measures what certificates cost the registry, with 10,000 that will be due one day; -v prints it.
func TestVaultFigures(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const n, batch = 10000, 50
	e := startEmbedded(t, etcd.EmbeddedConfig{})
	b, err := e.Backend("")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	r := registrytest.Start(t, b, "r1")
	defer r.Stop()
	v, value := r.Vault(), make([]byte, 4<<10) // a chain of two and a key
	later := time.Now().Add(30 * 24 * time.Hour)
	for i := 0; i < n; i += batch {
		var c vault.Batch
		for j := i; j < i+batch; j++ {
			host := fmt.Sprintf("h%05d.example.com", j)
			c.Puts = append(c.Puts, vault.Put{Key: "host/" + host, Value: value[:64]})
			c.Moves = append(c.Moves, vault.Move{Name: host, To: later.Add(time.Duration(j) * time.Second)})
		}
		if _, err := v.Commit(t.Context(), vault.Owner{}, c); err != nil {
			t.Fatalf("Commit: %v", err)
		}
	}
	o := vault.Of(registrytest.Create(t, r, "alpha").Scope)
	measure(t, "commit of a certificate", func(i int) error {
		_, err := v.Commit(t.Context(), o, vault.Batch{Puts: []vault.Put{{Key: fmt.Sprint("host/", i), Value: value}}})
		return err
	})
	measure(t, "read of one", func(i int) error { _, err := v.Get(t.Context(), o, fmt.Sprint("host/", i)); return err })
	measure(t, "a lock taken and given back", func(i int) error {
		l, ok, err := v.TryLock(t.Context(), fmt.Sprint("issue/", i))
		if err != nil || !ok {
			return fmt.Errorf("TryLock: %v, %w", ok, err)
		}
		return v.Unlock(t.Context(), l)
	})
	measure(t, "a look for what is due, of 10,000 that are not", func(int) error {
		list, _, err := v.Due(t.Context(), time.Now(), "", 0)
		if len(list) > 0 {
			t.Errorf("%d are due", len(list))
		}
		return err
	})
}

func measure(t *testing.T, what string, f func(i int) error) {
	t.Helper()
	var took []time.Duration
	for i := range 300 {
		start := time.Now()
		if err := f(i); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	t.Logf("%s: median %v, p99 %v", what, took[len(took)/2], took[len(took)*99/100])
}
