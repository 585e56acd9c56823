package vgw

import (
	"context"
	"net/url"
	"time"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/tenant"
)

// maxPolicyBody bounds a bundle as JSON: escapes make its bytes more than policy.Limits counts.
const maxPolicyBody = 4 << 20

func policyRoutes() []route {
	return []route{
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/policies", Action: authz.PolicyList, Summary: "the versions of the policy, and which is in force"}, handle: listPolicies},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/policies", Action: authz.PolicyUpdate, Summary: "put a policy in force; with dry_run=1, only check it"}, handle: putPolicy},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/policies/check", Action: authz.PolicyCheck, Summary: "compile a policy, and change nothing"}, handle: checkPolicy},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/policies/test", Action: authz.PolicyCheck, Summary: "run a policy's tests"}, handle: testPolicy},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/policies/explain", Action: authz.PolicyExplain, Summary: "why something is allowed or denied"}, handle: explainPolicy},
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/policies/{digest}", Action: authz.PolicyRead, Summary: "the source of one version, or of the active one"}, handle: getPolicy},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/policies/{digest}/activate", Action: authz.PolicyUpdate, Summary: "put an earlier version in force again"}, handle: activatePolicy},
		{Route: exchange.Route{Method: "DELETE", Pattern: "/api/v1/policies/active", Action: authz.PolicyUpdate, Summary: "take the policy out of force"}, handle: deactivatePolicy},
	}
}

// versionView is one version of the policy.
type versionView struct {
	Digest      string    `json:"digest"`
	Active      bool      `json:"active"`
	Created     time.Time `json:"created"`
	By          string    `json:"created_by"`
	Modules     int       `json:"modules"`
	Bytes       int       `json:"bytes"`
	RegoVersion string    `json:"rego_version"`
	Warnings    []string  `json:"warnings,omitempty"`
}

func viewVersion(i policyInfo, r *tenant.Record) versionView {
	return versionView{
		Digest: i.Digest, Active: r.Policy != nil && r.Policy.Digest == i.Digest, Created: i.Created, By: i.By, Modules: i.Modules,
		Bytes: i.Bytes, RegoVersion: i.RegoVersion, Warnings: i.Warnings,
	}
}

// policiesView is all versions of the policy.
type policiesView struct {
	Active  string        `json:"active,omitzero"` // the digest of the one in force
	Source  tenant.Source `json:"source,omitzero"`
	File    string        `json:"file,omitzero"`
	Updated time.Time     `json:"updated,omitzero"`
	Items   []versionView `json:"items"`
}

// policyRevision is the resource version of which policy is in force.
func policyRevision(r *tenant.Record) int64 {
	if r.Policy == nil {
		return 0
	}
	return max(r.Policy.Updated.UnixMicro(), 1)
}

func listPolicies(ctx context.Context, c *call) (exchange.Decision, error) {
	if _, _, err := c.pageQuery(); err != nil { // they are few enough for one page
		return nil, err
	}
	permit, may, err := admitList(c, authz.PolicyList, "policy")
	if err != nil {
		return nil, err
	}
	if !may {
		return decision(reply(200, policiesView{Items: []versionView{}}))
	}
	infos, err := c.gw.policyInfos(ctx)
	permit.Done(err)
	if err != nil {
		return nil, err
	}
	v := policiesView{Items: []versionView{}}
	if p := c.e.Record.Policy; p != nil {
		v.Active, v.Source, v.File, v.Updated = p.Digest, p.Source, p.File, p.Updated
	}
	for _, i := range infos {
		v.Items = append(v.Items, viewVersion(i, c.e.Record))
	}
	d, err := reply(200, v)
	if err != nil {
		return nil, err
	}
	d.Header.Set("Etag", etag(policyRevision(c.e.Record)))
	return d, nil
}

// digestParam returns the digest that the path names; "active" is the one in force.
func (c *call) digestParam(name string) string {
	if name == "active" && c.e.Record.Policy != nil {
		return c.e.Record.Policy.Digest
	}
	return name
}

func getPolicy(ctx context.Context, c *call) (exchange.Decision, error) {
	digest := c.digestParam(c.params[0])
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.PolicyRead, Resource: "policy/" + label(digest)})
	if err != nil {
		return nil, err
	}
	d, err := c.replyPolicy(ctx, digest)
	permit.Done(err)
	return decision(d, err)
}

