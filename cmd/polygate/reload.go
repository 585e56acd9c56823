package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/vgw"
	"github.com/polygate/polygate/vgw/catalog"
)

// retryReload is when a reload that the registry could not take is tried again.
const retryReload = 2 * time.Second

// checkTenants reads tenants.yaml and applies nothing. At the start a broken file is an error: there is no last good state
// of this process to go on with.
func (d *daemon) checkTenants(context.Context) error {
	if d.cfg.TenantsFile == "" {
		return nil
	}
	_, err := config.LoadTenants(d.cfg.TenantsFile, tenantsOptions(d.cfg, nil))
	return err
}

// openTenants applies tenants.yaml and follows it.
func (d *daemon) openTenants(ctx context.Context) error {
	if d.cfg.TenantsFile == "" {
		return nil
	}
	w, err := newWatcher()
	if err != nil {
		return err
	}
	r := &reloader{
		cfg: d.cfg, log: d.log.With("part", "reload"), count: d.metrics.Reload,
		store: d.store, guards: d.guards, mux: d.mux, secret: d.secret, secrets: d.secrets, watch: w,
		certs: d.certs, taken: make(map[tenant.Scope]takenFiles), cluster: d.cluster,
	}
	d.declared, d.stateDeclared = r.declares, r.declaresState
	d.parts.start(ctx, "file watch", w.run)
	// One tenant that is refused must not keep all the others from being served.
	if err := r.reload(ctx); err != nil && !errors.As(err, new(*incomplete)) {
		return err
	}
	d.parts.start(ctx, "reload", r.run)
	return nil
}

// reloader keeps the registry what tenants.yaml and its catalogs declare.
type reloader struct {
	cfg     *config.Platform
	log     *slog.Logger
	count   func(error) // counts the outcome of a reload
	store   *registry.Store
	guards  *guard.Set
	mux     *vgw.Mux
	cluster *cluster
	secret  []byte
	secrets *authn.Secrets // seals the client secrets of authenticators
	watch   *watcher
	certs   importer
	taken   map[tenant.Scope]takenFiles        // of the certificate files that were taken in, by tenant
	sound   map[string]bool                    // digests of policies that compiled, of the load before
	known   stamps                             // of the files that were read last
	inForce atomic.Pointer[map[tenant.ID]bool] // the tenants that the files declare, and whether with a state
}

// incomplete is a reload that was carried out, but for what err tells.
type incomplete struct{ err error }

func (i *incomplete) Error() string { return i.err.Error() }
func (i *incomplete) Unwrap() error { return i.err }

// declares says whether the tenants.yaml in force declares a tenant.
func (r *reloader) declares(id tenant.ID) bool {
	ids := r.inForce.Load()
	if ids == nil {
		return false
	}
	_, ok := (*ids)[id]
	return ok
}

// declaresState says whether the tenants.yaml in force declares a tenant's state, so that no operator may change it elsewhere.
func (r *reloader) declaresState(id tenant.ID) bool {
	ids := r.inForce.Load()
	return ids != nil && (*ids)[id]
}

// run reloads at each change of a file and at SIGHUP, until ctx ends.
func (r *reloader) run(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	retry := time.NewTimer(0)
	<-retry.C
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
		case <-look.C:
			if !r.known.changed() {
				continue
			}
		case <-r.watch.changed:
			if !r.known.changed() {
				continue // something else in the folder, such as a log: to reload, and to say so in it, would never end
			}
		case <-retry.C:
		}
		if err := r.reload(ctx); fault.Is(err, fault.Unavailable) {
			retry.Reset(retryReload)
		}
	}
}

// reload reads the files and applies them. A file with a mistake changes nothing and keeps being watched.
func (r *reloader) reload(ctx context.Context) error {
	want, err := r.load(ctx)
	if err != nil {
		// The mistake may be in a catalog, in a folder of its own. What cannot be watched is not there: the error has it.
		_ = r.watch.add(append(want.Files, r.cfg.TenantsFile))
		r.tell(err, "reload refused: the last good state stays")
		return err
	}
	for turn := 0; ; turn++ {
		err = r.carryOut(ctx, want)
		if !errors.Is(err, errRaced) || turn == racedTurns {
			break
		}
		if err := sleep(ctx, racedPause); err != nil {
			return fault.From(err)
		}
	}
	if errors.As(err, new(*incomplete)) {
		r.tell(err, "reload incomplete: what was refused stays as it was, all else is applied")
	} else {
		r.tell(err, "reload broke off: some changes are not applied")
	}
	return err
}

// errRaced is within an incomplete reload that another replica, which has the same file, overtook: what it made is there now.
var errRaced = errors.New("another replica applies the same file")

// How often such a reload is carried out anew at once, and when.
const (
	racedTurns = 10
	racedPause = 200 * time.Millisecond
)

// tell counts and logs the outcome of a reload.
func (r *reloader) tell(err error, failure string) {
	r.count(err)
	if err != nil {
		r.log.Error(failure, "file", r.cfg.TenantsFile, "error", err.Error())
		return
	}
	r.log.Info("reloaded", "file", r.cfg.TenantsFile)
}

