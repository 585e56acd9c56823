package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// testSigner returns a signer and what its signatures are checked with.
func testSigner(t testing.TB, seed byte) (Signer, []ed25519.PublicKey) {
	t.Helper()
	s, err := NewSigner(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	return s, []ed25519.PublicKey{s.Public()}
}

// rotating makes the processes of a rig sign, and close the file with every settlement.
func rotating(s Signer) func(*DrainConfig) {
	return func(c *DrainConfig) {
		c.Signer, c.Rotation = s, Rotation{MaxBytes: 1}
	}
}

func (r *rig) files() []string {
	r.t.Helper()
	files, err := LogFiles(r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	return files
}

func (r *rig) verifyFiles(opts VerifyOptions) *Report {
	r.t.Helper()
	rep, err := VerifyLog(r.path, opts)
	if err != nil {
		r.t.Fatal(err)
	}
	again, err := VerifyFiles(r.files(), opts)
	if err != nil || again.OK != rep.OK || again.Lines != rep.Lines {
		r.t.Fatalf("VerifyFiles = %+v, %v; VerifyLog = %+v", again, err, rep)
	}
	return rep
}

func TestRotation(t *testing.T) {
	signer, keys := testSigner(t, 1)
	r := newRig(t)
	r.edit = rotating(signer)
	r.open()
	for i := range 12 {
		for j := range 3 {
			r.out.commit(tenant.ID(fmt.Sprintf("team-%d", (i+j)%7)), "server.create")
		}
		r.d.round(t.Context(), true)
	}
	r.sound()
	if n := len(r.files()); n != 13 {
		t.Fatalf("%d files, want 12 segments and the active one", n)
	}
	if !slices.IsSorted(r.files()[:12]) {
		t.Errorf("the names of the segments do not sort: %q", r.files())
	}
	rep := r.verifyFiles(VerifyOptions{Heads: r.out.heads, PublicKeys: keys})
	if !rep.OK || rep.Start != nil || rep.Checkpoints.Signed < 13 || rep.Checkpoints.Signed != rep.Checkpoints.Count {
		t.Errorf("report %+v: %v", rep, rep.Problems())
	}
	r.d.upkeep.closing = true
	r.out.commit("team-1", "server.delete")
	r.d.round(t.Context(), true)
	if rep := r.verifyFiles(VerifyOptions{PublicKeys: keys}); !rep.OK || rep.Checkpoints.LinesAfter != 0 {
		t.Errorf("after the shutdown: %d lines are behind the last checkpoint: %v", rep.Checkpoints.LinesAfter, rep.Problems())
	}
}

// TestRotationByAge closes a file when it is a day old, counted from its first record even over a restart, and none
// that holds nothing.
func TestRotationByAge(t *testing.T) {
	now := time.Date(2026, 8, 1, 10, 0, 0, 0, time.UTC)
	r := newRig(t)
	r.edit = func(c *DrainConfig) { c.Rotation, c.Now = DefaultRotation(), func() time.Time { return now } }
	r.open()
	r.out.commit("team-a", "server.create")
	r.d.round(t.Context(), true)
	now = now.Add(23 * time.Hour)
	r.open()
	r.d.round(t.Context(), true)
	if n := len(r.files()); n != 1 {
		t.Fatalf("%d files after 23 h, want 1", n)
	}
	now = now.Add(time.Hour)
	for range 3 {
		r.d.round(t.Context(), true)
		now = now.Add(25 * time.Hour)
	}
	if n := len(r.files()); n != 2 {
		t.Errorf("%d files after a day and idle days, want 2", n)
	}
	if base := filepath.Base(r.files()[0]); base != "audit.00000001.20260802T100000Z.log" {
		t.Errorf("segment %q", base)
	}
	r.sound()
}

// TestCrashAnywhereInARotation is TestCrashAnywhere with a rotation in every round.
func TestCrashAnywhereInARotation(t *testing.T) {
	t.Parallel()
	signer, _ := testSigner(t, 1)
	for _, torn := range []int{700, 0} {
		if testing.Short() && torn == 0 {
			continue
		}
		t.Run(fmt.Sprintf("torn %d", torn), func(t *testing.T) {
			for first := 1; ; first++ {
				again := true
				for second := 1; again; second++ {
					var crashed bool
					crashed, again = crashTwice(t, torn, first, second, rotating(signer))
					if !crashed {
						t.Logf("crashed at each of %d steps", first-1)
						return
					}
				}
			}
		})
	}
}

// TestCrashAnywhereInARetention kills the process at every step while segments are removed: none goes without its record.
func TestCrashAnywhereInARetention(t *testing.T) {
	signer, keys := testSigner(t, 1)
	for step := 1; ; step++ {
		r := newRig(t)
		r.edit = func(c *DrainConfig) { rotating(signer)(c); c.Retention = Retention{MaxBytes: 12_000} }
		r.open()
		b := &bomb{left: step}
		r.out.step, r.sink.step = b.step, b.step
		crashed := life(func() {
			for range 8 {
				r.out.commit("team-a", "server.create")
				r.d.round(t.Context(), true)
			}
		})
		r.edit = rotating(signer) // what comes after must not remove the traces
		r.open()
		r.out.step = func(string) {}
		for range 3 {
			r.out.commit("team-b", "server.create")
			r.d.round(t.Context(), true)
		}
		rep := r.verifyFiles(VerifyOptions{Heads: r.out.heads, PublicKeys: keys})
		if !rep.OK || rep.Start != nil && !rep.Start.Recorded {
			t.Fatalf("crash %s (%d): %v", b.at, step, rep.Problems())
		}
		if !crashed {
			t.Logf("crashed at each of %d steps", step-1)
			if rep.Start == nil {
				t.Error("nothing was removed")
			}
			return
		}
	}
}

// TestRotationThatFails: no rotation, whatever step of it fails, costs a record or the chain.
func TestRotationThatFails(t *testing.T) {
	signer, keys := testSigner(t, 1)
	for name, spoil := range map[string]func(r *rig) (mend func()){
		"the new file": func(r *rig) func() {
			_ = os.Mkdir(r.path+nextSuffix, 0o700)
			return func() { _ = os.Remove(r.path + nextSuffix) }
		},
		"naming the segment": func(r *rig) func() {
			name, _ := r.file.NextSegment(r.d.cfg.Now())
			_ = os.MkdirAll(filepath.Join(filepath.Dir(r.path), name, "x"), 0o700)
			return func() {}
		},
		"putting the new file in place": func(r *rig) func() {
			r.sink.step = func(step string) {
				if step == "segment named" {
					_ = os.Rename(r.path+nextSuffix, r.path+".away")
					_ = os.Mkdir(r.path, 0o700)
				}
			}
			return func() {
				r.sink.step = func(string) {}
				_ = os.Remove(r.path)
				_ = os.Rename(r.path+".away", r.path+nextSuffix)
			}
		},
		"signing": func(r *rig) func() {
			r.d.cfg.Signer = brokenSigner{signer}
			return func() { r.d.cfg.Signer = signer }
		},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Date(2026, 8, 1, 10, 0, 0, 0, time.UTC)
			r := newRig(t)
			r.edit = func(c *DrainConfig) { rotating(signer)(c); c.Now = func() time.Time { return now } }
			r.open()
			r.d.round(t.Context(), true)
			r.out.commit("team-a", "server.create")
			mend := spoil(r)
			r.d.round(t.Context(), true)
			r.out.commit("team-a", "server.delete")
			r.d.round(t.Context(), true)
			mend()
			now = now.Add(time.Hour)
			for range 3 {
				r.out.commit("team-b", "server.create")
				r.d.round(t.Context(), true)
			}
			if ids := r.sound(); len(ids) != 5 || r.out.left() != 0 || r.d.Err() != nil || r.d.SignErr() != nil {
				t.Errorf("%d entries, %d left, Err %v; want 5, 0, nil\n%s", len(ids), r.out.left(), r.d.Err(), r.log.b.String())
			}
			if rep := r.verifyFiles(VerifyOptions{Heads: r.out.heads, PublicKeys: keys}); !rep.OK || len(r.files()) < 2 {
				t.Errorf("%d files, %v", len(r.files()), rep.Problems())
			}
		})
	}
}

