package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/proxy/admin"
)

// keyInfo is an API key, or a bot's, as both APIs show it. Key itself is there once, in the answer to its creation.
type keyInfo struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Role     string    `json:"role"`
	Bot      string    `json:"bot"`
	Source   string    `json:"source"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`
	Expired  bool      `json:"expired"`
	LastUsed time.Time `json:"last_used"`
	Hash     string    `json:"key_hash"` // for operators
	Key      string    `json:"key"`
}

// keyRequest is the body of a key's creation.
type keyRequest struct {
	Name string `json:"name,omitempty"`
	Role string `json:"role,omitempty"`
	expiry
	Retire *int64 `json:"retire_others_in_seconds,omitempty"` // of a bot's
}

func newKeyCommand() *cobra.Command {
	s := newScoped(true)
	cmd := commandGroup("key", "Create, list and revoke a tenant's API keys",
		`Manage the API keys of a tenant: as an operator, who names the tenant, or as one of the tenant's own admins, on its host.
The gateway stores only the SHA-256 of a key: a lost key cannot be shown again, only replaced.`,
		s.keyCreate(), s.keyList(), s.keyRevoke())
	cmd.Example = "  polygate key create team-a --name ci --role editor --expires 90d\n  polygate key revoke team-a ci\n  polygate key list --url https://team-a.localhost:8443 --key-file admin.key"
	s.bind(cmd)
	return cmd
}

func (s *scoped) keyCreate() *cobra.Command {
	var name, role, expires string
	cmd := &cobra.Command{
		Use: "create [tenant] --name <name>", Short: "Create an API key, shown once",
		Long: `Create an API key and print it. The key is the last line on stdout and is never shown again; everything else goes to stderr.

Operators name the tenant and may give every role. A tenant's admin makes keys for viewers and editors.`,
		Example: "  polygate key create team-a --name ci --role editor --expires 90d\n  KEY=$(polygate key create team-a --name ci)",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: s.completeTenant,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				s.tenant = args[0]
			}
			if _, err := tenant.ParseRole(role); err != nil {
				return usage("%v", plain(err))
			}
			end, err := parseExpiry("expires", expires)
			if err != nil {
				return err
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				var k answered[keyInfo]
				if err := c.do(ctx, http.MethodPost, c.path("keys"), keyRequest{Name: name, Role: role, expiry: end}, &k); err != nil {
					return fmt.Errorf("create key %q%s: %w", name, s.ofTenant(), err)
				}
				return s.showOnce(cmd, &k)
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the key, unique in the tenant (required)")
	cmd.Flags().StringVar(&role, "role", "editor", "what the key may do: viewer, editor or admin (servers and keys need admin)")
	cmd.Flags().StringVar(&expires, "expires", "", "when it ends: in a span such as 90d or 12h, or at a time such as 2027-01-31T00:00:00Z (default never)")
	_ = cmd.MarkFlagRequired("name")
	_ = cmd.RegisterFlagCompletionFunc("role", completeWords("viewer", "editor", "admin"))
	return cmd
}

// ofTenant names the tenant in a message, if the command does.
func (s *scoped) ofTenant() string {
	if s.tenant == "" {
		return ""
	}
	return " of tenant " + s.tenant
}

// showOnce prints a new key: alone on stdout, so that a script can take it, with the note for people on stderr.
func (s *scoped) showOnce(cmd *cobra.Command, k *answered[keyInfo]) error {
	until := ""
	if !k.is.Expires.IsZero() {
		until = " until " + stamp(k.is.Expires)
	}
	if err := tell(cmd, "key %s (%s)%s%s: shown this once, keep it now", k.is.Name, k.is.Role, s.ofTenant(), until); err != nil {
		return err
	}
	if s.out.isData() {
		return s.out.data(cmd.OutOrStdout(), k)
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), clean(k.is.Key))
	return err
}

// keyEnd is the end of a key for people.
func keyEnd(k *keyInfo) string {
	if k.Expired || !k.Expires.IsZero() && k.Expires.Before(time.Now()) {
		return stamp(k.Expires) + " (expired)"
	}
	return stampOr(k.Expires, "never")
}

func keyColumns() []column[keyInfo] {
	return []column[keyInfo]{
		{"KEY", func(k *keyInfo) string { return k.Name }}, {"ROLE", func(k *keyInfo) string { return k.Role }},
		{"SOURCE", func(k *keyInfo) string { return k.Source }}, {"CREATED", func(k *keyInfo) string { return stamp(k.Created) }},
		{"EXPIRES", keyEnd}, {"LAST USED", func(k *keyInfo) string { return stamp(k.LastUsed) }},
		{"BOT", func(k *keyInfo) string { return k.Bot }}, {"ID", func(k *keyInfo) string { return k.ID }},
	}
}

func keyHead() []string { return []string{"KEY", "ROLE", "SOURCE", "CREATED", "EXPIRES", "ID", "HASH"} }

func keyRows(keys []admin.Key) [][]string {
	rows := make([][]string, len(keys))
	for i, k := range keys {
		rows[i] = []string{k.Name, k.Role.String(), string(k.Source), stamp(k.Created), stampOr(k.Expires, "never"), k.ID, k.KeyHash.String()}
	}
	return rows
}

func (s *scoped) keyList() *cobra.Command {
	return &cobra.Command{
		Use: "list [tenant]", Aliases: []string{"ls"}, Short: "List a tenant's API keys",
		Long:    "List a tenant's API keys, those of its bots too: names, roles, when they end and when they were last used, to a minute or so. The keys themselves are stored nowhere.",
		Example: "  polygate key list team-a\n  polygate key list --url https://team-a.localhost:8443 --key-file admin.key -o yaml",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: s.completeTenant,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				s.tenant = args[0]
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				list, err := all[keyInfo](ctx, c, "keys")
				if err != nil {
					return fmt.Errorf("keys%s: %w", s.ofTenant(), err)
				}
				columns := keyColumns()
				if c.operator {
					columns = append(columns, column[keyInfo]{"HASH", func(k *keyInfo) string { return k.Hash }})
				}
				return printList(cmd, &s.out, list, columns)
			})
		},
	}
}

func (s *scoped) keyRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke [tenant] <key>", Short: "Revoke an API key by name or id",
		Long:    "Revoke an API key, or a bot's, by name or id. The next request with it is refused, and its open streams end within a second.",
		Example: "  polygate key revoke team-a ci\n  polygate key revoke ci --url https://team-a.localhost:8443 --key-file admin.key",
		Args:    cobra.RangeArgs(1, 2), ValidArgsFunction: s.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				s.tenant = args[0]
			}
			name := args[len(args)-1]
			return s.run(cmd, func(ctx context.Context, c *client) error {
				if err := c.do(ctx, http.MethodDelete, c.path("keys", name), nil, nil); err != nil {
					return fmt.Errorf("revoke key %q%s: %w", name, s.ofTenant(), err)
				}
				return tell(cmd, "key %s%s revoked", name, s.ofTenant())
			})
		},
	}
}
