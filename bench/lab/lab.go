// Package lab measures: it lays a site out, starts the upstream and one subject after the other on processors of their own, sends the
// loads of a scenario through its phases, does what is to happen meanwhile, and returns figures with what the subject's processes
// cost. What a load, a subject or a report is belongs to the packages below it.
package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/peer"
	"github.com/polygate/polygate/bench/proc"
	"github.com/polygate/polygate/bench/result"
	"github.com/polygate/polygate/bench/scenario"
)

// Config is what a lab works with.
type Config struct {
	Dir     string  // for all files; exists
	Self    string  // polybench's own program, which runs the upstream
	Keep    bool    // leave configurations and logs there; the logs of a minute may be hundreds of MB
	Watcher Watcher // nil = nobody
}

// Watcher is told what goes on. Its methods are called from one goroutine at a time.
type Watcher interface {
	// Begin says which run begins, in words, and how long it takes about.
	Begin(what string, about time.Duration)
	// Live has what has happened since the call before, about once a second; load is its name.
	Live(load string, l load.Live)
	// End says that the run that began last has ended.
	End()
}

type silent struct{}

func (silent) Begin(string, time.Duration) {}
func (silent) Live(string, load.Live)      {}
func (silent) End()                        {}

// Lab measures subjects, one at a time. It may be used by one goroutine.
type Lab struct {
	cfg   Config
	split split
	laid  int // folders that were made

	repeated map[string]int64 // requests that were sent again since a kept connection had ended, by subject
}

// New returns a lab.
func New(cfg Config) (*Lab, error) {
	if fi, err := os.Stat(cfg.Dir); err != nil || !fi.IsDir() {
		return nil, fmt.Errorf("the lab's folder %s is not there", cfg.Dir)
	}
	if cfg.Self == "" {
		return nil, errors.New("the lab has no program that runs its upstream")
	}
	if cfg.Watcher == nil {
		cfg.Watcher = silent{}
	}
	return &Lab{cfg: cfg}, nil
}

// split says which processors are whose.
type split struct {
	subject, others []int // nil = all
}

// divide gives the subject so many processors and the rest to the generator and the upstream. On a machine that has no rest, all
// share all, and the figures say so by Notes.
func divide(cores, wanted int) split {
	if wanted >= cores {
		return split{}
	}
	var s split
	for i := range cores {
		if i < wanted {
			s.subject = append(s.subject, i)
		} else {
			s.others = append(s.others, i)
		}
	}
	return s
}

// take divides the processors, and moves this process, which generates the load, to its part.
func (l *Lab) take(wanted int) error {
	l.split = divide(proc.Cores(), wanted)
	if err := proc.Pin(l.split.others); err != nil {
		return fmt.Errorf("leave the subject its processors: %w", err)
	}
	return nil
}

// Variant is one way in which a scenario is measured: what differs from the file.
type Variant struct {
	Name       string
	Protocol   scenario.Protocol   // "" = the loads' own
	Credential scenario.Credential // "" = the loads' own
}

// apply returns the scenario as the variant has it.
func (v Variant) apply(sc *scenario.Scenario) *scenario.Scenario {
	c := *sc
	c.Loads = append([]scenario.Load(nil), sc.Loads...)
	for i := range c.Loads {
		if v.Protocol != "" {
			c.Loads[i] = c.Loads[i].With(v.Protocol)
		}
		if v.Credential != "" {
			c.Loads[i].Credential = v.Credential
		}
	}
	return &c
}

// Job is a scenario to measure on subjects, side by side.
type Job struct {
	Scenario *scenario.Scenario
	Variants []Variant // empty: the scenario as it is
	Subjects []peer.Peer
	Turns    int           // of each subject: A B A B
	Warmup   time.Duration // of each phase, in place of the scenario's; 0 = as it is
	Duration time.Duration // likewise
	Notes    []string      // for the report: what a reader has to know beside what the lab says
}

