package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/proxy/admin"
)

// certInfo is the certificate of a host, as both APIs show it.
type certInfo struct {
	Host        string    `json:"host"`
	Source      string    `json:"source"`
	State       string    `json:"state"`
	Warning     string    `json:"warning"`
	Names       []string  `json:"names"`
	Issuer      string    `json:"issuer"`
	Serial      string    `json:"serial"`
	Fingerprint string    `json:"fingerprint"`
	KeyType     string    `json:"key_type"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	RenewAt     time.Time `json:"renew_at"`
	Error       string    `json:"error"`
	Code        string    `json:"code"`
	Attempts    int       `json:"attempts"`
	NextAttempt time.Time `json:"next_attempt"`
	Chain       string    `json:"chain"`
}

// certCommands is what the commands about certificates share: a tenant's own, for it or for operators, or the platform's.
type certCommands struct {
	*scoped
	platform bool
	every    time.Duration // between two looks at an order
}

func newCertCommand() *cobra.Command {
	s := &certCommands{scoped: newScoped(true), every: time.Second}
	cmd := commandGroup("cert", "Show, renew and provide certificates of hosts",
		`Manage the certificates of a tenant's hosts: as one of the tenant's own admins, on its host, or as an operator, who names the
tenant with --tenant. With --platform, as an operator, those of the platform's own hosts.

A certificate comes from its source (the platform's own authority, or an ACME server), which also renews it, or is provided
with "cert import". Keys never leave the gateway.`,
		s.certList(), s.certShow(), s.certRenew(), s.certImport(), s.certRevoke(), s.certRemove(), newTrustCommand(&s.settings, systemTrust{}))
	cmd.Example = "  polygate cert list\n  polygate cert renew team-a.gateway.example.com --wait\n  polygate cert import --cert chain.pem --key=key.pem\n  polygate cert list --platform"
	s.bind(cmd)
	cmd.PersistentFlags().BoolVar(&s.platform, "platform", false, "the platform's own hosts, as an operator")
	return cmd
}

// run opens the client for one command.
func (s *certCommands) run(cmd *cobra.Command, do func(ctx context.Context, c *client) error) error {
	if err := s.choose(); err != nil {
		return err
	}
	return s.scoped.run(cmd, do)
}

// choose makes the operators' listener itself the one to ask, with --platform.
func (s *certCommands) choose() error {
	switch {
	case s.platform && s.tenant != "":
		return usage("--platform and --tenant are both set: choose one")
	case s.platform && s.operator != nil:
		s.member, s.operator = s.operator, nil
	}
	return nil
}

// of names what a command is about in a message, if it is no host.
func (s *certCommands) of() string {
	if s.platform {
		return " of the platform"
	}
	return s.ofTenant()
}

func certColumns() []column[certInfo] {
	return []column[certInfo]{
		{"HOST", func(c *certInfo) string { return c.Host }}, {"STATE", func(c *certInfo) string { return c.State }},
		{"SOURCE", func(c *certInfo) string { return c.Source }}, {"EXPIRES", func(c *certInfo) string { return stamp(c.NotAfter) }},
		{"RENEWS", func(c *certInfo) string { return stamp(c.RenewAt) }}, {"ISSUER", func(c *certInfo) string { return c.Issuer }},
		{"NOTE", certNote},
	}
}

// certNote is what somebody should know of a certificate.
func certNote(c *certInfo) string {
	if c.awaitsHandshake() {
		return cmp.Or(c.Error, c.Warning, "signed with its next handshake")
	}
	return cmp.Or(c.Error, c.Warning)
}

func (s *certCommands) certList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the certificates of all hosts",
		Long: `List the hosts with their certificates: where each comes from, whether it is served (ready), being ordered (pending), could not be
had (failing), is over (expired) or was revoked, when it ends and when a new one is ordered, and what is wrong. The gateway's own
authority signs with a host's next handshake: until then it is pending, and nothing is wrong.`,
		Example: "  polygate cert list\n  polygate cert list --tenant team-a -o json | jq -r '.items[] | select(.state != \"ready\").host'\n  polygate cert list --platform",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				list, err := all[certInfo](ctx, c, "certificates")
				if err != nil {
					return fmt.Errorf("list certificates%s: %w", s.of(), err)
				}
				return printList(cmd, &s.out, list, certColumns())
			})
		},
	}
}

