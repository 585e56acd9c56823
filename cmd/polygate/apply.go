package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/proxy/admin"
)

// maxApplyFile bounds what apply reads from stdin, in bytes.
const maxApplyFile = 64 << 20

// stdinName is how messages call a file that came through stdin.
const stdinName = "<stdin>"

func (a *admins) tenantApply() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "apply -f <file>", Short: "Create or update the tenants of a file",
		Long: `Create or update every tenant that a file in the format of tenants.yaml declares, through the operators' listener.

A tenant that exists is set to what the file declares: fields that the file leaves out get their defaults, but its state
and its API keys stay as they are unless the file has "state" or "api_keys" for it. Tenants that the file does not name
are left alone. If one tenant fails, the others go on, and the exit code is 1.

The tenants belong to the API afterwards. Those that the gateway's own tenants.yaml declares are refused here, and so are
catalog_file, policy_dir, certificates.files, bots, members and authenticators, which the gateway reads only from its own files:
the commands server, policy, cert, bot, member and authenticator do the same for a tenant of the API.`,
		Example: "  polygate tenant apply -f tenants.yaml\n  cat tenants.yaml | polygate tenant apply -f -",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := loadDeclared(file, cmd.InOrStdin())
			if err != nil {
				return reportConfig(cmd.ErrOrStderr(), err)
			}
			return a.run(cmd, func(ctx context.Context, c *client) error { return a.apply(ctx, cmd, c, list) })
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "file that declares tenants; - reads stdin (required)")
	_ = cmd.MarkFlagRequired("file")
	return cmd
}

// loadDeclared reads the tenants of a file. Hosts and quotas are checked by the gateway, which knows the platform's.
func loadDeclared(path string, stdin io.Reader) ([]config.Tenant, error) {
	name := path
	if path == "-" {
		spooled, remove, err := spool(stdin)
		if err != nil {
			return nil, err
		}
		defer remove()
		path, name = spooled, stdinName
	}
	// Secrets stay as they are: the gateway seals them.
	seal := func(_ tenant.ID, _, plain string) (string, error) { return plain, nil }
	tenants, err := config.LoadTenants(path, config.Options{Seal: seal})
	if err != nil {
		return nil, renamed(err, path, name)
	}
	for _, t := range tenants.List {
		if field, hint := onlyInFiles(&t); field != "" {
			return nil, fmt.Errorf("%s: tenant %s has %s, which only the gateway's own tenants.yaml can have: %s", name, t.Record.ID, field, hint)
		}
	}
	return tenants.List, nil
}

// onlyInFiles returns the first setting of a tenant that the operators' API does not take, and what to use in its place. To
// leave it out in silence would let the tenant look as it is not.
func onlyInFiles(t *config.Tenant) (field, hint string) {
	r := t.Record
	switch {
	case t.CatalogDigest != "":
		return "a catalog_file", "use \"polygate server add\" for its servers"
	case t.PolicyDir != "":
		return "a policy_dir", "use \"polygate policy upload\" for its policy"
	case len(t.CertificateFiles) > 0:
		return "certificates.files", "use \"polygate cert import --tenant\" for its certificates"
	case len(r.Bots) > 0:
		return "bots", "use \"polygate bot add\" for its bots"
	case len(r.Members) > 0:
		return "members", "use \"polygate member add --tenant\" for its members"
	case len(r.Authenticators) > 0:
		return "authenticators", "use \"polygate authenticator add\" for its authenticators"
	}
	return "", ""
}

// spool writes stdin to a file, since positions in messages need the whole text.
func spool(stdin io.Reader) (path string, remove func(), err error) {
	b, err := readFile("-", stdin, maxApplyFile)
	if err != nil {
		return "", nil, fmt.Errorf("read stdin: %w", err)
	}
	dir, err := os.MkdirTemp("", "polygate-apply-")
	if err != nil {
		return "", nil, err
	}
	path = filepath.Join(dir, "tenants.yaml")
	remove = func() { _ = os.RemoveAll(dir) }
	if err := os.WriteFile(path, b, 0o600); err != nil {
		remove()
		return "", nil, err
	}
	return path, remove, nil
}

// renamed shows errors of one file under another name.
func renamed(err error, path, name string) error {
	var list config.Errors
	if errors.As(err, &list) {
		for _, e := range list {
			if e.File == path {
				e.File = name
			}
		}
	}
	return err
}

