package authn

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// reviewerFunc is a Reviewer that counts.
type reviewerFunc struct {
	calls atomic.Int64
	f     func(ctx context.Context, token string, audiences []string) (Review, error)
}

// Review implements Reviewer.
func (r *reviewerFunc) Review(ctx context.Context, token string, audiences []string) (Review, error) {
	r.calls.Add(1)
	return r.f(ctx, token, audiences)
}

// cluster knows tokens by their text: "sa:<namespace>:<name>" is that service account's, "user:<name>" a user's.
func cluster() *reviewerFunc {
	return &reviewerFunc{f: func(_ context.Context, token string, audiences []string) (Review, error) {
		var namespace, name string
		all := []string{"system:authenticated"}
		switch {
		case len(token) > 3 && token[:3] == "sa:":
			for i := 3; i < len(token); i++ {
				if token[i] == ':' {
					namespace, name = token[3:i], token[i+1:]
					break
				}
			}
			groups := append(all, "system:serviceaccounts", "system:serviceaccounts:"+namespace)
			return Review{Authenticated: true, Username: serviceUsers + namespace + ":" + name, Groups: groups, Audiences: audiences}, nil
		case len(token) > 5 && token[:5] == "user:":
			return Review{Authenticated: true, Username: token[5:], Groups: append(all, "devs"), Audiences: audiences}, nil
		}
		return Review{}, nil
	}}
}

func kubernetes(name string, k tenant.Kubernetes) tenant.Authenticator {
	return tenant.Authenticator{Name: name, Type: tenant.AuthnKubernetes, DefaultRole: tenant.Viewer, Generation: name + "-1", Kubernetes: &k}
}

func TestA3KubernetesTokensByReview(t *testing.T) {
	r := cluster()
	w := newWorld(t, func(c *Config) { c.Reviewer = r })
	e := entry("team-a", kubernetes("k8s", tenant.Kubernetes{Namespaces: []string{"ns-a"}}))
	e.Record.Members = []tenant.Member{
		{ID: "1", Kind: tenant.MemberUser, Authenticator: "k8s", Name: "ada", Role: tenant.Admin},
		{ID: "2", Kind: tenant.MemberUser, Authenticator: "k8s", Name: serviceUsers + "ns-x:bot", Role: tenant.Editor},
		{ID: "3", Kind: tenant.MemberUser, Authenticator: "other", Name: "eve", Role: tenant.Admin},
	}
	for _, c := range []struct {
		token, ref string
		role       tenant.Role
	}{
		{"sa:ns-a:runner", "user:k8s/system:serviceaccount:ns-a:runner", tenant.Viewer},
		{"user:ada", "user:k8s/ada", tenant.Admin},
		{"sa:ns-x:bot", "user:k8s/system:serviceaccount:ns-x:bot", tenant.Editor},
		{"sa:ns-x:runner", "", 0}, // of another tenant's namespace: no default role for it
		{"sa:ns-a2:runner", "", 0},
		{"user:eve", "", 0},
		{"user:" + serviceUsers + "ns-a:x:y", "", 0},
		{"garbage", "", 0},
	} {
		for range 2 {
			p, err := w.ask(e, c.token)
			wantKind(t, c.token, err, fault.Unauthenticated, c.ref != "")
			if err == nil && (p.Ref() != c.ref || p.Role != c.role || p.Via != tenant.ViaKubernetes || p.Claims.Issuer != "kubernetes") {
				t.Errorf("%s: %+v", c.token, p)
			}
		}
	}
	group := changed(e, func(r *tenant.Record) {
		r.Members = []tenant.Member{{ID: "4", Kind: tenant.MemberGroup, Authenticator: "k8s", Name: "devs", Role: tenant.Editor}}
	})
	if p, err := w.ask(group, "user:eve"); err != nil || p.Role != tenant.Editor {
		t.Errorf("a member by group: %v, %v", p.Role, err)
	}
	_, err := newWorld(t).ask(e, "sa:ns-a:runner")
	wantKind(t, "without an API server", err, fault.Unavailable, false)
}

