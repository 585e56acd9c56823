package vgw

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// watchBeat is how often a watch says that it is there, and looks whether what the caller may see is still the same: a delegation that
// comes or goes is no change of a sandbox.
const watchBeat = 15 * time.Second

// watchSandboxes answers with the changes of what the caller may see. Who has no role may watch what was delegated to it.
func (c *call) watchSandboxes(f sandboxFilter) (exchange.Decision, error) {
	permit, may, err := admitList(c, authz.SandboxList, kindSandbox)
	if err != nil {
		return nil, err
	}
	all, err := c.sandboxes()
	if err == nil && !may && c.r.Visit.Principal().Tenant != c.e.Scope.ID() {
		err = fault.New(fault.NotFound, "no sandboxes")
	}
	if err != nil {
		return nil, settleList(permit, err)
	}
	w := &sandboxWatch{c: c, all: all, filter: f, sent: map[string]int64{}}
	return &exchange.Serve{Handle: func(ctx context.Context, out exchange.Stream) (err error) {
		defer func() { err = settleList(permit, err) }()
		h := exchange.Header{}
		h.Set("Content-Type", "text/event-stream")
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		out.Start(200, h)
		w.out = out
		return w.run(ctx, c.r.Header["Last-Event-Id"])
	}}, nil
}

// sandboxWatch is one stream of changes. It is its handler's goroutine's alone.
type sandboxWatch struct {
	c      *call
	all    *sandbox.Manager
	filter sandboxFilter
	out    exchange.Stream
	sent   map[string]int64 // versions of what the client was sent and may still believe, by id
	names  map[string]string
}

// run sends changes until ctx ends.
func (w *sandboxWatch) run(ctx context.Context, last []string) error {
	w.names = map[string]string{}
	since, resumes := eventID(last)
	changes := w.all.Watch(since)
	if !resumes {
		if err := w.begin(len(last) > 0); err != nil {
			return err
		}
	}
	for {
		beat, cancel := context.WithTimeout(ctx, watchBeat)
		change, err := changes.Next(beat)
		cancel()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && errors.Is(err, context.DeadlineExceeded):
			err = w.beat()
		case err != nil: // the tenant moves, or its gateway was closed: what follows is told elsewhere
			return &exchange.Reconnect{Err: err}
		default:
			err = w.tell(change)
		}
		if err != nil {
			return err
		}
	}
}

// eventID reads Last-Event-ID; ok is false if the stream cannot go on from there.
func eventID(last []string) (since int64, ok bool) {
	if len(last) != 1 {
		return 0, false
	}
	since, err := strconv.ParseInt(last[0], 10, 64)
	return max(since, 0), err == nil && since > 0
}

// begin sends all that there are. Changes of the same moment may follow once more.
func (w *sandboxWatch) begin(resync bool) error {
	if resync {
		clear(w.sent)
		if err := w.send(string(sandbox.ChangeResync), 0, struct{}{}); err != nil {
			return err
		}
	}
	all := w.all.Snapshot()
	slices.SortFunc(all, func(a, b *sandbox.Sandbox) int { return cmp.Compare(a.Version, b.Version) }) // so that ids rise
	for _, s := range all {
		if w.sees(s) {
			if err := w.show(s, s.Version); err != nil {
				return err
			}
		}
	}
	return nil
}

// sees says whether the caller may see a sandbox that it asked for, as things are now.
func (w *sandboxWatch) sees(s *sandbox.Sandbox) bool {
	effect := w.c.sandboxEffect(authz.SandboxRead, s)
	return w.filter.chooses(s, effect.Object.Owner) && w.c.r.Visit.MayDo(effect)
}

func (w *sandboxWatch) tell(change sandbox.Change) error {
	if change.Kind == sandbox.ChangeResync {
		return w.begin(true)
	}
	s := change.Sandbox
	if change.Kind == sandbox.ChangeSandbox && w.sees(s) {
		if w.sent[s.ID] >= s.Version {
			return nil
		}
		return w.show(s, change.Version)
	}
	// What it may see and did not ask for, or is gone, a client that has come again may know from before.
	if _, known := w.sent[s.ID]; known || w.c.r.Visit.MayDo(w.c.sandboxEffect(authz.SandboxRead, s)) {
		return w.hide(s.ID, s.Name, change.Version)
	}
	return nil
}

// beat looks for what came into sight or went out of it without a change.
func (w *sandboxWatch) beat() error {
	seen := map[string]bool{}
	for _, s := range w.all.Snapshot() {
		if !w.sees(s) {
			continue
		}
		seen[s.ID] = true
		if w.sent[s.ID] < s.Version {
			if err := w.show(s, 0); err != nil {
				return err
			}
		}
	}
	for id, name := range w.names {
		if !seen[id] {
			if err := w.hide(id, name, 0); err != nil {
				return err
			}
		}
	}
	_, err := w.out.Write([]byte(": still here\n\n"))
	return err
}

func (w *sandboxWatch) show(s *sandbox.Sandbox, id int64) error {
	w.sent[s.ID], w.names[s.ID] = s.Version, s.Name
	return w.send(string(sandbox.ChangeSandbox), id, w.c.sandboxView(s))
}

func (w *sandboxWatch) hide(id, name string, version int64) error {
	delete(w.sent, id)
	delete(w.names, id)
	return w.send(string(sandbox.ChangeDeleted), version, goneView{id, name})
}

// goneView is what is said of a sandbox that is not to be seen any more.
type goneView struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// send sends one event. Without an id the client's place stays what it was.
func (w *sandboxWatch) send(event string, id int64, data any) error {
	text, err := json.Marshal(data, json.Deterministic(true))
	if err != nil {
		return err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "event: %s\n", event)
	if id > 0 {
		fmt.Fprintf(&b, "id: %d\n", id)
	}
	fmt.Fprintf(&b, "data: %s\n\n", text)
	_, err = w.out.Write(b.Bytes())
	return err
}