// carryOut applies what the files declare. A tenant that cannot be changed is passed over, and the error is then an
// incomplete one; without the registry nothing can be, and it ends at once.
func (r *reloader) carryOut(ctx context.Context, want *config.Tenants) error {
	var refused []error
	if err := r.watch.follow(want.Files); err != nil {
		refused = append(refused, err) // a folder of certificates, of some tenant: all others were read from
	}
	ids := make(map[tenant.ID]bool, len(want.List))
	for i := range want.List {
		ids[want.List[i].Record.ID] = want.List[i].StateDeclared
	}
	r.inForce.Store(&ids)
	changes, clashes := config.Plan(want, r.records(), time.Now())
	visit, err := r.guards.Platform().Enter(tenant.System(want.File), guard.Request{ID: "reload-" + audit.NewID()})
	if err != nil {
		return err
	}
	defer visit.Leave()
	for _, clash := range clashes {
		refused = append(refused, clash)
	}
	for _, c := range changes {
		err := r.refuseBelowUse(ctx, c, want)
		if err == nil {
			err = r.apply(ctx, visit, c)
		}
		if err == nil {
			r.log.Info("applied", "change", string(c.Kind), "tenant", string(c.ID))
			for _, note := range c.Notes {
				r.log.Warn("reload: "+note, "tenant", string(c.ID))
			}
			continue
		}
		err = fmt.Errorf("%s tenant %s: %w", c.Kind, c.ID, err)
		if _, there := r.store.Index().ByID(c.ID); there && c.Kind == config.Create && fault.Is(err, fault.Conflict) {
			err = fault.Wrap(fault.Conflict, errors.Join(errRaced, err), "%s", fault.From(err).Detail)
		}
		if broken(ctx, err) {
			return err
		}
		refused = append(refused, err)
	}
	for _, apply := range []func(context.Context, *guard.Visit, *config.Tenants) error{r.applyCatalogs, r.applyPolicies, r.applyCertificates} {
		if err := apply(ctx, visit, want); broken(ctx, err) {
			return err
		} else if err != nil {
			refused = append(refused, err)
		}
	}
	if len(refused) > 0 {
		return &incomplete{errors.Join(refused...)}
	}
	return nil
}

// broken says whether an error is of the registry, or of our end, and not of one tenant.
func broken(ctx context.Context, err error) bool {
	return ctx.Err() != nil || fault.Is(err, fault.Unavailable)
}

// load reads the files once they have been left alone for settleTime: a file that is being written may be well-formed and
// still not what its author means.
func (r *reloader) load(ctx context.Context) (*config.Tenants, error) {
	for deadline := time.Now().Add(settleLimit); ; {
		before := r.known.now()
		want, err := config.LoadTenants(r.cfg.TenantsFile, r.options(ctx))
		r.known = before.of(want.Files)
		wait := settleTime - sinceWritten(want.Files, time.Now())
		if wait <= 0 || time.Now().After(deadline) {
			return want, err
		}
		select {
		case <-ctx.Done():
			return want, fault.From(ctx.Err())
		case <-time.After(wait):
		}
	}
}

// sinceWritten returns how long ago the file that was written last was written. A time in the future, by a clock other than
// ours, counts as long ago.
func sinceWritten(files []string, now time.Time) time.Duration {
	least := time.Hour
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			continue // what is wrong with it, reading it has said
		}
		if age := now.Sub(info.ModTime()); age >= 0 {
			least = min(least, age)
		}
	}
	return least
}

// tenantsOptions is what tenants.yaml is read with. secret keys the digests of the catalogs.
func tenantsOptions(cfg *config.Platform, secret []byte) config.Options {
	return config.Options{
		BaseDomain: cfg.BaseDomain, Reserved: slices.Concat(cfg.SharedHosts, cfg.Admin.Hosts),
		MaxServers: cfg.Quotas.MaxServers, DigestKey: secret, Env: os.LookupEnv,
		Check:    func(s config.Server) error { return server(s).Check() },
		Ceilings: cfg.Quotas.Ceilings.Tenant(), PolicyLimits: cfg.Policy.Limits(),
	}
}

// options is what tenants.yaml is read with once everything is open. Policies are compiled, but for those that the load
// before found sound.
func (r *reloader) options(ctx context.Context) config.Options {
	o := tenantsOptions(r.cfg, r.secret)
	known := r.sound
	r.sound = make(map[string]bool)
	o.CheckPolicy = func(b *policy.Bundle) error {
		digest := b.Digest()
		if !known[digest] {
			if _, err := policy.Check(ctx, b, o.PolicyLimits); err != nil {
				return err
			}
		}
		r.sound[digest] = true
		return nil
	}
	o.Seal = func(id tenant.ID, authenticator, plain string) (string, error) {
		return r.secrets.Seal(id, authenticator, plain), nil
	}
	return o
}

func server(s config.Server) catalog.Server {
	return catalog.Server{Name: s.Name, URL: s.URL, Headers: s.Headers, Timeout: s.Timeout}
}

