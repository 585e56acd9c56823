package authn

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
)

// The cookies. __Host- makes browsers refuse them with a Domain, another Path or without Secure (RFC 6265bis §4.1.3.2), so
// that no host beside or above a tenant's can set or read them (C-7).
const (
	cookiePrefix   = "__Host-polygate"
	sessionCookie  = cookiePrefix
	loginCookie    = cookiePrefix + "-login-"    // one for each login that is under way; its state follows
	handoverCookie = cookiePrefix + "-handover-" // one for each hand-over that is under way
	cookieTraits   = "; Path=/; Secure; HttpOnly; SameSite=Lax"
)

// Bounds of sessions.
const (
	defaultSession = time.Hour
	// maxSession bounds what a session holds, in bytes, so that its cookie and a hand-over ticket with it stay below the
	// 4096 bytes that browsers keep and tokens have.
	maxSession   = 2750
	keptKeys     = 1024 // derived keys of tenants
	keptSessions = 1024 // opened cookies: at most 4 KiB each, and as much again for what is in them
	maxSkew      = time.Minute
)

// OnceStore remembers what was used, for all replicas.
type OnceStore interface {
	// First says whether id is used for the first time in a tenant. It may be forgotten after until.
	First(ctx context.Context, scope tenant.Scope, id string, until time.Time) (bool, error)
}

// session is what a session cookie holds. Nothing of it is stored anywhere else. It is sealed with a key of its tenant's
// uid and bound to one host: at another host, tenant, or a tenant made again under the same id it is noise.
type session struct {
	V             int                 `json:"v"`
	ID            string              `json:"s"` // the same on each host of the tenant that the login was handed to
	Authenticator string              `json:"a"`
	Generation    string              `json:"g"`
	Issuer        string              `json:"i"`
	Subject       string              `json:"u"`
	Name          string              `json:"n,omitempty"`
	Groups        []string            `json:"r,omitempty"`
	Scopes        []string            `json:"c,omitempty"`
	Attributes    map[string][]string `json:"t,omitempty"`
	Issued        int64               `json:"b"` // Unix milliseconds, as Expires
	Expires       int64               `json:"e"`
}

const sessionVersion = 1

// newSession makes the session of a login.
func newSession(u *user, scopes []string, now time.Time, life time.Duration) *session {
	name := u.username
	if name == u.claims.Subject {
		name = ""
	}
	return &session{
		V: sessionVersion, ID: rand.Text(), Authenticator: u.claims.Authenticator, Generation: u.claims.Generation,
		Issuer: u.claims.Issuer, Subject: u.claims.Subject, Name: name, Groups: u.claims.Groups, Scopes: scopes,
		Attributes: u.claims.Attributes, Issued: now.UnixMilli(), Expires: now.Add(life).UnixMilli(),
	}
}

// encode returns a session's bytes. One that does not fit into a cookie is refused with what to do about it: leaving groups
// out could take a right away, or a prohibition.
func (v *session) encode() ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(b) > maxSession {
		return nil, fault.New(fault.BadUpstream, "the login was good, but what the issuer says about you has %d bytes and at most %d fit into a session cookie (%d groups, %d attributes): let the issuer send fewer groups to this client, or point claims.groups and claims.attributes of authenticator %q to shorter claims",
			len(b), maxSession, len(v.Groups), len(v.Attributes), v.Authenticator)
	}
	return b, nil
}

// decodeSession reads what encode wrote. The bytes were sealed by us, but perhaps by another version.
func decodeSession(b []byte) (*session, bool) {
	var v session
	if json.Unmarshal(b, &v) != nil || v.V != sessionVersion || v.ID == "" || v.Subject == "" || v.Expires <= v.Issued {
		return nil, false
	}
	return &v, true
}

// user returns whom the session stands for.
func (v *session) user() *user {
	name := v.Name
	if name == "" {
		name = v.Subject
	}
	return &user{username: name, expires: time.UnixMilli(v.Expires), claims: &tenant.Claims{
		Authenticator: v.Authenticator, Generation: v.Generation, Issuer: v.Issuer, Subject: v.Subject, Groups: v.Groups,
		Scopes: v.Scopes, Attributes: v.Attributes, Session: v.ID, Issued: time.UnixMilli(v.Issued),
	}}
}

// browser holds what browser logins need: the tenants' keys, and opened cookies. Its zero value, without the platform's
// secret, opens and seals nothing.
type browser struct {
	secret  *seal.DataKey // nil = no browser login
	secrets *Secrets
	once    OnceStore
	keys    *lru.Cache[string, *seal.DataKey] // by tenant uid
	opened  *lru.Cache[openKey, *opened]

	exchanging exchanges
}

// openKey is all that a cookie's meaning depends on. The map compares the whole of it, so that no hash has to be trusted.
type openKey struct {
	uid, host, cookie string
}

// opened is an opened cookie.
type opened struct {
	session *session
	user    *user
}

func newBrowser(cfg Config) (*browser, error) {
	b := &browser{once: cfg.Once}
	if b.once == nil {
		b.once = newOnce(cfg.Now)
	}
	b.keys, _ = lru.New[string, *seal.DataKey](keptKeys) // fails only for a size of 0
	b.opened, _ = lru.New[openKey, *opened](keptSessions)
	if len(cfg.Secret) == 0 {
		return b, nil
	}
	var err error
	if b.secret, err = seal.DataKeyFrom(cfg.Secret); err != nil {
		return nil, fault.Wrap(fault.Internal, err, "authn.Config.Secret")
	}
	b.secrets, err = NewSecrets(cfg.Secret)
	return b, err
}

