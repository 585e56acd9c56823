package authn

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
)

// ticketLife is how long a hand-over ticket is good: the time of one redirect.
const ticketLife = 30 * time.Second

// handover is a hand-over that is under way, kept by the browser on the host that wants the login, sealed.
type handover struct {
	Nonce  string `json:"n"`
	Return string `json:"r"`
	Began  int64  `json:"t"` // Unix milliseconds
}

// ticket carries a session to another host of its tenant. It passes through a URL, which ends up in logs and histories:
// it is worth nothing but once, soon, at one host, and to the browser that has the nonce.
type ticket struct {
	Session   json.RawMessage `json:"s"`
	Challenge string          `json:"c"` // of the nonce
	ID        string          `json:"j"`
	Expires   int64           `json:"e"` // Unix milliseconds
}

// HandoverStart begins to fetch a login from the tenant's main host, the base URL of which is main, for the host of the
// request, which has no session: a custom host, or later a sandbox's. The main host's own cookie never leaves it.
func (s *Service) HandoverStart(e *tenant.Entry, r LoginRequest, main string) (LoginReply, error) {
	q, key, err := s.begin(e, r, http.MethodGet)
	if err != nil {
		return LoginReply{}, err
	}
	if !ownBase(main) || baseOrigin(main) == baseOrigin(r.Base) {
		return LoginReply{}, fault.New(fault.Invalid, "a login is handed over between two hosts of a tenant: log in at %s", LoginPath)
	}
	back, err := returnTo(q)
	if err != nil {
		return LoginReply{}, err
	}
	now := s.cfg.Now()
	h := handover{Nonce: rand.Text(), Return: back, Began: now.UnixMilli()}
	challenge := challengeOf(h.Nonce)
	set, err := keepFlow(key, handoverCookie, newFlowID(now), r, h)
	to := main + HandoverPath + "?" + url.Values{"to": {r.Host}, "challenge": {challenge}}.Encode()
	return LoginReply{Redirect: to, SetCookies: set}, err
}

// Handover issues, on the host that has the session, a ticket for another host of the tenant. hosts says whether a host, in
// lower case and without port, is one of this tenant's; the ticket is sent nowhere else. Without a session the browser logs
// in first and comes back.
func (s *Service) Handover(e *tenant.Entry, r LoginRequest, hosts func(host string) bool) (LoginReply, error) {
	q, key, err := s.begin(e, r, http.MethodGet)
	if err != nil {
		return LoginReply{}, err
	}
	to, challenge := q.Get("to"), q.Get("challenge")
	if !hostName(to) || to == r.Host || !hosts(to) {
		return LoginReply{}, fault.New(fault.Invalid, "a login is handed over to another host of the same tenant only")
	}
	if !validChallenge(challenge) {
		return LoginReply{}, fault.New(fault.Invalid, "the challenge is not the base64url of a SHA-256")
	}
	v, p, ok := s.session(e, r.Host, sessionValue(r.Cookies))
	if !ok {
		here := HandoverPath + "?" + url.Values{"to": {to}, "challenge": {challenge}}.Encode()
		return LoginReply{Redirect: r.Base + LoginLink(here)}, nil
	}
	token, err := sealTicket(key, v, to, challenge, s.cfg.Now())
	if err != nil {
		return LoginReply{}, err
	}
	return LoginReply{Redirect: otherHost(r.Base, to) + AcceptPath + "?ticket=" + token, Principal: p}, nil
}

func sealTicket(key *seal.DataKey, v *session, to, challenge string, now time.Time) (string, error) {
	inner, err := v.encode()
	if err != nil {
		return "", err
	}
	plain, err := json.Marshal(ticket{Session: inner, Challenge: challenge, ID: rand.Text(), Expires: now.Add(ticketLife).UnixMilli()})
	if err != nil {
		return "", err
	}
	return key.SealToken(plain, "ticket", to), nil
}

// HandoverAccept ends a hand-over on the host that asked for it: it takes the ticket, once, from the browser that has the
// nonce, and gives the host a session cookie of its own. The session stays the same: a logout anywhere ends it everywhere.
func (s *Service) HandoverAccept(ctx context.Context, e *tenant.Entry, r LoginRequest) (LoginReply, error) {
	q, key, err := s.begin(e, r, http.MethodGet)
	if err != nil {
		return LoginReply{}, err
	}
	now := s.cfg.Now()
	refuse := fault.New(fault.Invalid, "this hand-over of a login is no longer good, or was begun in another browser: open the page again")
	t, v, ok := openTicket(key, q.Get("ticket"), r.Host)
	if !ok || !now.Before(time.UnixMilli(t.Expires)) {
		return LoginReply{}, refuse
	}
	name, h, ok := findHandover(key, r, t.Challenge)
	if !ok || !recent(h.Began, now) {
		return LoginReply{}, refuse
	}
	set, p, err := s.openSession(e, r.Host, v, now)
	if err != nil {
		return LoginReply{}, err
	}
	// Last, so that nothing but a good ticket is remembered.
	first, err := s.browser.once.First(ctx, e.Scope, t.ID, time.UnixMilli(t.Expires))
	if err != nil {
		return LoginReply{}, fault.Wrap(fault.Unavailable, err, "the hand-over cannot be recorded now: open the page again").After(5 * time.Second)
	}
	if !first {
		return LoginReply{}, refuse
	}
	return LoginReply{Redirect: r.Base + h.Return, SetCookies: []string{clearCookie(name), set}, Principal: p}, nil
}

func openTicket(key *seal.DataKey, token, host string) (*ticket, *session, bool) {
	plain, err := key.OpenToken(token, "ticket", host)
	if err != nil {
		return nil, nil, false
	}
	var t ticket
	if json.Unmarshal(plain, &t) != nil || t.ID == "" {
		return nil, nil, false
	}
	v, ok := decodeSession(t.Session)
	return &t, v, ok
}

// findHandover returns the hand-over under way in this browser whose nonce the challenge was made from.
func findHandover(key *seal.DataKey, r LoginRequest, challenge string) (name string, h handover, ok bool) {
	kept := cookiesNamed(r.Cookies, func(name string) bool { return strings.HasPrefix(name, handoverCookie) && tokenName(name) })
	for _, c := range kept[:min(len(kept), 2*keptLogins)] {
		var h handover
		if takeFlow(key, handoverCookie, strings.TrimPrefix(c.name, handoverCookie), r, &h) && challengeOf(h.Nonce) == challenge {
			return c.name, h, true
		}
	}
	return "", handover{}, false
}

func challengeOf(nonce string) string {
	sum := sha256.Sum256([]byte(nonce))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func validChallenge(s string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil && len(b) == sha256.Size && len(s) == base64.RawURLEncoding.EncodedLen(sha256.Size)
}

// hostName says whether s is a DNS name in the one spelling in which the front knows hosts.
func hostName(s string) bool {
	return len(s) <= 253 && originHost(s) && s[0] != '[' && s[0] != '.' && s[len(s)-1] != '.'
}

// otherHost returns the base URL of another host on the same listener.
func otherHost(base, host string) string {
	rest := strings.TrimPrefix(base, "https://")
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.HasSuffix(rest, "]") {
		return "https://" + host + rest[i:]
	}
	return "https://" + host
}
