package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/tenant"
)

// botInfo is the account of a program.
type botInfo struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Ref      string    `json:"ref"`
	Role     string    `json:"role"`
	Source   string    `json:"source"`
	Created  time.Time `json:"created"`
	LastUsed time.Time `json:"last_used"`
	Keys     []keyInfo `json:"keys"`
}

func botColumns() []column[botInfo] {
	return []column[botInfo]{
		{"BOT", func(b *botInfo) string { return b.Name }}, {"ROLE", func(b *botInfo) string { return b.Role }},
		{"KEYS", func(b *botInfo) string { return strconv.Itoa(len(b.Keys)) }}, {"SOURCE", func(b *botInfo) string { return b.Source }},
		{"CREATED", func(b *botInfo) string { return stamp(b.Created) }}, {"LAST USED", func(b *botInfo) string { return stamp(b.LastUsed) }},
		{"ID", func(b *botInfo) string { return b.ID }},
	}
}

func newBotCommand() *cobra.Command {
	s := newScoped(false)
	cmd := commandGroup("bot", "Manage accounts of programs and their keys",
		`Manage the accounts of programs, on the tenant's host as one of its admins. A bot has a role and at most two keys that are valid
at a time, so that one can be replaced while the other is in use. A bot's key ends within a year. Bots are named by name or id.`,
		s.botList(), s.botAdd(), s.botGet(), s.botRemove(), s.botKey())
	cmd.Example = "  polygate bot add deploy --role editor\n  polygate bot key create deploy --expires 90d\n  polygate bot key rotate deploy --overlap 1h"
	s.bind(cmd)
	return cmd
}

func (s *scoped) botList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the bots",
		Long:    "List the tenant's bots with their roles, and when one of their keys was last used.",
		Example: "  polygate bot list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				list, err := all[botInfo](ctx, c, "bots")
				if err != nil {
					return fmt.Errorf("list bots: %w", err)
				}
				return printList(cmd, &s.out, list, botColumns())
			})
		},
	}
}

func (s *scoped) botAdd() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use: "add <name>", Short: "Add a bot",
		Long:    "Add a bot. It can do nothing until it has a key: see \"polygate bot key create\".",
		Example: "  polygate bot add deploy --role viewer",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := tenant.ParseRole(role); err != nil {
				return usage("%v", plain(err))
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				var b answered[botInfo]
				if err := c.do(ctx, http.MethodPost, c.path("bots"), map[string]string{"name": args[0], "role": role}, &b); err != nil {
					return fmt.Errorf("add bot %q: %w", args[0], err)
				}
				return said(cmd, &s.out, &b, "bot %s (%s) added: %s", b.is.Name, b.is.Role, b.is.Ref)
			})
		},
	}
	cmd.Flags().StringVar(&role, "role", "editor", "viewer or editor")
	_ = cmd.RegisterFlagCompletionFunc("role", completeWords("viewer", "editor"))
	return cmd
}

func (s *scoped) botGet() *cobra.Command {
	return &cobra.Command{
		Use: "get <bot>", Short: "Show one bot with its keys",
		Long:    "Show one bot with its keys: when they end and when they were last used, never the keys themselves.",
		Example: "  polygate bot get deploy",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.complete(named("bots")),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				b, err := getBot(ctx, c, args[0])
				if err != nil {
					return err
				}
				if err := printOne(cmd, &s.out, b, botColumns()); err != nil || s.out.isData() || len(b.is.Keys) == 0 {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout())
				keys := &listing[keyInfo]{}
				for _, k := range b.is.Keys {
					keys.Items = append(keys.Items, answered[keyInfo]{is: k})
				}
				return printList(cmd, &s.out, keys, keyColumns())
			})
		},
	}
}

func getBot(ctx context.Context, c *client, name string) (*answered[botInfo], error) {
	var b answered[botInfo]
	if err := c.do(ctx, http.MethodGet, c.path("bots", name), nil, &b); err != nil {
		return nil, fmt.Errorf("bot %q: %w", name, err)
	}
	return &b, nil
}

func (s *scoped) botRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove <bot>", Aliases: []string{"rm"}, Short: "Remove a bot with all its keys",
		Long:    "Remove a bot with all its keys. Its next request is refused, and its open streams end within a second.",
		Example: "  polygate bot remove deploy",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.complete(named("bots")),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				if err := c.do(ctx, http.MethodDelete, c.path("bots", args[0]), nil, nil); err != nil {
					return fmt.Errorf("remove bot %q: %w", args[0], err)
				}
				return tell(cmd, "bot %s removed with its keys", args[0])
			})
		},
	}
}

