package main

import (
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/tenant"
)

// auditLogs names the logs of several replicas.
type auditLogs struct {
	dirs, replicas []string
	ext, tenant    string
}

func (l *auditLogs) bind(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&l.dirs, "dir", nil, "a folder with the audit logs of replicas; may be repeated")
	f.StringVar(&l.ext, "ext", ".jsonl", "with --dir: what the names of the logs end in")
	f.StringArrayVar(&l.replicas, "replica", nil, "with --dir: only the anchored chains of this replica must be there; may be repeated")
	f.StringVar(&l.tenant, "tenant", "", "with --dir: show only this tenant's chains (_platform: those of no tenant); all are checked")
}

func (l *auditLogs) given() bool { return len(l.dirs) > 0 }

// heads returns those of the replicas that were named.
func (l *auditLogs) heads(all map[string]audit.Head) map[string]audit.Head {
	if len(l.replicas) == 0 || all == nil {
		return all
	}
	out := maps.Clone(all)
	maps.DeleteFunc(out, func(chain string, _ audit.Head) bool {
		base, _ := audit.SplitChain(chain)
		return !slices.ContainsFunc(l.replicas, func(r string) bool { return audit.ChainName(base, r) == chain })
	})
	return out
}

// verifyLogs checks every log of the folders as one whole.
func (a *admins) verifyLogs(cmd *cobra.Command, l auditLogs, opts audit.VerifyOptions, offline bool) error {
	if _, err := tenant.ParseID(l.tenant); l.tenant != "" && l.tenant != audit.PlatformChain && err != nil {
		return usage("%v", plain(err))
	}
	var paths []string
	for _, dir := range l.dirs {
		found, err := audit.FolderLogs(dir, l.ext)
		if err != nil {
			return err
		}
		paths = append(paths, found...)
	}
	opts.Heads = l.heads(opts.Heads)
	report, err := audit.VerifyLogs(paths, opts)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if a.out.isData() {
		err = a.out.data(out, report)
	} else {
		for _, path := range paths {
			if _, err = out.Write([]byte(clean(path) + "\n")); err == nil {
				err = reportTable(out, l.shown(report.Logs[path]), offline)
			}
			if err != nil {
				break
			}
		}
	}
	if err != nil || report.OK {
		return err
	}
	for _, p := range report.Problems() {
		cmd.PrintErrf("polygate: audit: %s\n", clean(p))
	}
	return errReported
}

// shown leaves the chains of one tenant.
func (l *auditLogs) shown(r *audit.Report) *audit.Report {
	if l.tenant == "" {
		return r
	}
	c := *r
	c.Chains = maps.Clone(r.Chains)
	maps.DeleteFunc(c.Chains, func(chain string, _ audit.ChainReport) bool {
		base, _ := audit.SplitChain(chain)
		return base != l.tenant
	})
	return &c
}
