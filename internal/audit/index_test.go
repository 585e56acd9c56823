package audit

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func removeIndexes(t testing.TB, dir string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*"+indexSuffix))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		_ = os.Remove(f)
	}
}

// TestIndexIsAHint: whatever happens to the indexes, the answers stay the same.
func TestIndexIsAHint(t *testing.T) {
	s := filled(t)
	r := s.reader()
	if err := r.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	found, _ := filepath.Glob(filepath.Join(s.dir, "*"+indexSuffix))
	segs, _ := filepath.Glob(filepath.Join(s.dir, "*.0*.jsonl"))
	if len(found) != len(segs) || len(found) < 4 {
		t.Fatalf("%d indexes of %d segments", len(found), len(segs))
	}
	good := make(map[string][]byte)
	for _, f := range found {
		good[f], _ = os.ReadFile(f)
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for name, spoil := range map[string]func(b []byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"cut":       func(b []byte) []byte { return b[:rng.IntN(len(b))] },
		"flipped":   func(b []byte) []byte { b[rng.IntN(len(b))] ^= 1 << rng.IntN(8); return b },
		"of others": func([]byte) []byte { return good[found[rng.IntN(len(found))]] },
		"misleading": func(b []byte) []byte { // all sums fit, the offsets do not
			x := newIndex()
			side, err := openSidecar(bytes.NewReader(b), int64(sizeOf(b)))
			if err != nil {
				t.Fatal(err)
			}
			c, _, _ := side.chain("team-b")
			if c == nil {
				return nil
			}
			x.covered, x.min, x.max = side.size, side.min, side.max
			x.chains["team-a"] = c
			return x.encode()
		},
	} {
		for range 20 {
			for f, b := range good {
				if err := os.WriteFile(f, spoil(bytes.Clone(b)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			sameRecords(t, name, all(t, r, teamQuery("team-a")), s.newest("team-a", everything))
		}
	}
}

// sizeOf returns the size of the segment that an index is of.
func sizeOf(index []byte) (n uint64) {
	for _, b := range index[8:16] {
		n = n<<8 | uint64(b)
	}
	return n
}

func FuzzPosition(f *testing.F) {
	p := position{query: [8]byte{1}, logs: map[logID]logPosition{{1}: {3, 4}, {2}: {0, 1 << 63}}}
	f.Add(p.String())
	f.Add(base64.RawURLEncoding.EncodeToString([]byte("\x01\x01\x00\x00\x00\x00\x00\x00\x00")))
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePosition(s, [8]byte{1})
		if err != nil || s == "" {
			return
		}
		back, err := parsePosition(p.String(), [8]byte{1})
		if err != nil || !maps.Equal(back.logs, p.logs) {
			t.Errorf("%q: read again as %v, %v; want %v", s, back, err, p)
		}
	})
}

func FuzzSidecar(f *testing.F) {
	x := newIndex()
	for i := range 20 {
		x.add([]byte(fmt.Sprintf("team-%d", i%3)), uint64(i/3+1), int64(i), int64(i*500))
	}
	x.covered = 10_000
	f.Add(x.encode(), int64(10_000))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		s, err := openSidecar(bytes.NewReader(b), size)
		if err != nil {
			return
		}
		c, _, err := s.chain("team-1")
		if err != nil || c == nil {
			return
		}
		for _, at := range c.offsets(size) {
			if at < 0 || at >= size {
				t.Fatalf("offset %d of a file of %d bytes", at, size)
			}
		}
	})
}

func FuzzGlance(f *testing.F) {
	text, _ := chainUp(4, "team-a", "")
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		chain, seq, at, ok := glance(b)
		l, err := ParseLine(b)
		if err != nil {
			return
		}
		if !ok || string(chain) != l.Chain || seq != l.Seq {
			t.Fatalf("glance(%q) = %s, %d, %v; want %s, %d", b, chain, seq, ok, l.Chain, l.Seq)
		}
		if e, err := l.Decode(); err == nil && at != unknownTime && !bytes.Contains(b, []byte(`\`)) && strings.Count(string(b), `"time"`) == 1 &&
			strings.Count(strings.ToLower(string(b)), `"time"`) == 1 && e.Time.UnixNano() != at {
			t.Fatalf("glance(%q) says %d, want %d", b, at, e.Time.UnixNano())
		}
	})
}