// records returns all routing records of the index.
func (r *reloader) records() []*tenant.Record {
	entries := r.store.Index().List("", r.store.Index().Len()+1)
	list := make([]*tenant.Record, len(entries))
	for i, e := range entries {
		list[i] = e.Record
	}
	return list
}

// apply makes one change, with its audit record in the same transaction.
func (r *reloader) apply(ctx context.Context, visit *guard.Visit, c config.Change) error {
	permit, err := visit.Admit(guard.Effect{Action: action(c.Kind), Resource: "tenant/" + string(c.ID), Subject: r.scope(c.ID)})
	if err != nil {
		return err
	}
	entry := permit.Entry(audit.OutcomeOK)
	entry.Tenant = c.ID // a tenant that is not there yet has no scope
	if c.Kind == config.Create {
		_, err = r.store.CreateTenant(ctx, c.Record, entry)
	} else {
		_, err = r.store.UpdateTenant(ctx, c.ID, 0, c.Edit, entry)
	}
	return permit.Settle(err)
}

// refuseBelowUse refuses a quota of servers that is lowered below what the tenant would have: what the API added, and what
// the file's own catalog declares. The operators' API answers the same with 409.
func (r *reloader) refuseBelowUse(ctx context.Context, c config.Change, want *config.Tenants) error {
	e, ok := r.store.Index().ByID(c.ID)
	if !ok || c.Edit == nil || e.Record.State != tenant.StateActive {
		return nil
	}
	next := e.Record.Clone()
	if err := c.Edit(next); err != nil {
		return err
	}
	quota := next.Quotas.MaxServers
	if was := e.Record.Quotas.MaxServers; quota == 0 || was != 0 && quota >= was {
		return nil
	}
	used := 0
	err := r.cluster.here(ctx, e, func() (err error) {
		used, err = r.mux.APIServerCount(ctx, e)
		return err
	})
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(want.List, func(t config.Tenant) bool { return t.Record.ID == c.ID }); i >= 0 {
		used += len(want.List[i].Servers)
	}
	if used > quota {
		return fault.New(fault.Conflict, "quotas.max_servers is %d, but the tenant would have %d servers with those that the API added: remove some first, or raise it", quota, used)
	}
	return nil
}

func (r *reloader) scope(id tenant.ID) tenant.Scope {
	if e, ok := r.store.Index().ByID(id); ok {
		return e.Scope
	}
	return tenant.Scope{}
}

func action(k config.ChangeKind) authz.Action {
	switch k {
	case config.Create:
		return authz.TenantCreate
	case config.Suspend:
		return authz.TenantSuspend
	case config.Resume:
		return authz.TenantResume
	}
	return authz.TenantUpdate
}

// applyCatalogs applies each catalog that differs from the one applied last. The digest in the routing record spares
// opening the gateways of tenants whose catalog is as it was, which at a start is all of them.
func (r *reloader) applyCatalogs(ctx context.Context, visit *guard.Visit, want *config.Tenants) error {
	var errs []error
	for i := range want.List {
		t := &want.List[i]
		e, ok := r.store.Index().ByID(t.Record.ID)
		if !ok || e.Record.Source != tenant.SourceFile || e.Record.CatalogDigest == t.CatalogDigest {
			continue
		}
		if err := r.applyCatalog(ctx, visit, e, want.File, t); err != nil {
			if broken(ctx, err) {
				return err
			}
			errs = append(errs, fmt.Errorf("catalog of tenant %s: %w", t.Record.ID, err))
			continue
		}
		r.log.Info("applied", "change", "catalog", "tenant", string(t.Record.ID))
	}
	return errors.Join(errs...)
}

func (r *reloader) applyCatalog(ctx context.Context, visit *guard.Visit, e *tenant.Entry, file string, t *config.Tenant) error {
	servers := make([]catalog.Server, len(t.Servers))
	for i, s := range t.Servers {
		servers[i] = server(s)
	}
	if err := r.cluster.here(ctx, e, func() error { return r.mux.ApplyCatalog(ctx, visit, e, file, servers) }); err != nil {
		return err
	}
	return r.apply(ctx, visit, config.Change{Kind: config.Update, ID: t.Record.ID, Edit: func(rec *tenant.Record) error {
		rec.CatalogDigest = t.CatalogDigest
		return nil
	}})
}

// applyPolicies puts each declared policy in force that is not, and takes those out of force that are declared no more.
func (r *reloader) applyPolicies(ctx context.Context, visit *guard.Visit, want *config.Tenants) error {
	var errs []error
	for i := range want.List {
		t := &want.List[i]
		e, ok := r.store.Index().ByID(t.Record.ID)
		if !ok || e.Record.Source != tenant.SourceFile || !t.PolicyDue(e.Record) {
			continue
		}
		if err := r.cluster.here(ctx, e, func() error { return r.mux.ApplyPolicy(ctx, visit, e, t.PolicyDir, t.Policy) }); err != nil {
			if broken(ctx, err) {
				return err
			}
			errs = append(errs, fmt.Errorf("policy of tenant %s: %w", t.Record.ID, err))
			continue
		}
		r.log.Info("applied", "change", "policy", "tenant", string(t.Record.ID))
	}
	return errors.Join(errs...)
}
