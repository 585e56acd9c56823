package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// What can be waited for, as the API names it.
const (
	goalRunning = "running"
	goalStopped = "stopped"
	goalDeleted = "deleted"
	goalSettled = "settled"
)

// waitStep is how long one request waits for a sandbox. In between, what has changed is told; it is far below the client's timeout.
const waitStep = 5 * time.Second

// waiting is the flags of a command that can wait.
type waiting struct {
	on      bool
	timeout time.Duration
}

func (w *waiting) bind(cmd *cobra.Command, what string) {
	cmd.Flags().BoolVar(&w.on, "wait", false, what)
	w.bindTimeout(cmd, "with --wait, ")
}

func (w *waiting) bindTimeout(cmd *cobra.Command, when string) {
	cmd.Flags().DurationVar(&w.timeout, "timeout", 10*time.Minute, when+"for how long at most")
}

func (w *waiting) check() error {
	if w.timeout <= 0 {
		return usage("--timeout %s is not positive", w.timeout)
	}
	return nil
}

// waited is what the gateway answers who waits.
type waited struct {
	Reached bool                   `json:"reached"`
	Sandbox *answered[sandboxInfo] `json:"sandbox"` // nil = it is gone
}

// await waits until a sandbox is where it shall be, and tells on stderr what changes on the way.
func (s *sandboxes) await(ctx context.Context, cmd *cobra.Command, c *client, from *answered[sandboxInfo], goal string, timeout time.Duration) (*answered[sandboxInfo], error) {
	end := time.Now().Add(timeout)
	name, told := from.is.Name, ""
	for {
		if text := from.is.progress(); text != told {
			told = text
			_ = tell(cmd, "sandbox %s: %s", name, text)
		}
		asked, step := time.Now(), max(time.Second, min(time.Until(end), waitStep))
		got, err := waitFor(ctx, c, from.is.ID, goal, step)
		if got, err = goneIsDeleted(got, err, goal); err == nil && got.Sandbox != nil {
			from = got.Sandbox
		}
		switch {
		case err != nil && !passing(err), err != nil && time.Now().After(end):
			return from, fmt.Errorf("wait for sandbox %s: %w", name, err)
		case err != nil:
			if err := pause(ctx, time.Second); err != nil {
				return from, err
			}
		case got.Reached:
			return from, tellNew(cmd, name, &from.is, got, told)
		case time.Since(asked) < step-step/4: // before its time: it cannot come any more
			return from, fmt.Errorf("sandbox %s will not be %s by itself: %s", name, goal, from.is.progress())
		case time.Now().After(end):
			return from, fmt.Errorf("sandbox %s is not %s after %s: %s", name, goal, timeout, from.is.progress())
		}
	}
}

// awaitRun waits until a sandbox runs, and a second more: of a command that fails at once it is chance whether it is seen to run. One
// that has ended with 0 by then has done what it should.
func (s *sandboxes) awaitRun(ctx context.Context, cmd *cobra.Command, c *client, from *answered[sandboxInfo], timeout time.Duration) (*answered[sandboxInfo], error) {
	is, err := s.await(ctx, cmd, c, from, goalRunning, timeout)
	if err == nil {
		if got, failed := waitFor(ctx, c, is.is.ID, goalStopped, time.Second); failed == nil && got.Sandbox != nil {
			is = got.Sandbox
		}
	}
	switch {
	case err == nil && is.is.State == sandboxFailed:
		return is, fmt.Errorf("sandbox %s ran and failed: %s", is.is.Name, is.is.progress())
	case is.is.State == sandboxStopped && is.is.Run.Reason == reasonCompleted:
		return is, tell(cmd, "sandbox %s: %s", is.is.Name, is.is.progress())
	}
	return is, err
}

// tellNew tells where a sandbox has come, unless that was told already.
func tellNew(cmd *cobra.Command, name string, is *sandboxInfo, got *waited, told string) error {
	text := is.progress()
	if got.Sandbox == nil {
		text = "deleted"
	}
	if text == told {
		return nil
	}
	return tell(cmd, "sandbox %s: %s", name, text)
}

// goneIsDeleted takes an answer that there is no such sandbox for what who waits for its deletion hopes for.
func goneIsDeleted(got *waited, err error, goal string) (*waited, error) {
	if goal == goalDeleted && isStatus(err, http.StatusNotFound) {
		return &waited{Reached: true}, nil
	}
	return got, err
}