type brokenSigner struct{ Signer }

func (brokenSigner) Sign([]byte) ([]byte, error) { return nil, errors.New("the key store is away") }

// TestNoRotationBeforeTheAnchor: lines that are not anchored stay in the file that a start reads, or their changes would
// be written a second time.
func TestNoRotationBeforeTheAnchor(t *testing.T) {
	signer, _ := testSigner(t, 1)
	r := newRig(t)
	r.edit = rotating(signer)
	r.open()
	id := r.out.commit("team-a", "server.create")
	r.d.cfg.Outbox = readOnly{r.out}
	for range 3 {
		r.d.round(t.Context(), true)
	}
	if n := len(r.files()); n != 1 || len(r.read()) != 1 {
		t.Errorf("%d files, %d records; want the record in the active file", n, len(r.read()))
	}
	r.open()
	r.d.round(t.Context(), true)
	if ids := r.sound(); ids[id] != 1 || len(ids) != 1 {
		t.Errorf("ids %v, want one", ids)
	}
}

// readOnly is an outbox whose registry takes no write.
type readOnly struct{ *memOutbox }

func (readOnly) Settle(context.Context, map[string]Head, []Pending) error {
	return errors.New("read only")
}

// TestNothingIsAppendedToAnUnclearFile: after a rotation that failed half way, the new file may be in place by somebody's
// repair. Until it was asked for, a line could go behind a header that the drain does not know of.
func TestNothingIsAppendedToAnUnclearFile(t *testing.T) {
	r := newRig(t)
	if err := r.file.Append([]byte("old\n")); err != nil {
		t.Fatal(err)
	}
	r.file.step = func(step string) {
		if step == "segment named" {
			_ = os.Rename(r.path+nextSuffix, r.path+".away")
		}
	}
	if err := r.file.Rotate("audit.00000001.20260801T100000Z.log", []byte("header\n")); err == nil {
		t.Fatal("the rotation did not fail")
	}
	_ = os.Rename(r.path+".away", r.path+nextSuffix)
	if err := r.file.Append([]byte("new\n")); err == nil {
		t.Error("a line is appended to a file that nobody looked at")
	}
	if n := r.file.Size(); n != int64(len("header\n")) {
		t.Errorf("size %d, want that of the header", n)
	}
	if err := r.file.Append([]byte("new\n")); err != nil {
		t.Errorf("after that: %v", err)
	}
	if b, _ := os.ReadFile(r.path); string(b) != "header\nnew\n" {
		t.Errorf("the file is %q", b)
	}
}

