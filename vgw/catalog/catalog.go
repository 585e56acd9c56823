// Package catalog says what an MCP server in a tenant's catalog is, as a file or a caller declares it, and which
// declarations are sound. Where servers are kept, and who may declare them, is decided in package vgw.
package catalog

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// Bounds of a declaration.
const (
	MaxNameLen     = 64
	MaxURLLen      = 2048
	MaxHeaders     = 16
	MaxHeaderName  = 64
	MaxHeaderValue = 4096
	MaxTimeout     = time.Hour
)

// Server is an MCP server as it is declared.
type Server struct {
	Name    string            // [a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?
	URL     string            // the server's MCP endpoint: absolute, http or https
	Headers map[string]string // sent with each request, such as the server's credential; secret
	Timeout time.Duration     // to wait for the header of a response; 0 = the platform's default
}

// Check says what is wrong with s, as a fault.Invalid that names the field and never holds a header's value.
func (s Server) Check() error {
	if err := CheckName(s.Name); err != nil {
		return err
	}
	if _, err := ParseURL(s.URL); err != nil {
		return err
	}
	if s.Timeout < 0 || s.Timeout > MaxTimeout {
		return fault.New(fault.Invalid, "timeout_seconds is %g: 1 to %g, or 0 for the platform's default", s.Timeout.Seconds(), MaxTimeout.Seconds())
	}
	return checkHeaders(s.Headers)
}

// CheckName checks the grammar of a server's name, which is a path segment, a key segment and a metric label at once.
func CheckName(s string) error {
	if s == "" || len(s) > MaxNameLen {
		return fault.New(fault.Invalid, "name is %d bytes long: 1 to %d of a-z, 0-9 and - are allowed", len(s), MaxNameLen)
	}
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return fault.New(fault.Invalid, "name %q holds %q: use only a-z, 0-9 and -", s, c)
		}
	}
	if s[0] == '-' || s[len(s)-1] == '-' {
		return fault.New(fault.Invalid, "name %q begins or ends with -", s)
	}
	return nil
}

// Endpoint is a server's URL, taken apart.
type Endpoint struct {
	Scheme    string // http or https
	Authority string // host:port, always with the port
	Host      string // as the URL has it: the value of Host
	Path      string // escaped; begins with /
	Query     string // raw
}

// ParseURL takes a server's URL apart. What URL parsers are known to read differently is refused: user info, a fragment,
// a backslash, white space, an escaped host.
func ParseURL(raw string) (Endpoint, error) {
	if raw == "" || len(raw) > MaxURLLen {
		return Endpoint{}, fault.New(fault.Invalid, "url is %d bytes long: 1 to %d are allowed", len(raw), MaxURLLen)
	}
	for i := range len(raw) {
		if c := raw[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\\\"<>^`{|}", c) >= 0 {
			return Endpoint{}, fault.New(fault.Invalid, "url holds the byte %#02x, which must be escaped (a host: as xn--…)", c)
		}
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Opaque != "" || u.Host == "" {
		return Endpoint{}, fault.New(fault.Invalid, "url is not absolute: want http://host/path or https://host/path")
	}
	if u.User != nil {
		return Endpoint{}, fault.New(fault.Invalid, "url holds a user or password: put credentials into headers, where they are sealed")
	}
	if strings.Contains(raw, "#") {
		return Endpoint{}, fault.New(fault.Invalid, "url holds a fragment (#…), which is never sent")
	}
	authority, err := authority(u)
	if err != nil {
		return Endpoint{}, err
	}
	e := Endpoint{Scheme: u.Scheme, Authority: authority, Host: strings.ToLower(u.Host), Path: u.EscapedPath(), Query: u.RawQuery}
	if e.Path == "" {
		e.Path = "/"
	}
	return e, nil
}

// authority returns host:port of u.
func authority(u *url.URL) (string, error) {
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if strings.HasSuffix(u.Host, ":") {
		return "", fault.New(fault.Invalid, "url has an empty port")
	}
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fault.New(fault.Invalid, "url has the port %q: 1 to 65535 are allowed", port)
	}
	if strings.HasPrefix(u.Host, "[") {
		ip, err := netip.ParseAddr(host)
		if err != nil || ip.Zone() != "" {
			return "", fault.New(fault.Invalid, "url has the host [%s], which is no IPv6 address without zone", host)
		}
		return "[" + host + "]:" + port, nil
	}
	if !plainHost(host) {
		return "", fault.New(fault.Invalid, "url has the host %q, which is neither a DNS name nor an address", host)
	}
	return host + ":" + port, nil
}

// plainHost says whether h consists of DNS labels; an underscore is let pass, as container platforms use it.
func plainHost(h string) bool {
	if h == "" || len(h) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(h, "."), ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := range len(label) {
			if c := label[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}

func checkHeaders(headers map[string]string) error {
	if len(headers) > MaxHeaders {
		return fault.New(fault.Invalid, "headers: %d are given, at most %d are allowed", len(headers), MaxHeaders)
	}
	seen := make(map[string]string, len(headers))
	for name, value := range headers {
		if err := checkHeader(name, value); err != nil {
			return err
		}
		fold := strings.ToLower(name)
		if other, ok := seen[fold]; ok {
			return fault.New(fault.Invalid, "headers: %q and %q are one header", min(name, other), max(name, other))
		}
		seen[fold] = name
	}
	return nil
}

func checkHeader(name, value string) error {
	if name == "" || len(name) > MaxHeaderName || !token(name) {
		return fault.New(fault.Invalid, "headers: %.80q is not a header name of 1 to %d letters, digits and -", name, MaxHeaderName)
	}
	if Reserved(name) {
		return fault.New(fault.Invalid, "headers: %s is set by the gateway or by HTTP itself, and cannot be configured", name)
	}
	if value == "" || len(value) > MaxHeaderValue {
		return fault.New(fault.Invalid, "headers: the value of %s is %d bytes long: 1 to %d are allowed", name, len(value), MaxHeaderValue)
	}
	for i := range len(value) {
		if value[i] < ' ' || value[i] == 0x7f {
			return fault.New(fault.Invalid, "headers: the value of %s holds a control character", name)
		}
	}
	if value != strings.TrimSpace(value) {
		return fault.New(fault.Invalid, "headers: the value of %s begins or ends with white space", name)
	}
	return nil
}

// token says whether s is a header name that every HTTP implementation reads alike: of the tokens of RFC 9110 §5.6.2
// those of letters, digits and - only, as _ and others are mapped to - by some servers.
func token(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' && s[i] == c || s[i] == '-') {
			return false
		}
	}
	return true
}

// Reserved says whether a header, in any case, may not be configured: what HTTP uses for the connection or the message
// (RFC 9110 §7.6.1), what the protocol uses (Mcp-*), what says where a request came from, and cookies.
func Reserved(name string) bool {
	name = strings.ToLower(name)
	for _, prefix := range [...]string{"mcp-", "content-", "proxy-", "sec-", "x-forwarded-", "x-polygate-", "access-control-", "if-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	switch name {
	case "host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect", "range",
		"accept", "accept-encoding", "forwarded", "via", "x-real-ip", "cookie", "set-cookie", "origin", "referer", "last-event-id",
		"x-request-id", "x-tenant-id", "date", "max-forwards":
		return true
	}
	return false
}
