package kube

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
)

const (
	// placeFresh is for how long a namespace that was found in shape, or put back, is taken to be so: many creates at once look once.
	// It is shorter than the pause after a create that failed a few times, so that a namespace that is gone is seen to be.
	placeFresh = 5 * time.Second
	// rightsWait bounds the wait for rights that were just given: the API server's authorizer and its admission policies learn of
	// a RoleBinding and of a label some milliseconds after they are stored.
	rightsWait = 5 * time.Second
)

// place keeps one tenant's namespace in shape. Its methods can be called at the same time; one works at a time.
type place struct {
	*cluster
	site   site
	tenant sandbox.Tenant

	turn    chan struct{} // holds one token: who has it works
	there   chan struct{} // told when the namespace was made or taken: what could not be watched can be
	claimed bool          // guarded by turn: the registry knows that the namespace is the tenant's

	mu      sync.Mutex
	checked time.Time // guarded by mu: when it was last in shape; zero = never, or something changed since
	report  []string  // guarded by mu: what the last look found
}

func (c Config) site() site {
	return site{instance: c.Instance, prefix: c.NamespacePrefix, gateway: c.Gateway, dns: c.DNS, dnsPorts: c.DNSPorts, role: roleName}
}

func (d *Drivers) place(t sandbox.Tenant) *place {
	p := &place{cluster: d.cluster, site: d.config.site(), tenant: t, turn: make(chan struct{}, 1), there: make(chan struct{}, 1)}
	p.turn <- struct{}{}
	return p
}

// Prepare implements sandbox.Driver: it makes the tenant's namespace, or puts back what somebody changed of it. A namespace that was
// adopted and not hardened is only looked at. It asks nothing if it has looked just now.
func (d *driver) Prepare(ctx context.Context) error { return d.place.prepare(ctx) }

// Drift returns what the last Prepare found different from how it should be, one line each: what it put back, and in a namespace
// that is observed what hardening would change. Objects of others that widen what sandboxes may do are named too.
func (d *driver) Drift() []string {
	d.place.mu.Lock()
	defer d.place.mu.Unlock()
	return slices.Clone(d.place.report)
}

func (p *place) prepare(ctx context.Context) error { return p.shape(ctx, true) }

// shape looks at the namespace unless somebody did just now. One that is not there is made only with mayMake.
func (p *place) shape(ctx context.Context, mayMake bool) error {
	if p.fresh() {
		return nil
	}
	select {
	case <-p.turn:
	case <-ctx.Done():
		return fault.Wrap(fault.Canceled, ctx.Err(), "cannot prepare the tenant's namespace: the request ended")
	}
	defer func() { p.turn <- struct{}{} }()
	if p.fresh() { // somebody else has looked meanwhile
		return nil
	}
	began := p.config.Now()
	report, err := p.look(ctx, mayMake)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Equal(report, p.report) {
		p.tell(report)
	}
	p.checked, p.report = began, report
	return nil
}

func (p *place) fresh() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.checked.IsZero() && p.config.Now().Sub(p.checked) < placeFresh
}

// spoil has the next Prepare look again.
func (p *place) spoil() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.checked = time.Time{}
}

// look finds or makes the namespace, and what belongs in it.
func (p *place) look(ctx context.Context, mayMake bool) ([]string, error) {
	name, err := p.site.namespaceOf(p.tenant)
	if err != nil {
		return nil, err
	}
	found, err := p.find(ctx, name)
	switch {
	case err != nil:
		return nil, err
	case found == nil && !mayMake:
		return nil, fault.Wrap(fault.NotFound, sandbox.ErrGone, "namespace %s is missing: it is made with the next sandbox", name)
	}
	v, err := p.site.judge(name, p.tenant, found)
	if err != nil {
		if errors.Is(err, sandbox.ErrTerminating) {
			p.letGo(ctx, found)
		}
		return nil, err
	}
	if err := p.claim(ctx, name); err != nil { // only now: a record that names another's namespace must not keep it from its owner
		return nil, err
	}
	return p.settle(ctx, name, v, found, mayMake || p.used(ctx, name))
}

// used says whether there are pods of the tenant. If nobody can tell, there may be.
func (p *place) used(ctx context.Context, name string) bool {
	e := eraser{cluster: p.cluster, site: p.site, namespace: name, uid: p.tenant.Scope.UID()}
	pods, err := e.pods(ctx)
	return err != nil || len(pods) > 0
}

// claim notes in the registry that the namespace is this tenant's, before anything of it is written: two tenants whose records name
// one namespace never both get past this, whatever the cluster's labels said at the time (X53).
func (p *place) claim(ctx context.Context, name string) error {
	if p.claimed {
		return nil
	}
	if p.config.Places == nil {
		return fault.New(fault.Internal, "nobody keeps which tenant has namespace %s", name)
	}
	if err := p.config.Places.Claim(ctx, name, p.tenant.Scope, p.tenant.Settings.Adopted); err != nil {
		return err
	}
	p.claimed = true
	return nil
}

// find returns the namespace as it is; nil if there is none.
func (p *place) find(ctx context.Context, name string) (found *corev1.Namespace, err error) {
	err = p.call(ctx, "read the tenant's namespace", func(ctx context.Context) error {
		found, err = p.core.Namespaces().Get(ctx, name, metav1.GetOptions{})
		return err
	})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return found, err
}

