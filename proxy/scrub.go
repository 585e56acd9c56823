package proxy

import (
	"net/http"
	"net/textproto"
	"strings"

	"github.com/polygate/polygate/internal/authn"
)

// scrub takes out of a request's header, in place, what no client may tell an upstream: hop-by-hop fields, with those that
// Connection lists, and everything that proxies say among themselves. It runs before the gateway adds fields of its own, so
// that `Connection: x-forwarded-user` cannot take those away (case X23).
//
// A name with any character but letters, digits and '-' is dropped: CGI, WSGI and their like fold `X_Forwarded_User` into
// the name that we guard (case X22). net/http has made the case of the rest canonical.
func scrub(h http.Header) {
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			delete(h, textproto.CanonicalMIMEHeaderKey(strings.Trim(name, " \t")))
		}
	}
	trailers := hasToken(h["Te"], "trailers")
	for name := range h {
		if !plainFieldName(name) || hopByHop(name) || reserved(name) {
			delete(h, name)
		}
	}
	if trailers { // gRPC servers insist on it
		h["Te"] = []string{"trailers"}
	}
}

func plainFieldName(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if !(c >= 'a' && c <= 'z' || s[i] >= '0' && s[i] <= '9' || s[i] == '-') {
			return false
		}
	}
	return s != ""
}

// hopByHop says whether a field ends at this hop (RFC 9110 §7.6.1). Host is in the list since HTTP/2 may carry one beside
// :authority.
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade", "Http2-Settings", "Host":
		return true
	}
	return false
}

// reserved says whether a field, by its canonical name, is one in which a proxy or an authenticator speaks to those
// behind it. X-Tenant-Id is a signal to us and has been read.
func reserved(name string) bool {
	switch name {
	case "Forwarded", "True-Client-Ip", "Client-Ip", "Cf-Connecting-Ip", "Fastly-Client-Ip", "X-Real-Ip", "X-Client-Ip",
		"X-Cluster-Client-Ip", "X-Request-Id", "X-Tenant-Id":
		return true
	}
	if strings.HasPrefix(name, "Remote-") || strings.HasPrefix(name, ownPrefix) {
		return true
	}
	if !strings.HasPrefix(name, "X-") {
		return false
	}
	for _, p := range [...]string{"Forwarded", "Original-", "Rewrite-", "Remote-", "Auth-Request-", "Polygate-", "Sandbox-",
		"Llm-D-", "Gateway-Inference-", "Maas-", "Envoy-"} {
		if strings.HasPrefix(name[2:], p) {
			return true
		}
	}
	return false
}

// scrubResponse takes out of an upstream's answer what only the gateway says: its own fields, and Alt-Svc, with which an
// upstream would move the tenant's host to an address of its choice.
func scrubResponse(h http.Header) {
	delete(h, "X-Request-Id")
	delete(h, "Alt-Svc")
	for name := range h {
		if strings.HasPrefix(name, "X-Polygate-") || strings.HasPrefix(name, ownPrefix) {
			delete(h, name)
		}
	}
}

// removeCredential takes the caller's credential to Polygate out of a header.
func removeCredential(h http.Header) {
	delete(h, "Authorization")
	delete(h, "X-Api-Key")
}

// removeIdentity takes out every copy of an identity header. Names are canonical and plain, so equal without regard to
// case is equal.
func removeIdentity(h http.Header, name string) {
	for n := range h {
		if strings.EqualFold(n, name) {
			delete(h, n)
		}
	}
}

// removeSession takes our own session cookie out of what a tenant's own gateway gets to see. Its own cookies stay.
func removeSession(h http.Header) {
	lines := h["Cookie"]
	if len(lines) == 0 || !strings.Contains(strings.Join(lines, ";"), authn.CookiePrefix) {
		return
	}
	var kept []string
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ";") {
			part = strings.Trim(part, " \t")
			if part != "" && !strings.HasPrefix(part, authn.CookiePrefix) {
				kept = append(kept, part)
			}
		}
	}
	if len(kept) == 0 {
		delete(h, "Cookie")
		return
	}
	h["Cookie"] = []string{strings.Join(kept, "; ")}
}
