package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// hostInfo is a host of a tenant, or one that it asked for and has not proven to own.
type hostInfo struct {
	Host       string    `json:"host"`
	State      string    `json:"state"`
	DeclaredBy string    `json:"declared_by"`
	File       string    `json:"file"`
	Expires    time.Time `json:"expires"`
	TXTName    string    `json:"txt_name"`
	TXTValue   string    `json:"txt_value"`
	LastCheck  time.Time `json:"last_check"`
	LastError  string    `json:"last_error"`
}

// hostActive is the state of a host that is served.
const hostActive = "active"

// hostCommands is what the commands about hosts share.
type hostCommands struct {
	*scoped
	every time.Duration // between two looks for a proof
}

func newHostCommand() *cobra.Command {
	list := newScoped(true)
	s := &hostCommands{scoped: newScoped(false), every: 10 * time.Second}
	listed, own := hostList(list), []*cobra.Command{s.hostAdd(), s.hostVerify(), s.hostRemove()}
	cmd := commandGroup("host", "Ask for hosts of one's own, and prove them",
		`Manage the hosts of a tenant, as one of its admins. Beside the host that every tenant has, it may ask for names of its own. Such a
host is served once the tenant has proven to own it, with a TXT record in the DNS: "host add" tells which, "host verify" looks
for it. Operators list the hosts of a tenant here, and declare hosts with "polygate tenant apply" or in tenants.yaml.`,
		append([]*cobra.Command{listed}, own...)...)
	cmd.Example = "  polygate host add tools.example.org\n  polygate host verify tools.example.org --wait\n  polygate host list"
	list.bind(listed)
	for _, c := range own {
		s.bind(c)
	}
	return cmd
}

func hostColumns() []column[hostInfo] {
	return []column[hostInfo]{
		{"HOST", func(h *hostInfo) string { return h.Host }}, {"STATE", func(h *hostInfo) string { return h.State }},
		{"DECLARED BY", func(h *hostInfo) string { return cmp.Or(h.File, h.DeclaredBy) }},
		{"TXT NAME", func(h *hostInfo) string { return h.TXTName }}, {"TXT VALUE", func(h *hostInfo) string { return h.TXTValue }},
		{"PROVE UNTIL", func(h *hostInfo) string { return stamp(h.Expires) }}, {"LAST CHECK", func(h *hostInfo) string { return stamp(h.LastCheck) }},
		{"NOTE", func(h *hostInfo) string { return h.LastError }},
	}
}

func hostList(s *scoped) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the hosts, and those that wait for their proof",
		Long:    "List the hosts of a tenant (active), and those that it asked for and has not proven to own (pending), with the TXT record that proves each.",
		Example: "  polygate host list\n  polygate host list --tenant team-a -o yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				list, err := all[hostInfo](ctx, c, "hosts")
				if err != nil {
					return fmt.Errorf("list hosts%s: %w", s.ofTenant(), err)
				}
				return printList(cmd, &s.out, list, hostColumns())
			})
		},
	}
}

func (s *hostCommands) hostAdd() *cobra.Command {
	return &cobra.Command{
		Use: "add <host>", Short: "Ask for a host of one's own",
		Long: `Ask for a host of one's own. It is not served yet: make the TXT record that the command prints where the host's DNS is kept, then
"polygate host verify". To ask again for the same host shows the same record.`,
		Example: "  polygate host add tools.example.org",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				var h answered[hostInfo]
				if err := c.do(ctx, http.MethodPost, c.path("hosts"), map[string]string{"host": args[0]}, &h); err != nil {
					return fmt.Errorf("add host %q: %w", args[0], err)
				}
				if s.out.isData() || h.is.State == hostActive {
					return said(cmd, &s.out, &h, "host %s is served already", args[0])
				}
				return toProve(cmd, &h.is)
			})
		},
	}
}

