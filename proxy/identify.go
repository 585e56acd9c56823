package proxy

import (
	"errors"
	"net/http"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// collect gathers what a tenant's authenticators may judge. Nothing of it is believed yet.
func (f *flight) collect(bearer string) {
	h := f.r.Header
	f.proof = authn.Evidence{Bearer: bearer, Header: h, Remote: remoteAddr(f.r), Host: f.name}
	if len(f.r.Trailer) > 0 {
		f.proof.Header = withTrailer(h, f.r.Trailer)
	}
	f.proof.HasBearer = len(h["Authorization"])+len(h["X-Api-Key"]) > 0
	if len(h["Cookie"]) > 0 {
		f.proof.Cookie = sessionCookie(f.r)
	}
	if f.r.TLS != nil {
		f.proof.Peer = f.r.TLS.PeerCertificates
	}
}

// withTrailer returns h with the names of the fields that the client announced to send after the body, which net/http has
// taken out of it: identity may not come that way either (case X22).
func withTrailer(h, trailer http.Header) http.Header {
	all := make(http.Header, len(h)+1)
	for name, v := range h {
		all[name] = v
	}
	for name := range trailer {
		all["Trailer"] = append(all["Trailer"], name)
	}
	return all
}

// sessionCookie returns the value of our session cookie. Two of them are none: one of them may have been planted.
func sessionCookie(r *http.Request) string {
	c := r.CookiesNamed(authn.SessionCookie)
	if len(c) != 1 {
		return ""
	}
	return c[0].Value
}

// authenticate finds out who asks, and that it is one of the tenant's. A credential that another tenant's authenticators
// know is one that nobody knows, unless the request names that tenant too: then it contradicts itself.
func (f *flight) authenticate() error {
	if f.place.key != nil {
		return f.authenticateKey()
	}
	if f.s.cfg.Authenticator == nil {
		return errNobody
	}
	for _, e := range f.place.ask {
		who, err := f.s.cfg.Authenticator.Authenticate(f.r.Context(), e, f.evidence())
		switch {
		case err == nil && f.place.conflict:
			f.place.entry, f.who = e, who
			return fault.New(fault.Forbidden, "the host, path and X-Tenant-ID name different tenants")
		case err == nil:
			f.place.entry, f.who = e, who
			return f.judgeOrigin()
		case !f.place.conflict:
			return err
		}
	}
	return errNobody
}

// errNobody is the refusal of a request without a credential that its tenant knows.
var errNobody = fault.New(fault.Unauthenticated, "no credential of this tenant")

// authenticateKey takes a key at its word; its tenant was found by it. Headers in which a trusted upstream names users are
// judged all the same: beside a key they are a lie, or a misconfiguration (case X25).
func (f *flight) authenticateKey() error {
	e := f.place.entry
	f.who = e.Record.KeyPrincipal(f.place.key)
	if f.s.cfg.Authenticator != nil {
		if err := f.s.cfg.Authenticator.JudgeHeaders(e, f.evidence()); err != nil {
			return err
		}
	}
	if f.s.cfg.Used != nil {
		f.s.cfg.Used(e.Scope, f.who.KeyID, f.began)
	}
	return f.judgeOrigin()
}

// evidence returns what was collected, for the authenticators of a tenant.
func (f *flight) evidence() authn.Evidence {
	ev := f.proof
	ev.Base = f.base()
	return ev
}

// base returns the URL under which the tenant's paths lie, without a final '/'.
func (f *flight) base() string { return "https://" + f.host + f.place.prefix }

// judgeOrigin refuses what a page of another origin makes a browser send (case X21).
func (f *flight) judgeOrigin() error {
	h := f.r.Header
	return authn.CheckOrigin(authn.OriginRequest{
		Method: f.r.Method, Upgrade: f.upgrade, Header: h, Base: "https://" + f.host,
		Allowed: f.place.entry.Record.AllowedOrigins, ViaCookie: f.who.Via == tenant.ViaCookie,
	})
}

// challenge says, with a refusal, where a tenant's tokens come from (RFC 9728 §5.1). It tells so on the tenant's own host
// alone, whatever was wrong.
func (f *flight) challenge(e *fault.Error) {
	if _, scopes := errors.AsType[*authn.ScopeError](e); e.Kind != fault.Unauthenticated && !scopes {
		return
	}
	if onHost, own := f.s.cfg.Directory.ByHost(f.name); own && len(onHost.Record.Authenticators) > 0 {
		f.w.Header()["Www-Authenticate"] = []string{authn.Challenge(onHost, "https://"+f.host, f.target.path, e)}
	}
}
