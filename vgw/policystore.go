package vgw

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/tenant"
)

// KindPolicy is the kind of the objects that hold a tenant's policy bundles, as policy.Encode makes them. Their ids are
// the bundles' digests. Whoever evaluates reads the one that the routing record names.
const KindPolicy = "policy"

// What is known about a bundle is an object of its own, so that a list reads no sources.
const (
	kindPolicyInfo = "policyinfo"
	infoVersion    = 1
	maxPolicies    = 5 // versions kept
	maxWarnings    = 20
)

// Policies checks and tests bundles within bounds of its own.
type Policies interface {
	Check(ctx context.Context, b *policy.Bundle) (*policy.Report, error)
	Test(ctx context.Context, b *policy.Bundle) ([]policy.TestResult, error)
	// Try says what a bundle that is not in force would decide.
	Try(ctx context.Context, s tenant.Scope, b *policy.Bundle, in *policy.Input) (policy.Decision, error)
}

// boundedPolicies compiles few bundles at a time, whoever asks: a compilation takes a core for as long as a second.
type boundedPolicies struct {
	limits  policy.Limits
	library *policy.Library
	places  chan struct{}
}

// NewPolicies returns Policies with the bounds of l that compile two bundles at a time.
func NewPolicies(l policy.Limits) Policies {
	return &boundedPolicies{limits: l, library: policy.NewLibrary(l), places: make(chan struct{}, 2)}
}

func (p *boundedPolicies) enter(ctx context.Context) (leave func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, policyWait)
	defer cancel()
	select {
	case p.places <- struct{}{}:
		return func() { <-p.places }, nil
	case <-ctx.Done():
		return nil, fault.New(fault.Unavailable, "too many policies are being compiled").After(time.Second)
	}
}

// Check implements Policies.
func (p *boundedPolicies) Check(ctx context.Context, b *policy.Bundle) (*policy.Report, error) {
	leave, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return policy.Check(ctx, b, p.limits)
}

// Test implements Policies.
func (p *boundedPolicies) Test(ctx context.Context, b *policy.Bundle) ([]policy.TestResult, error) {
	leave, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return policy.Test(ctx, b, p.limits)
}

// Try implements Policies.
func (p *boundedPolicies) Try(ctx context.Context, s tenant.Scope, b *policy.Bundle, in *policy.Input) (policy.Decision, error) {
	leave, err := p.enter(ctx)
	if err != nil {
		return policy.Decision{}, err
	}
	defer leave()
	e, err := p.library.Open(ctx, s, b)
	if err != nil {
		return policy.Decision{}, err
	}
	defer e.Close()
	return e.Decide(ctx, in), nil
}

// policyWait bounds waiting for a turn to compile.
const policyWait = 5 * time.Second

// policyInfo is what is known about a stored bundle.
type policyInfo struct {
	V           int           `json:"v"`
	Digest      string        `json:"digest"`
	Created     time.Time     `json:"created"`
	By          string        `json:"by"` // Ref of who stored it
	Source      tenant.Source `json:"source"`
	File        string        `json:"file,omitempty"`
	RegoVersion string        `json:"rego_version"`
	Modules     int           `json:"modules"`
	Bytes       int           `json:"bytes"`
	Warnings    []string      `json:"warnings,omitempty"`
}

// policyTurn gives one change of the tenant's policy its turn, and with it the right to hold one bundle in memory.
func (g *Gateway) policyTurn(ctx context.Context) (done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, policyWait)
	defer cancel()
	select {
	case g.policing <- struct{}{}:
		return func() { <-g.policing }, nil
	case <-ctx.Done():
		return nil, fault.New(fault.RateLimited, "another policy of this tenant is being read or compiled").After(time.Second)
	}
}

// policyInfos returns what is stored, newest first.
func (g *Gateway) policyInfos(ctx context.Context) ([]policyInfo, error) {
	objects, err := g.claim.Load(ctx, kindPolicyInfo)
	if err != nil {
		return nil, fmt.Errorf("load the versions of the policy: %w", err)
	}
	var out []policyInfo
	for _, o := range objects {
		var i policyInfo
		if err := json.Unmarshal(o.Value, &i); err != nil {
			return nil, fmt.Errorf("version %s of the policy: %w", o.ID, err)
		}
		if i.V < infoVersion || i.V > infoVersion+1 || i.Digest != o.ID {
			return nil, fmt.Errorf("version %s of the policy: record of version %d", o.ID, i.V)
		}
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b policyInfo) int { return b.Created.Compare(a.Created) })
	return out, nil
}

// policyBundle returns a stored bundle.
func (g *Gateway) policyBundle(ctx context.Context, digest string) (*policy.Bundle, error) {
	objects, err := g.claim.Load(ctx, KindPolicy)
	if err != nil {
		return nil, fmt.Errorf("load the policy: %w", err)
	}
	for _, o := range objects {
		if o.ID == digest {
			return policy.Decode(o.Value)
		}
	}
	return nil, noPolicy(digest)
}

func noPolicy(digest string) error { return fault.New(fault.NotFound, "no policy %q", digest) }

