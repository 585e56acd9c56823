package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// grantInfo is what an owner lets another do.
type grantInfo struct {
	ID      string    `json:"id"`
	To      string    `json:"to"`
	Action  string    `json:"action"`
	Object  string    `json:"object"`
	By      string    `json:"by"`
	Created time.Time `json:"created"`
	Until   time.Time `json:"until"`
}

func grantColumns() []column[grantInfo] {
	return []column[grantInfo]{
		{"TO", func(g *grantInfo) string { return g.To }}, {"ACTION", func(g *grantInfo) string { return g.Action }},
		{"OBJECT", func(g *grantInfo) string { return g.Object }}, {"BY", func(g *grantInfo) string { return g.By }},
		{"UNTIL", func(g *grantInfo) string { return stamp(g.Until) }}, {"ID", func(g *grantInfo) string { return g.ID }},
	}
}

// grantRequest is the body of a grant's creation.
type grantRequest struct {
	To     string     `json:"to"`
	Action string     `json:"action"`
	Object string     `json:"object"`
	In     *int64     `json:"expires_in_seconds,omitempty"`
	Until  *time.Time `json:"until,omitempty"`
}

func newGrantCommand() *cobra.Command {
	s := newScoped(false)
	cmd := commandGroup("grant", "Let others use one's own servers for a time",
		`Let another of the tenant use an MCP server that one owns, for a time: server.read, mcp.read or mcp.call, which includes
mcp.read. The owner of a server may, and an admin. A principal is user:<authenticator>/<subject>, bot:<name or id> or
key:<name or id>; names of bots and keys are known to admins. "polygate sandbox share" does the same with a sandbox.`,
		s.grantList(), s.grantAdd(), s.grantRemove())
	cmd.Example = "  polygate grant add user:corp/248289761001 mcp.call docs --until 8h\n  polygate grant list"
	s.bind(cmd)
	return cmd
}

func (s *scoped) grantList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the grants that one may see",
		Long:    "List the grants to oneself, by oneself and on one's own servers; an admin sees all.",
		Example: "  polygate grant list -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				list, err := all[grantInfo](ctx, c, "grants")
				if err != nil {
					return fmt.Errorf("list grants: %w", err)
				}
				return printList(cmd, &s.out, list, grantColumns())
			})
		},
	}
}

func (s *scoped) grantAdd() *cobra.Command {
	var until string
	cmd := &cobra.Command{
		Use: "add <principal> <action> <server>", Short: "Grant an action on a server",
		Long:    "Grant a principal an action on one MCP server, or on sandbox/<name>. The same grant again only moves its end.",
		Example: "  polygate grant add user:corp/248289761001 mcp.call docs --until 8h\n  polygate grant add bot:deploy mcp.read docs --until 2027-01-31T00:00:00Z",
		Args:    cobra.ExactArgs(3), ValidArgsFunction: s.completeGrant,
		RunE: func(cmd *cobra.Command, args []string) error {
			end, err := parseExpiry("until", until)
			if err != nil {
				return err
			}
			body := grantRequest{Action: args[1], Object: grantObject(args[2]), In: end.In, Until: end.At}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				if body.To, err = principalRef(ctx, c, args[0]); err != nil {
					return err
				}
				var g answered[grantInfo]
				if err := c.do(ctx, http.MethodPost, c.path("grants"), body, &g); err != nil {
					return fmt.Errorf("grant %s on %s: %w", body.Action, body.Object, err)
				}
				return said(cmd, &s.out, &g, "%s may %s on %s until %s (grant %s)", g.is.To, g.is.Action, g.is.Object, stamp(g.is.Until), g.is.ID)
			})
		},
	}
	cmd.Flags().StringVar(&until, "until", "", "its end: in a span such as 8h or 30d, or at a time such as 2027-01-31T00:00:00Z; a minute to 90d (default 1d)")
	return cmd
}

// grantObject is what a grant is about: a server, unless it says what else it is.
func grantObject(name string) string {
	if strings.HasPrefix(name, "server/") || strings.HasPrefix(name, "sandbox/") {
		return name
	}
	return "server/" + name
}

func (s *scoped) completeGrant(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 1:
		return []string{"server.read", "mcp.read", "mcp.call"}, cobra.ShellCompDirectiveNoFileComp
	case 2:
		return s.propose(cmd, named("servers"), prefix)
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// principalRef puts the id of a bot or a key in the place of its name. What cannot be found is sent as it is: who may list
// neither has to know the id, and the gateway judges it.
func principalRef(ctx context.Context, c *client, ref string) (string, error) {
	kind, name, ok := strings.Cut(ref, ":")
	if !ok || kind != "user" && kind != "bot" && kind != "key" {
		return "", usage("%q is no principal: write user:<authenticator>/<subject>, bot:<name or id> or key:<name or id>", ref)
	}
	if kind == "user" {
		return ref, nil
	}
	list, err := all[struct{ ID, Name string }](ctx, c, kind+"s")
	if err != nil {
		return "", fmt.Errorf("look up %q: %w", ref, err)
	}
	for _, o := range list.Items {
		if o.is.Name == name {
			return kind + ":" + o.is.ID, nil
		}
	}
	return ref, nil
}

func (s *scoped) grantRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove <grant>", Aliases: []string{"rm"}, Short: "Take a grant back",
		Long:    "Take a grant back, by its id or the beginning of it.",
		Example: "  polygate grant remove 0199c7e2",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.complete(grantIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				ids, err := grantIDs(ctx, c)
				if err != nil {
					return fmt.Errorf("remove grant %q: %w", args[0], err)
				}
				id, err := byPrefix(ids, args[0])
				if err == nil {
					err = c.do(ctx, http.MethodDelete, c.path("grants", id), nil, nil)
				}
				if err != nil {
					return fmt.Errorf("remove grant %q: %w", args[0], err)
				}
				return tell(cmd, "grant %s removed", id)
			})
		},
	}
}

func grantIDs(ctx context.Context, c *client) ([]string, error) {
	list, err := all[struct{ ID string }](ctx, c, "grants")
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(list.Items))
	for i := range list.Items {
		ids[i] = list.Items[i].is.ID
	}
	return ids, nil
}

// byPrefix returns the one id that begins as given; what nothing begins with is returned as it is.
func byPrefix(ids []string, prefix string) (string, error) {
	found := prefix
	n := 0
	for _, id := range ids {
		if id == prefix {
			return id, nil
		}
		if strings.HasPrefix(id, prefix) {
			found = id
			n++
		}
	}
	if n > 1 {
		return "", fmt.Errorf("%d begin like this: give more of it", n)
	}
	return found, nil
}
