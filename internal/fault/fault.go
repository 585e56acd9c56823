// Package fault classifies what can go wrong. An error is classified once, where its cause is understood; its HTTP
// status, JSON-RPC code, metric label and retry advice all follow from its Kind, and only the edge renders it.
// An error without a Kind is Internal: callers see "internal error", the log sees everything.
package fault

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Kind is the class of an error. Kinds are append-only: replicas of two versions exchange them by name.
type Kind uint8

// The kinds, with the HTTP status that each is rendered as.
const (
	Internal           Kind = iota // 500: a defect or an unclassified failure; detail goes to the log only
	Invalid                        // 400: the request, or a part of it, is malformed
	Unauthenticated                // 401: no credential, or none of this tenant
	Forbidden                      // 403: the role is too small, or the request's signals name different tenants
	NotFound                       // 404: absent, or not the caller's to know of
	MethodNotAllowed               // 405
	Conflict                       // 409: the state of an object, or a count, does not allow it
	PreconditionFailed             // 412: If-Match does not hold
	TooLarge                       // 413: the body is over its bound
	URITooLong                     // 414: path or query is over its bound
	UnsupportedMedia               // 415
	Misdirected                    // 421: the Host is not one of the connection's server name (RFC 9110 §15.5.20)
	RateLimited                    // 429: over a rate or a concurrency quota
	HeaderTooLarge                 // 431
	Canceled                       // 499: the client went away
	NotImplemented                 // 501
	BadUpstream                    // 502: the upstream refused, broke off or answered nonsense
	Unavailable                    // 503: suspended, moving, or the store cannot be reached; worth a retry
	UpstreamTimeout                // 504: the upstream did not answer in time
	NotAcceptable                  // 406
)

type traits struct {
	status  int
	jsonrpc int
	name    string
	title   string
}

// table is indexed by Kind. The names are stable: they end the problem's type URI and label metrics.
func (k Kind) traits() traits {
	switch k {
	case Invalid:
		return traits{400, -32600, "invalid", "Invalid request"}
	case Unauthenticated:
		return traits{401, -32001, "unauthenticated", "Authentication required"}
	case Forbidden:
		return traits{403, -32003, "forbidden", "Forbidden"}
	case NotFound:
		return traits{404, -32004, "not-found", "Not found"}
	case MethodNotAllowed:
		return traits{405, -32600, "method-not-allowed", "Method not allowed"}
	case NotAcceptable:
		return traits{406, -32600, "not-acceptable", "Not acceptable"}
	case Conflict:
		return traits{409, -32009, "conflict", "Conflict"}
	case PreconditionFailed:
		return traits{412, -32009, "precondition-failed", "Precondition failed"}
	case TooLarge:
		return traits{413, -32600, "too-large", "Body too large"}
	case URITooLong:
		return traits{414, -32600, "uri-too-long", "URI too long"}
	case UnsupportedMedia:
		return traits{415, -32600, "unsupported-media-type", "Unsupported media type"}
	case Misdirected:
		return traits{421, -32600, "misdirected", "Misdirected request"}
	case RateLimited:
		return traits{429, -32029, "rate-limited", "Too many requests"}
	case HeaderTooLarge:
		return traits{431, -32600, "header-too-large", "Request header too large"}
	case Canceled:
		return traits{499, -32603, "canceled", "Client closed request"}
	case NotImplemented:
		return traits{501, -32601, "not-implemented", "Not implemented"}
	case BadUpstream:
		return traits{502, -32052, "bad-upstream", "Bad upstream"}
	case Unavailable:
		return traits{503, -32053, "unavailable", "Unavailable"}
	case UpstreamTimeout:
		return traits{504, -32054, "upstream-timeout", "Upstream timeout"}
	}
	return traits{500, -32603, "internal", "Internal error"}
}

// Status returns the HTTP status code.
func (k Kind) Status() int { return k.traits().status }

// JSONRPC returns the JSON-RPC 2.0 error code; those of our own lie in -32000…-32099.
func (k Kind) JSONRPC() int { return k.traits().jsonrpc }