// applied is what became of one tenant.
type applied struct {
	ID     tenant.ID `json:"id"`
	Result string    `json:"result"` // created, updated, unchanged or failed
	Error  string    `json:"error,omitempty"`
}

// apply carries out all tenants, and tells of each.
func (a *admins) apply(ctx context.Context, cmd *cobra.Command, c *client, list []config.Tenant) error {
	bar := progress{w: cmd.ErrOrStderr(), total: len(list)}
	done := make([]applied, 0, len(list))
	failed := 0
	for _, t := range list {
		result := applied{ID: t.Record.ID}
		var err error
		if result.Result, err = applyOne(ctx, c, &t); err != nil {
			failed++
			result.Result, result.Error = "failed", err.Error()
			bar.clear()
			fmt.Fprintf(cmd.ErrOrStderr(), "polygate: tenant %s: %s\n", clean(string(t.Record.ID)), clean(err.Error()))
		}
		if done = append(done, result); !a.out.isData() && err == nil {
			bar.clear()
			fmt.Fprintf(cmd.OutOrStdout(), "tenant %s %s\n", clean(string(result.ID)), result.Result)
		}
		if ctx.Err() != nil {
			break
		}
		bar.show(len(done))
	}
	bar.clear()
	if a.out.isData() {
		if err := a.out.data(cmd.OutOrStdout(), map[string][]applied{"items": done}); err != nil {
			return err
		}
	}
	if rest := len(list) - len(done); rest > 0 {
		return fmt.Errorf("interrupted: %d of %d tenants were not applied", rest, len(list))
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d tenants failed", failed, len(list))
	}
	return nil
}

// applyOne creates or replaces one tenant.
func applyOne(ctx context.Context, c *client, t *config.Tenant) (string, error) {
	spec := specOf(t)
	path := "/api/v1/tenants/" + spec.ID
	var before, after admin.Tenant
	err := c.do(ctx, http.MethodGet, path, nil, &before)
	if isStatus(err, http.StatusNotFound) {
		return "created", c.do(ctx, http.MethodPost, "/api/v1/tenants", spec, &after)
	}
	if err != nil {
		return "", err
	}
	if err := c.do(ctx, http.MethodPut, path, spec, &after); err != nil {
		return "", err
	}
	if after.ResourceVersion == before.ResourceVersion {
		return "unchanged", nil
	}
	return "updated", nil
}

// specOf returns what a file declares of a tenant as the API takes it.
func specOf(t *config.Tenant) *admin.TenantSpec {
	r := t.Record
	spec := &admin.TenantSpec{
		ID: string(r.ID), DisplayName: r.DisplayName, Namespace: r.Namespace, Mode: r.Mode, Dedicated: r.Dedicated,
		Passthrough: r.Passthrough, TLS: r.TLS, Certificates: settingsOf(r.Certificates),
		Hosts: r.Hosts, Quotas: r.Quotas, Origins: r.AllowedOrigins, Sandboxes: r.Sandboxes,
	}
	if t.StateDeclared {
		spec.State, spec.SuspendReason = r.State, r.SuspendReason
	}
	if len(r.Keys) > 0 {
		keys := make([]admin.KeySpec, len(r.Keys))
		for i, k := range r.Keys {
			keys[i] = admin.KeySpec{Name: k.Name, KeyHash: k.Hash, Role: k.Role, Expires: k.Expires}
		}
		spec.APIKeys = &keys
	}
	return spec
}

// settingsOf returns where certificates come from as the API takes it, secrets in the clear.
func settingsOf(c *tenant.Certificates) *admin.CertificateSettings {
	if c == nil {
		return nil
	}
	out := &admin.CertificateSettings{Source: c.Source}
	if a := c.ACME; a != nil {
		out.ACME = &admin.ACME{Directory: a.Directory, Email: a.Email, CA: a.CA, Profile: a.Profile, EABKeyID: a.EABKeyID, EABKey: a.EABKey}
	}
	return out
}

// progress is one line on a terminal that is written over and over, and nothing elsewhere.
type progress struct {
	w     io.Writer
	total int
	shown bool
}

func (p *progress) show(done int) {
	if f, ok := p.w.(*os.File); !ok || !isTerminal(f) || done == p.total {
		return
	}
	p.shown = true
	fmt.Fprintf(p.w, "\r%d of %d tenants", done, p.total)
}

// clear removes the line.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
