package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/tenant"
)

// maxAuthenticatorFile bounds the file of one authenticator, in bytes.
const maxAuthenticatorFile = 256 << 10

// authenticatorInfo is what tables show of an authenticator.
type authenticatorInfo struct {
	Name        string `json:"name"`
	Type        string `json:"type"`
	DefaultRole string `json:"default_role"`
	OIDC        *struct {
		Issuer string `json:"issuer"`
	} `json:"oidc"`
	HasSecret bool      `json:"has_client_secret"`
	Members   int       `json:"members"`
	Source    string    `json:"source"`
	Updated   time.Time `json:"updated"`
}

// authenticatorBody is what the API takes of one: the rest of tenant.Authenticator is the gateway's.
type authenticatorBody struct {
	Name         string                `json:"name"`
	Type         tenant.AuthnType      `json:"type"`
	DefaultRole  tenant.Role           `json:"default_role,omitzero"`
	OIDC         *tenant.OIDC          `json:"oidc,omitempty"`
	MTLS         *tenant.MTLS          `json:"mtls,omitempty"`
	Upstream     *tenant.UpstreamUsers `json:"upstream,omitempty"`
	Kubernetes   *tenant.Kubernetes    `json:"kubernetes,omitempty"`
	RemoveSecret bool                  `json:"remove_client_secret,omitempty"`
}

func authenticatorColumns() []column[authenticatorInfo] {
	return []column[authenticatorInfo]{
		{"NAME", func(a *authenticatorInfo) string { return a.Name }}, {"TYPE", func(a *authenticatorInfo) string { return a.Type }},
		{"ISSUER", func(a *authenticatorInfo) string {
			if a.OIDC == nil {
				return ""
			}
			return a.OIDC.Issuer
		}},
		{"DEFAULT ROLE", func(a *authenticatorInfo) string { return a.DefaultRole }},
		{"MEMBERS", func(a *authenticatorInfo) string { return strconv.Itoa(a.Members) }},
		{"SOURCE", func(a *authenticatorInfo) string { return a.Source }}, {"UPDATED", func(a *authenticatorInfo) string { return stamp(a.Updated) }},
	}
}

func newAuthenticatorCommand() *cobra.Command {
	s := newScoped(false)
	cmd := commandGroup("authenticator", "Say who vouches for a tenant's users",
		`Manage who vouches for the tenant's users: OpenID Connect issuers, client certificates, a trusted proxy, the cluster. On the
tenant's host, as one of its admins. Being vouched for is no role: see "polygate member".

A file holds one authenticator in the form of an entry of tenants.yaml's authenticators; paths in it begin at its folder. A
client secret is in a file or a variable that it names, and is never shown again.`,
		s.authenticatorList(), s.authenticatorGet(), s.authenticatorAdd(), s.authenticatorUpdate(), s.authenticatorRemove())
	cmd.Aliases = []string{"authn"}
	cmd.Example = "  polygate authenticator add -f corp.yaml\n  polygate authenticator list"
	s.bind(cmd)
	return cmd
}

func (s *scoped) authenticatorList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the authenticators",
		Long:    "List who vouches for the tenant's users, and how many members each has.",
		Example: "  polygate authenticator list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				list, err := all[authenticatorInfo](ctx, c, "authenticators")
				if err != nil {
					return fmt.Errorf("list authenticators: %w", err)
				}
				return printList(cmd, &s.out, list, authenticatorColumns())
			})
		},
	}
}

func (s *scoped) authenticatorGet() *cobra.Command {
	return &cobra.Command{
		Use: "get <authenticator>", Short: "Show one authenticator with all its settings",
		Long:    "Show one authenticator; as YAML or JSON with all its settings but the client secret.",
		Example: "  polygate authenticator get corp -o yaml",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.complete(named("authenticators")),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				var a answered[authenticatorInfo]
				if err := c.do(ctx, http.MethodGet, c.path("authenticators", args[0]), nil, &a); err != nil {
					return fmt.Errorf("authenticator %q: %w", args[0], err)
				}
				return printOne(cmd, &s.out, &a, authenticatorColumns())
			})
		},
	}
}

