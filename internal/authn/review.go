package authn

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// How long a review is believed, and how often a tenant may cause one: tokens are cheap to make up, and the API server is
// everybody's.
const (
	reviewLife   = time.Minute
	refusalLife  = 10 * time.Second
	reviewTime   = 5 * time.Second
	reviewRate   = 10 // in a second, of one tenant
	reviewBurst  = 20
	keptVouched  = 8192                     // tokens that a server vouched for
	serviceUsers = "system:serviceaccount:" // <namespace>:<name>
)

// serverRefused is why a token is refused that a server was asked about.
const serverRefused = "refused after a review"

// Reviewer asks a Kubernetes API server who a token's bearer is (TokenReview). It is safe for concurrent use.
type Reviewer interface {
	// Review returns the server's verdict. audiences are those that the token must be meant for, one of them; none = the
	// server's own. An error means that the server cannot be asked now, and says nothing about the token.
	Review(ctx context.Context, token string, audiences []string) (Review, error)
}

// Review is the verdict of an API server on a token.
type Review struct {
	Authenticated bool
	Username      string // such as system:serviceaccount:<namespace>:<name>
	UID           string
	Groups        []string
	Audiences     []string // of those asked for, the ones that the token is meant for
}

// reviews asks the Reviewer, once for requests that come together, and not more often than a tenant may.
type reviews struct {
	s *Service

	mu      sync.Mutex
	rate    map[tenant.ID]*reviewRates // guarded by mu
	flights map[reviewKey]*reviewing   // guarded by mu

	// vouched holds the hashes of tokens that a server vouched for: nothing is believed because of it. Reviews of them have a rate
	// of their own, or whoever makes up tokens would keep a tenant's users out when their last review ends.
	vouched *lru.Cache[tokenKey, struct{}]
}

// reviewRates are a tenant's: of tokens that were good, and of those that nobody knows.
type reviewRates struct {
	again, first quota.Rate
}

type reviewKey struct {
	token         tokenKey
	authenticator string
	generation    string
}

// reviewing is a review under way. verdict and err are set when done is closed.
type reviewing struct {
	done    chan struct{}
	verdict Review
	err     error
}

func newReviews(s *Service) *reviews {
	r := &reviews{s: s, rate: make(map[tenant.ID]*reviewRates), flights: make(map[reviewKey]*reviewing)}
	r.vouched, _ = lru.New[tokenKey, struct{}](keptVouched) // fails only for a size of 0
	return r
}

func (r *reviews) changed(id tenant.ID, e *tenant.Entry) {
	if e == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.rate, id)
	}
}

// review proves a token by an authenticator of the type kubernetes. said are its claims, if it is a JWT: the server proves
// them with it.
func (s *Service) review(ctx context.Context, e *tenant.Entry, a *tenant.Authenticator, token string, said claims) (*verified, error) {
	now := s.cfg.Now()
	if s.cfg.Reviewer == nil {
		return nil, fault.New(fault.Unavailable, "tokens of Kubernetes cannot be reviewed: the platform has no API server configured")
	}
	issued, _ := said.moment("iat")
	expires, err := said.moment("exp")
	if err != nil || !expires.IsZero() && !now.Before(expires) {
		return nil, unauthenticated("expired")
	}
	k := reviewKey{cacheKey(e.Scope.UID(), "", token), a.Name, a.Generation}
	verdict, err := s.reviews.ask(ctx, e.Scope.ID(), k, token, a.Kubernetes.Audiences)
	if err != nil {
		return nil, err
	}
	if !verdict.Authenticated || tenant.CheckSubject("username", verdict.Username) != nil || len(verdict.Groups) > maxGroups {
		return nil, unauthenticated(serverRefused)
	}
	if want := a.Kubernetes.Audiences; len(want) > 0 && !slices.ContainsFunc(verdict.Audiences, func(aud string) bool { return slices.Contains(want, aud) }) {
		return nil, unauthenticated(serverRefused) // the token is for others, or the server knows nothing of audiences
	}
	who := &tenant.Claims{
		Authenticator: a.Name, Generation: a.Generation, Issuer: string(a.Type), Subject: verdict.Username,
		Groups: slices.DeleteFunc(slices.Clone(verdict.Groups), func(g string) bool { return tenant.CheckSubject("group", g) != nil }), Issued: issued,
	}
	until := now.Add(reviewLife)
	if !expires.IsZero() && expires.Before(until) {
		until = expires
	}
	v := &verified{user: &user{claims: who, username: verdict.Username, expires: expires}, via: tenant.ViaKubernetes, until: until}
	if _, ok := v.user.principal(e, v.via, now); !ok {
		return nil, unauthenticated(serverRefused) // the server knows it, and the tenant does not let it in
	}
	return v, nil
}