func (s *certCommands) certShow() *cobra.Command {
	var chain bool
	cmd := &cobra.Command{
		Use: "show <host>", Aliases: []string{"get"}, Short: "Show the certificate of one host",
		Long:    "Show the certificate of one host: the names that it is good for, its issuer, when it ends, and what its last order came to. With --chain, the certificate itself and those above it, as PEM.",
		Example: "  polygate cert show tools.example.org\n  polygate cert show tools.example.org --chain | openssl x509 -noout -text",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.completeHost,
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				a, err := getCert(ctx, c, args[0])
				switch {
				case err != nil:
					return err
				case !chain:
					return s.showCert(cmd, a)
				case a.is.Chain == "":
					return fmt.Errorf("host %q has no certificate to print: %s", args[0], cmp.Or(certNote(&a.is), "it is "+a.is.State))
				}
				_, err = fmt.Fprint(cmd.OutOrStdout(), cleanPEM(a.is.Chain))
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&chain, "chain", false, "print the certificates alone, as PEM")
	return cmd
}

// cleanPEM is clean for a text of several lines.
func cleanPEM(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := range lines {
		lines[i] = clean(strings.TrimRight(lines[i], "\r"))
	}
	return strings.Join(lines, "\n") + "\n"
}

func getCert(ctx context.Context, c *client, host string) (*answered[certInfo], error) {
	var a answered[certInfo]
	if err := c.do(ctx, http.MethodGet, c.path("certificates", host), nil, &a); err != nil {
		return nil, fmt.Errorf("certificate of %q: %w", host, err)
	}
	return &a, nil
}

// showCert writes one certificate as data, or what is known of it line by line.
func (s *certCommands) showCert(cmd *cobra.Command, a *answered[certInfo]) error {
	if s.out.isData() {
		return s.out.data(cmd.OutOrStdout(), a)
	}
	c := &a.is
	attempts := ""
	if c.Attempts > 0 {
		attempts = strconv.Itoa(c.Attempts) + " failed, the next at " + stampOr(c.NextAttempt, "no time")
	}
	return printFields(cmd.OutOrStdout(), [][2]string{
		{"Host", c.Host}, {"State", c.State}, {"Source", c.Source}, {"Warning", c.Warning}, {"Error", withCode(c)}, {"Attempts", attempts},
		{"Names", strings.Join(c.Names, ", ")}, {"Issuer", c.Issuer}, {"Key", c.KeyType}, {"Valid from", stamp(c.NotBefore)},
		{"Expires", stamp(c.NotAfter)}, {"Renews", stamp(c.RenewAt)}, {"Serial", c.Serial}, {"SHA-256", c.Fingerprint},
	})
}

// withCode is a certificate's error with its code.
func withCode(c *certInfo) string {
	if c.Error == "" || c.Code == "" {
		return c.Error
	}
	return c.Error + " (" + c.Code + ")"
}

// revocationReasons are the reasons of RFC 5280 §5.3.1 that an owner has a use for.
func revocationReasons() map[string]int {
	return map[string]int{
		"unspecified": 0, "key-compromise": 1, "affiliation-changed": 3, "superseded": 4, "cessation-of-operation": 5,
	}
}

