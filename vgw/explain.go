package vgw

import (
	"context"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/tenant"
)

// explainBody is the body of POST /api/v1/policies/explain.
type explainBody struct {
	Principal *described   `json:"principal"` // nil = oneself
	Action    authz.Action `json:"action"`
	Resource  string       `json:"resource"` // as audit records name it, such as server/everything/tool/echo
}

// described is somebody whom an admin asks about. It is believed of nobody else: it acts in nothing.
type described struct {
	Ref        string              `json:"ref"`
	Name       string              `json:"name"`
	Role       string              `json:"role"` // "" = what the ref and the groups have
	Groups     []string            `json:"groups"`
	Attributes map[string][]string `json:"attributes"`
}

// explainView says why something is allowed or denied.
type explainView struct {
	Allow     bool         `json:"allow"`
	Principal string       `json:"principal"`
	Role      string       `json:"role"`
	Needs     string       `json:"needs,omitzero"` // the smallest role that may do it
	Action    authz.Action `json:"action"`
	Resource  string       `json:"resource"`
	Reason    string       `json:"reason"`
	Rule      string       `json:"rule"`              // that decided, as the audit record says it
	Shown     string       `json:"shown_as,omitzero"` // what a refusal would look like, such as forbidden or not-found
	Authz     authzView    `json:"authz"`
	Bundle    string       `json:"bundle,omitzero"` // digest of the policy in force
	Policy    *rulingView  `json:"policy,omitzero"` // what it says; absent where it was not asked
}

type authzView struct {
	Allow bool   `json:"allow"`
	Rule  string `json:"rule"`
}

// rulingView is a policy's decision and, for admins, how it came about.
type rulingView struct {
	Allow           bool           `json:"allow"`
	Reason          string         `json:"reason,omitzero"`
	Denies          []string       `json:"denies,omitempty"`
	RequireApproval bool           `json:"require_approval,omitzero"`
	Rule            string         `json:"rule,omitzero"`
	Digest          string         `json:"digest"`
	Failure         policy.Failure `json:"failure,omitzero"`
	Rules           []ruleView     `json:"rules,omitempty"`
	Notes           []string       `json:"notes,omitempty"`
	Cut             bool           `json:"cut,omitzero"`
	Input           jsontext.Value `json:"input,omitzero"`
}

type ruleView struct {
	Rule string `json:"rule"`
	File string `json:"file"`
	Line int    `json:"line"`
}

func explainPolicy(ctx context.Context, c *call) (exchange.Decision, error) {
	body, err := decode[explainBody](c)
	if err != nil {
		return nil, err
	}
	action := authz.PolicyExplain
	if body.Principal != nil { // of others, those may ask who may try a policy out
		action = authz.PolicyCheck
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: action, Resource: "explain/" + label(string(body.Action)) + "/" + label(body.Resource)})
	if err != nil {
		return nil, err
	}
	d, err := c.explain(ctx, body)
	permit.Done(err)
	return decision(d, err)
}

func (c *call) explain(ctx context.Context, body explainBody) (*exchange.Reply, error) {
	if body.Action == "" || len(body.Action) > maxParam || len(body.Resource) > 8*maxParam {
		return nil, fault.New(fault.Invalid, "action is missing, or action or resource is too long")
	}
	about, err := c.describedBy(body.Principal)
	if err != nil {
		return nil, err
	}
	effect, err := c.effect(ctx, body, about)
	if err != nil {
		return nil, err
	}
	x, err := c.r.Visit.Explain(ctx, effect, about)
	if err != nil {
		return nil, err
	}
	if x == nil {
		return nil, noEvaluator()
	}
	return reply(200, viewExplanation(body, x))
}

// effect returns what is asked about, with the object and its delegations as they are.
func (c *call) effect(ctx context.Context, body explainBody, about *tenant.Principal) (guard.Effect, error) {
	e := guard.Effect{Action: body.Action, Resource: body.Resource}
	kind, rest, _ := strings.Cut(body.Resource, "/")
	if kind != kindServer && kind != kindSandbox {
		return e, nil
	}
	all, err := c.gw.objects(ctx)
	if err != nil {
		return e, err
	}
	name, _, _ := strings.Cut(rest, "/")
	o := all.named(kind + "/" + name)
	if o == nil {
		return e, nil
	}
	who := c.r.Visit.Principal()
	if about != nil {
		who = *about
	}
	e.Object, e.Grants = o.object(c.e.Record), c.gw.grants.Load().to(c.e.Record, o.objectKey, who.Ref())
	return e, nil
}

// describedBy makes the principal that is asked about; nil for oneself.
func (c *call) describedBy(d *described) (*tenant.Principal, error) {
	if d == nil {
		return nil, nil
	}
	r := c.e.Record
	p := &tenant.Principal{Tenant: c.e.Scope.ID(), Kind: tenant.KindUser, Name: d.Name, Claims: &tenant.Claims{Groups: d.Groups, Attributes: d.Attributes}}
	if d.Ref != "" {
		kind, id, ok := strings.Cut(d.Ref, ":")
		if !ok || id == "" {
			return nil, fault.New(fault.Invalid, "principal.ref %.64q is none: write user:<authenticator>/<subject>, bot:<id> or key:<id>", d.Ref)
		}
		p.Kind, p.ID = tenant.PrincipalKind(kind), id
	}
	switch p.Kind {
	case tenant.KindKey:
		if k, ok := r.KeyByName(p.ID); ok {
			p.Role = k.Role
		}
	case tenant.KindBot:
		if b, ok := r.BotByName(p.ID); ok {
			p.Role = b.Role
		}
	case tenant.KindUser:
		name, subject, _ := strings.Cut(p.ID, "/")
		p.Claims.Authenticator, p.Claims.Subject = name, subject
		if a, ok := r.AuthenticatorByName(name); ok && a.OIDC != nil {
			p.Claims.Issuer = a.OIDC.Issuer
		}
		p.Role = r.RoleOf(name, subject, d.Groups)
	default:
		return nil, fault.New(fault.Invalid, "principal.ref %.64q is no user, bot or key", d.Ref)
	}
	if d.Role == "" {
		return p, nil
	}
	role, err := tenant.ParseRole(d.Role)
	p.Role = role
	return p, err
}

func viewExplanation(body explainBody, x *guard.Explanation) explainView {
	v := explainView{
		Allow: x.Allow, Principal: x.Principal, Role: x.Role.String(), Action: body.Action, Resource: body.Resource, Reason: x.Reason,
		Rule: x.Rule, Shown: x.Shown, Authz: authzView{x.Allow || x.Policy != nil, x.Authz}, Bundle: x.Bundle,
	}
	if x.Needs != tenant.NoRole {
		v.Needs = x.Needs.String()
	}
	p := x.Policy
	if p == nil {
		return v
	}
	v.Policy = &rulingView{
		Allow: p.Allow, Reason: p.Decision.Reason, Denies: p.Denies, RequireApproval: p.RequireApproval, Rule: p.Rule, Digest: p.Digest,
		Failure: p.Failure, Notes: p.Notes, Cut: p.Cut,
	}
	if in := jsontext.Value(p.Input); in.IsValid() {
		v.Policy.Input = in
	}
	for _, r := range p.Rules {
		v.Policy.Rules = append(v.Policy.Rules, ruleView(r))
	}
	return v
}
