package audit

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// platform is a store that several replicas share, in memory, with the rules of the registry's outbox.
type platform struct {
	step    func(string)      // called around each effect; may panic, as a crash
	entries []shared          // in the order of commits
	taken   map[string]string // by whom, under of/id
	heads   map[string]Head
	live    map[string]bool
	planted string // the defect of the day
}

// shared is an entry and whose it is.
type shared struct {
	Pending
	of string
}

// view is the platform as one replica's outbox.
type view struct {
	*platform
	me        string
	committed chan struct{}
}

func (v *view) Committed() <-chan struct{} { return v.committed }

func (v *view) of(replica string, limit int) (out []Pending) {
	for _, e := range v.entries {
		if e.of == replica && len(out) < limit {
			out = append(out, e.Pending)
		}
	}
	return out
}

func (v *view) Pending(_ context.Context, limit int) ([]Pending, error) {
	return v.of(v.me, limit), nil
}
func (v *view) Unnamed(_ context.Context, limit int) ([]Pending, error) { return v.of("", limit), nil }

func (v *view) OwnHeads(context.Context) (map[string]Head, error) {
	out := maps.Clone(v.heads)
	maps.DeleteFunc(out, func(chain string, _ Head) bool { _, r := SplitChain(chain); return r != "" && r != v.me })
	return out, nil
}

func (v *view) Settle(_ context.Context, heads map[string]Head, drained []Pending) error {
	byChain := make(map[string][]Pending)
	for name := range heads {
		byChain[name] = nil
	}
	for _, p := range drained {
		byChain[p.InChain()] = append(byChain[p.InChain()], p)
	}
	names := slices.Sorted(maps.Keys(byChain))
	slices.SortStableFunc(names, func(a, b string) int {
		return strings.Compare(fmt.Sprint(isCheckpoints(a)), fmt.Sprint(isCheckpoints(b)))
	})
	for _, name := range names {
		v.step("before settling " + name)
		for _, p := range byChain[name] {
			if of, _, _ := strings.Cut(p.Key, "/"); v.taken[of+"/"+p.Entry.ID] != "" && v.planted != "no fence" {
				return fmt.Errorf("settle: %w", ErrTaken)
			}
		}
		if h, ok := heads[name]; ok {
			v.heads[name] = h
		}
		v.entries = slices.DeleteFunc(v.entries, func(s shared) bool {
			return slices.ContainsFunc(byChain[name], func(p Pending) bool { return p.Key == s.Key })
		})
		v.step("after settling " + name)
	}
	return nil
}

func (v *view) TakeOver(context.Context, time.Duration) (n int, err error) {
	for i, e := range v.entries {
		if e.of == v.me || e.of != "" && v.live[e.of] {
			continue
		}
		v.step("before a take-over")
		if v.planted != "no mark" {
			v.taken[e.of+"/"+e.Entry.ID] = v.me
		}
		delete(v.taken, v.me+"/"+e.Entry.ID)
		v.entries[i].of, v.entries[i].Key = v.me, v.me+"/"+e.Entry.ID
		n++
		v.step("after a take-over")
	}
	return n, nil
}

func (v *view) Taken(context.Context) (map[string]bool, error) {
	out := make(map[string]bool)
	for key, by := range v.taken {
		if of, id, _ := strings.Cut(key, "/"); (of == v.me || of == "") && by != v.me {
			out[id] = true
		}
	}
	if v.planted == "blind" {
		clear(out)
	}
	return out, nil
}

func (v *view) Forget(_ context.Context, ids map[string]bool) error {
	v.step("before forgetting")
	for id := range ids {
		delete(v.taken, v.me+"/"+id)
	}
	v.step("after forgetting")
	return nil
}

// fleet is three replicas on one platform.
type fleet struct {
	*platform
	t       *testing.T
	rng     *rand.Rand
	dir     string
	now     time.Time
	drains  map[string]*Drain
	files   map[string]*File
	signer  Signer
	changes map[string]bool
	traffic map[string]bool
	crashes int
}

