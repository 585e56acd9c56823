package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/certs"
	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/tenant"
)

func newConfigCommand() *cobra.Command {
	cmd := commandGroup("config", "Check configuration files",
		"Check polygate.yaml, tenants.yaml and the catalog files that it names, with the same rules as the gateway.", configCheck())
	cmd.Example = "  polygate config check polygate.yaml"
	return cmd
}

func configCheck() *cobra.Command {
	return &cobra.Command{
		Use: "check <polygate.yaml> [tenants.yaml]", Short: "Find every mistake, with file, line and column",
		Long: `Check polygate.yaml, and tenants.yaml with its catalog files, certificates, secrets and policies: the one that polygate.yaml names
as tenants_file, or the one given. Each mistake is one line on stderr, file:line:column: reason, and the exit code is 1. A
warning is such a line too, and changes no exit code. Nothing is changed and nothing is connected to.`,
		Example: "  polygate config check polygate.yaml\n  polygate config check polygate.yaml new-tenants.yaml",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := config.LoadPlatform(args[0])
			if err != nil {
				return reportConfig(cmd.ErrOrStderr(), err)
			}
			path := p.TenantsFile
			if len(args) == 2 {
				path = args[1]
			}
			wrong := checkPlatform(cmd, args[0], p)
			if path != "" {
				wrong = errors.Join(wrong, checkTenants(cmd, path, p))
			}
			return wrong
		},
	}
}

// checkPlatform checks the files that polygate.yaml names, and tells how it stands.
func checkPlatform(cmd *cobra.Command, path string, p *config.Platform) error {
	warnOf(cmd, p.Warnings())
	if errs := p.CheckCertificates(checkPair); len(errs) > 0 {
		return reportConfig(cmd.ErrOrStderr(), errs)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: ok: base domain %s, public %s, admin %s, %s\n", path, p.BaseDomain,
		p.Listen.Public, cmp.Or(p.Listen.Admin, "none"), storeText(p))
	return err
}

// checkTenants checks tenants.yaml with all that it names. A certificate that is wrong is an error here alone: the gateway
// goes on without it.
func checkTenants(cmd *cobra.Command, path string, p *config.Platform) error {
	tenants, err := config.LoadTenants(path, checkOptions(cmd.Context(), p))
	if err != nil {
		return reportConfig(cmd.ErrOrStderr(), err)
	}
	warnOf(cmd, tenants.Doubts(p))
	if errs := tenants.CheckCertificates(p.BaseDomain, checkPair); len(errs) > 0 {
		return reportConfig(cmd.ErrOrStderr(), errs)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: ok: %s\n", path, tenantsText(tenants))
	return err
}

func checkPair(chain, key []byte, hosts []string) error {
	return certs.CheckPair(chain, key, hosts, time.Now())
}

// warnOf tells what is allowed, and is no mistake, but worth a look.
func warnOf(cmd *cobra.Command, list config.Errors) {
	for _, e := range list {
		w := *e
		w.Msg = "warning: " + w.Msg
		fmt.Fprintln(cmd.ErrOrStderr(), clean(w.Error()))
	}
}

// checkOptions are the platform's rules for tenants, as far as they follow from its file: those of the gateway itself, with
// each policy compiled.
func checkOptions(ctx context.Context, p *config.Platform) config.Options {
	o := tenantsOptions(p, nil)
	o.CheckPolicy = func(b *policy.Bundle) error {
		_, err := policy.Check(ctx, b, o.PolicyLimits)
		return err
	}
	return o
}

func storeText(p *config.Platform) string {
	if n := len(p.Etcd.Endpoints); n > 0 {
		return fmt.Sprintf("etcd at %d endpoints", n)
	}
	return "embedded etcd in " + p.DataDir
}

func tenantsText(t *config.Tenants) string {
	servers, keys, suspended, bots, members, policies := 0, 0, 0, 0, 0, 0
	for _, one := range t.List {
		servers += len(one.Servers)
		keys += len(one.Record.Keys)
		bots += len(one.Record.Bots)
		members += len(one.Record.Members)
		if one.Policy != nil {
			policies++
		}
		if one.Record.State == tenant.StateSuspended {
			suspended++
		}
	}
	return fmt.Sprintf("%d tenants (%d suspended), %d keys, %d bots, %d members, %d policies, %d servers, %d files", len(t.List), suspended, keys, bots, members, policies, servers, len(t.Files))
}

// reportConfig prints each mistake of a configuration on its own line; any other error it returns as it is.
func reportConfig(w io.Writer, err error) error {
	var list config.Errors
	if !errors.As(err, &list) {
		return err
	}
	for _, e := range list {
		fmt.Fprintln(w, clean(e.Error()))
	}
	return errReported
}
