package audit

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/tenant"
)

// bomb crashes the process at one step.
type bomb struct {
	left int
	at   string
}

type crash struct{}

func (b *bomb) step(name string) {
	if b.left--; b.left == 0 {
		b.at = name
		panic(crash{})
	}
}

// life runs f as one process that may crash, and says whether it did.
func life(f func()) (crashed bool) {
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(crash); !ok {
				panic(p)
			}
			crashed = true
		}
	}()
	f()
	return false
}

// story commits changes of several tenants, records traffic and drains, round after round. It returns the ids of the
// changes whose commit was acknowledged.
func (r *rig) story(changes, traffic map[string]bool) {
	for i := range 3 {
		for j := range 3 {
			id := []tenant.ID{"team-a", "team-b", ""}[(i+j)%3]
			changes[r.out.commit(id, "server.create")] = true
			e := entry(id, "mcp.call")
			traffic[e.ID] = true
			r.buf.Record(e)
		}
		r.d.round(r.t.Context(), i != 1) // the second round writes and does not anchor
	}
}

// TestCrashAnywhere kills the process at every step of a story, and the next process at every step of its recovery, and
// checks that every acknowledged change is in the log exactly once, and that the log verifies.
func TestCrashAnywhere(t *testing.T) {
	for _, torn := range []int{0, 700} {
		t.Run(fmt.Sprintf("torn %d", torn), func(t *testing.T) {
			for first := 1; ; first++ {
				again := true
				for second := 1; again; second++ {
					var crashed bool
					crashed, again = crashTwice(t, torn, first, second, nil)
					if !crashed {
						t.Logf("crashed at each of %d steps", first-1)
						return
					}
				}
			}
		})
	}
}

// crashTwice says whether the first and the second crash came to pass.
func crashTwice(t *testing.T, torn, first, second int, edit func(*DrainConfig)) (one, two bool) {
	r := newRig(t)
	r.edit = edit
	r.open()
	changes, traffic := make(map[string]bool), make(map[string]bool)
	arm := func(n int) *bomb {
		b := &bomb{left: n}
		r.out.step, r.sink.step = b.step, b.step
		if torn > 0 {
			r.sink.torn = func() int { return torn }
		}
		return b
	}
	b1 := arm(first)
	if one = life(func() { r.story(changes, traffic) }); !one {
		return false, false
	}
	r.open()
	b2 := arm(second)
	two = life(func() { r.d.round(t.Context(), true) })
	r.open()
	arm(0)
	r.sink.torn = nil
	r.d.round(t.Context(), true)
	r.d.round(t.Context(), true)
	where := b1.at + ", then " + b2.at
	ids := r.sound()
	if r.log.count("anchored are missing") > 0 {
		t.Fatalf("crash %s (%d, %d): a start takes it for a cut", where, first, second)
	}
	if r.d.cfg.Signer != nil {
		rep := r.verifyFiles(VerifyOptions{Heads: r.out.heads, PublicKeys: []ed25519.PublicKey{r.d.cfg.Signer.Public()}})
		if !rep.OK {
			t.Fatalf("crash %s (%d, %d): %v", where, first, second, rep.Problems())
		}
	}
	for id := range changes {
		if ids[id] != 1 {
			t.Fatalf("crash %s (%d, %d): a change is %d times in the log, want once", where, first, second, ids[id])
		}
	}
	for id := range traffic {
		if ids[id] > 1 {
			t.Fatalf("crash %s (%d, %d): a record of traffic is %d times in the log", where, first, second, ids[id])
		}
	}
	if r.out.left() != 0 {
		t.Fatalf("crash %s (%d, %d): %d entries left in the outbox", where, first, second, r.out.left())
	}
	return one, two
}

// TestCrashInALargeSettlement: one chain has more entries to remove than fit a transaction. Nothing may come twice.
func TestCrashInALargeSettlement(t *testing.T) {
	for step := 1; ; step++ {
		r := newRig(t)
		b := &bomb{left: step}
		r.out.step, r.sink.step = b.step, b.step
		for range 250 {
			r.out.commit("team-a", "server.create")
		}
		crashed := life(func() { r.d.round(t.Context(), true) })
		r.open()
		r.out.step = func(string) {}
		r.d.round(t.Context(), true)
		ids := r.sound()
		for id, n := range ids {
			if n != 1 {
				t.Fatalf("crash %s: entry %s is %d times in the log", b.at, id, n)
			}
		}
		if len(ids) != 250 || r.out.left() != 0 {
			t.Fatalf("crash %s: %d entries in the log, %d left; want 250, 0", b.at, len(ids), r.out.left())
		}
		if !crashed {
			return
		}
	}
}