// TestStartAfterARotationWithoutMark: the heads that the file begins with stand for the segments before it.
func TestStartAfterARotationWithoutMark(t *testing.T) {
	signer, _ := testSigner(t, 1)
	r := newRig(t)
	r.edit = rotating(signer)
	r.open()
	for i := range 600 { // more heads than fit one line
		r.out.commit(tenant.ID(fmt.Sprintf("team-%d", i)), "server.create")
	}
	r.d.round(t.Context(), true)
	r.d.round(t.Context(), true)
	if len(r.files()) < 2 {
		t.Fatal("not rotated")
	}
	_ = os.Remove(r.path + markSuffix)
	r.open()
	r.out.commit("team-7", "server.delete")
	r.d.round(t.Context(), true)
	if r.log.count("missing") != 0 || len(r.sound()) != 601 {
		t.Errorf("the start takes segments for a cut: %s", r.log.b.String())
	}
}

// TestRegistryRestoredAfterARotation: the registry's heads are older than the file that is being written.
func TestRegistryRestoredAfterARotation(t *testing.T) {
	signer, keys := testSigner(t, 1)
	r := newRig(t)
	r.edit = rotating(signer)
	r.open()
	r.out.commit("team-a", "server.create")
	r.d.round(t.Context(), true)
	backup := r.out.heads["team-a"]
	for range 4 {
		r.out.commit("team-a", "server.update")
		r.d.round(t.Context(), true)
	}
	r.out.heads = map[string]Head{"team-a": backup}
	_ = os.Remove(r.path + markSuffix)
	r.open()
	r.out.commit("team-a", "server.delete")
	for range 2 {
		r.d.round(t.Context(), true)
	}
	if rep := r.verifyFiles(VerifyOptions{Heads: r.out.heads, PublicKeys: keys}); !rep.OK || len(r.read()) != 6 {
		t.Errorf("%d records, %v", len(r.read()), rep.Problems())
	}
}

