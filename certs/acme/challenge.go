package acme

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// storedChallenge is an open challenge, in one value below its host: a host is ordered by one replica at a time.
type storedChallenge struct {
	V       int       `json:"v"`
	Type    string    `json:"type"`
	Host    string    `json:"host"`
	Token   string    `json:"token"`
	KeyAuth string    `json:"key_auth"`
	Until   time.Time `json:"until"` // it is answered no longer: whoever began it may have died
}

// parseChallenge reads a stored challenge of a type for a host. It shows nothing of what it read in its errors.
func parseChallenge(data []byte, kind, host string, now time.Time) (acme.Challenge, error) {
	var v storedChallenge
	if err := decodeStored(data, &v); err != nil {
		return acme.Challenge{}, err
	}
	switch {
	case v.V < 1 || v.V > storedVersion+1:
		return acme.Challenge{}, errStoredVersion
	case v.Type != kind || v.Host != host || !isToken(v.Token) || !strings.HasPrefix(v.KeyAuth, v.Token+".") || len(v.KeyAuth) > 1024:
		return acme.Challenge{}, errStoredShape
	case !now.Before(v.Until):
		return acme.Challenge{}, fs.ErrNotExist
	}
	return acme.Challenge{Type: v.Type, Token: v.Token, KeyAuthorization: v.KeyAuth, Identifier: acme.Identifier{Type: "dns", Value: v.Host}}, nil
}

// isToken says whether s may be a token: base64url (RFC 8555 §8.1).
func isToken(s string) bool {
	return s != "" && len(s) <= 256 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

func challengeKey(kind, host string) string { return path.Join("acme", "challenge", kind, host) }

// tokenSolver keeps a challenge where the listeners of all replicas find it.
type tokenSolver struct {
	call    *call
	storage certmagic.Storage
}

// Present stores the challenge.
func (s *tokenSolver) Present(ctx context.Context, ch acme.Challenge) error {
	s.call.hide(ch.Token, ch.KeyAuthorization)
	e := s.call.e
	v := storedChallenge{V: storedVersion, Type: ch.Type, Host: ch.Identifier.Value, Token: ch.Token, KeyAuth: ch.KeyAuthorization, Until: e.cfg.Now().Add(e.cfg.OrderTime)}
	if ch.Identifier.Type != "dns" || tenant.CheckHost(v.Host) != nil || !isToken(v.Token) {
		return &Error{Code: CodeServer, Detail: s.call.where() + " asks for a challenge that is malformed: tell its operators"}
	}
	data, err := json.Marshal(v)
	if err != nil {
		return &Error{Code: CodeInternal, Detail: "the challenge cannot be written", Err: err}
	}
	if err := s.storage.Store(ctx, challengeKey(v.Type, v.Host), data); err != nil {
		return storageError("the challenge cannot be stored", err)
	}
	return nil
}

// CleanUp removes the challenge, unless a later order has put its own there. It does so too when the order's context ended.
func (s *tokenSolver) CleanUp(ctx context.Context, ch acme.Challenge) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
	defer cancel()
	key := challengeKey(ch.Type, ch.Identifier.Value)
	data, err := s.storage.Load(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var v storedChallenge
	if err == nil && decodeStored(data, &v) == nil && v.Token != ch.Token {
		return nil
	}
	if err := s.storage.Delete(ctx, key); err != nil {
		s.call.leftBehind(ctx, ch, err)
		return err
	}
	return nil
}

// leftBehind logs that something of a challenge stays.
func (c *call) leftBehind(ctx context.Context, ch acme.Challenge, err error) {
	c.e.cfg.Logger.WarnContext(ctx, "an ACME challenge was not cleaned up", "host", ch.Identifier.Value, "type", ch.Type, "error", c.clean(err.Error()))
}

// ChallengeCertificate returns the certificate that answers an acme-tls/1 handshake for host (RFC 8737), whichever replica
// ordered; fault.NotFound if none is open. tokens are those of the tenant whose host it is.
func (e *Engine) ChallengeCertificate(ctx context.Context, tokens certmagic.Storage, host string) (*tls.Certificate, error) {
	host = strings.ToLower(host)
	if !e.cfg.TLSALPN01 || tenant.CheckHost(host) != nil {
		return nil, fault.New(fault.NotFound, "no challenge is open for the host")
	}
	ch, err := e.loadChallenge(ctx, tokens, acme.ChallengeTypeTLSALPN01, host)
	if err != nil {
		return nil, err
	}
	cert, err := acmez.TLSALPN01ChallengeCert(ch)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the certificate for a challenge cannot be made")
	}
	return cert, nil
}

func (e *Engine) loadChallenge(ctx context.Context, tokens certmagic.Storage, kind, host string) (acme.Challenge, error) {
	data, err := tokens.Load(ctx, challengeKey(kind, host))
	if err == nil {
		var ch acme.Challenge
		if ch, err = parseChallenge(data, kind, host, e.cfg.Now()); err == nil {
			return ch, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return acme.Challenge{}, fault.New(fault.NotFound, "no challenge is open for the host")
	}
	return acme.Challenge{}, fault.Wrap(fault.Unavailable, err, "the challenge for the host cannot be loaded")
}

// HTTPChallenge answers requests below /.well-known/acme-challenge/ (RFC 8555 §8.3). tokens returns the storage of whoever
// has a host; false = nobody has it. Anything that is no open challenge of the host in the request is answered with 404.
func (e *Engine) HTTPChallenge(tokens func(host string) (certmagic.Storage, bool), w http.ResponseWriter, r *http.Request) {
	host := strings.ToLower(hostOnly(r.Host))
	token, ok := strings.CutPrefix(r.URL.Path, "/.well-known/acme-challenge/")
	// What cannot be a token costs no look into the storage.
	if !ok || !e.cfg.HTTP01 || !certmagic.LooksLikeHTTPChallenge(r) || !isToken(token) || tenant.CheckHost(host) != nil {
		http.NotFound(w, r)
		return
	}
	storage, ok := tokens(host)
	if !ok {
		http.NotFound(w, r)
		return
	}
	ch, err := e.loadChallenge(r.Context(), storage, acme.ChallengeTypeHTTP01, host)
	if err != nil && fault.From(err).Kind != fault.NotFound {
		http.Error(w, "try again", http.StatusServiceUnavailable)
		return
	}
	if err != nil || !certmagic.SolveHTTPChallenge(zap.NewNop(), w, r, ch) {
		http.NotFound(w, r)
	}
}

func hostOnly(hostport string) string {
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		return h
	}
	return hostport
}
