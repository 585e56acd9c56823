package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// maxEventLine bounds a line of a stream of events, in bytes.
const maxEventLine = 4 << 20

// serverEvent is one of a stream (HTML Living Standard §9.2).
type serverEvent struct {
	name, id, data string
	retry          time.Duration
}

// eventStream reads server-sent events.
type eventStream struct{ lines *bufio.Scanner }

func newEventStream(r io.Reader) *eventStream {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 16<<10), maxEventLine)
	return &eventStream{s}
}

// next returns the next event, or io.EOF. A field that is unknown, and a comment, says nothing.
func (s *eventStream) next() (e serverEvent, err error) {
	var data []string
	for s.lines.Scan() {
		line := strings.TrimSuffix(s.lines.Text(), "\r")
		if line == "" {
			if e.data = strings.Join(data, "\n"); e != (serverEvent{}) {
				return e, nil
			}
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			e.name = value
		case "id":
			e.id = value
		case "data":
			data = append(data, value)
		case "retry":
			if ms, err := time.ParseDuration(value + "ms"); err == nil {
				e.retry = min(ms, time.Minute)
			}
		}
	}
	if err := s.lines.Err(); err != nil {
		return e, err
	}
	return e, io.EOF
}

// watchLine is a change as programs read it: one a line.
type watchLine struct {
	Event   string          `json:"event"` // sandbox, deleted or resync
	Sandbox json.RawMessage `json:"sandbox,omitempty"`
}

func (s *sandboxes) watch() *cobra.Command {
	var f sandboxFilter
	cmd := &cobra.Command{
		Use: "watch", Short: "Show sandboxes as they change",
		Long: `Show the sandboxes that one may see, and then each change of them, until it is interrupted. With -o json each is a line of its own:
{"event": "sandbox", "sandbox": {…}}, deleted with id and name, or resync: what was told before is void, and all there is follows.`,
		Example: "  polygate sandbox watch\n  polygate sandbox watch -l team=a -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if s.out.format == formatYAML {
				return usage("a stream is no YAML document: use -o json")
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				w := &sandboxWatcher{c: c, query: f, out: cmd.OutOrStdout(), data: s.out.isData()}
				if err := w.run(ctx); err != nil {
					return fmt.Errorf("watch sandboxes: %w", err)
				}
				return nil
			})
		},
	}
	f.bind(cmd)
	return cmd
}

// sandboxWatcher follows the sandboxes of a tenant, through restarts of its gateway.
type sandboxWatcher struct {
	c     *client
	query sandboxFilter
	out   io.Writer
	data  bool

	last   string // id of the last event
	headed bool
	pause  time.Duration
	alive  time.Time // when something came last
}

func (w *sandboxWatcher) run(ctx context.Context) error {
	w.pause = time.Second
	for w.alive = time.Now(); ; {
		err := w.once(ctx)
		var local *writeError
		switch {
		case ctx.Err() != nil:
			return nil // Ctrl-C is how one leaves
		case errors.As(err, &local), err != nil && !passing(err), err != nil && time.Since(w.alive) > followAgain:
			return err
		}
		if pause(ctx, w.pause) != nil {
			return nil
		}
	}
}

// once follows one stream to its end.
func (w *sandboxWatcher) once(ctx context.Context) error {
	q := w.query.values()
	q.Set("watch", "1")
	head := http.Header{}
	if w.last != "" {
		head.Set("Last-Event-ID", w.last)
	}
	resp, err := w.c.stream(ctx, w.c.path("sandboxes")+"?"+q.Encode(), "text/event-stream", head)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	w.alive = time.Now()
	for events := newEventStream(resp.Body); ; {
		e, err := events.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		w.alive = time.Now()
		if e.id != "" {
			w.last = e.id
		}
		if e.retry > 0 {
			w.pause = e.retry
		}
		if err := w.show(&e); err != nil {
			return &writeError{err}
		}
	}
}

// show writes one event.
func (w *sandboxWatcher) show(e *serverEvent) error {
	if !slices.Contains([]string{"sandbox", "deleted", "resync"}, e.name) || !json.Valid([]byte(e.data)) {
		return nil
	}
	if w.data {
		line := watchLine{Event: e.name}
		if e.name != "resync" {
			line.Sandbox = json.RawMessage(e.data)
		}
		b, err := json.Marshal(line)
		if err == nil {
			_, err = w.out.Write(append(cleanJSON(b), '\n'))
		}
		return err
	}
	var one sandboxInfo
	if json.Unmarshal([]byte(e.data), &one) != nil || e.name == "resync" {
		return nil
	}
	if e.name == "deleted" {
		one.State = "(gone)"
	}
	return w.row(&one)
}

// row writes a line of a table whose other lines are not known yet: its columns have a width of their own.
func (w *sandboxWatcher) row(i *sandboxInfo) error {
	tw := tabwriter.NewWriter(w.out, 20, 0, 2, ' ', 0)
	if !w.headed {
		w.headed = true
		fmt.Fprintln(tw, strings.Join([]string{"TIME", "NAME", "STATE", "REASON", "OWNER"}, "\t"))
	}
	cells := []string{stamp(time.Now()), i.Name, i.State, i.why(), i.Owner}
	for n, cell := range cells {
		if cells[n] = clean(cell); cell == "" {
			cells[n] = "-"
		}
	}
	fmt.Fprintln(tw, strings.Join(cells, "\t"))
	return tw.Flush()
}