// waitFor asks the gateway to answer when a sandbox has reached a goal, or a time is over.
func waitFor(ctx context.Context, c *client, id, goal string, limit time.Duration) (*waited, error) {
	q := url.Values{"for": {goal}, "timeout": {strconv.Itoa(int(limit.Round(time.Second)/time.Second)) + "s"}}
	var got waited
	err := c.do(ctx, http.MethodGet, c.path("sandboxes", id, "wait")+"?"+q.Encode(), nil, &got)
	return &got, err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// progress is what is told of a sandbox on its way.
func (i *sandboxInfo) progress() string {
	text := i.State
	if why := i.why(); why != "" {
		text += ": " + why
	}
	if m := i.lacks().Message; m != "" && i.State != sandboxRunning {
		text += ": " + m
	}
	return text
}

func (s *sandboxes) wait() *cobra.Command {
	var w waiting
	var goal string
	cmd := &cobra.Command{
		Use: "wait <sandbox>", Short: "Wait until a sandbox runs, has stopped, or is gone",
		Long: `Wait until a sandbox is running, stopped (Failed is, too), deleted, or settled: in a state in which it stays. What changes on the way
is told on stderr. The command fails when the time is over, and when the sandbox will not come there by itself.`,
		Example: "  polygate sandbox wait web --for running --timeout 2m\n  polygate sandbox wait job --for stopped",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.complete(named("sandboxes")),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			if !strings.Contains(" running stopped deleted settled ", " "+goal+" ") {
				return usage("--for %q is unknown: use running, stopped, deleted or settled", goal)
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				one, err := getSandbox(ctx, c, args[0])
				if isStatus(err, http.StatusNotFound) && goal == goalDeleted {
					return tell(cmd, "sandbox %s is not there", args[0])
				}
				if err != nil {
					return err
				}
				is, err := s.await(ctx, cmd, c, one, goal, w.timeout)
				if err != nil || !s.out.isData() {
					return err
				}
				return s.out.data(cmd.OutOrStdout(), is)
			})
		},
	}
	cmd.Flags().StringVar(&goal, "for", goalRunning, "running, stopped, deleted or settled")
	_ = cmd.RegisterFlagCompletionFunc("for", completeWords(goalRunning, goalStopped, goalDeleted, goalSettled))
	w.bindTimeout(cmd, "")
	return cmd
}

func (s *sandboxes) start() *cobra.Command {
	cmd := s.ask("start", "Start a sandbox that stopped or failed", goalRunning,
		"Start a sandbox that has stopped, or failed, with the settings that it was made with. It begins anew: nothing that it wrote before is there. With --wait the command returns a second after the sandbox runs, and fails if it cannot or has failed by then.")
	cmd.Example = "  polygate sandbox start web --wait"
	return cmd
}

func (s *sandboxes) stop() *cobra.Command {
	cmd := s.ask("stop", "Stop a sandbox and keep its settings", goalStopped,
		"Stop a sandbox: its processes are told to end, and ended by force soon after. It keeps its name and settings and can be started again; what it wrote is gone.")
	cmd.Example = "  polygate sandbox stop web --wait"
	return cmd
}

// ask is the command by which a sandbox is asked to start or to stop.
func (s *sandboxes) ask(verb, short, goal, long string) *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use: verb + " <sandbox>…", Short: short, Long: long,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: s.completeMany,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			return s.each(cmd, args, func(ctx context.Context, c *client, name string) error {
				var one answered[sandboxInfo]
				if err := c.do(ctx, http.MethodPost, c.path("sandboxes", name, verb), nil, &one); err != nil {
					return fmt.Errorf("%s sandbox %q: %w", verb, name, err)
				}
				if !w.on {
					return said(cmd, &s.out, &one, "sandbox %s: %s", one.is.Name, one.is.State)
				}
				is, err := s.asked(ctx, cmd, c, &one, goal, w.timeout)
				if err != nil || !s.out.isData() {
					return err
				}
				return s.out.data(cmd.OutOrStdout(), is)
			})
		},
	}
	w.bind(cmd, "return once it is "+goal)
	return cmd
}

// asked waits until a sandbox is where it was asked to be.
func (s *sandboxes) asked(ctx context.Context, cmd *cobra.Command, c *client, one *answered[sandboxInfo], goal string, timeout time.Duration) (*answered[sandboxInfo], error) {
	if goal == goalRunning {
		return s.awaitRun(ctx, cmd, c, one, timeout)
	}
	return s.await(ctx, cmd, c, one, goal, timeout)
}

func (s *sandboxes) remove() *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use: "delete <sandbox>…", Aliases: []string{"rm", "remove"}, Short: "Delete sandboxes, with all that is in them",
		Long:    "Delete sandboxes, with all that is in them and all that was shared of them. Their names are free again once they are gone: with --wait the command returns then.",
		Example: "  polygate sandbox delete web\n  polygate sandbox delete web job --wait",
		Args:    cobra.MinimumNArgs(1), ValidArgsFunction: s.completeMany,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			return s.each(cmd, args, func(ctx context.Context, c *client, name string) error { return s.removeOne(ctx, cmd, c, &w, name) })
		},
	}
	w.bind(cmd, "return once it is gone")
	return cmd
}

func (s *sandboxes) removeOne(ctx context.Context, cmd *cobra.Command, c *client, w *waiting, name string) error {
	var before *answered[sandboxInfo]
	var err error
	if w.on {
		if before, err = getSandbox(ctx, c, name); err != nil {
			return err
		}
		name = before.is.ID
	}
	if err := c.do(ctx, http.MethodDelete, c.path("sandboxes", name), nil, nil); err != nil {
		return fmt.Errorf("delete sandbox %q: %w", name, err)
	}
	if !w.on {
		return tell(cmd, "sandbox %s is being deleted", name)
	}
	before.is.State = "Deleting"
	_, err = s.await(ctx, cmd, c, before, goalDeleted, w.timeout)
	return err
}

// each does something with every sandbox that is named. One that fails does not keep the others from it.
func (s *sandboxes) each(cmd *cobra.Command, names []string, do func(ctx context.Context, c *client, name string) error) error {
	return s.run(cmd, func(ctx context.Context, c *client) error {
		var first error
		for _, name := range names {
			err := do(ctx, c, name)
			switch {
			case err == nil:
			case len(names) == 1:
				return err
			default:
				first = errReported
				_ = tell(cmd, "polygate: %v", err)
			}
		}
		return first
	})
}

// completeMany completes each of several names.
func (s *sandboxes) completeMany(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return s.propose(cmd, named("sandboxes"), prefix)
}