func TestStartTruncatesATornLine(t *testing.T) {
	r := newRig(t)
	r.out.commit("team-a", "server.create")
	r.d.round(t.Context(), true)
	good := r.text()
	if err := os.WriteFile(r.path, append(good, `{"v":1,"chain":"team-a","se`...), 0o600); err != nil {
		t.Fatal(err)
	}
	r.open()
	r.d.round(t.Context(), true)
	r.sound()
	all := r.read()
	if last := all[len(all)-1]; len(all) != 2 || last.Action != ActionTruncated || last.Resource != "bytes/27" {
		t.Errorf("entries %+v; want the truncation to be recorded", all)
	}
}

// TestStartRemovesAnUnsyncedBatch: after a power cut, pages of a batch that was not synced may be there and others zero.
func TestStartRemovesAnUnsyncedBatch(t *testing.T) {
	r := newRig(t)
	r.out.commit("team-a", "server.create")
	r.d.round(t.Context(), true)
	id := r.out.commit("team-a", "server.delete")
	l := r.out.heads["team-a"].Next("team-a", EncodeEntry(r.out.entries[0].Entry))
	batch := AppendLine(nil, l)
	batch = AppendLine(batch, l.Head().Next("team-a", EncodeEntry(entry("team-a", "mcp.call"))))
	clear(batch[100:300])
	if err := os.WriteFile(r.path, append(r.text(), batch...), 0o600); err != nil {
		t.Fatal(err)
	}
	r.open()
	r.d.round(t.Context(), true)
	if r.sound()[id] != 1 {
		t.Error("the change is not in the log")
	}
}

// TestStartAfterACut: the file lost anchored records. It starts, says so, and the verifier shows the gap for ever.
func TestStartAfterACut(t *testing.T) {
	for name, damage := range map[string]func(r *rig){
		"cut": func(r *rig) {
			l := lines(r.text())
			_ = os.WriteFile(r.path, bytes.Join(l[:2], nil), 0o600)
		},
		"emptied": func(r *rig) { _ = os.Truncate(r.path, 0) },
		"removed": func(r *rig) { _ = os.Remove(r.path) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			for range 4 {
				r.out.commit("team-a", "server.create")
			}
			r.d.round(t.Context(), true)
			_ = r.file.Close()
			damage(r)
			r.open()
			id := r.out.commit("team-a", "server.delete")
			r.d.round(t.Context(), true)
			if r.log.count("anchored are missing") != 1 || r.log.count("team-a") == 0 {
				t.Errorf("the log does not name the chain that was cut: %s", r.log.b.String())
			}
			if r.ids()[id] != 1 || r.out.left() != 0 {
				t.Error("what came after is not in the log")
			}
			for range 2 {
				rep := verify(t, r.text(), r.out.heads)
				if rep.OK || !strings.Contains(rep.Chains["team-a"].Bad.Why, "dropped") {
					t.Fatalf("report %+v, want the gap", rep.Chains["team-a"])
				}
				r.open()
				r.d.round(t.Context(), true)
			}
		})
	}
}

// TestDamageBeforeTheAnchorStays: a start may remove what a crash left, and never what somebody changed.
func TestDamageBeforeTheAnchorStays(t *testing.T) {
	r := newRig(t)
	for range 4 {
		r.out.commit("team-a", "server.create")
	}
	r.d.round(t.Context(), true)
	bad := bytes.Replace(r.text(), []byte("everything"), []byte("everyth1ng"), 1)
	_ = os.WriteFile(r.path, bad, 0o600)
	_ = os.Remove(r.path + markSuffix)
	r.open()
	r.out.commit("team-a", "server.delete")
	r.d.round(t.Context(), true)
	if got := r.text(); !bytes.HasPrefix(got, bad) || len(lines(got)) != 5 {
		t.Errorf("log is\n%s\nwant the damage kept and a fifth line", got)
	}
	if rep := verify(t, r.text(), r.out.heads); rep.OK || rep.Chains["team-a"].Bad.Line != 1 || rep.Chains["team-a"].BadLines != 1 {
		t.Errorf("report %+v, want line 1 only", rep.Chains["team-a"])
	}
}

