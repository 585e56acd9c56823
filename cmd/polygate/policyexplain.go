package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/audit"
)

// explanation is why something is allowed or denied.
type explanation struct {
	Allow     bool   `json:"allow"`
	Principal string `json:"principal"`
	Role      string `json:"role"`
	Needs     string `json:"needs"`
	Action    string `json:"action"`
	Resource  string `json:"resource"`
	Reason    string `json:"reason"`
	Rule      string `json:"rule"`
	Shown     string `json:"shown_as"`
	Bundle    string `json:"bundle"`
	Authz     struct {
		Allow bool   `json:"allow"`
		Rule  string `json:"rule"`
	} `json:"authz"`
	Policy *struct {
		Allow           bool     `json:"allow"`
		Reason          string   `json:"reason"`
		Denies          []string `json:"denies"`
		RequireApproval bool     `json:"require_approval"`
		Rule            string   `json:"rule"`
		Digest          string   `json:"digest"`
		Failure         string   `json:"failure"`
		Rules           []struct {
			Rule string `json:"rule"`
			File string `json:"file"`
			Line int    `json:"line"`
		} `json:"rules"`
		Notes []string `json:"notes"`
	} `json:"policy"`
}

// asked is whom and what an explanation is about.
type asked struct {
	as, role, name, request string
	groups, attributes      []string
	verbose                 bool
}