func (c *call) replyPolicy(ctx context.Context, digest string) (*exchange.Reply, error) {
	infos, err := c.gw.policyInfos(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range infos {
		if i.Digest != digest {
			continue
		}
		b, err := c.gw.policyBundle(ctx, digest)
		if err != nil {
			return nil, err
		}
		return reply(200, struct {
			versionView `json:",inline"`
			Bundle      *policy.Bundle `json:"bundle"`
		}{viewVersion(i, c.e.Record), b})
	}
	return nil, noPolicy(digest)
}

// reportView is what was found in a bundle.
type reportView struct {
	Digest      string   `json:"digest"`
	Active      bool     `json:"active"`
	RegoVersion string   `json:"rego_version"`
	Packages    []string `json:"packages"`
	Entrypoints []string `json:"entrypoints"`
	Tests       int      `json:"tests"`
	Warnings    []string `json:"warnings"`
}

func viewReport(digest string, active bool, r *policy.Report) reportView {
	return reportView{digest, active, r.RegoVersion, r.Packages, r.Entrypoints, r.Tests, r.Warnings}
}

// bundle reads a body that holds a bundle, as the only one of the tenant. Who may not use it is refused before it is read.
func bundle[T any](ctx context.Context, c *call, a authz.Action) (v T, done func(), err error) {
	if !c.roleMay(a) {
		_, err := c.r.Visit.Admit(guard.Effect{Action: a, Resource: "policy"})
		if err == nil {
			err = fault.New(fault.Forbidden, "role %s may not %s", c.r.Visit.Principal().Role, a)
		}
		return v, nil, err
	}
	if c.cfg.Policies == nil {
		return v, nil, noEvaluator()
	}
	turn, err := c.gw.policyTurn(ctx)
	if err != nil {
		return v, nil, err
	}
	release, err := c.gw.mcp.Bodies.Total.Reserve(maxPolicyBody)
	if err != nil {
		turn()
		return v, nil, err
	}
	done = func() { release(); turn() }
	if v, err = decodeUpTo[T](c, maxPolicyBody); err != nil {
		done()
		return v, nil, err
	}
	return v, done, nil
}

// dryRun reads the query of an upload.
func (c *call) dryRun() (bool, error) {
	q, err := url.ParseQuery(c.r.Query)
	if err != nil {
		return false, fault.Wrap(fault.Invalid, err, "the query is malformed")
	}
	for name, values := range q {
		if name != "dry_run" || len(values) != 1 {
			return false, fault.New(fault.Invalid, "the query parameter %.64q is unknown or repeated: use dry_run=1", name)
		}
	}
	switch q.Get("dry_run") {
	case "", "0", "false":
		return false, nil
	case "1", "true":
		return true, nil
	}
	return false, fault.New(fault.Invalid, "dry_run must be 1 or 0")
}

func putPolicy(ctx context.Context, c *call) (exchange.Decision, error) {
	dry, err := c.dryRun()
	if err != nil {
		return nil, err
	}
	action := authz.PolicyUpdate
	if dry {
		action = authz.PolicyCheck
	}
	pre, err := ifMatch(c.r.Header)
	if err != nil {
		return nil, err
	}
	b, done, err := bundle[policy.Bundle](ctx, c, action)
	if err != nil {
		return nil, err
	}
	defer done()
	digest := b.Digest()
	permit, err := c.r.Visit.Admit(guard.Effect{Action: action, Resource: "policy/" + digest + "/source"})
	if err != nil {
		return nil, err
	}
	report, err := c.judgeBundle(ctx, &b)
	if dry {
		permit.Done(err)
		if err != nil {
			return nil, err
		}
		return decision(reply(200, viewReport(digest, false, report)))
	}
	if err == nil {
		err = c.storeUpload(ctx, permit, &b, report)
	}
	if permit.Settle(err) != nil {
		return nil, err
	}
	return c.enforceUpload(ctx, digest, pre, report)
}

// judgeBundle says whether a bundle may be put in force.
func (c *call) judgeBundle(ctx context.Context, b *policy.Bundle) (*policy.Report, error) {
	report, err := c.cfg.Policies.Check(ctx, b)
	if err != nil {
		return nil, err
	}
	return report, c.wayBack(ctx, b)
}

func (c *call) enforceUpload(ctx context.Context, digest string, pre precondition, report *policy.Report) (exchange.Decision, error) {
	e, err := c.enforce(ctx, digest, pre)
	if err != nil {
		return nil, err
	}
	d, err := reply(201, viewReport(digest, true, report))
	if err != nil {
		return nil, err
	}
	d.Header.Set("Etag", etag(policyRevision(e.Record)))
	d.Header.Set("Location", c.r.Base+"/api/v1/policies/"+digest)
	return d, nil
}

func (c *call) storeUpload(ctx context.Context, permit *guard.Permit, b *policy.Bundle, report *policy.Report) error {
	if err := c.notOfFile(c.e.Record); err != nil {
		return err
	}
	info := newInfo(b, report, c.now(), c.r.Visit.Principal().Ref())
	return c.gw.storePolicy(ctx, c.records, permit, b, info, c.gw.inForce(c.e.Record)...)
}

func (c *call) notOfFile(r *tenant.Record) error {
	if r.Policy == nil || r.Policy.Source != tenant.SourceFile {
		return nil
	}
	return fault.New(fault.Conflict, "the policy is declared in %s: change it there", r.Policy.File)
}

// enforce puts a stored bundle in force.
func (c *call) enforce(ctx context.Context, digest string, pre precondition) (*tenant.Entry, error) {
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.PolicyUpdate, Resource: "policy/" + digest})
	if err != nil {
		return nil, err
	}
	e, err := c.change(ctx, permit, c.setPolicy(&tenant.PolicyRef{Digest: digest, Source: tenant.SourceAPI, Updated: c.now().UTC()}, pre))
	if err == nil {
		c.gw.enforced = digest
	}
	return e, err
}