func (s *certCommands) certRevoke() *cobra.Command {
	var reason string
	var yes bool
	cmd := &cobra.Command{
		Use: "revoke <host>", Short: "Revoke the certificate of a host, for good",
		Long: `Stop serving the certificate of a host, and tell the ACME server that issued it that it is not to be trusted any more. This cannot
be undone. The host gets another one, with another key, from its source; one that was provided is gone, and whoever issued it is to
be told by you. The gateway's own authority keeps no list of what is revoked: clients trust its certificate until that ends.`,
		Example: "  polygate cert revoke tools.example.org --reason key-compromise --yes",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.completeHost,
		RunE: func(cmd *cobra.Command, args []string) error {
			code, ok := revocationReasons()[reason]
			if !ok {
				return usage("reason %q is unknown: use %s", reason, orList(reasonNames()))
			}
			if !yes {
				return usage("this revokes the certificate of %s and cannot be undone: repeat it with --yes", args[0])
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				var a answered[certInfo]
				if err := c.do(ctx, http.MethodPost, c.path("certificates", args[0], "revoke"), map[string]int{"reason": code}, &a); err != nil {
					return fmt.Errorf("revoke the certificate of %q: %w", args[0], err)
				}
				return said(cmd, &s.out, &a, "certificate of %s revoked (%s)", args[0], reason)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "unspecified", "why: "+orList(reasonNames()))
	cmd.Flags().BoolVar(&yes, "yes", false, "do it without further question")
	_ = cmd.RegisterFlagCompletionFunc("reason", completeWords(reasonNames()...))
	return cmd
}

// reasonNames are the reasons in the order of their codes.
func reasonNames() []string {
	return []string{"unspecified", "key-compromise", "affiliation-changed", "superseded", "cessation-of-operation"}
}

func (s *certCommands) certRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove <host>", Aliases: []string{"rm"}, Short: "Take back the certificate that was provided for a host",
		Long: `Forget the certificate that was provided for a host, with its key. The host gets another one from its source, if that makes any. What
was removed is still trusted by clients until it ends: have its issuer revoke it if its key is in other hands.`,
		Example: "  polygate cert remove tools.example.org\n  polygate cert remove '*.gateway.example.com' --platform",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.completeHost,
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				if err := c.do(ctx, http.MethodDelete, c.path("certificates", args[0]), nil, nil); err != nil {
					return fmt.Errorf("remove the certificate of %q: %w", args[0], err)
				}
				return tell(cmd, "certificate of %s removed", args[0])
			})
		},
	}
}

// completeHost completes a host that has a certificate, or may have one.
func (s *certCommands) completeHost(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if s.choose() != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return s.complete(hostNames("certificates", ""))(cmd, args, prefix)
}

// hostNames lists the hosts of a collection, those in a state alone unless it is "".
func hostNames(collection, state string) names {
	return func(ctx context.Context, c *client) ([]string, error) {
		list, err := all[struct{ Host, State string }](ctx, c, collection)
		if err != nil {
			return nil, err
		}
		var out []string
		for i := range list.Items {
			if o := &list.Items[i].is; state == "" || o.State == state {
				out = append(out, o.Host)
			}
		}
		return out, nil
	}
}

// awaitsHandshake says whether the gateway's own authority will sign the certificate when somebody asks for it.
func (c *certInfo) awaitsHandshake() bool {
	return c.Source == string(tenant.SourceLocalCA) && c.State == string(tenant.CertificatePending)
}

// ready says whether a certificate is served.
func (c *certInfo) ready() bool { return c.State == string(tenant.CertificateReady) }

// tlsFields are what a tenant has of its own in handshakes and certificates, for "tenant get".
func tlsFields(t *admin.Tenant) (fields [][2]string) {
	add := func(name, text string) { fields = append(fields, [2]string{name, text}) }
	if p := t.Passthrough; p != nil {
		add("Upstream", p.Upstream)
		if p.ProxyProtocol {
			add("PROXY header", "v2")
		}
	}
	if d := t.Dedicated; d != nil && (d.Client.Local || d.Client.Chain != "") {
		add("Client cert", "shown to the upstream")
	}
	if v := t.TLS; v != nil {
		add("Min TLS", v.MinVersion)
		if v.ClientCA != "" {
			add("Client CA", "every client must show a certificate")
		}
	}
	if c := t.Certificates; c != nil {
		add("Certificates", string(c.Source))
		if c.ACME != nil {
			add("ACME", strings.TrimSpace(c.ACME.Directory+" "+c.ACME.Email))
		}
	}
	return fields
}
