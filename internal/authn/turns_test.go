package authn

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/polygate/polygate/internal/fault"
)

// TestC1TurnsAreATenantsOwn: a tenant whose checks take all of its places keeps nobody else's waiting, and its own not for ever.
func TestC1TurnsAreATenantsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		var leave []func()
		for range turns.limit {
			l, err := turns.enter(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			leave = append(leave, l)
		}
		if l, err := turns.enter(t.Context(), "b"); err != nil {
			t.Errorf("another tenant: %v", err)
		} else {
			l()
		}
		if _, err := turns.enter(t.Context(), "a"); !fault.Is(err, fault.Unavailable) {
			t.Errorf("one too many: %v, want unavailable after its wait", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := turns.enter(ctx, "a"); !fault.Is(err, fault.Canceled) {
			t.Errorf("one who went away: %v", err)
		}
		got := make(chan error, 1)
		go func() {
			l, err := turns.enter(t.Context(), "a")
			if err == nil {
				l()
			}
			got <- err
		}()
		synctest.Wait()
		leave[0]()
		if err := <-got; err != nil {
			t.Errorf("the next in turn: %v", err)
		}
		for _, l := range leave[1:] {
			l()
		}
		if len(turns.of) != 0 {
			t.Errorf("%d tenants are remembered", len(turns.of))
		}
	})
}
