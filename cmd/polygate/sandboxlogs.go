package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// logFlags are those of logs.
type logFlags struct {
	follow, timestamps, raw bool
	since                   string
	tail                    int64
}

func (s *sandboxes) logs() *cobra.Command {
	var f logFlags
	cmd := &cobra.Command{
		Use: "logs <sandbox>", Short: "Show what a sandbox wrote",
		Long: `Show what the command of a sandbox wrote to its standard output and error, in its run now or in the last. With --follow, until that run
ends.

On a terminal, control characters are shown by their code, but for colours: what runs in a sandbox could drive the terminal with
them. --raw writes them as they are, as into a file or pipe.`,
		Example: "  polygate sandbox logs web --tail 100 --follow\n  polygate sandbox logs web --since 10m --timestamps",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.complete(named("sandboxes")),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := f.values()
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if file, ok := out.(*os.File); ok && !f.raw && term.IsTerminal(int(file.Fd())) {
				out = &tameWriter{to: out}
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				follower := &logFollower{c: c, name: args[0], query: q, out: out, tell: func(text string) { _ = tell(cmd, "polygate: %s", text) }}
				if err := follower.run(ctx, f.follow); err != nil {
					return fmt.Errorf("logs of sandbox %q: %w", args[0], err)
				}
				return nil
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&f.follow, "follow", "f", false, "go on until the run ends")
	flags.StringVar(&f.since, "since", "", "what was written since: a span before now such as 10m, or a time such as 2027-01-31T12:00:00Z")
	flags.Int64Var(&f.tail, "tail", -1, "so many lines of the end (default: all that is kept)")
	flags.BoolVar(&f.timestamps, "timestamps", false, "begin each line with its time")
	flags.BoolVar(&f.raw, "raw", false, "write control characters as they are, to a terminal too")
	return cmd
}

func (f *logFlags) values() (url.Values, error) {
	q := url.Values{}
	if f.follow {
		q.Set("follow", "1")
	}
	if f.timestamps {
		q.Set("timestamps", "1")
	}
	if f.tail >= 0 {
		q.Set("tail", strconv.FormatInt(f.tail, 10))
	}
	if f.since != "" {
		at, err := moment(f.since, time.Now())
		if err != nil {
			return nil, usage("--since %q is neither a time such as 2027-01-31T12:00:00Z nor a span such as 90m or 7d", f.since)
		}
		q.Set("since", at.UTC().Format(time.RFC3339Nano))
	}
	return q, nil
}

// Where a log that is followed breaks off, it is asked for again for this long, as the gateway may be on its way back.
const followAgain = 2 * time.Minute

// logFollower writes a log out. One that is followed goes on through a restart of the gateway.
type logFollower struct {
	c     *client
	name  string
	query url.Values
	out   io.Writer
	tell  func(string)

	ahead time.Duration // of the gateway's clock before ours
	last  time.Time     // when something came last, or the log was opened
}

func (f *logFollower) run(ctx context.Context, follow bool) error {
	if !follow {
		return f.copy(ctx)
	}
	one, err := getSandbox(ctx, f.c, f.name)
	if err != nil {
		return err
	}
	f.name = one.is.ID
	for f.last = time.Now(); ; {
		err := f.copy(ctx)
		var local *writeError
		switch {
		case ctx.Err() != nil:
			return nil // Ctrl-C is how one leaves
		case errors.As(err, &local), err != nil && !passing(err), err != nil && time.Since(f.last) > followAgain:
			return err
		}
		if on, judged := f.goesOn(ctx, one.is.Run.Number); judged == nil && !on {
			return nil
		}
		if err := pause(ctx, time.Second); err != nil {
			return nil
		}
		f.query.Set("since", f.last.Add(f.ahead).UTC().Format(time.RFC3339Nano))
		f.query.Del("tail")
	}
}

// goesOn says whether the run whose log ended is still there, so that there is more to come of it.
func (f *logFollower) goesOn(ctx context.Context, run int) (bool, error) {
	now, err := getSandbox(ctx, f.c, f.name)
	if isStatus(err, http.StatusNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	on := now.is.Run.Number == run && now.is.Run.Ended.IsZero() && (now.is.State == sandboxRunning || now.is.State == "Stopping")
	return on, nil
}

// writeError is one of the place to which a log is written.
type writeError struct{ error }

// copy writes out what one request answers.
func (f *logFollower) copy(ctx context.Context) error {
	resp, err := f.c.stream(ctx, f.c.path("sandboxes", f.name, "logs")+"?"+f.query.Encode(), "text/plain", nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	now := time.Now()
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		f.ahead = at.Sub(now)
	}
	f.last = now
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			f.last = time.Now()
			if _, err := f.out.Write(buf[:n]); err != nil {
				return &writeError{err}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the log broke off: %w", err)
		}
	}
}

// stream sends a GET whose answer may go on for as long as it likes.
func (c *client) stream(ctx context.Context, path, accept string, head http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.String()+path, nil)
	if err != nil {
		return nil, err
	}
	for name, v := range head {
		req.Header[name] = v
	}
	req.Header.Set("Authorization", "Bearer "+c.secret)
	req.Header.Set("Accept", accept+", application/problem+json")
	endless := *c.http
	endless.Timeout = 0
	resp, err := endless.Do(req)
	if err != nil {
		return nil, c.unreached(err)
	}
	if resp.StatusCode/100 != 2 {
		defer func() { _ = resp.Body.Close() }()
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		return nil, c.refused(resp, b)
	}
	return resp, nil
}
