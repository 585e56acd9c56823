package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// shareable are the words for what can be shared of a sandbox, and the actions that they stand for. Each includes read.
func shareable() [][2]string {
	return [][2]string{{"read", "sandbox.read"}, {"start", "sandbox.start"}, {"stop", "sandbox.stop"}, {"delete", "sandbox.delete"},
		{"exec", "sandbox.exec"}, {"logs", "sandbox.logs.read"}}
}

// sharedActions reads the words of --allow.
func sharedActions(words []string) ([]string, error) {
	var actions []string
	for _, word := range words {
		i := slices.IndexFunc(shareable(), func(p [2]string) bool { return p[0] == word || p[1] == word })
		if i < 0 {
			return nil, usage("--allow %q is unknown: use read, start, stop, delete, exec or logs", word)
		}
		if a := shareable()[i][1]; !slices.Contains(actions, a) {
			actions = append(actions, a)
		}
	}
	return actions, nil
}

func completeShareable(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var words []string
	for _, p := range shareable() {
		words = append(words, p[0])
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

func (s *sandboxes) share() *cobra.Command {
	var allow []string
	var until string
	cmd := &cobra.Command{
		Use: "share <sandbox> <principal>", Short: "Let another of the tenant work with a sandbox for a time",
		Long: `Let another of the tenant do something with a sandbox that one owns, for a time: read (see it), start, stop, delete, exec (run commands
in it) or logs; each includes read. What was shared already only gets another end. It ends with the sandbox too. "polygate grant
list" shows what is shared.

A principal is user:<authenticator>/<subject>, bot:<name or id> or key:<name or id>; names of bots and keys are known to admins.`,
		Example: "  polygate sandbox share web user:corp/248289761001 --allow exec,logs --until 8h\n  polygate sandbox share web bot:deploy --allow stop --allow start --until 30d",
		Args:    cobra.ExactArgs(2), ValidArgsFunction: s.complete(named("sandboxes")),
		RunE: func(cmd *cobra.Command, args []string) error {
			actions, err := sharedActions(allow)
			if err != nil {
				return err
			}
			end, err := parseExpiry("until", until)
			if err != nil {
				return err
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				to, err := principalRef(ctx, c, args[1])
				if err != nil {
					return err
				}
				return s.shareEach(ctx, cmd, c, actions, grantRequest{To: to, Object: "sandbox/" + args[0], In: end.In, Until: end.At})
			})
		},
	}
	cmd.Flags().StringSliceVar(&allow, "allow", nil, "what is let happen: read, start, stop, delete, exec or logs; several with commas")
	cmd.Flags().StringVar(&until, "until", "", "its end: in a span such as 8h or 30d, or at a time such as 2027-01-31T00:00:00Z; a minute to 90d (default 1d)")
	_ = cmd.MarkFlagRequired("allow")
	_ = cmd.RegisterFlagCompletionFunc("allow", completeShareable)
	return cmd
}

// shareEach makes a grant of every action. They are not one change: what was shared before one fails stays, and is told.
func (s *sandboxes) shareEach(ctx context.Context, cmd *cobra.Command, c *client, actions []string, body grantRequest) error {
	list := &listing[grantInfo]{}
	for _, body.Action = range actions {
		var g answered[grantInfo]
		if err := c.do(ctx, http.MethodPost, c.path("grants"), body, &g); err != nil {
			return fmt.Errorf("share %s of %s: %w", body.Action, body.Object, err)
		}
		list.Items = append(list.Items, g)
		if !s.out.isData() {
			_ = tell(cmd, "%s may %s on %s until %s (grant %s)", g.is.To, g.is.Action, g.is.Object, stamp(g.is.Until), g.is.ID)
		}
	}
	if s.out.isData() {
		return s.out.data(cmd.OutOrStdout(), list)
	}
	return nil
}

func (s *sandboxes) unshare() *cobra.Command {
	var allow []string
	var everybody bool
	cmd := &cobra.Command{
		Use: "unshare <sandbox> [principal]", Short: "Take back what was shared of a sandbox",
		Long:    "Take back what was shared of a sandbox: from one principal all of it, or what --allow names; with --all from everybody. Sessions that hang on it end within a second.",
		Example: "  polygate sandbox unshare web user:corp/248289761001\n  polygate sandbox unshare web bot:deploy --allow stop\n  polygate sandbox unshare web --all",
		Args:    cobra.RangeArgs(1, 2), ValidArgsFunction: s.complete(named("sandboxes")),
		RunE: func(cmd *cobra.Command, args []string) error {
			actions, err := sharedActions(allow)
			if err != nil {
				return err
			}
			if everybody == (len(args) == 2) {
				return usage("name a principal, or everybody with --all")
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				to := ""
				if len(args) == 2 {
					if to, err = principalRef(ctx, c, args[1]); err != nil {
						return err
					}
				}
				return s.takeBack(ctx, cmd, c, args[0], to, actions)
			})
		},
	}
	cmd.Flags().StringSliceVar(&allow, "allow", nil, "only this: read, start, stop, delete, exec or logs; several with commas")
	cmd.Flags().BoolVar(&everybody, "all", false, "from everybody")
	_ = cmd.RegisterFlagCompletionFunc("allow", completeShareable)
	return cmd
}

// takeBack removes the grants on a sandbox to a principal ("" = to everybody) of some actions (none = all).
func (s *sandboxes) takeBack(ctx context.Context, cmd *cobra.Command, c *client, name, to string, actions []string) error {
	list, err := all[grantInfo](ctx, c, "grants")
	if err != nil {
		return fmt.Errorf("unshare sandbox %q: %w", name, err)
	}
	one, err := getSandbox(ctx, c, name)
	if err != nil {
		return err
	}
	n := 0
	for i := range list.Items {
		g := &list.Items[i].is
		if g.Object != "sandbox/"+one.is.Name || to != "" && g.To != to || len(actions) > 0 && !slices.Contains(actions, g.Action) {
			continue
		}
		// Gone already is as good.
		if err := c.do(ctx, http.MethodDelete, c.path("grants", g.ID), nil, nil); err != nil && !isStatus(err, http.StatusNotFound) {
			return fmt.Errorf("unshare sandbox %q: %w", name, err)
		}
		n++
		_ = tell(cmd, "%s may no longer %s on %s", g.To, g.Action, g.Object)
	}
	if n == 0 {
		return fmt.Errorf("nothing of sandbox %s is shared like this: \"polygate grant list\" shows what is%s", one.is.Name, strings.TrimSuffix(" with "+to, " with "))
	}
	return nil
}
