package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/proxy/admin"
)

func newKeyCommand() *cobra.Command {
	a := &admins{conn: adminConnection()}
	cmd := commandGroup("key", "Create, list and revoke a tenant's API keys",
		"Manage the API keys of a tenant through the operators' listener. The gateway stores only the SHA-256 of a key: a lost key cannot be shown again, only replaced.",
		a.keyCreate(), a.keyList(), a.keyRevoke())
	cmd.Example = "  polygate key create team-a --name ci --role editor\n  polygate key revoke team-a ci"
	a.conn.bind(cmd)
	a.out.bind(cmd)
	return cmd
}

func (a *admins) keyCreate() *cobra.Command {
	var name, role string
	cmd := &cobra.Command{
		Use: "create <tenant> --name <name>", Short: "Create an API key, shown once",
		Long:    "Create an API key and print it. The key is the last line on stdout and is never shown again; everything else goes to stderr.",
		Example: "  polygate key create team-a --name ci --role editor\n  KEY=$(polygate key create team-a --name ci)",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := tenantPath(args[0])
			if err != nil {
				return err
			}
			r, err := tenant.ParseRole(role)
			if err != nil {
				return usage("%v", plain(err))
			}
			return a.run(cmd, func(ctx context.Context, c *client) error {
				var k admin.Key
				if err := c.do(ctx, http.MethodPost, path+"/keys", admin.KeyRequest{Name: name, Role: r}, &k); err != nil {
					return fmt.Errorf("create key %q of tenant %s: %w", name, args[0], err)
				}
				return a.showOnce(cmd, args[0], &k)
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the key, unique in the tenant (required)")
	cmd.Flags().StringVar(&role, "role", "editor", "what the key may do: viewer, editor or admin (servers and keys need admin)")
	_ = cmd.MarkFlagRequired("name")
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"viewer", "editor", "admin"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// showOnce prints a new key: alone on stdout, so that a script can take it, with the note for people on stderr.
func (a *admins) showOnce(cmd *cobra.Command, of string, k *admin.Key) error {
	fmt.Fprintf(cmd.ErrOrStderr(), "key %s (%s) of tenant %s: shown this once, keep it now\n", clean(k.Name), k.Role, of)
	if a.out.isData() {
		return a.out.data(cmd.OutOrStdout(), k)
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), clean(k.Key))
	return err
}

func keyHead() []string { return []string{"KEY", "ROLE", "SOURCE", "CREATED", "ID", "HASH"} }

func keyRows(keys []admin.Key) [][]string {
	rows := make([][]string, len(keys))
	for i, k := range keys {
		rows[i] = []string{k.Name, k.Role.String(), string(k.Source), stamp(k.Created), k.ID, k.KeyHash.String()}
	}
	return rows
}

func (a *admins) keyList() *cobra.Command {
	return &cobra.Command{
		Use: "list <tenant>", Aliases: []string{"ls"}, Short: "List a tenant's API keys",
		Long:    "List a tenant's API keys: names, roles and hashes. The keys themselves are stored nowhere.",
		Example: "  polygate key list team-a",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := tenantPath(args[0])
			if err != nil {
				return err
			}
			return a.run(cmd, func(ctx context.Context, c *client) error {
				var list admin.KeyList
				if err := c.do(ctx, http.MethodGet, path+"/keys", nil, &list); err != nil {
					return fmt.Errorf("keys of tenant %s: %w", args[0], err)
				}
				return a.out.print(cmd.OutOrStdout(), list, keyHead(), keyRows(list.Items))
			})
		},
	}
}

func (a *admins) keyRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke <tenant> <key>", Short: "Revoke an API key by name or id",
		Long:    "Revoke an API key by name or id. The next request with it is refused, and its open streams end within a second.",
		Example: "  polygate key revoke team-a ci",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := tenantPath(args[0])
			if err != nil {
				return err
			}
			return a.run(cmd, func(ctx context.Context, c *client) error {
				if err := c.do(ctx, http.MethodDelete, path+"/keys/"+url.PathEscape(args[1]), nil, nil); err != nil {
					return fmt.Errorf("revoke key %q of tenant %s: %w", args[1], args[0], err)
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "key %s of tenant %s revoked\n", clean(args[1]), args[0])
				return nil
			})
		},
	}
}
