package vgw

import (
	"context"
	"errors"
	"net"
	"strconv"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/policy"
)

// wayBack refuses a bundle under which the caller could not take it out of force again: a tenant would lock itself out of its own
// policy with one line, and nobody but an operator could open it.
func (c *call) wayBack(ctx context.Context, b *policy.Bundle) error {
	p := c.r.Visit.Principal()
	in := &policy.Input{
		Principal: policy.Principal{Kind: string(p.Kind), ID: p.ID, Name: p.Name, Via: string(p.Via)}, Role: p.Role,
		Action: string(authz.PolicyUpdate), Resource: policy.Resource{Type: "policy", Name: "none"},
		Request: policy.Request{Method: "DELETE", Path: "/api/v1/policies/active", Host: c.r.Host, ID: c.r.ID},
	}
	if host, _, err := net.SplitHostPort(c.r.Host); err == nil {
		in.Request.Host = host
	}
	if c.r.Remote.IsValid() {
		in.Request.Remote = c.r.Remote.String()
	}
	if p.Claims != nil {
		in.Principal.Issuer, in.Groups, in.Scopes, in.Attributes = p.Claims.Issuer, p.Claims.Groups, p.Claims.Scopes, p.Claims.Attributes
	}
	d, err := c.cfg.Policies.Try(ctx, c.e.Scope, b, in)
	if err != nil || d.Allow {
		return err
	}
	return fault.New(fault.Conflict, "under this policy you could not take it out of force again (%s): allow %s to admins", d.Reason, authz.PolicyUpdate)
}

// checkView is the answer to a check, which succeeds whether or not the bundle does.
type checkView struct {
	OK bool `json:"ok"`
	*reportView
	Problems []policy.Problem `json:"problems"`
}

func checkPolicy(ctx context.Context, c *call) (exchange.Decision, error) {
	b, done, err := bundle[policy.Bundle](ctx, c, authz.PolicyCheck)
	if err != nil {
		return nil, err
	}
	defer done()
	digest := b.Digest()
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.PolicyCheck, Resource: "policy/" + digest})
	if err != nil {
		return nil, err
	}
	report, err := c.cfg.Policies.Check(ctx, &b)
	permit.Done(err)
	var bad *policy.CompileError
	switch {
	case errors.As(err, &bad):
		return decision(reply(200, checkView{Problems: bad.Problems}))
	case err != nil:
		return nil, err
	}
	v := viewReport(digest, false, report)
	return decision(reply(200, checkView{OK: true, reportView: &v, Problems: []policy.Problem{}}))
}

// testBody is the body of POST /api/v1/policies/test.
type testBody struct {
	Bundle *policy.Bundle `json:"bundle"`
	Digest string         `json:"digest"` // of a stored one; "" or active = the one in force
}

// testView is what came of one test.
type testView struct {
	Package string  `json:"package"`
	Name    string  `json:"name"`
	File    string  `json:"file"`
	Line    int     `json:"line"`
	Pass    bool    `json:"pass"`
	Skip    bool    `json:"skip,omitzero"`
	Error   string  `json:"error,omitzero"`
	Millis  float64 `json:"ms"`
}

// testsView is what came of all of them.
type testsView struct {
	OK      bool       `json:"ok"`
	Passed  int        `json:"passed"`
	Failed  int        `json:"failed"`
	Skipped int        `json:"skipped"`
	Results []testView `json:"results"`
}

func testPolicy(ctx context.Context, c *call) (exchange.Decision, error) {
	body, done, err := bundle[testBody](ctx, c, authz.PolicyCheck)
	if err != nil {
		return nil, err
	}
	defer done()
	if body.Bundle != nil && body.Digest != "" {
		return nil, fault.New(fault.Invalid, "bundle and digest are both given: use one")
	}
	digest := body.Digest
	if body.Bundle != nil {
		digest = body.Bundle.Digest()
	} else if digest == "" || digest == "active" {
		digest = c.digestParam("active")
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.PolicyCheck, Resource: "policy/" + label(digest) + "/test"})
	if err != nil {
		return nil, err
	}
	if body.Bundle == nil {
		body.Bundle, err = c.gw.policyBundle(ctx, digest)
	}
	var results []policy.TestResult
	if err == nil {
		results, err = c.cfg.Policies.Test(ctx, body.Bundle)
	}
	if permit.Done(err); err != nil {
		return nil, err
	}
	return decision(reply(200, viewTests(results)))
}

func viewTests(results []policy.TestResult) testsView {
	v := testsView{Results: []testView{}}
	for _, r := range results {
		switch {
		case r.Skip:
			v.Skipped++
		case r.Pass:
			v.Passed++
		default:
			v.Failed++
		}
		ms, _ := strconv.ParseFloat(strconv.FormatFloat(r.Duration.Seconds()*1000, 'f', 2, 64), 64)
		v.Results = append(v.Results, testView{r.Package, r.Name, r.File, r.Line, r.Pass, r.Skip, r.Error, ms})
	}
	v.OK = v.Failed == 0
	return v
}
