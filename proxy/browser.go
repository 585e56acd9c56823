package proxy

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
)

// commitTime bounds the commit of a logout, which goes on when the browser leaves.
const commitTime = 5 * time.Second

// browse answers the paths of browser logins, on a tenant's own hosts.
func (f *flight) browse() error {
	e := f.place.entry
	if f.s.cfg.Authenticator == nil {
		return errAbsent
	}
	if e.Record.State == tenant.StateSuspended {
		return fault.New(fault.Unavailable, "this tenant is suspended").After(suspendedRetry)
	}
	a, r := f.s.cfg.Authenticator, f.loginRequest()
	switch f.place.path {
	case authn.LoginPath:
		return f.login(e, r)
	case authn.CallbackPath:
		return f.loggedIn(a.LoginFinish(f.r.Context(), e, r))
	case authn.HandoverPath:
		return f.loggedIn(a.Handover(e, r, func(host string) bool {
			there, ok := f.s.cfg.Directory.ByHost(host)
			return ok && there.Scope == e.Scope
		}))
	case authn.AcceptPath:
		return f.loggedIn(a.HandoverAccept(f.r.Context(), e, r))
	case authn.LogoutPath:
		return f.logout(e, r)
	}
	return errAbsent
}

func (f *flight) loginRequest() authn.LoginRequest {
	return authn.LoginRequest{Method: f.r.Method, Host: f.name, Base: "https://" + f.host, Query: f.target.query, Cookies: f.r.Header["Cookie"]}
}

// login begins a login. Issuers know one address to come back to, on the host that every tenant has: the others get theirs
// from there.
func (f *flight) login(e *tenant.Entry, r authn.LoginRequest) error {
	main := tenant.OwnHost(e.Record.ID, f.s.cfg.BaseDomain)
	if f.s.cfg.BaseDomain == "" || f.name == main {
		reply, err := f.s.cfg.Authenticator.LoginStart(f.r.Context(), e, r)
		return f.answerLogin(reply, err)
	}
	_, port, _ := strings.Cut(f.host, ":")
	reply, err := f.s.cfg.Authenticator.HandoverStart(e, r, "https://"+withPort(main, port))
	return f.answerLogin(reply, err)
}

// loggedIn records who logged in, before the browser is told.
func (f *flight) loggedIn(reply authn.LoginReply, err error) error {
	if err != nil || reply.Principal.Kind == "" {
		return f.answerLogin(reply, err)
	}
	f.who = reply.Principal
	v, err := f.s.cfg.Guards.For(f.place.entry).Enter(f.who, f.guardRequest())
	if err != nil {
		return err
	}
	defer v.Leave()
	permit, err := v.Admit(guard.Effect{Action: authz.SessionCreate, Resource: "session/" + f.name})
	if err != nil {
		return err
	}
	permit.Done(nil)
	return f.answerLogin(reply, nil)
}

// answerLogin sends the browser on. Cookies are set with an error too: they clear what was used up.
func (f *flight) answerLogin(reply authn.LoginReply, err error) error {
	if len(reply.SetCookies) > 0 {
		f.w.Header()["Set-Cookie"] = reply.SetCookies
	}
	if err != nil {
		return err
	}
	h := exchange.Header{"Cache-Control": {"no-store"}, "Referrer-Policy": {"no-referrer"}, "X-Content-Type-Options": {"nosniff"},
		"Content-Security-Policy": {authn.PagePolicy}}
	if reply.Redirect != "" {
		h["Location"] = []string{reply.Redirect}
		return f.reply(&exchange.Reply{Status: http.StatusSeeOther, Header: h})
	}
	h["Content-Type"] = []string{"text/html; charset=utf-8"}
	return f.reply(&exchange.Reply{Status: http.StatusOK, Header: h, Body: reply.Page})
}

// logout ends a browser session on all hosts of the tenant. That it has ended is in the tenant's record before the answer is.
func (f *flight) logout(e *tenant.Entry, r authn.LoginRequest) error {
	origin := authn.OriginRequest{Method: f.r.Method, Header: f.r.Header, Base: r.Base, ViaCookie: true}
	if err := authn.CheckOrigin(origin); err != nil {
		return err
	}
	reply, err := f.s.cfg.Authenticator.Logout(f.r.Context(), e, r)
	if err != nil {
		return err
	}
	if reply.Revocation != nil {
		f.who = reply.Principal
		if err := f.endSession(e, *reply.Revocation); err != nil {
			return err
		}
	}
	if reply.Redirect == "" {
		f.w.Header()["Set-Cookie"] = reply.SetCookies
		return f.reply(&exchange.Reply{Status: http.StatusOK, Body: []byte("You are logged out.\n"),
			Header: exchange.Header{"Content-Type": {"text/plain; charset=utf-8"}, "Cache-Control": {"no-store"}}})
	}
	return f.answerLogin(authn.LoginReply{Redirect: reply.Redirect, SetCookies: reply.SetCookies}, nil)
}

// endSession commits the end of a session, with its record.
func (f *flight) endSession(e *tenant.Entry, end tenant.Revocation) error {
	if f.s.cfg.Records == nil {
		return fault.New(fault.NotImplemented, "this gateway keeps no record of logouts")
	}
	v, err := f.s.cfg.Guards.For(e).Enter(f.who, f.guardRequest())
	if err != nil {
		return err
	}
	defer v.Leave()
	permit, err := v.Admit(guard.Effect{Action: authz.SessionDelete, Resource: "session/" + f.name})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.r.Context()), commitTime)
	defer cancel()
	_, err = f.s.cfg.Records.UpdateTenant(ctx, e.Record.ID, 0, func(r *tenant.Record) error {
		if r.UID != e.Scope.UID() {
			return fault.New(fault.Unauthenticated, "the tenant was deleted")
		}
		r.Revoke(end, time.Now())
		return nil
	}, permit.Entry(audit.OutcomeOK))
	return permit.Settle(err)
}

// sendToLogin sends a person's browser, which opens a page without a credential, to the tenant's login. Programs get their
// refusal.
func (f *flight) sendToLogin(err error) error {
	h := f.r.Header
	if !fault.Is(err, fault.Unauthenticated) || f.proof.HasBearer || f.r.Method != http.MethodGet || !f.place.own || f.place.conflict ||
		f.s.cfg.Authenticator == nil || !navigation(h) {
		return err
	}
	if f.proof.Cookie != "" && len(f.proof.Peer) > 0 {
		return err // a session and a certificate of two people: another login would end here again
	}
	onHost, ok := f.s.cfg.Directory.ByHost(f.name)
	if !ok || !hasLogin(onHost.Record) {
		return err
	}
	back := f.target.path
	if f.target.query != "" {
		back += "?" + f.target.query
	}
	return f.answerLogin(authn.LoginReply{Redirect: authn.LoginLink(back)}, nil)
}

// navigation says whether a browser asks for a page to show.
func navigation(h http.Header) bool {
	if mode := h["Sec-Fetch-Mode"]; len(mode) > 0 {
		return mode[0] == "navigate" && h.Get("Sec-Fetch-Dest") == "document"
	}
	return strings.Contains(h.Get("Accept"), "text/html")
}

func hasLogin(r *tenant.Record) bool {
	for i := range r.Authenticators {
		if o := r.Authenticators[i].OIDC; o != nil && o.Login != nil {
			return true
		}
	}
	return false
}
