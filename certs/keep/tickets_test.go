package keep

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// numbered makes keys that can be told apart.
func numbered() func() []byte {
	n := byte(0)
	return func() []byte {
		n++
		return bytes.Repeat([]byte{n}, 32)
	}
}

func froms(r ring, zero time.Time) (out []time.Duration) {
	for _, t := range r.Keys {
		out = append(out, t.From.Sub(zero))
	}
	return out
}

func TestRotated(t *testing.T) {
	zero := time.Unix(1_800_000_000, 0).UTC()
	const h = time.Hour
	at := func(hours ...time.Duration) (r ring) {
		for _, d := range hours {
			r.Keys = append(r.Keys, ticketKey{Key: make([]byte, 32), From: zero.Add(d * h)})
		}
		return r
	}
	for _, c := range []struct {
		name  string
		ring  ring
		now   time.Duration
		want  []time.Duration
		first time.Duration // From of the key that encrypts
	}{
		{"the first", at(), 0, []time.Duration{0, 24 * h}, 0},
		{"before the turn", at(0, 24), 23 * h, []time.Duration{0, 24 * h}, 0},
		{"at the turn", at(0, 24), 24 * h, []time.Duration{0, 24 * h, 48 * h}, 24 * h},
		{"a clock behind the one that made them", at(0, 24), -1 * h, []time.Duration{0, 24 * h}, 0},
		{"four at most", at(0, 24, 48, 72), 72 * h, []time.Duration{24 * h, 48 * h, 72 * h, 96 * h}, 72 * h},
		{"after a standstill", at(0, 24), 240 * h, []time.Duration{0, 24 * h, 243 * h}, 24 * h},
		{"a key of a clock a year ahead", at(0, 24, 8760), 24 * h, []time.Duration{0, 24 * h, 8760 * h, 48 * h}, 24 * h},
		{"a slower rotation before", at(0, 240), 1 * h, []time.Duration{0, 240 * h, 24 * h}, 0},
	} {
		got, changed := c.ring.rotated(zero.Add(c.now), 24*h, numbered())
		if !slices.Equal(froms(got, zero), c.want) || changed != (len(c.want) != len(c.ring.Keys) || c.name == "four at most") {
			t.Errorf("%s: got %v (changed: %v), want %v", c.name, froms(got, zero), changed, c.want)
		}
		if first := got.Keys[newest(got.Keys, zero.Add(c.now))].From.Sub(zero); first != c.first {
			t.Errorf("%s: the key of %v encrypts, want that of %v", c.name, first, c.first)
		}
		if again, changed := got.rotated(zero.Add(c.now), 24*h, numbered()); changed {
			t.Errorf("%s: changed again at once: %v", c.name, froms(again, zero))
		}
	}
}

// Whatever replicas with clocks that differ by up to a sixteenth of a rotation do, and however they start, stop and stand
// still: none that asks each sixteenth of a rotation encrypts with a key that another one of them cannot open. As long as
// they do not stand still, clocks may even differ by most of a rotation.
func TestTicketsOpenElsewhere(t *testing.T) {
	const rotate, step = 24 * time.Hour, 10 * time.Minute
	rapid.Check(t, func(t *rapid.T) {
		type replica struct {
			skew time.Duration
			next time.Time // when it asks again
			keys [][32]byte
		}
		zero := time.Unix(1_800_000_000, 0)
		var shared ring
		mk := numbered()
		replicas := make([]replica, rapid.IntRange(2, 4).Draw(t, "replicas"))
		still, skew := rapid.Bool().Draw(t, "stands still"), 11*60
		if still {
			skew = 45
		}
		for i := range replicas {
			replicas[i].skew = time.Duration(rapid.IntRange(-skew, skew).Draw(t, "skew")) * time.Minute
		}
		for range rapid.IntRange(1, 3).Draw(t, "runs") {
			for i := range replicas { // all start before any serves
				replicas[i].keys, replicas[i].next = nil, zero
			}
			for end := zero.Add(time.Duration(rapid.IntRange(1, 120).Draw(t, "hours")) * time.Hour); zero.Before(end); zero = zero.Add(step) {
				for i := range replicas {
					r := &replicas[i]
					if zero.Before(r.next) {
						continue
					}
					now := zero.Add(r.skew)
					shared, _ = shared.rotated(now, rotate, mk)
					r.keys, r.next = shared.choose(now), zero.Add(time.Duration(rapid.IntRange(1, 90).Draw(t, "minutes"))*time.Minute)
				}
				for _, r := range replicas {
					for _, other := range replicas {
						if !slices.Contains(other.keys, r.keys[0]) {
							t.Fatalf("at %v a replica encrypts with a key that another does not have: %v", zero, froms(shared, zero))
						}
					}
				}
			}
			if still {
				zero = zero.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "standstill")) * time.Hour)
			}
		}
	})
}

// A replica whose clock is far off does not stop the rotation of the others.
func TestTicketsWildClock(t *testing.T) {
	const rotate = 24 * time.Hour
	for _, off := range []time.Duration{365 * 24 * time.Hour, -365 * 24 * time.Hour, 3 * 24 * time.Hour, -3 * 24 * time.Hour} {
		var shared ring
		mk := numbered()
		zero := time.Unix(1_800_000_000, 0)
		seen := make(map[[32]byte]bool)
		for hour := range 24 * 10 {
			now := zero.Add(time.Duration(hour) * time.Hour)
			for _, clock := range []time.Time{now.Add(off), now} {
				shared, _ = shared.rotated(clock, rotate, mk)
				if n := len(shared.choose(clock)); n > MaxTicketKeys {
					t.Fatalf("off by %v, hour %d: %d keys", off, hour, n)
				}
			}
			seen[shared.choose(now)[0]] = true
		}
		if len(seen) < 9 {
			t.Errorf("off by %v: %d keys encrypted in 10 days, want one a day", off, len(seen))
		}
	}
}

func FuzzRing(f *testing.F) {
	b, err := ring{V: 1, Keys: []ticketKey{{Key: make([]byte, 32), From: time.Unix(1, 0)}}}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"v":2,"x":1,"keys":[{"k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","y":2}]}`))
	f.Add([]byte(`{"v":2,"keys":[null]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRing(b)
		if err != nil {
			return
		}
		now := time.Unix(1_800_000_000, 0)
		next, _ := r.rotated(now, time.Hour, newTicketKey)
		if n := len(next.choose(now)); n < 1 || n > MaxTicketKeys {
			t.Fatalf("%d keys", n)
		}
		if out, err := next.encode(); err == nil {
			if _, err := decodeRing(out); err != nil {
				t.Fatalf("%s: %v", out, err)
			}
		}
	})
}