// ask returns the server's verdict. Requests with one token share one review, which is none of theirs: a caller that goes away
// does not end it.
func (r *reviews) ask(ctx context.Context, id tenant.ID, k reviewKey, token string, audiences []string) (Review, error) {
	f, err := r.begin(ctx, id, k, token, audiences)
	if err != nil {
		return Review{}, err
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return Review{}, fmt.Errorf("wait for the API server: %w", ctx.Err())
	}
	if f.err != nil {
		return Review{}, fault.Wrap(fault.Unavailable, f.err, "the API server that reviews this token cannot be reached: try again later").After(time.Second)
	}
	return f.verdict, nil
}

func (r *reviews) begin(ctx context.Context, id tenant.ID, k reviewKey, token string, audiences []string) (*reviewing, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f, ok := r.flights[k]; ok {
		return f, nil
	}
	rates := r.rate[id]
	if rates == nil {
		rates = new(reviewRates)
		r.rate[id] = rates
	}
	rate := &rates.first
	if r.vouched.Contains(k.token) {
		rate = &rates.again
	}
	if d := rate.Spend(r.s.cfg.Now(), quota.Limit{PerSecond: reviewRate, Burst: reviewBurst}); !d.OK {
		return nil, fault.New(fault.Unavailable, "too many tokens of this tenant are to be reviewed: try again later").After(max(d.RetryAfter, time.Second))
	}
	f := &reviewing{done: make(chan struct{})}
	r.flights[k] = f
	ctx = context.WithoutCancel(ctx)
	r.s.fetches.Go(func() { r.run(ctx, k, f, token, audiences) })
	return f, nil
}

func (r *reviews) run(ctx context.Context, k reviewKey, f *reviewing, token string, audiences []string) {
	ctx, cancel := context.WithTimeout(ctx, reviewTime)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			f.err = fmt.Errorf("panic: %v", p)
		}
		r.mu.Lock()
		delete(r.flights, k)
		r.mu.Unlock()
		close(f.done)
	}()
	if f.verdict, f.err = r.s.cfg.Reviewer.Review(ctx, token, audiences); f.err != nil {
		r.s.cfg.Logger.WarnContext(ctx, "a token could not be reviewed", "err", brief(f.err))
	}
	if f.err == nil && f.verdict.Authenticated {
		r.vouched.Add(k.token, struct{}{})
	}
}

// admits says whether an authenticator of the type kubernetes lets a user in: service accounts of its namespaces, and
// whoever is a member by name or by group. Everybody else of the cluster is nobody here, whatever its default role.
func admits(r *tenant.Record, c *tenant.Claims) bool {
	a, ok := r.AuthenticatorByName(c.Authenticator)
	if !ok || a.Kubernetes == nil {
		return false
	}
	if account, ok := strings.CutPrefix(c.Subject, serviceUsers); ok {
		namespace, name, ok := strings.Cut(account, ":")
		if ok && name != "" && !strings.Contains(name, ":") && slices.Contains(a.Kubernetes.Namespaces, namespace) {
			return true
		}
	}
	return slices.ContainsFunc(r.Members, func(m tenant.Member) bool {
		return m.Authenticator == c.Authenticator && (m.Kind == tenant.MemberUser && m.Name == c.Subject || m.Kind == tenant.MemberGroup && slices.Contains(c.Groups, m.Name))
	})
}