// toProve prints the record that proves a host, alone on stdout as a line of a zone file.
func toProve(cmd *cobra.Command, h *hostInfo) error {
	until := ""
	if !h.Expires.IsZero() {
		until = " before " + stamp(h.Expires)
	}
	if err := tell(cmd, "host %s waits for the proof that it is yours. Make this record, then run \"polygate host verify %s\"%s:", h.Host, h.Host, until); err != nil {
		return err
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s. 300 IN TXT \"%s\"\n", clean(h.TXTName), clean(h.TXTValue))
	return err
}

func (s *hostCommands) hostVerify() *cobra.Command {
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "verify <host>", Short: "Look for the proof of a host, and serve it",
		Long: `Have the gateway look for the TXT record of a host in the DNS. If it is there, the host is the tenant's and is served from then on.
A new record may take minutes to be seen everywhere: with --wait the command looks again until it is, or the time is over.`,
		Example: "  polygate host verify tools.example.org\n  polygate host verify tools.example.org --wait --timeout 30m",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.complete(hostNames("hosts", "pending")),
		RunE: func(cmd *cobra.Command, args []string) error {
			if timeout <= 0 {
				return usage("--timeout %s is not positive", timeout)
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				h, err := verifyHost(ctx, c, args[0])
				if err != nil && wait {
					h, err = s.untilProven(ctx, cmd, c, args[0], timeout, err)
				}
				if err != nil {
					return err
				}
				return said(cmd, &s.out, h, "host %s is proven, and served from now on", args[0])
			})
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "look again until the record is seen")
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "with --wait, for how long at most")
	return cmd
}

func verifyHost(ctx context.Context, c *client, host string) (*answered[hostInfo], error) {
	var h answered[hostInfo]
	if err := c.do(ctx, http.MethodPost, c.path("hosts", host, "verify"), nil, &h); err != nil {
		return nil, fmt.Errorf("verify host %q: %w", host, err)
	}
	return &h, nil
}

// untilProven looks for a proof again and again, after the error of a first look. It tells what is missing when that changes.
func (s *hostCommands) untilProven(ctx context.Context, cmd *cobra.Command, c *client, host string, timeout time.Duration, err error) (*answered[hostInfo], error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	told := ""
	for began := time.Now(); ; {
		if !isStatus(err, http.StatusConflict) && !passing(err) {
			return nil, err
		}
		if text := missing(err); text != told && !isStatus(err, http.StatusTooManyRequests) {
			told = text
			_ = tell(cmd, "%s, after %s: looking again every %s", text, time.Since(began).Round(time.Second), s.every)
		}
		select {
		case <-ctx.Done():
			return nil, s.unproven(ctx, host, timeout, err)
		case <-time.After(s.every):
		}
		h, again := verifyHost(ctx, c, host)
		switch {
		case again == nil:
			return h, nil
		case ctx.Err() == nil:
			err = again
		}
	}
}

// missing is what the gateway found in a look, without the request's id, which is another each time.
func missing(err error) string {
	var e *apiError
	if errors.As(err, &e) {
		return cmp.Or(e.Detail, e.Title)
	}
	return err.Error()
}

func (s *hostCommands) unproven(ctx context.Context, host string, timeout time.Duration, last error) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("host %s is not proven: %s", host, missing(last))
	}
	return fmt.Errorf("host %s is not proven after %s: %s", host, timeout, missing(last))
}

func (s *hostCommands) hostRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove <host>", Aliases: []string{"rm"}, Short: "Give up a host that the tenant asked for",
		Long:    "Give up a host that the tenant asked for, proven or not. It is not served any more, and whoever owns the name may ask for it. Hosts that operators declared stay.",
		Example: "  polygate host remove tools.example.org",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.complete(hostNames("hosts", "")),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				if err := c.do(ctx, http.MethodDelete, c.path("hosts", args[0]), nil, nil); err != nil {
					return fmt.Errorf("remove host %q: %w", args[0], err)
				}
				return tell(cmd, "host %s removed", args[0])
			})
		},
	}
}