// setPolicy names the policy in force; nil is none.
func (c *call) setPolicy(p *tenant.PolicyRef, pre precondition) func(*tenant.Record) error {
	return func(r *tenant.Record) error {
		if err := c.notOfFile(r); err != nil {
			return err
		}
		if !pre.allows(policyRevision(r)) {
			return stale(policyRevision(r))
		}
		if p == nil {
			if r.Policy == nil {
				return fault.New(fault.NotFound, "no policy is in force")
			}
			r.Policy = nil
			return nil
		}
		next := *p
		if r.Policy != nil {
			next.Updated = later(next.Updated, r.Policy.Updated.Add(time.Microsecond))
		}
		r.Policy = &next
		return nil
	}
}

func activatePolicy(ctx context.Context, c *call) (exchange.Decision, error) {
	pre, err := ifMatch(c.r.Header)
	if err != nil {
		return nil, err
	}
	digest := c.params[0]
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.PolicyUpdate, Resource: "policy/" + label(digest) + "/activate"})
	if err != nil {
		return nil, err
	}
	done, err := c.checkStored(ctx, digest)
	if permit.Done(err); err != nil {
		return nil, err
	}
	defer done()
	e, err := c.enforce(ctx, digest, pre)
	if err != nil {
		return nil, err
	}
	d, err := reply(200, struct {
		Digest  string    `json:"digest"`
		Active  bool      `json:"active"`
		Updated time.Time `json:"updated"`
	}{digest, true, e.Record.Policy.Updated})
	if err != nil {
		return nil, err
	}
	d.Header.Set("Etag", etag(policyRevision(e.Record)))
	return d, nil
}

// checkStored checks that a stored bundle still compiles, since the bounds may be others than when it was stored, and
// keeps it from making room for another until done is called.
func (c *call) checkStored(ctx context.Context, digest string) (done func(), err error) {
	if c.cfg.Policies == nil {
		return nil, noEvaluator()
	}
	if done, err = c.gw.policyTurn(ctx); err != nil {
		return nil, err
	}
	b, err := c.gw.policyBundle(ctx, digest)
	if err == nil {
		_, err = c.judgeBundle(ctx, b)
	}
	if err != nil {
		done()
		return nil, err
	}
	return done, nil
}

func deactivatePolicy(ctx context.Context, c *call) (exchange.Decision, error) {
	pre, err := ifMatch(c.r.Header)
	if err != nil {
		return nil, err
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.PolicyUpdate, Resource: "policy/none"})
	if err != nil {
		return nil, err
	}
	if _, err := c.change(ctx, permit, c.setPolicy(nil, pre)); err != nil {
		return nil, err
	}
	return noContent(), nil
}