// key returns the key of a tenant's cookies and tickets; nil without a platform secret. It hangs on the tenant's uid, so
// that a tenant that is deleted and made again knows none of the old one's.
func (b *browser) key(uid string) *seal.DataKey {
	if b.secret == nil {
		return nil
	}
	if k, ok := b.keys.Get(uid); ok {
		return k
	}
	k := b.secret.Derive("authn/browser/v1/" + uid)
	b.keys.Add(uid, k)
	return k
}

// open opens a session cookie, from memory where it can. What opens was sealed here for this tenant and host.
func (b *browser) open(e *tenant.Entry, host, cookie string) (*opened, bool) {
	key := b.key(e.Scope.UID())
	if key == nil || cookie == "" {
		return nil, false
	}
	at := openKey{e.Scope.UID(), host, cookie}
	if o, ok := b.opened.Get(at); ok {
		return o, true
	}
	plain, err := key.OpenToken(cookie, "session", host)
	if err != nil {
		return nil, false
	}
	v, ok := decodeSession(plain)
	if !ok {
		return nil, false
	}
	o := &opened{session: v, user: v.user()}
	b.opened.Add(at, o)
	return o, true
}

// cookiePrincipal judges the request's session cookie. ok is false where it is no good any more: browsers send stale cookies.
func (s *Service) cookiePrincipal(e *tenant.Entry, ev Evidence) (p tenant.Principal, ok bool, err error) {
	_, p, ok = s.session(e, ev.Host, ev.Cookie)
	return p, ok, nil
}

// session opens a session cookie and asks the record whether it still stands: its end, a revocation of it or of its user, a
// change of the authenticator.
func (s *Service) session(e *tenant.Entry, host, cookie string) (*session, tenant.Principal, bool) {
	o, ok := s.browser.open(e, host, cookie)
	if !ok {
		return nil, tenant.Principal{}, false
	}
	now := s.cfg.Now()
	p, ok := o.user.principal(e, tenant.ViaCookie, now)
	if !ok || o.user.claims.Issued.After(now.Add(maxSkew)) {
		return nil, tenant.Principal{}, false
	}
	return o.session, p, true
}

// setSession returns the Set-Cookie of a session on one host.
func (s *Service) setSession(e *tenant.Entry, host string, v *session, now time.Time) (string, error) {
	plain, err := v.encode()
	if err != nil {
		return "", err
	}
	life := time.UnixMilli(v.Expires).Sub(now)
	return setCookie(sessionCookie, s.browser.key(e.Scope.UID()).SealToken(plain, "session", host), life), nil
}

// sessionValue returns the value of our session cookie in the Cookie fields of a request; "" if there is none, or more than
// one: which of them a hop before us looked at cannot be told.
func sessionValue(fields []string) string {
	values := cookiesNamed(fields, func(name string) bool { return name == sessionCookie })
	if len(values) != 1 {
		return ""
	}
	return values[0].value
}

type cookie struct {
	name, value string
}

// cookiesNamed returns the cookies whose name is wanted, in the order in which they were sent.
func cookiesNamed(fields []string, want func(name string) bool) []cookie {
	var all []cookie
	for _, field := range fields {
		for pair := range strings.SplitSeq(field, ";") {
			name, value, ok := strings.Cut(strings.Trim(pair, " \t"), "=")
			if ok && want(name) {
				all = append(all, cookie{name, value})
			}
		}
	}
	return all
}

func setCookie(name, value string, life time.Duration) string {
	return name + "=" + value + cookieTraits + maxAge(life)
}

func maxAge(life time.Duration) string {
	return "; Max-Age=" + strconv.Itoa(max(0, int(life/time.Second)))
}

func clearCookie(name string) string { return setCookie(name, "", 0) }

// memoryOnce is the OnceStore of one replica. It is bounded per tenant, so that one tenant cannot stop the hand-overs of
// another, and safe for concurrent use.
type memoryOnce struct {
	now   func() time.Time
	mu    sync.Mutex // guards all below
	swept time.Time  // when the old was last thrown out
	// used holds, by tenant uid, what was used and until when that has to be known.
	used map[string]map[string]time.Time
}

// maxOnce bounds what is remembered of one tenant at a time.
const maxOnce = 4096

func newOnce(now func() time.Time) *memoryOnce {
	return &memoryOnce{now: now, used: make(map[string]map[string]time.Time)}
}

// First implements OnceStore. Where there is no room the error is a fault.Unavailable: forgetting one that is still good
// would let it be used again.
func (m *memoryOnce) First(_ context.Context, scope tenant.Scope, id string, until time.Time) (bool, error) {
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(now)
	ids := m.used[scope.UID()]
	if _, again := ids[id]; again || !now.Before(until) {
		return false, nil
	}
	if len(ids) >= maxOnce {
		return false, fault.New(fault.Unavailable, "too many hand-overs at once: try again").After(10 * time.Second)
	}
	if ids == nil {
		ids = make(map[string]time.Time)
		m.used[scope.UID()] = ids
	}
	ids[id] = until
	return true, nil
}

// forget throws out, once a second at most, what need not be known any more.
func (m *memoryOnce) forget(now time.Time) {
	if now.Sub(m.swept) < time.Second {
		return
	}
	m.swept = now
	for uid, ids := range m.used {
		maps.DeleteFunc(ids, func(_ string, until time.Time) bool { return !now.Before(until) })
		if len(ids) == 0 {
			delete(m.used, uid)
		}
	}
}