func (s *scoped) authenticatorAdd() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "add -f <file>", Short: "Add an authenticator",
		Long: `Add an authenticator. The file is checked here first; a mistake is told with its line and column.

  name: corp
  type: oidc
  oidc:
    issuer: https://login.example.com
    audiences: [polygate]`,
		Example: "  polygate authenticator add -f corp.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			body, err := readAuthenticator(cmd, file)
			if err != nil {
				return err
			}
			return s.sendAuthenticator(cmd, http.MethodPost, body, "added")
		},
	}
	authenticatorFile(cmd, &file)
	return cmd
}

func authenticatorFile(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "file", "f", "", "YAML file with the authenticator; - reads stdin (required)")
	_ = cmd.MarkFlagRequired("file")
}

func readAuthenticator(cmd *cobra.Command, file string) (*authenticatorBody, error) {
	src, err := readFile(file, cmd.InOrStdin(), maxAuthenticatorFile)
	if err != nil {
		return nil, fmt.Errorf("read the authenticator: %w", err)
	}
	name, dir := file, filepath.Dir(file)
	if file == "-" {
		name, dir = stdinName, "."
	}
	a, err := config.DecodeAuthenticator(name, dir, src)
	if err != nil {
		return nil, err
	}
	return &authenticatorBody{
		Name: a.Name, Type: a.Type, DefaultRole: a.DefaultRole, OIDC: a.OIDC, MTLS: a.MTLS, Upstream: a.Upstream, Kubernetes: a.Kubernetes,
	}, nil
}

func (s *scoped) sendAuthenticator(cmd *cobra.Command, method string, body *authenticatorBody, done string) error {
	return s.run(cmd, func(ctx context.Context, c *client) error {
		path := c.path("authenticators")
		if method == http.MethodPut {
			path = c.path("authenticators", body.Name)
		}
		var a answered[authenticatorInfo]
		if err := c.do(ctx, method, path, body, &a); err != nil {
			return fmt.Errorf("authenticator %q: %w", body.Name, err)
		}
		return said(cmd, &s.out, &a, "authenticator %s %s", a.is.Name, done)
	})
}

func (s *scoped) authenticatorUpdate() *cobra.Command {
	var file string
	var remove bool
	cmd := &cobra.Command{
		Use: "update -f <file>", Short: "Replace an authenticator's settings",
		Long: `Replace the settings of the authenticator that the file names. What was proven to the old one is proven no more: users log in
again. A client secret that the file leaves out is kept, as long as the issuer and the client are the same.`,
		Example: "  polygate authenticator update -f corp.yaml\n  polygate authenticator update -f corp.yaml --remove-client-secret",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			body, err := readAuthenticator(cmd, file)
			if err != nil {
				return err
			}
			body.RemoveSecret = remove
			return s.sendAuthenticator(cmd, http.MethodPut, body, "updated")
		},
	}
	authenticatorFile(cmd, &file)
	cmd.Flags().BoolVar(&remove, "remove-client-secret", false, "forget the client secret that the gateway keeps")
	return cmd
}

func (s *scoped) authenticatorRemove() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "remove <authenticator>", Aliases: []string{"rm"}, Short: "Remove an authenticator with its members",
		Long:    "Remove an authenticator, with the roles of all its users and groups. It is refused if that takes the last admin.",
		Example: "  polygate authenticator remove corp --yes",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.complete(named("authenticators")),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				return usage("this removes authenticator %s with the roles of all its users: repeat it with --yes", args[0])
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				if err := c.do(ctx, http.MethodDelete, c.path("authenticators", args[0]), nil, nil); err != nil {
					return fmt.Errorf("remove authenticator %q: %w", args[0], err)
				}
				return tell(cmd, "authenticator %s removed with its members", args[0])
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it without further question")
	return cmd
}