func (p *policyCommands) explain() *cobra.Command {
	var q asked
	cmd := &cobra.Command{
		Use: "explain <action> <resource>", Short: "Say why something is allowed or denied",
		Long: `Say why something is allowed or denied: the role that it needs, the rule that decides with its file and line, what the policy says,
and the digest of the bundle. About oneself, or as an admin about another with --as; action and resource are those of audit
records, such as mcp.call and server/docs/tool/search.

With --request-id they are taken from the audit record of that request: why was I denied? What is explained is how it would be
decided now; if the policy is another one since, that is said.`,
		Example: "  polygate policy explain mcp.call server/docs/tool/search\n  polygate policy explain server.delete server/docs --as user:corp/248289761001 --group engineering\n  polygate policy explain --request-id 0199c7e2-5d0c-7c3e-9a4d-1f2e3d4c5b6a",
		Args:    cobra.RangeArgs(0, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 2) == (q.request != "") {
				return usage("name an action and a resource, or --request-id")
			}
			return p.run(cmd, func(ctx context.Context, c *client) error { return p.why(ctx, cmd, c, args, &q) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&q.as, "as", "", "another principal, as an admin: user:<authenticator>/<subject>, bot:<name or id> or key:<name or id>")
	f.StringVar(&q.role, "role", "", "as if that had this role (default: what it has now)")
	f.StringVar(&q.name, "name", "", "as if that had this name")
	f.StringArrayVar(&q.groups, "group", nil, "as if that were in this group; may be repeated")
	f.StringArrayVar(&q.attributes, "attribute", nil, "as if that had this attribute, as name=value; may be repeated")
	f.StringVar(&q.request, "request-id", "", "about what was denied to this request")
	f.BoolVar(&q.verbose, "verbose", false, "show the course of the evaluation, too")
	return cmd
}

// principal returns the body's part; nil for oneself.
func (q *asked) principal(ctx context.Context, c *client) (map[string]any, error) {
	out := map[string]any{}
	if q.as != "" {
		ref, err := principalRef(ctx, c, q.as)
		if err != nil {
			return nil, err
		}
		out["ref"] = ref
	}
	for name, v := range map[string]string{"role": q.role, "name": q.name} {
		if v != "" {
			out[name] = v
		}
	}
	if len(q.groups) > 0 {
		out["groups"] = q.groups
	}
	attributes := map[string][]string{}
	for _, text := range q.attributes {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, usage("--attribute %q is not of the form name=value", text)
		}
		attributes[name] = append(attributes[name], value)
	}
	if len(attributes) > 0 {
		out["attributes"] = attributes
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

func (p *policyCommands) why(ctx context.Context, cmd *cobra.Command, c *client, args []string, q *asked) error {
	var denied *audit.Record
	if q.request != "" {
		var err error
		if denied, err = deniedOf(ctx, c, q); err != nil {
			return err
		}
		_ = tell(cmd, "request %s at %s: %s %s, %s by %s", denied.RequestID, stamp(denied.Time), denied.Action, denied.Resource, denied.Decision, denied.Rule)
		args = []string{denied.Action, denied.Resource}
	}
	body := map[string]any{"action": args[0], "resource": args[1]}
	principal, err := q.principal(ctx, c)
	if err != nil {
		return err
	}
	if principal != nil {
		body["principal"] = principal
	}
	var e answered[explanation]
	if err := c.do(ctx, http.MethodPost, c.path("policies", "explain"), body, &e); err != nil {
		return fmt.Errorf("explain %s on %s: %w", args[0], args[1], err)
	}
	if denied != nil && denied.Bundle != e.is.Bundle {
		_ = tell(cmd, "the policy is another one now: %s then, %s now", cmp.Or(denied.Bundle, "none"), cmp.Or(e.is.Bundle, "none"))
	}
	if p.out.isData() {
		return p.out.data(cmd.OutOrStdout(), e)
	}
	return printFields(cmd.OutOrStdout(), e.is.fields(q.verbose))
}

// deniedOf returns what the audit log says of a request: its refusal, or else its last record. Another's request is
// explained for that other.
func deniedOf(ctx context.Context, c *client, q *asked) (*audit.Record, error) {
	var page auditAnswer
	if err := c.do(ctx, http.MethodGet, c.path("audit")+"?"+url.Values{"request_id": {q.request}}.Encode(), nil, &page); err != nil {
		return nil, fmt.Errorf("look up request %q: %w", q.request, err)
	}
	if len(page.Items) == 0 {
		return nil, fmt.Errorf("no audit record of request %q that this credential may see", q.request)
	}
	r := &page.Items[0].is
	for i := range page.Items {
		if page.Items[i].is.Decision == audit.Deny {
			r = &page.Items[i].is
			break
		}
	}
	var me identity
	if err := c.do(ctx, http.MethodGet, c.path("whoami"), nil, &me); err != nil {
		return nil, fmt.Errorf("whoami: %w", err)
	}
	if me.Ref != r.Principal && q.as == "" {
		q.as = r.Principal
	}
	return r, nil
}

// fields is the explanation for people.
func (e *explanation) fields(verbose bool) [][2]string {
	verdict := "denied"
	if e.Allow {
		verdict = "allowed"
	} else if e.Shown != "" {
		verdict += " (answered as " + e.Shown + ")"
	}
	role := e.Role
	if e.Needs != "" {
		role += " (it needs " + e.Needs + ")"
	}
	fields := [][2]string{
		{"Verdict", verdict}, {"Reason", e.Reason}, {"Rule", e.Rule}, {"Principal", e.Principal}, {"Role", role},
		{"Action", e.Action}, {"Resource", e.Resource}, {"Roles and grants", allowed(e.Authz.Allow) + " " + e.Authz.Rule}, {"Bundle", cmp.Or(e.Bundle, "no policy is in force")},
	}
	p := e.Policy
	if p == nil {
		if e.Bundle != "" {
			fields = append(fields, [2]string{"Policy", "not asked: roles and grants refuse already"})
		}
		return fields
	}
	fields = append(fields, [2]string{"Policy", strings.TrimSpace(allowed(p.Allow) + " " + p.Rule)}, [2]string{"Policy says", p.Reason}, [2]string{"Failure", p.Failure})
	for _, d := range p.Denies {
		fields = append(fields, [2]string{"Deny", d})
	}
	if p.RequireApproval {
		fields = append(fields, [2]string{"Approval", "required"})
	}
	for _, r := range p.Rules {
		fields = append(fields, [2]string{"At", fmt.Sprintf("%s:%d %s", r.File, r.Line, r.Rule)})
	}
	if verbose {
		for _, n := range p.Notes {
			fields = append(fields, [2]string{"Trace", n})
		}
	}
	return fields
}

func allowed(ok bool) string {
	if ok {
		return "allow"
	}
	return "deny"
}