func TestReviewsAreRemembered(t *testing.T) {
	r := cluster()
	w := newWorld(t, func(c *Config) { c.Reviewer = r })
	e := entry("team-a", kubernetes("k8s", tenant.Kubernetes{Namespaces: []string{"ns-a"}}))
	for _, step := range []struct {
		wait  time.Duration
		token string
		calls int64
		ok    bool
	}{
		{0, "sa:ns-a:x", 1, true}, {59 * time.Second, "sa:ns-a:x", 1, true}, {time.Second, "sa:ns-a:x", 2, true},
		{0, "bad", 3, false}, {9 * time.Second, "bad", 3, false}, {time.Second, "bad", 4, false},
	} {
		w.clock.add(step.wait)
		_, err := w.ask(e, step.token)
		wantKind(t, step.token, err, fault.Unauthenticated, step.ok)
		if got := r.calls.Load(); got != step.calls {
			t.Errorf("%s after %s: %d reviews, want %d", step.token, step.wait, got, step.calls)
		}
	}
	if _, err := w.ask(entry("team-b", kubernetes("k8s", tenant.Kubernetes{Namespaces: []string{"ns-b"}})), "sa:ns-a:x"); err == nil {
		t.Error("what was proven to team-a is believed by team-b")
	}
}

func TestWhoIsNotLetInIsRememberedForThisRecord(t *testing.T) {
	r := cluster()
	w := newWorld(t, func(c *Config) { c.Reviewer = r })
	e := entry("team-a", kubernetes("one", tenant.Kubernetes{Namespaces: []string{"ns-1"}}), kubernetes("two", tenant.Kubernetes{Namespaces: []string{"ns-2"}}))
	if p, err := w.ask(e, "sa:ns-2:x"); err != nil || p.Ref() != "user:two/system:serviceaccount:ns-2:x" {
		t.Errorf("let in by the second: %v, %v", p.Ref(), err)
	}
	before := r.calls.Load()
	for range 5 {
		_, err := w.ask(e, "user:ada")
		wantKind(t, "a stranger", err, fault.Unauthenticated, false)
	}
	if got := r.calls.Load() - before; got != 2 {
		t.Errorf("%d reviews of a stranger, want one by each authenticator", got)
	}
	member := changed(e, func(r *tenant.Record) {
		r.Members = []tenant.Member{{ID: "1", Kind: tenant.MemberUser, Authenticator: "one", Name: "ada", Role: tenant.Viewer}}
	})
	_, err := w.ask(member, "user:ada")
	wantKind(t, "made a member a moment ago", err, 0, true)

	before = r.calls.Load()
	_, err = w.ask(e, KeyPrefix+"lost")
	wantKind(t, "an API key", err, fault.Unauthenticated, false)
	if r.calls.Load() != before {
		t.Error("an API key was shown to the API server")
	}
}

func TestReviewNeverOutlivesTheToken(t *testing.T) {
	i := newTestIssuer(t)
	r := &reviewerFunc{f: func(context.Context, string, []string) (Review, error) {
		return Review{Authenticated: true, Username: "ada"}, nil
	}}
	w := newWorld(t, func(c *Config) { c.Reviewer = r })
	e := entry("team-a", i.authenticator("idp"), kubernetes("k8s", tenant.Kubernetes{}))
	e.Record.Members = []tenant.Member{{ID: "1", Kind: tenant.MemberUser, Authenticator: "k8s", Name: "ada", Role: tenant.Viewer}}
	token := sign(t, i.key(0), nil, with(w.body(i, "team-a"), "iss", "https://kubernetes.default.svc", "exp", w.clock.now().Add(20*time.Second).Unix()))
	p, err := w.ask(e, token)
	if err != nil || p.Expires.IsZero() || p.Claims.Issued.IsZero() {
		t.Fatalf("%+v, %v: the issuer decides that Kubernetes is asked", p, err)
	}
	w.clock.add(20 * time.Second)
	_, err = w.ask(e, token)
	wantKind(t, "expired", err, fault.Unauthenticated, false)
	_, err = w.ask(e, sign(t, i.key(0), nil, with(w.body(i, "team-a"), "aud", "x")))
	wantKind(t, "a bad token of the OIDC issuer", err, fault.Unauthenticated, false)
	if n := r.calls.Load(); n != 1 {
		t.Errorf("%d reviews, want 1: neither dead tokens nor those of another issuer are shown to the API server", n)
	}
}

func TestReviewAudiences(t *testing.T) {
	var answer []string
	r := &reviewerFunc{f: func(context.Context, string, []string) (Review, error) {
		return Review{Authenticated: true, Username: "ada", Audiences: answer}, nil
	}}
	w := newWorld(t, func(c *Config) { c.Reviewer = r })
	e := entry("team-a", kubernetes("k8s", tenant.Kubernetes{Audiences: []string{"polygate"}}))
	e.Record.Members = []tenant.Member{{ID: "1", Kind: tenant.MemberUser, Authenticator: "k8s", Name: "ada", Role: tenant.Viewer}}
	for n, c := range []struct {
		answer []string
		ok     bool
	}{{[]string{"polygate"}, true}, {[]string{"x", "polygate"}, true}, {[]string{"api"}, false}, {nil, false}} {
		answer = c.answer
		_, err := w.ask(e, fmt.Sprint("token", n))
		wantKind(t, fmt.Sprint(c.answer), err, fault.Unauthenticated, c.ok)
	}
}

