package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/proxy/admin"
)

// admins is what the commands for operators share: how to reach the listener and how to print.
type admins struct {
	settings settings
	conn     *connection
	out      printer
}

func newAdmins() *admins {
	a := &admins{}
	a.conn = adminConnection(&a.settings)
	return a
}

func (a *admins) bind(cmd *cobra.Command) {
	a.settings.bind(cmd)
	a.conn.bind(cmd)
	a.out.bind(cmd)
}

// run opens the client for one command.
func (a *admins) run(cmd *cobra.Command, do func(ctx context.Context, c *client) error) error {
	if err := a.out.check(); err != nil {
		return err
	}
	c, err := a.conn.open(cmd.InOrStdin())
	if err != nil {
		return err
	}
	defer c.close()
	return do(cmd.Context(), c)
}

func newTenantCommand() *cobra.Command {
	a := newAdmins()
	cmd := commandGroup("tenant", "List, apply, suspend, resume, harden, move and delete tenants",
		"Manage tenants through the operators' listener.\n\nTenants that the gateway's own tenants.yaml declares are changed there; suspend and resume work on every tenant.",
		a.tenantList(), a.tenantGet(), a.tenantApply(), a.tenantSuspend(), a.tenantResume(), a.tenantHarden(), a.tenantExport(), a.tenantImport(), a.tenantDelete(), a.tenantOwner(), a.tenantMove())
	cmd.Example = "  polygate tenant list\n  polygate tenant apply -f tenants.yaml"
	a.bind(cmd)
	return cmd
}

// tenantPath returns the path of a tenant. The id is checked here for a better message, and again by the server.
func tenantPath(id string) (string, error) {
	if _, err := tenant.ParseID(id); err != nil {
		return "", plain(err)
	}
	return "/api/v1/tenants/" + url.PathEscape(id), nil
}

func (a *admins) tenantList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List all tenants",
		Long:    "List all tenants, sorted by id.",
		Example: "  polygate tenant list\n  polygate tenant list -o json | jq -r '.items[].id'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.run(cmd, func(ctx context.Context, c *client) error {
				list, err := listTenants(ctx, c)
				if err != nil {
					return fmt.Errorf("list tenants: %w", err)
				}
				rows := make([][]string, len(list.Items))
				for i, t := range list.Items {
					rows[i] = []string{string(t.ID), string(t.State), string(t.Mode), strconv.Itoa(len(t.Keys)),
						strings.Join(t.Hosts, ","), string(t.Source), t.DisplayName}
				}
				return a.out.print(cmd.OutOrStdout(), list, []string{"ID", "STATE", "MODE", "KEYS", "HOSTS", "SOURCE", "NAME"}, rows)
			})
		},
	}
}

// listTenants reads all pages.
func listTenants(ctx context.Context, c *client) (*admin.TenantList, error) {
	all := &admin.TenantList{Items: []admin.Tenant{}}
	cursor := ""
	for {
		var page admin.TenantList
		if err := c.do(ctx, http.MethodGet, "/api/v1/tenants?limit=500&cursor="+url.QueryEscape(cursor), nil, &page); err != nil {
			return nil, err
		}
		all.Items = append(all.Items, page.Items...)
		if page.NextCursor == "" || page.NextCursor == cursor {
			return all, nil
		}
		cursor = page.NextCursor
	}
}

func (a *admins) tenantGet() *cobra.Command {
	return &cobra.Command{
		Use: "get <tenant>", Short: "Show one tenant",
		Long:    "Show what the gateway knows of one tenant: its state, mode, hosts, quotas and keys (never a key itself).",
		Example: "  polygate tenant get team-a\n  polygate tenant get team-a -o json",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.complete(tenantNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.one(cmd, args[0], http.MethodGet, "", nil, a.show)
		},
	}
}

// one sends one request about a tenant and hands the answered tenant to done.
func (a *admins) one(cmd *cobra.Command, id, method, sub string, body any, done func(*cobra.Command, *admin.Tenant) error) error {
	path, err := tenantPath(id)
	if err != nil {
		return err
	}
	return a.run(cmd, func(ctx context.Context, c *client) error {
		var t admin.Tenant
		if err := c.do(ctx, method, path+sub, body, &t); err != nil {
			return fmt.Errorf("tenant %s: %w", id, err)
		}
		return done(cmd, &t)
	})
}

func (a *admins) show(cmd *cobra.Command, t *admin.Tenant) error {
	if a.out.isData() {
		return a.out.data(cmd.OutOrStdout(), t)
	}
	fields := [][2]string{
		{"ID", string(t.ID)}, {"Name", t.DisplayName}, {"State", string(t.State)}, {"Reason", t.SuspendReason},
		{"Mode", string(t.Mode)}, {"Hosts", strings.Join(t.Hosts, ", ")}, {"Namespace", t.Namespace},
	}
	if d := t.Dedicated; d != nil {
		fields = append(fields, [2]string{"Upstream", d.Upstream}, [2]string{"Auth", string(d.Auth)}, [2]string{"Identity", d.Identity})
	}
	fields = append(fields, tlsFields(t)...)
	fields = append(fields, sandboxFields(t.Sandboxes)...)
	fields = append(fields, [2]string{"Origins", strings.Join(t.AllowedOrigins, ", ")}, [2]string{"Authenticators", strings.Join(t.Authenticators, ", ")},
		[2]string{"Quotas", quotaText(t.Quotas)}, [2]string{"Source", strings.TrimSpace(string(t.Source) + " " + t.File)},
		[2]string{"Created", stamp(t.Created)}, [2]string{"Updated", stamp(t.Updated)}, [2]string{"Version", t.ResourceVersion}, [2]string{"UID", t.UID})
	if err := printFields(cmd.OutOrStdout(), fields); err != nil || len(t.Keys) == 0 {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout())
	return printTable(cmd.OutOrStdout(), keyHead(), keyRows(t.Keys))
}

