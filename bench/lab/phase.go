package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/proc"
	"github.com/polygate/polygate/bench/result"
	"github.com/polygate/polygate/bench/scenario"
)

// phase runs the loads of one phase together. The figures are valid beside an error; there are none of loads that were ended before
// their measured part began.
func (s *session) phase(ctx context.Context, ph scenario.Phase) ([]result.Run, error) {
	s.lab.cfg.Watcher.Begin(fmt.Sprintf("%s, %s, %s, turn %d", s.sc.Name, s.subject, ph.Name, s.turn), ph.Ramp+ph.Warmup+ph.Duration)
	defer s.lab.cfg.Watcher.End()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &window{s: s, began: make(chan struct{})}
	loads := loadsOf(s.sc, ph)
	callers := make([]*caller, len(loads))
	for i, l := range loads {
		callers[i] = s.byName(l.Load)
	}
	ended := make(chan struct{})
	side := s.beside(ctx, cancel, ph, callers, w, ended)
	var pace func() time.Duration
	if s.maxRate > 0 {
		pace = pacerOf(s.sc, ph, s.maxRate).wait
	}
	var g errgroup.Group
	figures := make([]result.Figures, len(loads))
	for i, l := range loads {
		g.Go(func() (err error) {
			figures[i], err = callers[i].run(ctx, ph, l, w, pace)
			if err != nil {
				cancel() // the others of the phase have no more to say
			}
			return err
		})
	}
	err := g.Wait()
	close(ended)
	if e := side.Wait(); e != nil { // it is why the loads were ended
		err = errors.Join(e, err)
	}
	w.share(figures)
	return s.runs(ph, callers, figures), err
}

func (s *session) runs(ph scenario.Phase, callers []*caller, figures []result.Figures) []result.Run {
	var out []result.Run
	for i, c := range callers {
		if figures[i].Seconds > 0 {
			out = append(out, result.Run{
				Subject: s.subject, Turn: s.turn, Phase: ph.Name, Load: c.load.Name, Protocol: string(c.load.Protocol), Asked: c.rate, Figures: figures[i],
			})
		}
	}
	return out
}

func (s *session) byName(name string) *caller {
	for _, c := range s.callers {
		if c.load.Name == name {
			return c
		}
	}
	return s.callers[0] // a scenario that was parsed names none that is not there
}

// loadsOf returns what calls in a phase: all loads, if it names none.
func loadsOf(sc *scenario.Scenario, ph scenario.Phase) []scenario.PhaseLoad {
	if len(ph.Loads) > 0 {
		return ph.Loads
	}
	var out []scenario.PhaseLoad
	for _, ld := range sc.Loads {
		out = append(out, scenario.PhaseLoad{Load: ld.Name})
	}
	return out
}

func (c *caller) run(ctx context.Context, ph scenario.Phase, l scenario.PhaseLoad, w *window, pace func() time.Duration) (result.Figures, error) {
	var from, to int64
	span := load.Span{Rate: l.Rate, From: c.rate, Concurrency: l.Concurrency, Ramp: ph.Ramp, Warmup: ph.Warmup, Duration: ph.Duration, Pace: pace}
	span.Measured = func(begins bool) {
		if begins {
			from = c.cl.BytesIn()
		} else {
			to = c.cl.BytesIn()
		}
		w.mark(begins)
	}
	if c.load.Loop == scenario.Open {
		if span.Rate == 0 {
			span.Rate = c.load.Rate
		}
		c.rate = span.Rate
	}
	f, err := c.gen.Run(ctx, span)
	f.BytesIn = max(0, to-from)
	return f, err
}

// beside runs what goes on beside a phase's loads: the live view and the events. It ends when the phase has, and ends the phase if
// something fails.
func (s *session) beside(ctx context.Context, cancel func(), ph scenario.Phase, callers []*caller, w *window, ended <-chan struct{}) *errgroup.Group {
	var g errgroup.Group
	try := func(f func() error) {
		g.Go(func() error {
			err := f()
			if err != nil {
				cancel()
			}
			return err
		})
	}
	try(func() error { return s.watch(callers, ended, len(ph.Events) > 0) })
	for _, ev := range ph.Events {
		try(func() error { return s.event(ctx, ev, w, ended) })
	}
	return &g
}

// hopeless is after how many seconds with nothing but errors a load is given up.
const hopeless = 3

// watch tells the watcher how it goes, each second. It returns an error when a load gets nothing but errors, unless that is what
// is measured.
func (s *session) watch(callers []*caller, ended <-chan struct{}, forgiving bool) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	bad := make([]int, len(callers))
	for {
		select {
		case <-ended:
			return nil
		case <-tick.C:
		}
		for i, c := range callers {
			live := c.gen.Live()
			s.lab.cfg.Watcher.Live(c.load.Name, live)
			switch {
			case live.Requests > 0:
				bad[i] = 0
			case live.Errors > 0:
				bad[i]++
			}
			if bad[i] >= hopeless && !forgiving {
				return fmt.Errorf("load %s gets nothing but errors since %d seconds: %w", c.load.Name, hopeless, errHopeless)
			}
		}
	}
}

var errHopeless = errors.New("the target does not answer it rightly")

// window is the measured part of a phase: from when the first load's begins to when the last one's ends. All loads of a phase have
// the same ramp, warm-up and length, so theirs are one.
type window struct {
	s     *session
	mu    sync.Mutex
	began chan struct{} // closed as it begins
	open  int           // loads in their measured part
	pids  []int         // of the subject as it began
	done  bool          // it has begun
	cost0 time.Duration
	self0 time.Duration
	cost  time.Duration // of the subject
	self  time.Duration // of this process
	mem   proc.Usage    // at its end
	lost  bool          // what the subject spent is not known: a process ended, or could not be read
}

// mark is called by each load as its measured part begins and ends.
func (w *window) mark(begins bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if begins {
		w.open++
		if !w.done {
			w.done = true
			if w.s.pids != nil {
				w.pids = w.s.pids()
			}
			w.cost0, w.self0 = w.cpu()
			close(w.began)
		}
		return
	}
	if w.open--; w.open > 0 {
		return
	}
	cost, self := w.cpu()
	w.cost, w.self = cost-w.cost0, self-w.self0
	if w.s.pids == nil {
		return
	}
	now := w.s.pids()
	w.mem, _ = proc.Measure(now)
	if w.lost || !slices.Equal(w.pids, now) { // what a process that ended had spent is not known any more
		w.cost = 0
	}
}

func (w *window) cpu() (cost, self time.Duration) {
	if w.s.pids != nil {
		var err error
		cost, err = proc.CPU(w.s.pids())
		w.lost = w.lost || err != nil
	}
	self, _ = proc.Self()
	return cost, self
}

// share divides what the subject and the generator spent among all right answers of the phase.
func (w *window) share(figures []result.Figures) {
	var n int64
	for _, f := range figures {
		n += f.Requests
	}
	for i := range figures {
		f := &figures[i]
		f.RSS, f.PSS = w.mem.RSS, w.mem.PSS
		if n > 0 && w.cost > 0 {
			f.CPUMicros = float64(w.cost.Microseconds()) / float64(n)
		}
		if n > 0 {
			f.Generator = float64(w.self.Microseconds()) / float64(n)
		}
	}
}
