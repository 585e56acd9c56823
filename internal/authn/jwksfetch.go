package authn

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// How old an issuer's keys may be (X32), and how often it is asked (X31).
const (
	keysRefresh   = 4 * time.Minute  // from then on a use begins a refresh, and does not wait for it
	keysStale     = 5 * time.Minute  // from then on a use waits for the refresh: a key that the issuer took back is refused
	keysDead      = time.Hour        // from then on they are good for nothing, even while the issuer is down
	providerStale = time.Hour        // of the discovery document
	fetchEvery    = 30 * time.Second // whatever tokens arrive, of whatever tenants
	maxIssuers    = 2048             // kept; the longest unused make way
	stillDown     = time.Minute      // for so long a failed fetch says that the issuer is down: who asks then would wait in vain
	maxName       = 2048             // bytes of each name that is kept of an issuer's documents
	maxNames      = 32               // of a list of them
)

// issuerKey says which issuers are one: the same address, asked under the same trust. Two tenants with one issuer string and
// different roots have nothing in common (X30).
type issuerKey struct {
	url     string
	roots   [sha256.Size]byte // of the PEM text; zero = the system's
	trusted bool
}

// issuers holds what is known of issuers. It is safe for concurrent use.
type issuers struct {
	s *Service

	mu  sync.Mutex
	lru *simplelru.LRU[issuerKey, *issuer] // guarded by mu
}

func newIssuers(s *Service) *issuers {
	lru, _ := simplelru.NewLRU(maxIssuers, func(_ issuerKey, i *issuer) { i.dropped.Store(true) }) // fails for a size of 0 only
	return &issuers{s: s, lru: lru}
}

// of returns the issuer of some settings.
func (is *issuers) of(trusted bool, o *tenant.OIDC) (*issuer, error) {
	k := issuerKey{url: o.Issuer, trusted: trusted}
	if o.CA != "" {
		k.roots = sha256.Sum256([]byte(o.CA))
	}
	is.mu.Lock()
	defer is.mu.Unlock()
	if i, ok := is.lru.Get(k); ok {
		return i, nil
	}
	roots, err := rootsOf(o.CA)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "the authenticator's settings cannot be used: ask an admin of this tenant")
	}
	i := &issuer{s: is.s, url: o.Issuer, client: newClient(is.s.cfg.Dial(trusted), roots)}
	is.lru.Add(k, i)
	return i, nil
}

// issuer is one issuer: its documents, and the gate through which they are asked for.
type issuer struct {
	s      *Service
	url    string
	client *http.Client

	state   atomic.Pointer[keyState] // nil = never fetched
	dropped atomic.Bool              // no longer in issuers: its state is not kept up

	mu         sync.Mutex
	flight     chan struct{} // guarded by mu: closed when the fetch under way has ended; nil = none
	next       time.Time     // guarded by mu: no fetch begins before
	failed     error         // guarded by mu: why the last fetch failed; nil = it did not
	failedAt   time.Time     // guarded by mu: when it did
	provider   *provider     // guarded by mu: nil = never fetched
	discovered time.Time     // guarded by mu
}

type keyState struct {
	set     *keySet // the same pointer as before where the document did not change
	fetched time.Time
}

// keys returns the issuer's keys if wants is content with them. Known keys are served at once while they are fresh, or while
// the issuer is down and they are not dead; otherwise the issuer is asked, if that is due. The error is a
// fault.Unauthenticated where the issuer has no such key, and a fault.Unavailable where it cannot be known.
func (i *issuer) keys(ctx context.Context, wants func(*keySet) bool) (*keySet, error) {
	now := i.s.cfg.Now()
	if st := i.state.Load(); st != nil && wants(st.set) {
		age := now.Sub(st.fetched)
		if age < keysRefresh {
			return st.set, nil
		}
		if age < keysStale || age < keysDead && i.downLately(now) {
			i.begin(ctx, now)
			return st.set, nil
		}
	}
	err := i.refresh(ctx, now)
	st := i.state.Load()
	alive := st != nil && i.s.cfg.Now().Sub(st.fetched) < keysDead
	switch {
	case alive && wants(st.set):
		return st.set, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("wait for the issuer's keys: %w", ctx.Err())
	case err == nil && alive:
		return nil, unauthenticated("a key that the issuer does not have")
	}
	return nil, i.unavailable(err)
}

// newer returns the issuer's keys if they changed since old, asking for them if that is due. An issuer that names no keys, or
// gives the name of an old one to a new one, is noticed this way.
func (i *issuer) newer(ctx context.Context, old *keySet) (*keySet, bool) {
	if st := i.state.Load(); st.set != old {
		return st.set, true
	}
	_ = i.refresh(ctx, i.s.cfg.Now()) // the old keys refuse the token anyhow
	st := i.state.Load()
	return st.set, st.set != old
}

// known returns what the issuer said of itself, from memory or by asking.
func (i *issuer) known(ctx context.Context) (*provider, error) {
	now := i.s.cfg.Now()
	if p, ok := i.remembered(now); ok {
		return p, nil
	}
	err := i.refresh(ctx, now)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.provider != nil { // an old one is better than none: where a login begins does not change
		return i.provider, nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("wait for the issuer: %w", ctx.Err())
	}
	return nil, i.unavailableLocked(err)
}