func TestRetention(t *testing.T) {
	signer, keys := testSigner(t, 1)
	now := time.Date(2026, 8, 1, 10, 0, 0, 0, time.UTC)
	for name, keep := range map[string]Retention{"age": {MaxAge: 5*24*time.Hour + time.Hour}, "size": {MaxBytes: 20_000}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.edit = func(c *DrainConfig) {
				rotating(signer)(c)
				c.Retention, c.Now = keep, func() time.Time { return now }
			}
			r.open()
			for range 20 {
				r.out.commit("team-a", "server.create")
				r.d.round(t.Context(), true)
				now = now.Add(24 * time.Hour)
			}
			r.d.round(t.Context(), true)
			files := r.files()
			if n := len(files); n < 4 || n > 9 {
				t.Fatalf("%d files are left: %q", n, files)
			}
			rep := r.verifyFiles(VerifyOptions{Heads: r.out.heads, PublicKeys: keys})
			if !rep.OK || rep.Start == nil || !rep.Start.Recorded || !rep.Start.Signed {
				t.Errorf("report %+v, start %+v: %v", rep, rep.Start, rep.Problems())
			}
			r.open()
			r.d.round(t.Context(), true)
			if err := os.Remove(r.files()[0]); err != nil { // somebody removes one more
				t.Fatal(err)
			}
			rep = r.verifyFiles(VerifyOptions{Heads: r.out.heads, PublicKeys: keys})
			if got := strings.Join(rep.Problems(), "\n"); rep.OK || !strings.Contains(got, "cut at the start") {
				t.Errorf("a segment removed by hand: OK=%v, %s", rep.OK, got)
			}
			if rep := r.verifyFiles(VerifyOptions{Heads: r.out.heads, PublicKeys: keys, Part: true}); !rep.OK {
				t.Errorf("as a part: %v", rep.Problems())
			}
		})
	}
}

func TestRemoveOnlySegments(t *testing.T) {
	r := newRig(t)
	if err := r.file.Remove([]string{r.path}); err == nil {
		t.Error("the active file was removed")
	}
	for name, want := range map[string]bool{
		"audit.00000001.20260801T100000Z.jsonl": true, "audit.jsonl": false, "audit.1.20260801T100000Z.jsonl": false,
		"audit.00000000.20260801T100000Z.jsonl": false, "audit.00000001.20260801.jsonl": false, ".00000001.20260801T100000Z.jsonl": false,
		"audit.000000001.20260801T100000Z.jsonl": false, "audit-r1.100000000.20260801T100000Z.jsonl": true, "audit.00000001.20260801T100000Z.jsonl.idx": false,
	} {
		if _, _, ok := parseSegment(name, ".jsonl"); ok != want {
			t.Errorf("parseSegment(%s) = %v, want %v", name, ok, want)
		}
	}
}