// sandboxFields shows what operators decided of a tenant's sandboxes.
func sandboxFields(s *tenant.Sandboxes) [][2]string {
	if s == nil {
		return nil
	}
	shape := ""
	switch {
	case s.Observed():
		shape = "adopted, left as it was found"
	case s.Adopted:
		shape = "adopted, hardened"
	}
	return [][2]string{
		{"Pod security", string(s.PodSecurity)}, {"Network", string(s.Network)}, {"Shape", shape}, {"Images", strings.Join(s.Images, ", ")},
		{"Runtime classes", strings.Join(s.RuntimeClasses, ", ")}, {"Egress", strings.Join(s.Egress, ", ")},
	}
}

// quotaText names the quotas that a tenant has of its own.
func quotaText(q tenant.Quotas) string {
	var parts []string
	add := func(name string, v float64) {
		if v > 0 {
			parts = append(parts, name+" "+strconv.FormatFloat(v, 'g', -1, 64))
		}
	}
	add("max_servers", float64(q.MaxServers))
	add("max_concurrent_requests", float64(q.MaxConcurrentRequests))
	add("requests_per_second", q.RequestsPerSecond)
	add("burst", float64(q.Burst))
	add("max_streams", float64(q.MaxStreams))
	add("bytes_per_second", float64(q.BytesPerSecond))
	add("bytes_burst", float64(q.BytesBurst))
	add("max_stored_bytes", float64(q.MaxStoredBytes))
	add("max_sandboxes", float64(q.MaxSandboxes))
	add("sandbox_cpu_millis", float64(q.SandboxCPU))
	add("sandbox_memory_bytes", float64(q.SandboxMemory))
	add("sandbox_storage_bytes", float64(q.SandboxStorage))
	add("sandbox_gpus", float64(q.SandboxGPUs))
	add("sandbox_lifetime_seconds", float64(q.SandboxLifetime))
	for _, s := range []struct {
		of string
		tenant.Share
	}{{"per_principal", q.PerPrincipal}, {"per_key", q.PerKey}} {
		add(s.of+".max_concurrent_requests", float64(s.MaxConcurrentRequests))
		add(s.of+".requests_per_second", s.RequestsPerSecond)
		add(s.of+".burst", float64(s.Burst))
	}
	return strings.Join(parts, ", ")
}

func (a *admins) tenantSuspend() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "suspend <tenant>", Short: "Stop serving a tenant, keeping its state",
		Long: `Stop serving a tenant. Its callers get 503 with the reason, requests in flight end, and all its state is kept. Its
sandboxes run on until their lifetime ends, since its gateway is closed: stop them before, or delete the tenant, where they must not.`,
		Example: "  polygate tenant suspend team-a --reason 'under investigation until Friday'",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.complete(tenantNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.one(cmd, args[0], http.MethodPost, "/suspend", admin.SuspendRequest{Reason: reason}, a.say("suspended"))
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "what the tenant's callers are told")
	return cmd
}

func (a *admins) tenantResume() *cobra.Command {
	return &cobra.Command{
		Use: "resume <tenant>", Short: "Serve a suspended tenant again",
		Long:    "Serve a suspended tenant again, with everything that it had.",
		Example: "  polygate tenant resume team-a",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.complete(tenantNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.one(cmd, args[0], http.MethodPost, "/resume", nil, a.say("resumed"))
		},
	}
}

func (a *admins) tenantHarden() *cobra.Command {
	return &cobra.Command{
		Use: "harden <tenant>", Short: "Bring an adopted namespace in shape, and keep it so",
		Long: `Bring a tenant's adopted namespace in the shape of one that the gateway made: labels, Pod Security, ResourceQuota, LimitRange,
NetworkPolicies; and put back what is changed of them. Until then an adopted namespace is left as it was found.
What already runs there goes on; pods that the Pod Security level refuses cannot be made again.`,
		Example: "  polygate tenant harden team-a",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.complete(tenantNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.one(cmd, args[0], http.MethodPost, "/harden", nil, a.say("hardened"))
		},
	}
}

// say reports a change in one line, or shows the tenant as JSON.
func (a *admins) say(what string) func(*cobra.Command, *admin.Tenant) error {
	return func(cmd *cobra.Command, t *admin.Tenant) error {
		if a.out.isData() {
			return a.out.data(cmd.OutOrStdout(), t)
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "tenant %s %s\n", clean(string(t.ID)), what)
		return err
	}
}

func (a *admins) tenantDelete() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "delete <tenant>", Short: "Erase a tenant with all its state",
		Long: `Erase a tenant: its keys, servers, secrets and sessions. This cannot be undone; "tenant suspend" keeps everything.

A tenant that tenants.yaml declares must be removed from the file first.`,
		Example: "  polygate tenant delete team-a --yes",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.complete(tenantNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := tenantPath(args[0])
			if err != nil {
				return err
			}
			if !yes {
				return usage("this erases tenant %s with all its state and cannot be undone: repeat it with --yes", args[0])
			}
			return a.run(cmd, func(ctx context.Context, c *client) error {
				if err := c.do(ctx, http.MethodDelete, path, nil, nil); err != nil {
					return fmt.Errorf("delete tenant %s: %w", args[0], err)
				}
				return a.say("deleted")(cmd, &admin.Tenant{ID: tenant.ID(args[0])})
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it without further question")
	return cmd
}
