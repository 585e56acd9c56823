package authn

import (
	"strconv"
	"strings"

	"github.com/polygate/polygate/internal/fault"
)

// OriginRequest is what CheckOrigin judges.
type OriginRequest struct {
	Method  string              // upper case
	Upgrade string              // "websocket" or ""
	Header  map[string][]string // with canonical names, as received
	Base    string              // the tenant's base URL where the request arrived: its origin is the tenant's own
	Allowed []string            // the tenant's allowed_origins
	// ViaCookie is true where the browser sent the credential by itself: a session cookie. Such a request has to prove that
	// it came from a page of an allowed origin; others only must not be shown to come from elsewhere.
	ViaCookie bool
}

// CheckOrigin refuses, as a fault.Forbidden, what a page of a foreign web origin made a browser send (X21, cross-site
// request forgery, WebSocket hijacking, DNS rebinding): changes and WebSocket handshakes whose Origin is neither the tenant's
// own nor allowed. Hosts of all tenants lie under one domain, so they are of the same site and SameSite cookies are no wall
// between them. GET, HEAD and OPTIONS have no effect, and their answers are unreadable for foreign pages without CORS.
func CheckOrigin(r OriginRequest) error {
	if safeMethod(r.Method) && r.Upgrade == "" {
		return nil
	}
	origins, sites := r.Header["Origin"], r.Header["Sec-Fetch-Site"]
	if len(origins) > 1 || len(sites) > 1 {
		return foreign("more than one Origin or Sec-Fetch-Site")
	}
	site := ""
	if len(sites) == 1 {
		site = sites[0]
	}
	if len(origins) == 0 {
		return checkSite(site, r.ViaCookie)
	}
	switch origin, ok := canonicalOrigin(origins[0]); {
	case !ok: // "null" too: sandboxed frames, redirects between sites and files send it
		return foreign("an Origin that names no host")
	case origin == baseOrigin(r.Base):
		if r.ViaCookie && site != "" && site != "same-origin" {
			return foreign("an Origin that Sec-Fetch-Site contradicts")
		}
		return nil
	case allowedOrigin(r.Allowed, origin):
		return nil
	}
	return foreign("the Origin is neither the tenant's own nor one of its allowed_origins")
}

// checkSite judges a request without Origin. Browsers send Origin with each change and each handshake; one that left it out
// still says by Sec-Fetch-Site, which no page can set, where the request came from.
func checkSite(site string, viaCookie bool) error {
	switch {
	case site == "same-origin":
		return nil
	case viaCookie:
		return foreign("a session cookie without an Origin")
	case site == "cross-site" || site == "same-site":
		return foreign("Sec-Fetch-Site says that another site sent it")
	}
	return nil
}

func foreign(why string) error {
	return fault.Wrap(fault.Forbidden, refusal(why), "a page of a foreign web origin may not do this: add its origin to the tenant's allowed_origins if it shall")
}

func safeMethod(m string) bool { return m == "GET" || m == "HEAD" || m == "OPTIONS" }

func allowedOrigin(allowed []string, origin string) bool {
	for _, a := range allowed {
		if c, ok := canonicalOrigin(a); ok && c == origin {
			return true
		}
	}
	return false
}

// baseOrigin returns the origin of a base URL; "" if it has none, which no request's origin is.
func baseOrigin(base string) string {
	scheme, rest, ok := strings.Cut(base, "://")
	if !ok {
		return ""
	}
	host, _, _ := strings.Cut(rest, "/")
	origin, _ := canonicalOrigin(scheme + "://" + host)
	return origin
}

// canonicalOrigin reads an origin (RFC 6454 §6.2) so that spellings of one are equal: lower case, no final dot of the host,
// no port that is the scheme's default. Anything that a browser would not write is refused.
func canonicalOrigin(s string) (string, bool) {
	if len(s) > 300 {
		return "", false
	}
	scheme, rest, ok := strings.Cut(strings.ToLower(s), "://")
	if !ok || scheme != "https" && scheme != "http" {
		return "", false
	}
	host, port := rest, ""
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.HasSuffix(rest, "]") {
		host, port = rest[:i], rest[i+1:]
		if port = canonicalPort(port); port == "" {
			return "", false
		}
	}
	host = strings.TrimSuffix(host, ".")
	if !originHost(host) {
		return "", false
	}
	if port == "" || port == defaultPort(scheme) {
		return scheme + "://" + host, true
	}
	return scheme + "://" + host + ":" + port, true
}

func defaultPort(scheme string) string {
	if scheme == "http" {
		return "80"
	}
	return "443"
}

// canonicalPort returns a port without leading zeros; "" for what is none.
func canonicalPort(s string) string {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '+' {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

// originHost says whether s is a host as browsers write it: letters, digits, '-' and '.', or an address in brackets.
func originHost(s string) bool {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		return ok && inner != "" && strings.Trim(inner, "0123456789abcdef:.") == ""
	}
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return s != ""
}