// storePolicy stores a bundle that is not in force yet. The oldest versions make room, but for those that are to be kept.
func (g *Gateway) storePolicy(ctx context.Context, by records, permit *guard.Permit, b *policy.Bundle, info policyInfo, keep ...string) error {
	value, err := policy.Encode(b)
	if err != nil {
		return err
	}
	if len(value) > maxWriteBytes {
		return fault.New(fault.TooLarge, "the policy is %d bytes even when compressed: at most %d can be stored", len(value), maxWriteBytes)
	}
	meta, err := json.Marshal(info)
	if err != nil {
		return fmt.Errorf("encode the version of the policy: %w", err)
	}
	have, err := g.policyInfos(ctx)
	if err != nil {
		return err
	}
	writes := []tenant.Write{{Kind: KindPolicy, ID: info.Digest, Value: value}, {Kind: kindPolicyInfo, ID: info.Digest, Value: meta}}
	have = slices.DeleteFunc(have, func(i policyInfo) bool { return i.Digest == info.Digest })
	for n := len(have) - 1; n >= 0 && len(have) >= maxPolicies; n-- {
		if old := have[n].Digest; !slices.Contains(keep, old) {
			writes = append(writes, tenant.Write{Kind: KindPolicy, ID: old}, tenant.Write{Kind: kindPolicyInfo, ID: old})
			have = slices.Delete(have, n, n+1)
		}
	}
	g.changes.Lock()
	defer g.changes.Unlock()
	if ctx.Err() != nil {
		return left(ctx)
	}
	return g.commit(by, permit, writes...)
}

// newInfo describes a bundle that compiles.
func newInfo(b *policy.Bundle, r *policy.Report, now time.Time, by string) policyInfo {
	return policyInfo{
		V: infoVersion, Digest: b.Digest(), Created: now.UTC(), By: by, Source: tenant.SourceAPI, RegoVersion: r.RegoVersion,
		Modules: len(b.Modules), Bytes: b.Size(), Warnings: r.Warnings[:min(len(r.Warnings), maxWarnings)],
	}
}

// inForce returns the digests that must not make room: that of the record, and the one that was last put in force here, of
// which the caller's record may not tell yet.
func (g *Gateway) inForce(r *tenant.Record) []string {
	keep := []string{g.enforced}
	if r.Policy != nil {
		keep = append(keep, r.Policy.Digest)
	}
	return keep
}

// ApplyPolicy puts the bundle that a file declares for e's tenant in force; nil takes out of force what a file declared
// earlier. visit is the system's, at the platform's guard. The same again writes nothing. A policy that was put in force
// through the API is a fault.Conflict that says so. A bundle that does not compile is a fault.Invalid, and changes nothing.
func (m *Mux) ApplyPolicy(ctx context.Context, visit *guard.Visit, e *tenant.Entry, file string, b *policy.Bundle) error {
	in, err := m.enter(ctx, e)
	if err != nil {
		return err
	}
	defer in.leave()
	done, err := in.gw.policyTurn(ctx)
	if err != nil {
		return err
	}
	defer done()
	r := records{m.cfg.Records, e.Scope, visit.Principal(), m.cfg.Now, 0}
	if b == nil {
		return in.gw.dropFilePolicy(ctx, visit, r, e.Record)
	}
	if p := e.Record.Policy; p != nil && p.Source == tenant.SourceFile && p.Digest == b.Digest() && p.File == file && !p.Updated.IsZero() {
		return nil
	}
	if m.cfg.Policies == nil {
		return noEvaluator()
	}
	report, err := m.cfg.Policies.Check(ctx, b)
	if err != nil {
		return err
	}
	info := newInfo(b, report, m.cfg.Now(), visit.Principal().Ref())
	info.Source, info.File = tenant.SourceFile, file
	return in.gw.applyPolicy(ctx, visit, r, e.Record, b, info)
}

func noEvaluator() error {
	return fault.New(fault.NotImplemented, "this gateway evaluates no policies")
}

func (g *Gateway) applyPolicy(ctx context.Context, visit *guard.Visit, r records, have *tenant.Record, b *policy.Bundle, info policyInfo) error {
	permit, err := visit.Admit(guard.Effect{Action: authz.PolicyUpdate, Resource: "policy/" + info.Digest + "/source", Subject: g.scope})
	if err != nil {
		return err
	}
	if err := permit.Settle(g.storePolicy(ctx, r, permit, b, info, g.inForce(have)...)); err != nil {
		return err
	}
	permit, err = visit.Admit(guard.Effect{Action: authz.PolicyUpdate, Resource: "policy/" + info.Digest, Subject: g.scope})
	if err != nil {
		return err
	}
	_, err = r.update(ctx, func(rec *tenant.Record) error {
		if p := rec.Policy; p != nil && p.Source != tenant.SourceFile {
			return fault.New(fault.Conflict, "a policy was put in force through the API already: take it out of force there, or remove policy_dir %s", info.File)
		}
		rec.Policy = &tenant.PolicyRef{Digest: info.Digest, Source: tenant.SourceFile, File: info.File, Updated: info.Created}
		return nil
	}, permit.Entry(audit.OutcomeOK))
	if err == nil {
		g.enforced = info.Digest
	}
	return permit.Settle(err)
}

func (g *Gateway) dropFilePolicy(ctx context.Context, visit *guard.Visit, r records, have *tenant.Record) error {
	if have.Policy == nil || have.Policy.Source != tenant.SourceFile {
		return nil
	}
	permit, err := visit.Admit(guard.Effect{Action: authz.PolicyUpdate, Resource: "policy/none", Subject: g.scope})
	if err != nil {
		return err
	}
	_, err = r.update(ctx, func(rec *tenant.Record) error {
		if rec.Policy != nil && rec.Policy.Source == tenant.SourceFile {
			rec.Policy = nil
		}
		return nil
	}, permit.Entry(audit.OutcomeOK))
	return permit.Settle(err)
}
