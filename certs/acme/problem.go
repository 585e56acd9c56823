package acme

import (
	"errors"
	"strings"

	"github.com/mholt/acmez/v3/acme"
)

// problem says what a problem document (RFC 8555 §6.7) means for whoever wants the certificate.
func (c *call) problem(err error, p acme.Problem) *Error {
	kind := strings.TrimPrefix(p.Type, acme.ProblemTypeNamespace)
	says := ". It says: " + p.Detail
	for _, s := range p.Subproblems {
		says += "; " + s.Detail
	}
	// A challenge has failed: the problem is what the server found when it looked (RFC 8555 §7.1.6).
	authz, failed := p.Resource.(acme.Authorization)
	switch {
	case kind == "caa":
		return &Error{Code: CodeCAA, Permanent: true, Detail: "a CAA record in the DNS forbids " + c.where() + " to issue: add the issuer to the CAA records of the name" + says}
	case failed && kind == "dns":
		return &Error{Code: CodeDNS, Detail: "the DNS of " + quote(authz.IdentifierValue()) + " does not answer as " + c.where() + " needs it: check its records" + says}
	case failed:
		return &Error{Code: CodeChallengeFailed, Detail: c.where() + " did not find the proof for " + quote(authz.IdentifierValue()) +
			": its DNS must lead to this gateway, and ports 443 (tls-alpn-01) or 80 (http-01) be open" + says}
	}
	e := refusal(kind)
	e.Detail = c.where() + " " + e.Detail + says
	if url, _, _ := c.tr.last(); kind == "unauthorized" && url == c.dir.NewAccount {
		e.Code = CodeAccount
	}
	return e
}

// refusal is what a kind of problem means, whatever was asked for.
func refusal(kind string) *Error {
	switch kind {
	case "rejectedIdentifier", "unsupportedIdentifier":
		return &Error{Code: CodeRejectedIdentifier, Permanent: true, Detail: "does not issue for the name: use another server for it, or another name"}
	case "externalAccountRequired":
		return &Error{Code: CodeEABRequired, Permanent: true, Detail: "wants an external account: set certificates.acme.eab_key_id and the key"}
	case "accountDoesNotExist", "invalidContact", "unsupportedContact", "userActionRequired", "badPublicKey", "badSignatureAlgorithm":
		return &Error{Code: CodeAccount, Permanent: true, Detail: "refuses the account: check certificates.acme.email and the external account, and its terms"}
	case "unauthorized":
		return &Error{Code: CodeUnauthorized, Permanent: true, Detail: "does not let the account do this: check that the account is active and its external account right"}
	case "invalidProfile":
		return &Error{Code: CodeProfile, Permanent: true, Detail: "does not offer the profile: correct certificates.acme.profile"}
	case "dns":
		return &Error{Code: CodeDNS, Detail: "cannot look the name up: check its DNS records"}
	case "connection", "incorrectResponse", "tls":
		return &Error{Code: CodeChallengeFailed, Detail: "did not find the proof: the name must lead to this gateway"}
	case "badCSR", "malformed", "badRevocationReason", "alreadyRevoked", "orderNotReady":
		return &Error{Code: CodeServer, Permanent: true, Detail: "refuses the request"}
	}
	return &Error{Code: CodeServer, Detail: "says that it failed: it is tried again"} // serverInternal, badNonce, compound and what is new
}

// isProblem says whether err is one of these kinds of problem.
func isProblem(err error, kinds ...string) bool {
	var p acme.Problem
	if !errors.As(err, &p) {
		return false
	}
	for _, k := range kinds {
		if p.Type == k {
			return true
		}
	}
	return false
}