// String returns the kind's stable name, such as "not-found".
func (k Kind) String() string { return k.traits().name }

// Title returns a short sentence for people that is the same for every error of the kind.
func (k Kind) Title() string { return k.traits().title }

// Type returns the problem type URI (RFC 9457 §3.1.1) of the kind.
func (k Kind) Type() string { return "urn:polygate:problem:" + k.traits().name }

// Error is a classified error.
type Error struct {
	Kind       Kind
	Detail     string        // for the caller: says what is wrong and what to do; never holds another tenant's data
	Err        error         // the cause, for the log; may be nil
	RetryAfter time.Duration // when a retry is worth while; 0 = unsaid
	Code       int           // a JSON-RPC code that a protocol prescribes; 0 = the Kind's
	Allow      string        // with MethodNotAllowed: the value of Allow
	// Reason is shown with Forbidden in place of the fixed detail, to a principal of the tenant whose mutation was refused
	// for a reason that tells of nothing but its own standing or its own policy. "" = opaque, as refusals are.
	Reason string
}

// Error returns the detail and the cause.
func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return e.Kind.String() + ": " + e.Detail
	case e.Detail == "":
		return e.Kind.String() + ": " + e.Err.Error()
	}
	return e.Kind.String() + ": " + e.Detail + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New returns an error whose detail the caller may see.
func New(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Detail: fmt.Sprintf(format, args...)}
}

// Wrap classifies err. The formatted detail is for the caller, err for the log alone.
func Wrap(k Kind, err error, format string, args ...any) *Error {
	return &Error{Kind: k, Detail: fmt.Sprintf(format, args...), Err: err}
}

// After returns a copy of e that advises to retry after d.
func (e *Error) After(d time.Duration) *Error {
	c := *e
	c.RetryAfter = d
	return &c
}

// From returns err as a classified error. A canceled context is Canceled; whatever else has no kind is Internal, with
// an empty detail. From(nil) is nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	if errors.Is(err, context.Canceled) {
		return &Error{Kind: Canceled, Err: err}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &Error{Kind: Unavailable, Detail: "the request took too long", Err: err}
	}
	return &Error{Kind: Internal, Err: err}
}

// KindOf returns the kind of err; Internal if it has none. KindOf(nil) is Internal too: ask only of errors.
func KindOf(err error) Kind {
	if e := From(err); e != nil {
		return e.Kind
	}
	return Internal
}

// Is says whether err is classified as k.
func Is(err error, k Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == k
}

// Problem is the body of an error (RFC 9457). It never holds the cause.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// RequestID is left out of refusals (401, 403, 404, 421), whose bytes must not differ; the header always has it.
	RequestID string `json:"request_id,omitempty"`
}

// Problem renders e for the caller. What a refusal says depends on its kind alone, so that it tells nothing, but for the
// reason that a tenant's policy gives to the tenant's own principals.
func (e *Error) Problem(requestID string) Problem {
	p := Problem{Type: e.Kind.Type(), Title: e.Kind.Title(), Status: e.Kind.Status(), Detail: e.Detail, RequestID: requestID}
	switch e.Kind {
	case Internal:
		p.Detail = "The cause is in the gateway's log under this request id."
	case Unauthenticated:
		p.Detail, p.RequestID = "Send a credential of this tenant, such as: Authorization: Bearer <API key>.", ""
	case Forbidden:
		p.Detail, p.RequestID = "This credential does not allow it, or the host, path and X-Tenant-ID name different tenants.", ""
		if e.Reason != "" {
			p.Detail = "The tenant's policy does not allow it: " + e.Reason
		}
		if e.Reason != "" {
			p.Detail = e.Reason
		}
	case NotFound:
		p.Detail, p.RequestID = "There is nothing here that this credential may see.", ""
	case Misdirected:
		p.Detail, p.RequestID = "The Host does not belong to this connection's server name: open a new connection to it.", ""
	}
	return p
}
