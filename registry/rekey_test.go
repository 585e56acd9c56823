package registry_test

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/vault"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/memory"
	"github.com/polygate/polygate/registry/registrytest"
)

// TestEditUnowned holds that state is changed without a claim only where nobody has one, not even from between the read and the
// write.
func TestEditUnowned(t *testing.T) {
	eachStore(t, func(t *testing.T, open func(string) registrytest.Backend) {
		b := open("unowned/")
		r, other := registrytest.Start(t, b, "a"), registrytest.Start(t, b, "b")
		e := registrytest.Create(t, r, "team")
		c := registrytest.Claim(t, r, e.Scope)
		registrytest.Write(t, c, "datakey", "current", "old")
		edit := func(to string, meanwhile func()) (bool, error) {
			return other.EditUnowned(t.Context(), e.Scope, "datakey", "current", registrytest.Entry("team", "secret.rekey"), func([]byte) ([]byte, error) {
				if meanwhile != nil {
					meanwhile()
				}
				if to == "" {
					return nil, nil
				}
				return []byte(to), nil
			})
		}
		value := func() string {
			t.Helper()
			o, err := r.Read(t.Context(), e.Scope, "datakey", "current")
			if err != nil {
				t.Fatal(err)
			}
			return string(o.Value)
		}
		if _, err := edit("stolen", nil); !errors.Is(err, registry.ErrOwned) || value() != "old" {
			t.Errorf("of an owned tenant: %v, value %q", err, value())
		}
		if err := c.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		if done, err := edit("new", nil); !done || err != nil || value() != "new" {
			t.Errorf("of one that nobody owns: %v, %v, value %q", done, err, value())
		}
		if done, err := edit("", nil); done || err != nil {
			t.Errorf("without a change: %v, %v", done, err)
		}
		claimed := func() { registrytest.Claim(t, r, e.Scope) }
		if _, err := edit("stolen", claimed); !errors.Is(err, registry.ErrOwned) || value() != "new" {
			t.Errorf("claimed in between: %v, value %q", err, value())
		}
		if err := r.DeleteTenant(t.Context(), "team", 0, registrytest.Entry("", "tenant.delete")); err != nil {
			t.Fatal(err)
		}
		registrytest.Create(t, r, "team")
		if _, err := edit("stolen", nil); !fault.Is(err, fault.NotFound) {
			t.Errorf("of a former tenant: %v", err)
		}
	})
}

func TestEachWrapped(t *testing.T) {
	b := memory.New()
	t.Cleanup(func() { _ = b.Close() })
	r := registrytest.Start(t, b, "a")
	kek, err := seal.CreateKEK(filepath.Join(t.TempDir(), "kek"))
	if err != nil {
		t.Fatal(err)
	}
	envelope, _ := kek.Wrap([]byte("x"), "y")
	e := registrytest.Create(t, r, "team")
	registrytest.Write(t, registrytest.Claim(t, r, e.Scope), "datakey", "current", string(envelope))
	registrytest.Write(t, registrytest.Claim(t, r, e.Scope), "server", "s", `{"v":1}`)
	for _, o := range []vault.Owner{{}, vault.Of(e.Scope)} {
		if _, err := r.Vault().Commit(t.Context(), o, vault.Batch{Puts: []vault.Put{{Key: "dek", Value: envelope}, {Key: "h/x", Value: []byte("x")}}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Platform().Change(t.Context(), "kek", 0, envelope, registrytest.Entry("", "secret.rekey")); err != nil {
		t.Fatal(err)
	}
	var got []string
	err = r.EachWrapped(t.Context(), func(key string, ids []string) error {
		if !slices.Equal(ids, []string{kek.ID()}) {
			t.Errorf("%s is wrapped by %v", key, ids)
		}
		state, of, name := registry.WrappedIn(key)
		got = append(got, state+","+of+","+name)
		return nil
	})
	want := []string{",,kek", ",_,dek", ",team,dek", "team,,datakey/current"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("EachWrapped found %v, %v: want %v", got, err, want)
	}
}

func TestPlatformChange(t *testing.T) {
	b := memory.New()
	t.Cleanup(func() { _ = b.Close() })
	r := registrytest.Start(t, b, "a")
	entry := registrytest.Entry("", "secret.rekey")
	rev, err := r.Platform().Change(t.Context(), "rekey", 0, []byte("one"), entry)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Platform().Change(t.Context(), "rekey", 0, []byte("two"), registrytest.Entry("", "secret.rekey")); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("over another: %v", err)
	}
	if _, err := r.Platform().Change(t.Context(), "rekey", rev, []byte("two"), registrytest.Entry("", "")); !errors.Is(err, registry.ErrNoRecord) {
		t.Errorf("without a record: %v", err)
	}
	if next, err := r.Platform().Change(t.Context(), "rekey", rev, []byte("two"), registrytest.Entry("", "secret.rekey")); err != nil || next <= rev {
		t.Errorf("Change = %d, %v", next, err)
	}
	pending, err := r.Outbox().Pending(t.Context(), 10)
	if err != nil || len(pending) != 2 || pending[0].Entry.ID != entry.ID {
		t.Errorf("recorded: %+v, %v", pending, err)
	}
	if live, err := r.LiveReplicas(t.Context()); err != nil || !slices.Equal(live, []string{"a"}) {
		t.Errorf("LiveReplicas = %v, %v", live, err)
	}
}
