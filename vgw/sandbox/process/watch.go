package process

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// sweepEvery is how often the whole folder is looked at, beside what shims tell: for shims that were killed before they could be
// listened to, and runs that another gateway makes in its last moments.
const sweepEvery = 3 * time.Second

// watcher is one Watch.
type watcher struct {
	d       *driver
	seen    func(sandbox.Observation)
	last    map[string]sandbox.Observation // by folder
	listen  map[string]context.CancelFunc  // folders whose shim is listened to; used by run alone
	ended   chan string                    // folders whose shim hung up
	changed chan string                    // folders to look at
	wg      sync.WaitGroup
}

// Watch implements sandbox.Driver.
func (d *driver) Watch(ctx context.Context, seen func(sandbox.Observation), synced func()) error {
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{d: d, seen: seen, last: map[string]sandbox.Observation{}, listen: map[string]context.CancelFunc{},
		ended: make(chan string), changed: make(chan string)}
	defer w.wg.Wait()
	defer cancel()
	return w.run(ctx, synced)
}

func (w *watcher) run(ctx context.Context, synced func()) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	woken := w.d.waking()
	if err := w.sweep(ctx); err != nil {
		return err
	}
	synced()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case name := <-w.changed:
			w.look(ctx, name)
			continue
		case name := <-w.ended:
			delete(w.listen, name)
			w.look(ctx, name)
			continue
		case <-woken:
			woken = w.d.waking()
		case <-tick.C:
			w.d.all.reap()
		}
		if err := w.sweep(ctx); err != nil {
			return err
		}
	}
}

// sweep looks at all runs.
func (w *watcher) sweep(ctx context.Context) error {
	dir, err := os.Open(w.d.dir)
	if err != nil && !gone(err) {
		return fault.Wrap(fault.Unavailable, err, "the tenant's folder of sandboxes cannot be read")
	}
	var names []string
	if err == nil {
		names, err = dir.Readdirnames(maxRuns)
		_ = dir.Close()
		if err != nil && len(names) == 0 && err.Error() != "EOF" {
			return fault.Wrap(fault.Unavailable, err, "the tenant's folder of sandboxes cannot be read")
		}
	}
	there := make(map[string]bool, len(names))
	for _, name := range names {
		if _, _, ok := parseRunFolder(name); ok {
			there[name] = true
			w.look(ctx, name)
		}
	}
	for name := range w.last {
		if !there[name] {
			w.look(ctx, name)
		}
	}
	return nil
}

// look observes one run, and tells if something is new.
func (w *watcher) look(ctx context.Context, name string) {
	o, more := w.d.observe(name)
	last, known := w.last[name]
	if o.Phase == sandbox.PhaseAbsent {
		if known {
			delete(w.last, name)
			last.Phase = sandbox.PhaseAbsent
			w.seen(last)
		}
		return
	}
	switch more {
	case toListen:
		w.hear(ctx, name)
	case toBegin:
		w.begin(ctx, name)
	case nothing:
	}
	if !known || !same(last, o) {
		w.last[name] = o
		w.seen(o)
	}
}

// same compares what an observation here can hold.
func same(a, b sandbox.Observation) bool {
	exit := func(e *int) int {
		if e == nil {
			return -1
		}
		return *e
	}
	return a.UID == b.UID && a.Phase == b.Phase && a.Started.Equal(b.Started) && a.Ended.Equal(b.Ended) &&
		exit(a.Exit) == exit(b.Exit) && a.Reason == b.Reason && a.Message == b.Message
}

// hear waits for news of a shim.
func (w *watcher) hear(ctx context.Context, name string) {
	if w.listen[name] != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	w.listen[name] = cancel
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		defer cancel()
		w.news(ctx, filepath.Join(w.d.dir, name), name)
		select {
		case w.ended <- name:
		case <-ctx.Done():
		}
	}()
}

func (w *watcher) news(ctx context.Context, path, name string) {
	conn, err := dial(ctx, path, callSocket)
	if err != nil {
		// It is about to begin or to end, or is dead: the next look tells. Not at once, lest it is asked without a pause.
		pause(ctx, 500*time.Millisecond)
		return
	}
	defer conn.Close() //nolint:errcheck // done
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	f := &frames{rw: conn}
	if f.write(frameNews, nil) != nil {
		return
	}
	for {
		if f.want(frameNews, 0, nil) != nil {
			return
		}
		select {
		case w.changed <- name:
		case <-ctx.Done():
			return
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// begin starts the shim of a run whose maker died in between.
func (w *watcher) begin(ctx context.Context, name string) {
	if w.listen[name] != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	w.listen[name] = cancel
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		defer cancel()
		if err := w.d.all.begin(ctx, filepath.Join(w.d.dir, name)); err != nil {
			w.d.all.cfg.Logger.WarnContext(ctx, "a sandbox could not be started", "tenant", w.d.tenant.Scope.String(), "err", err)
			pause(ctx, sweepEvery)
		}
		select {
		case w.ended <- name:
		case <-ctx.Done():
		}
	}()
}

// what is to be done about a run that was observed.
type todo uint8

const (
	nothing todo = iota
	toListen
	toBegin
)

// observe looks at one run.
func (d *driver) observe(name string) (sandbox.Observation, todo) {
	id, nonce, _ := parseRunFolder(name)
	o := sandbox.Observation{Sandbox: id, Nonce: nonce}
	path := filepath.Join(d.dir, name)
	made, err := readOrder(path)
	if err != nil {
		if !gone(err) { // nothing that we made: it is left alone, and said
			d.all.cfg.Logger.Warn("a folder of a sandbox makes no sense", "folder", path, "err", err)
		}
		return o, nothing
	}
	o.UID = made.UID
	st, err := readStatus(path)
	if err == nil && st != nil && st.UID != made.UID {
		err = errFrame
	}
	if err == nil && st != nil && st.Phase != sandbox.PhaseEnded && !st.Shim.alive() {
		st, err = d.lost(path, made)
	}
	switch {
	case err != nil:
		o.Phase, o.Message = sandbox.PhaseWaiting, "its folder cannot be read"
		d.all.cfg.Logger.Warn("the status of a sandbox cannot be read", "folder", path, "err", err)
		return o, nothing
	case st == nil:
		o.Phase, o.Reason = sandbox.PhaseWaiting, sandbox.ReasonWaiting
		if d.all.cfg.Now().Sub(made.Made) > sweepEvery {
			return o, toBegin
		}
		return o, nothing
	}
	o.Phase, o.Started, o.Ended, o.Exit, o.Reason, o.Message = st.Phase, st.Started, st.Ended, st.Exit, st.Reason, st.Message
	if st.Phase == sandbox.PhaseEnded {
		return o, nothing
	}
	return o, toListen
}

// lost stores the end of a run whose shim is dead.
func (d *driver) lost(path string, o *order) (*status, error) {
	if err := d.all.bury(path, o, sandbox.ReasonReplica, "what supervised it was killed, and it with that: the machine may have been started anew"); err != nil {
		return nil, err
	}
	return readStatus(path)
}