// settle brings the namespace, and then what belongs in it, in shape. held says that there are pods, or will be: without any, whoever
// deletes the namespace need not wait for the gateway.
func (p *place) settle(ctx context.Context, name string, v verdict, found *corev1.Namespace, held bool) ([]string, error) {
	report, err := p.settleNamespace(ctx, v, p.site.namespace(name, p.tenant), found)
	if err != nil {
		return nil, err
	}
	if p.tenant.Settings.Observed() {
		report = append(report, differences("namespace "+name, found.Labels, podSecurity(p.tenant.Settings.PodSecurity))...)
	}
	if b := p.site.binding(name, p.tenant.Scope.ID().String(), p.tenant.Scope.UID()); b != nil {
		if !held {
			b.Finalizers = nil
		}
		if err := p.settleBinding(ctx, b); err != nil {
			return nil, err
		}
	}
	more, err := p.settleContents(ctx, name)
	if v != keepIt {
		select {
		case p.there <- struct{}{}:
		default:
		}
	}
	if v == makeIt {
		return nil, err // what is new has nothing yet
	}
	return append(report, more...), err
}

// settleNamespace makes the namespace or puts its labels back. A write names the version that was judged, so that nothing is written
// to a namespace that became another meanwhile.
func (p *place) settleNamespace(ctx context.Context, v verdict, want, found *corev1.Namespace) ([]string, error) {
	if v == makeIt {
		err := p.call(ctx, "make the tenant's namespace", func(ctx context.Context) error {
			_, err := p.core.Namespaces().Create(ctx, want, metav1.CreateOptions{FieldManager: manager})
			return err
		})
		if err == nil {
			p.config.Logger.Info("namespace made", "tenant", p.tenant.Scope.String(), "namespace", want.Name)
		}
		return nil, err
	}
	lines := differences("namespace "+want.Name, found.Labels, want.Labels)
	if len(lines) == 0 {
		return nil, nil
	}
	want.Annotations = remembered(found)
	want.UID, want.ResourceVersion = found.UID, found.ResourceVersion
	if err := p.call(ctx, "label the tenant's namespace", func(ctx context.Context) error {
		_, err := apply(ctx, p.core.Namespaces(), want)
		return err
	}); err != nil {
		return nil, err
	}
	return lines, nil
}

// letGo lets a namespace that somebody deletes be gone, once none of the tenant's pods is left in it.
func (p *place) letGo(ctx context.Context, found *corev1.Namespace) {
	e := eraser{cluster: p.cluster, site: p.site, namespace: found.Name, id: found.Labels[LabelTenant], uid: p.tenant.Scope.UID()}
	if found.Labels[LabelTenantUID] != e.uid || found.Labels[LabelInstance] != p.site.instance {
		return
	}
	left, err := e.pods(ctx)
	if err == nil && len(left) == 0 {
		err = e.dropRights(ctx)
	}
	if err != nil {
		p.config.Logger.Warn("cannot let go of a namespace that is being deleted", "tenant", p.tenant.Scope.String(), "namespace", found.Name, "error", err)
	}
}

// tell logs what a look found.
func (p *place) tell(report []string) {
	for _, line := range report {
		p.config.Logger.Warn("namespace of sandboxes not as it should be", "tenant", p.tenant.Scope.String(), "found", line, "observed", p.tenant.Settings.Observed())
	}
}

// settleContents brings what belongs in the namespace in shape, or says what would be done where it is to be observed. The policies
// come first: a quota may wait, an open network may not.
func (p *place) settleContents(ctx context.Context, name string) ([]string, error) {
	observe := p.tenant.Settings.Observed()
	report, err := p.settlePolicies(ctx, name, observe || p.tenant.Settings.Network == tenant.NetworkObserve)
	if err != nil {
		return nil, err
	}
	quota, err := settle(ctx, p, p.core.ResourceQuotas(name), p.site.quota(name, p.tenant), sameQuota, observe)
	if err != nil {
		return nil, err
	}
	limits, err := settle(ctx, p, p.core.LimitRanges(name), p.site.limits(name, p.tenant), sameLimits, observe)
	if err != nil {
		return nil, err
	}
	return slices.Concat(report, quota, limits), nil
}

// settlePolicies brings the NetworkPolicies in shape, and names those of others: what policies allow adds up, so each may widen what
// sandboxes can reach. They are left alone, since somebody needs them.
func (p *place) settlePolicies(ctx context.Context, name string, observe bool) ([]string, error) {
	var report []string
	for _, want := range p.site.policies(name, p.tenant) {
		lines, err := settle(ctx, p, p.network.NetworkPolicies(name), want, samePolicy, observe)
		if err != nil {
			return nil, err
		}
		report = append(report, lines...)
	}
	err := p.withRights(ctx, "list the network policies", func(ctx context.Context) error {
		all, err := p.network.NetworkPolicies(name).List(ctx, metav1.ListOptions{})
		if err == nil {
			report = append(report, strangers(all.Items)...)
		}
		return err
	})
	return report, err
}
