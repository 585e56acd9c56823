package kube

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/polygate/polygate/vgw/sandbox"
)

const (
	keepEvery    = 5 * time.Minute        // between two looks at a namespace while nothing is heard of it
	keepBad      = 30 * time.Second       // after a look that failed, and before a watch that broke begins anew
	keepEnding   = 2 * time.Second        // while the namespace is being deleted: it waits for the gateway
	unholdIn     = 3 * time.Second        // of the calls that are made after the watch has ended
	keepGathered = 200 * time.Millisecond // changes that come together are one
)

// keep keeps the namespace in shape while its sandboxes are watched: what somebody changes of its network policies is put back at
// once, all else within keepEvery. It makes no namespace: that is for the next sandbox. stop ends it and waits.
func (p *place) keep(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	changed := make(chan struct{}, 1)
	ended := make(chan struct{}, 2)
	go func() { p.follow(ctx, changed); ended <- struct{}{} }()
	go func() { p.tend(ctx, changed); ended <- struct{}{} }()
	return func() {
		cancel()
		<-ended
		<-ended
		p.unhold(context.WithoutCancel(ctx))
	}
}

// unhold lets the namespace be deleted without the gateway, if no pod is left that waits for it: nobody may look at it again for long. Whoever
// watches next puts it right should a pod have come meanwhile.
func (p *place) unhold(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, unholdIn)
	defer cancel()
	name, err := p.site.namespaceOf(p.tenant)
	if err != nil || p.site.binding(name, "", "") == nil || p.circuit.open() || p.used(ctx, name) {
		return
	}
	e := eraser{cluster: p.cluster, site: p.site, namespace: name, uid: p.tenant.Scope.UID()}
	if err := e.unhold(ctx); err != nil {
		p.config.Logger.Debug("namespace not let go", "tenant", p.tenant.Scope.String(), "error", err)
	}
}

// tend looks at the namespace after each change, and now and then.
func (p *place) tend(ctx context.Context, changed <-chan struct{}) {
	next := time.NewTimer(keepGathered)
	defer next.Stop()
	for {
		select {
		case <-changed:
			if pause(ctx, keepGathered) != nil {
				return
			}
		case <-next.C:
		case <-ctx.Done():
			return
		}
		p.spoil()
		err := p.shape(ctx, false)
		if err != nil && ctx.Err() == nil {
			p.config.Logger.Debug("namespace not kept in shape", "tenant", p.tenant.Scope.String(), "error", err)
		}
		next.Reset(pace(err))
	}
}

// pace returns the time until the next look, a little different for each tenant so that they do not come together.
func pace(err error) time.Duration {
	switch {
	case errors.Is(err, sandbox.ErrTerminating):
		return keepEnding
	case err != nil:
		return spread(keepBad)
	}
	return spread(keepEvery)
}

// follow tells of each change of the namespace's network policies, until ctx ends. A watch that breaks, as in a namespace that is not there
// yet, begins anew after a while.
func (p *place) follow(ctx context.Context, changed chan<- struct{}) {
	name, err := p.site.namespaceOf(p.tenant)
	if err != nil {
		return
	}
	policies := p.network.NetworkPolicies(name)
	f := follower[*networkingv1.NetworkPolicy]{
		cluster: p.cluster, what: "watch the network policies",
		list: func(ctx context.Context, o metav1.ListOptions) (metav1.ListInterface, []*networkingv1.NetworkPolicy, error) {
			l, err := policies.List(ctx, o)
			if err != nil {
				return nil, nil, err
			}
			return l, pointers(l.Items), nil
		},
		watch: policies.Watch,
		each: func(*networkingv1.NetworkPolicy, bool) {
			select {
			case changed <- struct{}{}:
			default: // one look is for all changes before it
			}
		},
	}
	for {
		_ = f.run(ctx, func() {})
		again := time.NewTimer(spread(keepBad))
		select {
		case <-again.C:
		case <-p.there:
		case <-ctx.Done():
		}
		again.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// spread makes a pause longer by chance, so that many do not come at once.
func spread(d time.Duration) time.Duration {
	return d + rand.N(d/4) //nolint:gosec // G404: no secret
}
