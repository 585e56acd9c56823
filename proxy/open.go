package proxy

import (
	"net/http"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// serveOpen answers what is told to everybody. done is false where the request goes on as another does.
func (f *flight) serveOpen() (done bool, err error) {
	switch f.place.open {
	case openHealth:
		return true, f.healthz()
	case openMetadata:
		return true, f.metadata()
	case openBrowser:
		return true, f.browse()
	case openRelay:
		f.who = tenant.Principal{Tenant: f.place.entry.Record.ID, Kind: tenant.KindAnonymous}
		if err := f.judgeIdentity(); err != nil {
			return true, err
		}
		return true, f.serveMember()
	}
	return false, nil
}

// judgeIdentity refuses headers in which the tenant's trusted upstream names users, of anybody else (X25): the tenant's own
// gateway, which believes in them, has no other peer than us. Those of the upstream pass, to be judged by that gateway.
func (f *flight) judgeIdentity() error {
	if f.s.cfg.Authenticator == nil {
		return nil
	}
	if err := f.s.cfg.Authenticator.JudgeHeaders(f.place.entry, f.evidence()); fault.Is(err, fault.Invalid) {
		return err
	}
	return nil
}

// metadata answers who issues the tokens for a resource of the tenant (RFC 9728 §3). A tenant that takes no tokens has none.
func (f *flight) metadata() error {
	if err := onlyRead(f.r.Method, "metadata is"); err != nil {
		return err
	}
	doc, ok := authn.Metadata(f.place.entry, "https://"+f.host, f.place.path)
	if !ok {
		return errAbsent
	}
	return f.reply(&exchange.Reply{Status: http.StatusOK, Body: doc, Header: exchange.Header{
		"Content-Type": {"application/json"}, "Cache-Control": {"max-age=300"}, "X-Content-Type-Options": {"nosniff"},
		"Access-Control-Allow-Origin": {"*"}, // it is public, and clients in browsers look for it
	}})
}

// errAbsent is the answer to a path that does not exist.
var errAbsent = fault.New(fault.NotFound, "")

func onlyRead(method, what string) error {
	if method == http.MethodGet || method == http.MethodHead {
		return nil
	}
	return &fault.Error{Kind: fault.MethodNotAllowed, Detail: what + " read with GET", Allow: "GET, HEAD"}
}
