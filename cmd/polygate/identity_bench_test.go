package main

import (
	"context"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/tenant"
)

// dropped is a recorder that keeps nothing.
type dropped struct{}

func (dropped) Record(audit.Entry) {}

// judged is what a request meets on its way in, without HTTP: an authenticator, a guard, and perhaps a policy.
type judged struct {
	issuer *issuer
	authn  *authn.Service
	guards *guard.Set
	entry  *tenant.Entry
}

const smallPolicy = `package polygate.authz

import rego.v1

default allow := false

allow if input.role in {"viewer", "editor", "admin"}
`

func newJudged(b *testing.B, withPolicy bool) *judged {
	b.Helper()
	is := newIssuer(b)
	dial := func(bool) func(context.Context, string, string) (net.Conn, error) { return new(net.Dialer).DialContext }
	service, err := authn.New(authn.Config{Dial: dial})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(service.Close)
	r := &tenant.Record{V: tenant.RecordVersion, UID: "uid-a", ID: "team-a", State: tenant.StateActive, Mode: tenant.ModeVirtual, Revision: 1,
		Quotas: tenant.Quotas{RequestsPerSecond: 1e6, Burst: 1e6, MaxConcurrentRequests: 100},
		Authenticators: []tenant.Authenticator{{Name: "corp", Type: tenant.AuthnOIDC, Generation: "1", Source: tenant.SourceFile,
			OIDC: &tenant.OIDC{Issuer: is.url(), Audiences: []string{"polygate"}, CA: is.ca.pem()}}},
		Members: []tenant.Member{{ID: "1", Kind: tenant.MemberGroup, Authenticator: "corp", Name: "the-editors", Role: tenant.Editor}},
	}
	bundle := &policy.Bundle{Modules: map[string]string{"a.rego": smallPolicy}}
	if withPolicy {
		r.Policy = &tenant.PolicyRef{Digest: bundle.Digest()}
	}
	library := policy.NewLibrary(policy.Limits{EvalTime: time.Second}) // a busy machine is not what is measured
	guards := guard.NewSet(guard.Config{Recorder: dropped{}, OpenPolicy: func(ctx context.Context, s tenant.Scope, _ string) (*policy.Engine, error) {
		return library.Open(ctx, s, bundle)
	}})
	return &judged{is, service, guards, &tenant.Entry{Record: r, Scope: tenant.Confine(r.ID, r.UID)}}
}

// enter takes one request with a token as far as its effect.
func (j *judged) enter(b *testing.B, ctx context.Context, token string) {
	who, err := j.authn.Authenticate(ctx, j.entry, authn.Evidence{Bearer: token, HasBearer: true, Host: "team-a.localhost"})
	if err != nil {
		b.Fatal(err)
	}
	v, err := j.guards.For(j.entry).Enter(who, guard.Request{ID: "r", Method: "POST", Path: "/servers/x/mcp"})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := v.Admit(guard.Effect{Action: authz.MCPCall, Resource: "server/x/tool/y"}); err != nil {
		b.Fatal(err)
	}
	v.Leave()
}

// BenchmarkIdentity says what authenticate, authorize and admit cost a request with an issuer's token: the first with it, and
// those that follow, without and with a small policy.
func BenchmarkIdentity(b *testing.B) {
	for _, withPolicy := range []bool{false, true} {
		suffix := map[bool]string{false: "", true: "/policy"}[withPolicy]
		b.Run("cached"+suffix, func(b *testing.B) {
			j := newJudged(b, withPolicy)
			token := j.issuer.sign(j.issuer.claims("alice", []string{"the-editors"}))
			j.enter(b, b.Context(), token)
			b.ReportAllocs()
			for b.Loop() {
				j.enter(b, b.Context(), token)
			}
		})
		b.Run("uncached"+suffix, func(b *testing.B) {
			j := newJudged(b, withPolicy)
			j.enter(b, b.Context(), j.issuer.sign(j.issuer.claims("alice", []string{"the-editors"})))
			tokens := make([]string, 2000)
			for i := range tokens {
				tokens[i] = j.issuer.sign(j.issuer.claims("user-"+strconv.Itoa(i), []string{"the-editors"}, map[string]any{"jti": strconv.FormatInt(time.Now().UnixNano(), 36)}))
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				if i%len(tokens) == 0 { // a change of the record's generation makes them new again
					j.renew(strconv.Itoa(i + 2))
				}
				j.enter(b, b.Context(), tokens[i%len(tokens)])
			}
		})
	}
}

// renew replaces the authenticator, so that every token is new.
func (j *judged) renew(generation string) {
	r := j.entry.Record.Clone()
	r.Authenticators[0].Generation = generation
	r.Revision++
	j.entry = &tenant.Entry{Record: r, Scope: j.entry.Scope}
}