func (i *issuer) remembered(now time.Time) (*provider, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.provider, i.provider != nil && now.Sub(i.discovered) < providerStale
}

func (i *issuer) down() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.failed != nil
}

// downLately says whether the issuer failed a moment ago. A failure of long ago says nothing: the issuer may be up again, and
// may have taken a key back.
func (i *issuer) downLately(now time.Time) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.failed != nil && now.Sub(i.failedAt) < stillDown
}

func (i *issuer) unavailable(cause error) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.unavailableLocked(cause)
}

func (i *issuer) unavailableLocked(cause error) error {
	if cause == nil {
		cause = errors.New("its keys are too old")
	}
	wait := max(i.next.Sub(i.s.cfg.Now()), time.Second)
	return fault.Wrap(fault.Unavailable, cause, "the issuer of this credential cannot be reached: try again later").After(wait)
}

// refresh waits for a fetch: the one under way, or one that it begins if that is due. The error is the last fetch's.
func (i *issuer) refresh(ctx context.Context, now time.Time) error {
	if flight := i.begin(ctx, now); flight != nil {
		select {
		case <-flight:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.failed
}

// begin returns the fetch under way, after beginning one if that is due; nil if there is none. The fetch is nobody's: a caller
// that goes away does not end it for the others.
func (i *issuer) begin(ctx context.Context, now time.Time) chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.flight != nil || now.Before(i.next) {
		return i.flight
	}
	done := make(chan struct{})
	i.flight, i.next = done, now.Add(fetchEvery)
	ctx = context.WithoutCancel(ctx)
	i.s.fetches.Go(func() { i.run(ctx, done) })
	return done
}

func (i *issuer) run(ctx context.Context, done chan struct{}) {
	defer close(done)
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	p, set, err := i.fetch(ctx)
	now := i.s.cfg.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.flight, i.failed, i.failedAt = nil, shortened(err), now
	if p != nil && p != i.provider {
		i.provider, i.discovered = p, now
	}
	if err != nil {
		i.s.cfg.Logger.WarnContext(ctx, "an issuer's keys could not be fetched", "issuer", i.url, "err", brief(err))
		return
	}
	if old := i.state.Load(); old != nil && old.set.digest == set.digest {
		set = old.set
	}
	i.state.Store(&keyState{set: set, fetched: now})
}

// maxBrief is how many bytes of an error are kept, and written into a log.
const maxBrief = 300

// brief bounds an error for the log: libraries put what a stranger answered into theirs.
func brief(err error) string {
	s := err.Error()
	return s[:min(len(s), maxBrief)]
}

// shortened bounds an error that is kept, and becomes the cause of every refusal until the next fetch: a stranger's answer of a
// megabyte would be in each line of the log.
func shortened(err error) error {
	if err == nil || len(err.Error()) <= maxBrief {
		return err
	}
	return errors.New(brief(err))
}

// fetch asks for the keys, and before, where that is due, for where they are. A panic over what a stranger sent is an error of
// this issuer, and of no other (X39).
func (i *issuer) fetch(ctx context.Context) (p *provider, set *keySet, err error) {
	defer func() {
		if r := recover(); r != nil {
			p, set, err = nil, nil, fmt.Errorf("panic: %v", r)
		}
	}()
	p, fresh := i.remembered(i.s.cfg.Now())
	if !fresh || i.down() {
		if p, err = i.discover(ctx); err != nil {
			return nil, nil, err
		}
	}
	b, err := get(ctx, i.client, p.JWKS)
	if err != nil {
		return p, nil, err
	}
	set, err = parseKeys(b)
	return p, set, err
}

// discover reads the discovery document (OpenID Connect Discovery §4). go-oidc holds that it names this very issuer.
func (i *issuer) discover(ctx context.Context) (*provider, error) {
	found, err := oidc.NewProvider(oidc.ClientContext(ctx, i.client), i.url)
	if err != nil {
		return nil, fmt.Errorf("discover the issuer: %w", err)
	}
	var more struct {
		JWKS       string   `json:"jwks_uri"`
		EndSession string   `json:"end_session_endpoint"`
		Methods    []string `json:"code_challenge_methods_supported"`
		Secrets    []string `json:"token_endpoint_auth_methods_supported"`
		SaysIssuer bool     `json:"authorization_response_iss_parameter_supported"`
	}
	if err := found.Claims(&more); err != nil {
		return nil, fmt.Errorf("read the discovery document: %w", err)
	}
	if len(more.Methods) > maxNames || slices.ContainsFunc(more.Methods, tooLong) {
		return nil, errors.New("the discovery document names too many code_challenge_methods_supported")
	}
	p := &provider{Endpoint: found.Endpoint(), EndSession: more.EndSession, Methods: more.Methods, JWKS: more.JWKS, Client: i.client}
	p.Endpoint.AuthStyle, p.SaysIssuer = tokenStyle(more.Secrets), more.SaysIssuer
	for _, at := range []string{p.JWKS, p.Endpoint.AuthURL, p.Endpoint.TokenURL, p.EndSession} {
		if at == "" && at != p.JWKS {
			continue // an issuer of tokens alone has no browser login
		}
		if u, err := url.Parse(at); err != nil || tooLong(at) || u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("the discovery document names %.100q, which is not an https URL", at)
		}
	}
	return p, nil
}

func tooLong(name string) bool { return len(name) > maxName }
