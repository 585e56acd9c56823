package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/strictyaml"
	"github.com/polygate/polygate/internal/tenant"
)

func (a *Admin) check(cs *checks) {
	if a.AuditorTokenFile != "" && a.AuditorTokenFile == a.TokenFile {
		cs.fail("admin.auditor_token_file", "is token_file too, so that each auditor would be an operator: name another file")
	}
	if n := len(a.OIDC); n > tenant.MaxAuthenticators {
		cs.fail("admin.oidc", "has %d issuers: at most %d are allowed", n, tenant.MaxAuthenticators)
		return
	}
	for i := range a.OIDC {
		o, path := &a.OIDC[i], fmt.Sprintf("admin.oidc[%d]", i)
		o.check(cs, path)
		if slices.ContainsFunc(a.OIDC[:i], func(other OperatorIssuer) bool { return other.Name == o.Name }) {
			cs.fail(path+".name", "%q is declared twice", clip(o.Name))
		}
	}
}

func (o *OperatorIssuer) check(cs *checks, path string) {
	as := tenant.Authenticator{Name: o.Name, Type: tenant.AuthnOIDC, OIDC: o.form()}
	if err := as.Validate(); err != nil {
		field, msg := blamedAuthenticator(o.Name, reason(err))
		field = strings.TrimPrefix(strings.TrimPrefix(field, "oidc"), ".")
		cs.fail(strictyaml.Join(path, field), "%s", msg)
	}
	if len(o.Audiences) == 0 {
		cs.fail(path+".audiences", "is empty: name what the issuer puts into aud of tokens for this gateway, or its tokens for others would open it")
	}
	if len(o.Operators.Users)+len(o.Operators.Groups)+len(o.Auditors.Users)+len(o.Auditors.Groups) == 0 {
		cs.fail(path, "has neither operators nor auditors: name users or groups, or take the issuer out")
	}
	for _, l := range []struct {
		name        string
		list, other []string
	}{
		{"operators.users", o.Operators.Users, nil}, {"operators.groups", o.Operators.Groups, nil},
		{"auditors.users", o.Auditors.Users, o.Operators.Users}, {"auditors.groups", o.Auditors.Groups, o.Operators.Groups},
	} {
		checkWho(cs, path+"."+l.name, l.list, l.other)
	}
}

// checkWho checks a list of users or groups; other is the list of those who may do more.
func checkWho(cs *checks, path string, list, other []string) {
	for i, name := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		if err := tenant.CheckSubject("the name", name); err != nil {
			cs.fail(at, "%s", reason(err))
		}
		if slices.Contains(list[:i], name) {
			cs.fail(at, "%q is listed twice", clip(name))
		}
		if slices.Contains(other, name) {
			cs.fail(at, "%q is an operator already: list it once", clip(name))
		}
	}
}

// blamedAuthenticator splits a message of Authenticator.Validate into the field that it is about, "" for none, and the rest.
func blamedAuthenticator(name, msg string) (field, rest string) {
	if rest, ok := strings.CutPrefix(msg, "authenticator name "); ok {
		return "name", rest
	}
	rest, ok := strings.CutPrefix(msg, fmt.Sprintf("authenticator %q: ", name))
	if end := strings.IndexAny(rest, " :"); ok && end > 0 && rest[:end] == strings.Trim(rest[:end], `"`) {
		return rest[:end], strings.TrimLeft(rest[end:], " :")
	}
	return "", rest
}

// form returns the issuer without its roots.
func (o *OperatorIssuer) form() *tenant.OIDC {
	return &tenant.OIDC{
		Issuer: o.Issuer, Audiences: o.Audiences, ClientIDs: o.ClientIDs, Algorithms: o.Algorithms, RequiredClaims: o.RequiredClaims,
		Claims: tenant.ClaimMapping{Subject: o.Claims.Subject, Username: o.Claims.Username, Groups: o.Claims.Groups},
	}
}

// Tenant returns the issuer in the form that tenants' authenticators have. It reads ca_file.
func (o *OperatorIssuer) Tenant() (*tenant.OIDC, error) {
	form := o.form()
	if o.CAFile == "" {
		return form, nil
	}
	var err error
	if form.CA, err = readRoots(o.CAFile); err != nil {
		return nil, fmt.Errorf("admin.oidc %s: ca_file %s: %w", o.Name, o.CAFile, err)
	}
	return form, nil
}

func (a Authn) check(cs *checks) {
	within(cs, "authn.token_cache_bytes", a.TokenCacheBytes, 1<<20, 64<<30)
	if a.Kubernetes.Kubeconfig != "" && a.Kubernetes.InCluster {
		cs.fail("authn.kubernetes.kubeconfig", "is set, and in_cluster is true: choose one of them")
	}
}

func (p Policy) check(cs *checks) {
	within(cs, "policy.eval_timeout", p.EvalTimeout, time.Millisecond, time.Second)
	within(cs, "policy.max_bundle_bytes", p.MaxBundleBytes, 1<<10, 64<<20)
	within(cs, "policy.max_modules", p.MaxModules, 1, 10_000)
	within(cs, "policy.max_concurrent", p.MaxConcurrent, 1, 1000)
}

// Limits returns the bounds in the form that package policy takes.
func (p Policy) Limits() policy.Limits {
	return policy.Limits{
		BundleBytes: int(p.MaxBundleBytes), DataBytes: int(p.MaxBundleBytes), Modules: p.MaxModules,
		EvalTime: p.EvalTimeout, Concurrent: p.MaxConcurrent,
	}
}