func (s *scoped) botKey() *cobra.Command {
	cmd := commandGroup("key", "Create, rotate and revoke a bot's keys",
		"Create, rotate and revoke the keys of a bot. A key is shown once, alone on stdout.",
		s.botKeyCreate(), s.botKeyRotate(), s.botKeyRevoke())
	cmd.Example = "  polygate bot key rotate deploy --overlap 1h"
	return cmd
}

// botKeyFlags are those of a new key.
func botKeyFlags(cmd *cobra.Command, name, expires *string) {
	cmd.Flags().StringVar(name, "name", "", "name of the key, unique in the tenant (default: one is made up)")
	cmd.Flags().StringVar(expires, "expires", "", "when it ends: in a span such as 90d or 12h, or at a time such as 2027-01-31T00:00:00Z; at most a year away (default 90d)")
}

func (s *scoped) botKeyCreate() *cobra.Command {
	var name, expires string
	cmd := &cobra.Command{
		Use: "create <bot>", Short: "Create a key for a bot, shown once",
		Long:    "Create a key for a bot and print it, alone on stdout. It is never shown again. A bot has at most two that are valid: \"bot key rotate\" replaces one.",
		Example: "  polygate bot key create deploy --expires 30d\n  KEY=$(polygate bot key create deploy)",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.complete(named("bots")),
		RunE: func(cmd *cobra.Command, args []string) error { return s.makeBotKey(cmd, args[0], name, expires, nil) },
	}
	botKeyFlags(cmd, &name, &expires)
	return cmd
}

func (s *scoped) botKeyRotate() *cobra.Command {
	var name, expires string
	var overlap time.Duration
	cmd := &cobra.Command{
		Use: "rotate <bot>", Short: "Create a new key, and end the others after an overlap",
		Long:    "Create a new key for a bot and print it, alone on stdout. The bot's other keys go on working for the overlap, in which the program is given the new one, and end then.",
		Example: "  polygate bot key rotate deploy --overlap 1h\n  polygate bot key rotate deploy --overlap 0s   # the old ones are lost or stolen",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.complete(named("bots")),
		RunE: func(cmd *cobra.Command, args []string) error {
			if overlap < 0 {
				return usage("--overlap %s is negative: use 0s to end the others at once", overlap)
			}
			retire := int64(overlap / time.Second)
			return s.makeBotKey(cmd, args[0], name, expires, &retire)
		},
	}
	botKeyFlags(cmd, &name, &expires)
	cmd.Flags().DurationVar(&overlap, "overlap", time.Hour, "for how long the bot's other keys go on working, at most 720h")
	return cmd
}

func (s *scoped) makeBotKey(cmd *cobra.Command, bot, name, expires string, retire *int64) error {
	end, err := parseExpiry("expires", expires)
	if err != nil {
		return err
	}
	return s.run(cmd, func(ctx context.Context, c *client) error {
		var k answered[keyInfo]
		if err := c.do(ctx, http.MethodPost, c.path("bots", bot, "keys"), keyRequest{Name: name, expiry: end, Retire: retire}, &k); err != nil {
			return fmt.Errorf("create a key for bot %q: %w", bot, err)
		}
		return s.showOnce(cmd, &k)
	})
}

func (s *scoped) botKeyRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke <bot> <key>", Short: "Revoke a bot's key by name or id",
		Long:    "Revoke a key of a bot by name or id. The next request with it is refused, and its open streams end within a second.",
		Example: "  polygate bot key revoke deploy deploy-2026-q3",
		Args:    cobra.ExactArgs(2), ValidArgsFunction: s.complete(named("bots")),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				b, err := getBot(ctx, c, args[0])
				if err != nil {
					return err
				}
				for _, k := range b.is.Keys {
					if k.Name != args[1] && k.ID != args[1] {
						continue
					}
					if err := c.do(ctx, http.MethodDelete, c.path("keys", k.ID), nil, nil); err != nil {
						return fmt.Errorf("revoke key %q of bot %q: %w", args[1], args[0], err)
					}
					return tell(cmd, "key %s of bot %s revoked", k.Name, b.is.Name)
				}
				return fmt.Errorf("bot %q has no key %q: \"polygate bot get\" shows them", args[0], args[1])
			})
		},
	}
}