// Compare measures a job: for each variant, each turn measures every subject once, in an order that turns round, so that whatever
// the machine does meanwhile happens to all. Subjects that are missing or cannot do a variant are skipped with a note. The findings
// are valid beside an error.
func (l *Lab) Compare(ctx context.Context, job Job) (result.Scenario, []result.Skipped, error) {
	out := result.Scenario{Name: job.Scenario.Name, About: job.Scenario.About}
	l.repeated = make(map[string]int64)
	var skipped []result.Skipped
	variants := job.Variants
	if len(variants) == 0 {
		variants = []Variant{{Name: describe(job.Scenario)}}
	}
	for _, v := range variants {
		runs, skips, err := l.variant(ctx, job, v)
		out.Runs = append(out.Runs, runs...)
		skipped = append(skipped, skips...)
		if err != nil {
			return out, skipped, err
		}
	}
	out.Notes = append(append(out.Notes, l.notes()...), job.Notes...)
	for _, v := range variants {
		if sc := v.apply(job.Scenario); shows(sc, scenario.JWT) || shows(sc, scenario.OIDC) {
			out.Notes = append(out.Notes, tokensNote)
			break
		}
	}
	for _, p := range slices.Sorted(maps.Keys(l.repeated)) {
		out.Notes = append(out.Notes, fmt.Sprintf("%s: %d requests met a kept connection that had ended, and were sent again on another", p, l.repeated[p]))
	}
	return out, skipped, nil
}

const groupsNote = "clients offer the key exchange X25519 alone, as not all subjects know X25519MLKEM768"

const tokensNote = "each tenant has one token for the whole run: a subject that remembers tokens that it verified, as polygate does, verifies it once; haproxy verifies it with each request"

// notes say what a reader has to know about how it was measured.
func (l *Lab) notes() []string {
	if l.split.subject == nil {
		return []string{"subject, generator and upstream share all processors: rates are of all of them together", groupsNote}
	}
	return []string{fmt.Sprintf("the subject runs on processors %v, the generator and the upstream on %v", l.split.subject, l.split.others), groupsNote}
}

// describe names a variant by what its loads speak and show.
func describe(sc *scenario.Scenario) string {
	var parts []string
	add := func(s string) {
		for _, p := range parts {
			if p == s {
				return
			}
		}
		parts = append(parts, s)
	}
	for _, ld := range sc.Loads {
		add(string(ld.Protocol))
	}
	for _, ld := range sc.Loads {
		if ld.Credential != scenario.NoCredential && ld.Credential != "" {
			add(string(ld.Credential))
		}
	}
	return strings.Join(parts, ", ")
}

// variant measures all subjects in turns.
func (l *Lab) variant(ctx context.Context, job Job, v Variant) ([]result.Run, []result.Skipped, error) {
	sc := shortened(v.apply(job.Scenario), job.Warmup, job.Duration)
	if err := l.take(sc.Site.Cores); err != nil {
		return nil, nil, err
	}
	st, err := l.layOut(ctx, sc)
	if err != nil {
		return nil, nil, err
	}
	defer st.close()
	var runs []result.Run
	var skipped []result.Skipped
	out := make(map[string]bool)
	for turn := 1; turn <= job.Turns; turn++ {
		for _, p := range order(job.Subjects, turn) {
			if out[p.Name()] {
				continue
			}
			got, err := l.turn(ctx, st, sc, p, turn)
			for i := range got {
				got[i].Variant = v.Name
			}
			runs = append(runs, got...)
			if peer.Skippable(err) && ctx.Err() == nil {
				out[p.Name()] = true
				skipped = append(skipped, result.Skipped{Subject: p.Name(), Why: fmt.Sprintf("%s, %s: %v", sc.Name, v.Name, err)})
				continue
			}
			if err != nil {
				return runs, skipped, fmt.Errorf("%s, %s, %s: %w", sc.Name, v.Name, p.Name(), err)
			}
		}
	}
	return runs, skipped, nil
}

// shortened returns the scenario with other times.
func shortened(sc *scenario.Scenario, warmup, duration time.Duration) *scenario.Scenario {
	c := *sc
	c.Phases = append([]scenario.Phase(nil), sc.Phases...)
	for i := range c.Phases {
		if warmup > 0 {
			c.Phases[i].Warmup = warmup
		}
		if duration > 0 && c.Phases[i].Duration > 0 {
			c.Phases[i].Duration = duration
		}
	}
	return &c
}

// order turns the subjects round by one with each turn, so that none is always the first.
func order(all []peer.Peer, turn int) []peer.Peer {
	if len(all) == 0 {
		return nil
	}
	at := (turn - 1) % len(all)
	return append(append([]peer.Peer(nil), all[at:]...), all[:at]...)
}

// clear removes a folder of folder's, unless it is to be kept.
func (l *Lab) clear(dir string) {
	if !l.cfg.Keep {
		_ = os.RemoveAll(dir)
	}
}

// folder makes a folder for one start of one subject.
func (l *Lab) folder(name string) (string, error) {
	l.laid++
	dir := filepath.Join(l.cfg.Dir, fmt.Sprintf("%03d-%s", l.laid, name))
	return dir, os.MkdirAll(dir, 0o700)
}
