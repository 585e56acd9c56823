package proxy

import (
	"net/http"
	"strings"

	"github.com/polygate/polygate/internal/fault"
)

// allowedMethods is the Allow header of a refused method.
const allowedMethods = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

// judgeMethod refuses what must never reach an upstream: CONNECT makes a proxy of it, TRACE echoes credentials, and a
// method in lower case is a different method to some servers and the same to others (case X19).
func judgeMethod(m string) error {
	if m == http.MethodConnect || m == http.MethodTrace {
		return &fault.Error{Kind: fault.MethodNotAllowed, Detail: "the gateway forwards neither CONNECT nor TRACE", Allow: allowedMethods}
	}
	if m == "" || len(m) > 32 {
		return fault.New(fault.Invalid, "the method is empty or too long")
	}
	for i := range len(m) {
		if c := m[i]; !(c >= 'A' && c <= 'Z' || c == '-') {
			return fault.New(fault.Invalid, "a method has only upper-case letters and hyphens")
		}
	}
	return nil
}

// judgeUpgrade returns "websocket" for a WebSocket handshake (RFC 6455 §4.1), "" where no upgrade is asked for, and an
// error for every other upgrade: once a connection has switched to a protocol that we do not know, whatever follows on it
// passes unjudged. h2c would be just that.
func judgeUpgrade(r *http.Request) (string, error) {
	up := r.Header["Upgrade"]
	if len(up) == 0 {
		return "", nil
	}
	websocket := len(up) == 1 && strings.EqualFold(up[0], "websocket")
	switch {
	case !websocket:
		return "", fault.New(fault.Invalid, "the only upgrade is to websocket")
	case !r.ProtoAtLeast(1, 1) || r.ProtoMajor != 1 || r.Method != http.MethodGet || r.ContentLength != 0:
		return "", fault.New(fault.Invalid, "a WebSocket begins with an HTTP/1.1 GET without a body")
	case !hasToken(r.Header["Connection"], "upgrade"):
		return "", fault.New(fault.Invalid, "Upgrade without Connection: Upgrade")
	}
	return "websocket", nil
}

// hasToken says whether a list header holds a token, without regard to case (RFC 9110 §5.6.1).
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.Trim(t, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// judgeSize applies the bounds that net/http has not. more is how many fields may be there beyond the client's own.
func (l *Limits) judgeSize(r *http.Request, more int) error {
	if len(r.RequestURI) > l.URI {
		return fault.New(fault.URITooLong, "the request target is longer than %d bytes", l.URI)
	}
	fields := 0
	for _, v := range r.Header {
		fields += len(v)
	}
	if fields > l.HeaderFields+more {
		return fault.New(fault.HeaderTooLarge, "the request has more than %d header fields", l.HeaderFields)
	}
	cookies := 0
	for _, v := range r.Header["Cookie"] {
		cookies += strings.Count(v, ";") + 1
	}
	if cookies > l.Cookies {
		return fault.New(fault.HeaderTooLarge, "the request has more than %d cookies", l.Cookies)
	}
	if strings.Count(r.URL.RawQuery, "&")+1 > l.QueryParameters {
		return fault.New(fault.URITooLong, "the query has more than %d parameters", l.QueryParameters)
	}
	if r.ContentLength > l.Body {
		return fault.New(fault.TooLarge, "the body is longer than %d bytes", l.Body)
	}
	return nil
}
