package keeptest

import (
	"bytes"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/vault"
)

const (
	day     = 24 * time.Hour
	started = 1_800_000_000 // seconds since 1970
)

// start is when the stories of ticket keys begin.
var start = time.Unix(started, 0)

func tickets(t *testing.T, k *keep.Keeper, now time.Time, rotate time.Duration) [][32]byte {
	t.Helper()
	keys, err := k.TicketKeys(t.Context(), now, rotate)
	if err != nil || len(keys) == 0 || len(keys) > keep.MaxTicketKeys {
		t.Fatalf("TicketKeys(%v): got %d, %v", now, len(keys), err)
	}
	return keys
}

// Two replicas have the same keys, and a key is known to both a whole rotation before it encrypts.
func testTickets(t *testing.T, w *World) {
	a, b := w.keepers()
	var before [][32]byte
	first := tickets(t, a, start, day)[0]
	for i := range 10 {
		now := start.Add(time.Duration(i) * day)
		ka, kb := tickets(t, a, now, day), tickets(t, b, now.Add(time.Second), day)
		if !slices.Equal(ka, kb) {
			t.Fatalf("on day %d the replicas have other keys", i)
		}
		if i > 0 && !slices.Contains(before, ka[0]) {
			t.Errorf("on day %d a key encrypts that was not there the day before", i)
		}
		if i > 0 && (ka[0] == before[0] || !slices.Contains(ka, before[0])) {
			t.Errorf("on day %d the key of the day before encrypts still, or does not decrypt any more", i)
		}
		if i >= 3 && (len(ka) != 4 || slices.Contains(ka, first)) {
			t.Errorf("on day %d there are %d keys, or the first still", i, len(ka))
		}
		before = ka
	}
}

// Replicas that make keys at once agree.
func testTicketRace(t *testing.T, w *World) {
	got := make([][][32]byte, 6)
	for round := range 3 {
		m := meet(w.B, "tickets", len(got))
		var wg sync.WaitGroup
		for i := range got {
			wg.Go(func() {
				keys, err := keep.New(m, w.KEK).TicketKeys(t.Context(), start.Add(time.Duration(round)*day), day)
				if err != nil {
					t.Errorf("TicketKeys: %v", err)
				}
				got[i] = keys
			})
		}
		wg.Wait()
		for i := range got {
			if !slices.Equal(got[i], got[0]) {
				t.Errorf("round %d: replica %d has other keys", round, i)
			}
		}
	}
}

// Keys that do not open are not replaced; when they were removed there are new ones.
func testTicketsDamaged(t *testing.T, w *World) {
	a, b := w.keepers()
	old := tickets(t, a, start, day)
	good := w.raw(t, vault.Owner{}, "tickets").Value
	for _, v := range [][]byte{[]byte("x"), []byte(`{"v":1}`), flip(good, `"s":"`)} {
		w.plant(t, vault.Owner{}, "tickets", v)
		_, err := b.TicketKeys(t.Context(), start.Add(10*day), day)
		wantIs(t, "TicketKeys over damage", err, vault.ErrDamaged)
		if got := w.raw(t, vault.Owner{}, "tickets").Value; !bytes.Equal(got, v) {
			t.Error("the damaged keys were replaced")
		}
	}
	w.plant(t, vault.Owner{}, "tickets", nil)
	if got := tickets(t, b, start, day); slices.Contains(got, old[0]) {
		t.Error("a removed key is there again")
	}
}

func testTicketsNewer(t *testing.T, w *World) {
	a, _ := w.keepers()
	tickets(t, a, start, day)
	v := w.raw(t, vault.Owner{}, "tickets").Value
	w.plant(t, vault.Owner{}, "tickets", bytes.Replace(v, []byte(`{"v":1,`), []byte(`{"v":2,"new":1,`), 1))
	tickets(t, a, start, day)
	w.plant(t, vault.Owner{}, "tickets", bytes.Replace(v, []byte(`{"v":1,`), []byte(`{"v":3,`), 1))
	_, err := a.TicketKeys(t.Context(), start, day)
	wantIs(t, "TicketKeys of the version after the next", err, vault.ErrNewer)
}
