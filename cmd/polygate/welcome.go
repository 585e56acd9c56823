package main

import (
	"context"
	"crypto/subtle"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
)

// demoKey is the name of the API keys that the demo makes.
const demoKey = "demo"

// welcome makes a first start usable at once, where the configuration asks for the demo: an API key for each demo tenant,
// a file of shell variables, and a table with lines to paste.
func (d *daemon) welcome(ctx context.Context) error {
	if d.cfg.Demo.EnvFile == "" {
		return nil
	}
	ca, err := filepath.Abs(d.caFile())
	if err != nil {
		return err
	}
	token, err := loadToken(d.cfg.Admin.TokenFile)
	if err != nil {
		return err
	}
	v := demoVars{
		{"POLYGATE_CA", ca},
		{"SHARED_URL", d.url(d.cfg.SharedHosts[0], d.listen.public)},
	}
	if d.listen.admin != nil {
		url := d.url("localhost", d.listen.admin)
		v = append(v, demoVar{"ADMIN_URL", url}, demoVar{"ADMIN_TOKEN", token}, demoVar{"POLYGATE_ADMIN_URL", url}, demoVar{"POLYGATE_ADMIN_TOKEN", token})
	}
	old := readVars(d.cfg.Demo.EnvFile)
	for _, id := range d.cfg.Demo.Tenants {
		key, err := d.demoKey(ctx, tenant.ID(id), old.get(varName(id)+"_KEY"))
		if err != nil {
			return fmt.Errorf("demo key of tenant %s: %w", id, err)
		}
		v = append(v, demoVar{varName(id) + "_URL", d.url(tenant.OwnHost(tenant.ID(id), d.cfg.BaseDomain), d.listen.public)}, demoVar{varName(id) + "_KEY", key})
	}
	if err := v.write(d.cfg.Demo.EnvFile); err != nil {
		return fmt.Errorf("cannot write %s: %w: make its folder writable or change demo.env_file", d.cfg.Demo.EnvFile, cause(err))
	}
	d.printTable(v)
	return nil
}

func varName(id string) string { return strings.ToUpper(strings.ReplaceAll(id, "-", "_")) }

func (d *daemon) url(host string, ln net.Listener) string {
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return "https://" + net.JoinHostPort(host, port)
}

// demoKey returns the tenant's demo key: the one known from an earlier start if it still holds, else a new one in its place.
func (d *daemon) demoKey(ctx context.Context, id tenant.ID, known string) (string, error) {
	e, ok := d.store.Index().ByID(id)
	if !ok {
		return "", fault.New(fault.NotFound, "the tenant is in demo.tenants but not declared in tenants.yaml")
	}
	if k, ok := e.Record.KeyByName(demoKey); ok && known != "" {
		if h := tenant.HashKey(known); subtle.ConstantTimeCompare(h[:], k.Hash[:]) == 1 {
			return known, nil
		}
	}
	visit, err := d.guards.Platform().Enter(tenant.System("demo"), guard.Request{ID: "demo-" + audit.NewID()})
	if err != nil {
		return "", err
	}
	defer visit.Leave()
	permit, err := visit.Admit(guard.Effect{Action: authz.KeyCreate, Resource: "key/" + demoKey, Subject: e.Scope})
	if err != nil {
		return "", err
	}
	key, hash := authn.NewKey()
	_, err = d.store.UpdateTenant(ctx, id, 0, func(r *tenant.Record) error {
		r.Keys = slices.DeleteFunc(r.Keys, func(k tenant.Key) bool { return k.Name == demoKey })
		r.Keys = append(r.Keys, tenant.Key{ID: uuid.NewString(), Name: demoKey, Hash: hash, Role: tenant.Admin, Source: tenant.SourceAPI, Created: time.Now().UTC()})
		return nil
	}, permit.Entry(audit.OutcomeOK))
	return key, permit.Settle(err)
}

// demoVars are the shell variables of the demo, in the order of the file.
type demoVars []demoVar

type demoVar struct{ name, value string }

func (v demoVars) get(name string) string {
	for _, x := range v {
		if x.name == name {
			return x.value
		}
	}
	return ""
}

// readVars reads what write wrote; a file that is not there or not ours has none.
func readVars(path string) demoVars {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var v demoVars
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			v = append(v, demoVar{name, strings.Trim(value, "'")}) // no key holds a quote
		}
	}
	return v
}

func (v demoVars) write(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	var b strings.Builder
	for _, x := range v {
		fmt.Fprintf(&b, "%s=%s\n", x.name, shellWord(x.value))
	}
	return writeFile(path, b.String())
}

// shellWord quotes a value for the shell where it needs it: the folder may have a space in its name.
func shellWord(s string) string {
	special := func(r rune) bool { return r >= 0x80 || strings.ContainsRune(" \t\n\"'`$&|;<>()*?[]#~{}\\!", r) }
	if !strings.ContainsFunc(s, special) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// printTable prints what listens where, and lines to paste.
func (d *daemon) printTable(v demoVars) {
	tw := tabwriter.NewWriter(d.out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(tw, "\nPolygate is up; Ctrl-C ends it.\n\n")
	fmt.Fprintf(tw, "shared host\t%s\n", v.get("SHARED_URL"))
	for _, id := range d.cfg.Demo.Tenants {
		fmt.Fprintf(tw, "%s\t%s\tkey %s\n", id, v.get(varName(id)+"_URL"), v.get(varName(id)+"_KEY"))
	}
	if url := v.get("ADMIN_URL"); url != "" {
		fmt.Fprintf(tw, "operators\t%s\ttoken in %s\n", url, d.cfg.Admin.TokenFile)
	}
	if d.listen.telemetry != nil {
		fmt.Fprintf(tw, "metrics\thttp://%s/metrics\n", d.listen.telemetry.Addr())
	}
	fmt.Fprintf(tw, "variables\t%s\n\n", d.cfg.Demo.EnvFile)
	_ = tw.Flush() // to standard output: if nobody reads it, nothing is lost
	ca, shared := shellWord(v.get("POLYGATE_CA")), v.get("SHARED_URL")
	for _, id := range d.cfg.Demo.Tenants {
		key := v.get(varName(id) + "_KEY")
		fmt.Fprintf(d.out, "  curl --cacert %s -H 'Authorization: Bearer %s' %s/servers\n", ca, key, v.get(varName(id)+"_URL"))
		fmt.Fprintf(d.out, "  curl --cacert %s -H 'Authorization: Bearer %s' %s/tenant/%s/api/v1/whoami\n", ca, key, shared, id)
	}
	if url := v.get("ADMIN_URL"); url != "" {
		fmt.Fprintf(d.out, "  curl --cacert %s -H 'Authorization: Bearer %s' %s/api/v1/tenants\n", ca, v.get("ADMIN_TOKEN"), url)
	}
	fmt.Fprintln(d.out)
}