func newFleet(t *testing.T, seed uint64, planted string) *fleet {
	signer, err := NewSigner(make([]byte, ed25519.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	return &fleet{
		platform: &platform{step: func(string) {}, taken: make(map[string]string), heads: make(map[string]Head), live: make(map[string]bool), planted: planted},
		t:        t, rng: rand.New(rand.NewPCG(seed, 1)), dir: t.TempDir(), now: time.Date(2026, 8, 1, 10, 0, 0, 0, time.UTC), signer: signer,
		drains: make(map[string]*Drain), files: make(map[string]*File), changes: make(map[string]bool), traffic: make(map[string]bool),
	}
}

func (f *fleet) path(name string) string { return filepath.Join(f.dir, "audit-"+name+".jsonl") }

// start starts a process of a replica, after what there was of an earlier one.
func (f *fleet) start(name string, shared bool) {
	f.kill(name)
	file, err := OpenFile(f.path(name))
	if err != nil {
		f.t.Fatal(err)
	}
	file.step = func(s string) { f.step(s) }
	sink := &faultySink{File: file, path: f.path(name), step: func(s string) { f.step(s) }}
	d, err := NewDrain(DrainConfig{
		Outbox: &view{f.platform, name, make(chan struct{}, 1)}, Buffer: NewBuffer(256), Sink: sink, Replica: name, Shared: shared,
		Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return f.now }, Signer: f.signer, Checkpoint: time.Minute,
		Rotation: Rotation{MaxAge: 10 * time.Minute},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.drains[name], f.files[name], f.live[name] = d, file, true
}

func (f *fleet) kill(name string) {
	if file := f.files[name]; file != nil {
		_ = file.Close()
	}
	delete(f.drains, name)
	delete(f.files, name)
	f.live[name] = false
}

func (f *fleet) commit(name string) {
	id := []tenant.ID{"team-a", "team-b", ""}[f.rng.IntN(3)]
	e := entry(id, "server.create")
	e.Replica = name
	f.entries = append(f.entries, shared{Pending{Key: name + "/" + e.ID, Entry: e}, name})
	f.changes[e.ID] = true
}

// act does one thing that happens to a replica.
func (f *fleet) act(name string) {
	f.now = f.now.Add(time.Duration(f.rng.IntN([]int{100, 4000}[f.rng.IntN(2)])) * time.Millisecond)
	d := f.drains[name]
	switch n := f.rng.IntN(12); {
	case d == nil && n < 6:
		f.start(name, true)
	case d == nil:
	case n < 4 && f.live[name]: // a change needs a session
		f.commit(name)
		d.ask = true
	case n < 6:
		e := entry("team-a", "mcp.call")
		e.Replica = name
		f.traffic[e.ID] = true
		d.cfg.Buffer.Record(e)
	case n < 8: // the session ends and the process does not know, or it comes back
		f.live[name] = !f.live[name]
	default:
		f.round(name, f.rng.IntN(3) == 0)
	}
}

// round runs a round of a drain, which may crash at any of its steps.
func (f *fleet) round(name string, crash bool) {
	if b := (&bomb{left: 1 + f.rng.IntN(12)}); crash {
		f.step = b.step
	}
	died := life(func() { f.drains[name].round(f.t.Context(), f.rng.IntN(2) == 0) })
	f.step = func(string) {}
	if died {
		f.crashes++
		f.kill(name)
	}
}

// settle brings all replicas back, and lets them finish.
func (f *fleet) settle(names []string) {
	for _, name := range names {
		if f.drains[name] == nil || f.rng.IntN(2) == 0 {
			f.start(name, true)
		}
		f.live[name] = true
	}
	for range 6 {
		for _, name := range names {
			f.now = f.now.Add(pollEvery)
			f.drains[name].round(f.t.Context(), true)
			if err := f.drains[name].Err(); err != nil {
				f.t.Logf("%s: %v", name, err)
			}
		}
	}
}

// faults returns what is wrong: each change must be in one log, once, and every log must verify.
func (f *fleet) faults(names []string) (bad []string) {
	count := make(map[string]int)
	for _, name := range names {
		files, err := LogFiles(f.path(name))
		if err != nil {
			f.t.Fatal(err)
		}
		heads := maps.Clone(f.heads)
		maps.DeleteFunc(heads, func(chain string, _ Head) bool { _, r := SplitChain(chain); return r != name })
		rep, err := VerifyFiles(files, VerifyOptions{Heads: heads, PublicKeys: []ed25519.PublicKey{f.signer.Public()}})
		if err != nil {
			f.t.Fatal(err)
		}
		for _, p := range rep.Problems() {
			bad = append(bad, name+": "+p)
		}
		r := &rig{t: f.t, path: f.path(name)}
		for id, n := range r.ids() {
			count[id] += n
		}
	}
	for id := range f.changes {
		if count[id] != 1 {
			bad = append(bad, fmt.Sprintf("change %s is %d times in the logs", id, count[id]))
		}
	}
	for id := range f.traffic {
		if count[id] > 1 {
			bad = append(bad, fmt.Sprintf("record %s is %d times in the logs", id, count[id]))
		}
	}
	if len(f.entries) > 0 {
		bad = append(bad, fmt.Sprintf("%d entries are left in the outbox", len(f.entries)))
	}
	return bad
}

// TestReplicasExactlyOnce: three drains on one store are killed at any step, taken for dead while they live, and take over from
// each other; every acknowledged change is in one log, once.
func TestReplicasExactlyOnce(t *testing.T) {
	names := []string{"r1", "r2", "r3"}
	crashes, taken := 0, 0
	for seed := range uint64(40) {
		f := newFleet(t, seed, "")
		for range 120 {
			f.act(names[f.rng.IntN(3)])
		}
		taken += len(f.taken)
		f.settle(names)
		if bad := f.faults(names); len(bad) > 0 {
			t.Fatalf("seed %d: %s", seed, strings.Join(bad[:min(5, len(bad))], "\n"))
		}
		crashes += f.crashes
		for _, n := range names {
			f.kill(n)
		}
	}
	t.Logf("%d crashes, %d take-overs at the ends of the stories", crashes, taken)
	if crashes < 100 || taken == 0 {
		t.Error("too little happened")
	}
}

// TestReplicasPlanted: without the mark, the fence of a settlement or the look at a start, a change is recorded twice: the test
// above would see it.
func TestReplicasPlanted(t *testing.T) {
	names := []string{"r1", "r2", "r3"}
	for _, planted := range []string{"no mark", "no fence", "blind"} {
		found := false
		for seed := uint64(0); seed < 60 && !found; seed++ {
			f := newFleet(t, seed, planted)
			for range 120 {
				f.act(names[f.rng.IntN(3)])
				if planted == "blind" && f.rng.IntN(10) == 0 {
					clear(f.taken) // as if they had been forgotten
				}
			}
			f.settle(names)
			found = len(f.faults(names)) > 0
			for _, n := range names {
				f.kill(n)
			}
		}
		if !found {
			t.Errorf("%s: nothing was found", planted)
		}
	}
}

// TestTakenForDead: a replica wrote a change into its log, lost its session before it settled, and another took the change over.
// It takes it out, keeps what came behind it, and its chain goes on.
func TestTakenForDead(t *testing.T) {
	f := newFleet(t, 1, "")
	f.start("r1", true)
	f.start("r2", true)
	f.drains["r1"].round(t.Context(), true)
	f.commit("r1")
	d := f.drains["r1"]
	d.ask, d.settledAt = true, f.now
	e := entry("team-a", "mcp.call")
	f.traffic[e.ID] = true
	d.write(t.Context())
	d.cfg.Buffer.Record(e)
	d.write(t.Context())
	f.live["r1"] = false
	f.now = f.now.Add(pollEvery)
	f.drains["r2"].round(t.Context(), true)
	f.live["r1"] = true
	d.round(t.Context(), true)
	d.round(t.Context(), true)
	if bad := f.faults([]string{"r1", "r2"}); len(bad) > 0 {
		t.Error(bad)
	}
	r := &rig{t: t, path: f.path("r1")}
	var actions []string
	for _, e := range r.read() {
		actions = append(actions, e.Action)
	}
	if want := []string{"mcp.call", ActionTaken}; !slices.Equal(actions, want) {
		t.Errorf("r1's log has %v, want %v", actions, want)
	}
	f.kill("r1")
	f.kill("r2")
}

// TestUpgrade: a log and an outbox of a platform of one replica go on on a platform of several: what was written and not settled
// is settled under its old name, what was not written is written, and the old chains verify.
func TestUpgrade(t *testing.T) {
	for name, died := range map[string]int{"stopped": 0, "died after writing": 1, "died before writing": 2} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, 1, "")
			f.start("r1", false)
			f.commit("")
			f.commit("")
			f.entries[0].of, f.entries[1].of = "r1", "r1"
			d := f.drains["r1"]
			d.round(t.Context(), true)
			f.commit("")
			f.entries[0].of = "r1"
			d.ask, d.settledAt = true, f.now
			switch died {
			case 0:
				d.round(t.Context(), true)
			case 1:
				d.write(t.Context())
			}
			for i := range f.entries {
				f.entries[i].of = "" // as a version that knew of one replica left them
			}
			names := []string{"r1", "r2"}
			f.start("r1", true)
			f.start("r2", true)
			f.drains["r1"].round(t.Context(), true)
			f.drains["r2"].round(t.Context(), true)
			f.commit("r1")
			f.commit("r2")
			f.settle(names)
			for _, name := range names {
				f.kill(name)
			}
			upgraded(t, f)
		})
	}
}

// upgraded checks both logs against all heads.
func upgraded(t *testing.T, f *fleet) {
	rep, err := VerifyLogs([]string{f.path("r1"), f.path("r2")}, VerifyOptions{Heads: f.heads, PublicKeys: []ed25519.PublicKey{f.signer.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	if !rep.OK {
		t.Errorf("the logs do not verify: %v", rep.Problems())
	}
	count := make(map[string]int)
	for _, name := range []string{"r1", "r2"} {
		r := &rig{t: t, path: f.path(name)}
		for id, n := range r.ids() {
			count[id] += n
		}
	}
	for id := range f.changes {
		if count[id] != 1 {
			t.Errorf("a change is %d times in the logs", count[id])
		}
	}
	if len(f.entries) > 0 {
		t.Errorf("%d entries are left", len(f.entries))
	}
}
