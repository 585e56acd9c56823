package main

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/authn/kube"
	"github.com/polygate/polygate/internal/egress"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw"
)

// openEgress makes what connects to addresses that others name, and what opens their sealed secrets.
func (d *daemon) openEgress(context.Context) (err error) {
	d.dial = egress.New(egress.Config{Allow: d.cfg.Egress.Allow, Timeout: d.cfg.Limits.DialTimeout})
	d.secrets, err = authn.NewSecrets(d.secret)
	return err
}

// openIdentity makes what says who asks, and what tenants' policies say of it.
func (d *daemon) openIdentity(ctx context.Context) (err error) {
	reviewer, err := d.openReviewer()
	if err != nil {
		return err
	}
	d.authn, err = authn.New(authn.Config{
		Dial: d.dial.DialContext, Reviewer: reviewer, Secret: d.secret, Once: tickets{d.store}, CacheBytes: int64(d.cfg.Authn.TokenCacheBytes),
		Logger: d.log.With("part", "authn"),
	})
	if err != nil {
		return err
	}
	d.parts.onStop("authenticators", func() error { d.authn.Close(); return nil })
	d.policies = policy.NewLibrary(d.cfg.Policy.Limits())
	d.uses = &lastUses{store: d.store, log: d.log.With("part", "last uses")}
	d.parts.start(ctx, "last uses", d.uses.run)
	return nil
}

// openReviewer returns who reviews Kubernetes tokens; nil if the platform has no cluster.
func (d *daemon) openReviewer() (authn.Reviewer, error) {
	k := d.cfg.Authn.Kubernetes
	if k.Kubeconfig == "" && !k.InCluster {
		return nil, nil
	}
	r, err := kube.New(kube.Config{Kubeconfig: k.Kubeconfig})
	if err != nil {
		return nil, fmt.Errorf("authn.kubernetes: %w", err)
	}
	return r, nil
}

// onceStore makes ids good for one use, over all replicas.
type onceStore interface {
	Once(ctx context.Context, id string, until time.Time) (bool, error)
}

// tickets makes each ticket of a browser hand-over good once.
type tickets struct{ store onceStore }

// First implements authn.OnceStore.
func (t tickets) First(ctx context.Context, scope tenant.Scope, id string, until time.Time) (bool, error) {
	return t.store.Once(ctx, scope.UID()+"/"+id, until)
}

// openPolicy reads and compiles the bundle that a tenant's routing record puts in force. Any replica may read it, without
// the tenant's claim: the digest says whether it is the one that is meant.
func (d *daemon) openPolicy(ctx context.Context, s tenant.Scope, digest string) (*policy.Engine, error) {
	o, err := d.store.Read(ctx, s, vgw.KindPolicy, digest)
	if err != nil {
		return nil, err
	}
	b, err := policy.Decode(o.Value)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "")
	}
	if b.Digest() != digest {
		return nil, fault.Wrap(fault.Internal, fmt.Errorf("the policy %s of tenant %s is stored with another content", digest, s), "")
	}
	return d.policies.Open(ctx, s, b)
}

// guardLimits returns quotas of the configuration as guards know them.
func guardLimits(q tenant.Quotas) guard.Limits {
	return guard.Limits{
		Rate: quota.Limit{PerSecond: q.RequestsPerSecond, Burst: q.Burst}, MaxConcurrent: q.MaxConcurrentRequests, MaxStreams: q.MaxStreams,
		Bytes:      quota.Limit{PerSecond: float64(q.BytesPerSecond), Burst: int(min(q.BytesBurst, math.MaxInt))},
		MaxServers: q.MaxServers, MaxStored: q.MaxStoredBytes, PerPrincipal: guardShare(q.PerPrincipal), PerKey: guardShare(q.PerKey),
	}
}

func guardShare(s tenant.Share) guard.Share {
	return guard.Share{Rate: quota.Limit{PerSecond: s.RequestsPerSecond, Burst: s.Burst}, MaxConcurrent: s.MaxConcurrentRequests}
}

// alive says whether a tenant is in the index now.
func (d *daemon) alive(s tenant.Scope) bool {
	e, ok := d.store.Index().ByID(s.ID())
	return ok && e.Scope == s
}

// sweepGuards gives back, once a minute, what guards hold of callers that are idle.
func (d *daemon) sweepGuards(ctx context.Context) error {
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			d.guards.Sweep()
		}
	}
}

// judgeIssuer says whether an issuer that a tenant's admin names may be at an address.
func (d *daemon) judgeIssuer(a netip.Addr) error { return egress.Judge(a, d.cfg.Egress.Allow) }