func TestReviewsOfOneTenantAreBoundedAndShared(t *testing.T) {
	gate := make(chan struct{})
	r := &reviewerFunc{f: func(ctx context.Context, token string, _ []string) (Review, error) {
		if token == "slow" {
			<-gate
		}
		return Review{Authenticated: token == "slow" || token == "b", Username: "ada"}, nil
	}}
	w := newWorld(t, func(c *Config) { c.Reviewer = r })
	e := entry("team-a", kubernetes("k8s", tenant.Kubernetes{}))
	e.Record.Members = []tenant.Member{{ID: "1", Kind: tenant.MemberUser, Authenticator: "k8s", Name: "ada", Role: tenant.Viewer}}
	b := &tenant.Entry{Record: e.Record, Scope: tenant.Confine("team-b", "uid-team-b")}
	b = changed(b, func(r *tenant.Record) { r.ID, r.UID = "team-b", "uid-team-b" })
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			if _, err := w.ask(e, "slow"); err != nil {
				t.Errorf("slow: %v", err)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Authenticate(ctx, e, bearerAt(e, "slow")); err == nil {
		t.Error("a caller who went away waited")
	}
	close(gate)
	wg.Wait()
	limited, before := 0, r.calls.Load()
	for n := range 1000 {
		if _, err := w.ask(e, fmt.Sprint("garbage", n)); fault.Is(err, fault.Unavailable) {
			limited++
		} else if !fault.Is(err, fault.Unauthenticated) {
			t.Fatal(err)
		}
	}
	if n := r.calls.Load() - before; n > reviewBurst || limited < 1000-reviewBurst {
		t.Errorf("%d reviews at once, want at most %d", n, reviewBurst)
	}
	if _, err := w.ask(e, "slow"); err != nil {
		t.Errorf("a remembered token: %v", err)
	}
	if _, err := w.ask(b, "b"); err != nil {
		t.Errorf("another tenant: %v", err)
	}
}

// TestC1MadeUpTokensDoNotKeepUsersFromTheirNextReview: whoever sends a tenant made-up tokens uses up what may be asked about those,
// and no more.
func TestC1MadeUpTokensDoNotKeepUsersFromTheirNextReview(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Reviewer = cluster() })
	e := entry("team-a", kubernetes("k8s", tenant.Kubernetes{Namespaces: []string{"ns-a"}}))
	if _, err := w.ask(e, "sa:ns-a:runner"); err != nil {
		t.Fatal(err)
	}
	w.clock.add(reviewLife)
	for n := range 2 * reviewBurst {
		_, _ = w.ask(e, fmt.Sprint("garbage", n))
	}
	_, err := w.ask(e, "sa:ns-a:other")
	wantKind(t, "a token that nobody has seen", err, fault.Unavailable, false)
	_, err = w.ask(e, "sa:ns-a:runner")
	wantKind(t, "a user who was here a minute ago", err, 0, true)
}

func TestAnAPIServerThatIsDown(t *testing.T) {
	down := true
	r := &reviewerFunc{f: func(context.Context, string, []string) (Review, error) {
		if down {
			return Review{}, errors.New("connection refused")
		}
		return Review{Authenticated: true, Username: "ada"}, nil
	}}
	w := newWorld(t, func(c *Config) { c.Reviewer = r })
	e := entry("team-a", kubernetes("k8s", tenant.Kubernetes{}))
	e.Record.Members = []tenant.Member{{ID: "1", Kind: tenant.MemberUser, Authenticator: "k8s", Name: "ada", Role: tenant.Viewer}}
	_, err := w.ask(e, "x")
	wantKind(t, "down", err, fault.Unavailable, false)
	if f := fault.From(err); f.RetryAfter <= 0 {
		t.Error("no advice when to retry")
	}
	down = false
	_, err = w.ask(e, "x")
	wantKind(t, "up again", err, 0, true)

	panics := newWorld(t, func(c *Config) {
		c.Reviewer = &reviewerFunc{f: func(context.Context, string, []string) (Review, error) { panic("x") }}
	})
	_, err = panics.ask(e, "x")
	wantKind(t, "a panic", err, fault.Unavailable, false)
}