// TestRegistryRestored: the registry came back from a backup and its heads are older than the file.
func TestRegistryRestored(t *testing.T) {
	r := newRig(t)
	r.out.commit("team-a", "server.create")
	r.d.round(t.Context(), true)
	old := r.out.heads["team-a"]
	r.out.commit("team-a", "server.delete")
	backup := r.out.entries[0]
	r.d.round(t.Context(), true)
	r.out.heads["team-a"], r.out.entries = old, []Pending{backup}
	r.open()
	r.d.round(t.Context(), true)
	if ids := r.sound(); ids[backup.Entry.ID] != 1 || len(ids) != 2 || r.out.left() != 0 {
		t.Errorf("ids %v, left %d; want no second copy", ids, r.out.left())
	}
}

// TestStartReadsOnlyTheEnd: a start must not read a log of gigabytes.
func TestStartReadsOnlyTheEnd(t *testing.T) {
	r := newRig(t)
	for range 2000 {
		for range 60 {
			r.buf.Record(entry("team-a", "mcp.call"))
		}
		r.d.round(t.Context(), false)
		if len(r.d.dirty) > 0 && r.file.Size() > 1<<20 {
			break
		}
	}
	r.d.round(t.Context(), true)
	size := r.file.Size()
	for _, c := range []struct {
		name  string
		spoil func()
		whole bool
	}{
		{"as it was", func() {}, false},
		{"mark lost", func() { _ = os.Remove(r.path + markSuffix) }, true},
		{"mark torn", func() { _ = os.WriteFile(r.path+markSuffix, []byte(`{"v":1,"before":`), 0o600) }, true},
		{"mark of another log", func() {
			_ = os.WriteFile(r.path+markSuffix, bytes.Replace(r.file.Mark(), []byte(`"line":"`), []byte(`"line":"0`), -1), 0o600)
		}, true},
	} {
		r.open()
		c.spoil()
		r.d.round(t.Context(), true)
		if read := r.sink.read; (read >= size) != c.whole {
			t.Errorf("%s: %d of %d bytes read, want all: %v", c.name, read, size, c.whole)
		}
		r.out.commit("team-a", "server.create") // writes a new mark
		r.d.round(t.Context(), true)
		r.sound()
	}
}

func TestFileMovedAway(t *testing.T) {
	for name, recreate := range map[string]bool{"moved": false, "moved and made anew": true} {
		t.Run(name, func(t *testing.T) { fileMovedAway(t, recreate) })
	}
}

func fileMovedAway(t *testing.T, recreate bool) {
	r := newRig(t)
	r.out.commit("team-a", "server.create")
	r.d.round(t.Context(), true)
	moved := filepath.Join(filepath.Dir(r.path), "audit.log.1")
	if err := os.Rename(r.path, moved); err != nil {
		t.Fatal(err)
	}
	if recreate {
		if err := os.WriteFile(r.path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	id := r.out.commit("team-a", "server.delete")
	r.d.round(t.Context(), true)
	if r.log.count("moved or removed") != 1 {
		t.Error("the move is not logged")
	}
	r.d.round(t.Context(), true)
	if r.ids()[id] != 1 || r.out.left() != 0 || r.d.Err() != nil {
		t.Errorf("Err %v, left %d; want the log to go on in a new file", r.d.Err(), r.out.left())
	}
	old, err := os.ReadFile(moved)
	if err != nil {
		t.Fatal(err)
	}
	if rep := verify(t, append(old, r.text()...), r.out.heads); !rep.OK {
		t.Errorf("the two files together do not verify: %v", rep.Problems())
	}
}

// TestFileChangedBySomebody: lines that others add or remove stay visible, and ours are still whole.
func TestFileChangedBySomebody(t *testing.T) {
	for name, change := range map[string]func(path string){
		"added": func(path string) {
			f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			_, _ = f.WriteString("forged")
			_ = f.Close()
		},
		"cut":     func(path string) { _ = os.Truncate(path, 40) },
		"emptied": func(path string) { _ = os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.out.commit("team-a", "server.create")
			r.d.round(t.Context(), true)
			change(r.path)
			r.out.commit("team-b", "server.create")
			r.d.round(t.Context(), true)
			r.d.round(t.Context(), true)
			rep := verify(t, r.text(), r.out.heads)
			if rep.OK || rep.Chains["team-b"].Bad != nil || rep.Chains["team-b"].Lines != 1 {
				t.Errorf("report %+v %+v; want it bad, and team-b's line whole", rep, rep.Chains["team-b"])
			}
			if r.log.count("changed by another process") != 1 || r.d.Err() != nil {
				t.Errorf("log %s, Err %v", r.log.b.String(), r.d.Err())
			}
		})
	}
}
