package sandbox_test

import (
	"bytes"
	"testing"

	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/vgw/sandbox"
)

// TestSealed: what is stored tells nothing of what a sandbox was given, opens at its own place alone, and is read by the next owner.
func TestSealed(t *testing.T) {
	inWorld(t, func(w *world) {
		w.config.Sealer = seal.NewDataKey()
		w.open()
		r := request("one")
		r.Spec.Env = []sandbox.Var{{Name: "TOKEN", Value: "canary-of-the-owner"}}
		made := w.create(r)
		w.until("one", sandbox.Running)
		objects, err := w.store.Load(w.t.Context(), sandbox.Kind)
		if err != nil || len(objects) != 1 {
			t.Fatalf("%d stored, %v", len(objects), err)
		}
		for _, clear := range []string{"canary-of-the-owner", "TOKEN", `"one"`} {
			if bytes.Contains(objects[0].Value, []byte(clear)) {
				t.Errorf("%s lies in the store in the clear", clear)
			}
		}
		w.m.Close()
		w.open()
		if got, ok := w.m.Find(made.ID); !ok || len(got.Spec.Env) != 1 || got.Spec.Env[0].Value != "canary-of-the-owner" {
			t.Errorf("the next owner reads %+v", got)
		}
		w.m.Close()
		w.config.Sealer = seal.NewDataKey()
		c := w.config
		c.Driver, c.Store = w.driver, w.store
		if m, err := sandbox.Open(w.t.Context(), c); err == nil {
			m.Close()
			t.Error("another key opens it")
		}
	})
}
