package proxy

import (
	"net/netip"
	"strings"

	"github.com/polygate/polygate/internal/fault"
)

// maxHostLen bounds a Host: a DNS name of 253 bytes, a final dot, a colon and a port.
const maxHostLen = 253 + 1 + 1 + 5

// parseHost reads a Host or :authority (RFC 9110 §7.2): the name in lower case without its final dot, and the port, if
// any. Spellings of one name come out equal, so that none of them reaches a tenant that another would not. Names are
// compared as they are on the wire: nothing is decoded from or to Unicode, since what one library folds together another
// keeps apart. An address is a valid host, which no tenant has.
func parseHost(s string) (host, port string, err error) {
	if s == "" {
		return "", "", fault.New(fault.Invalid, "the request names no host")
	}
	if len(s) > maxHostLen {
		return "", "", fault.New(fault.Invalid, "the host is longer than a DNS name can be")
	}
	if s[0] == '[' {
		return parseAddress(s)
	}
	host, port, _ = strings.Cut(s, ":")
	if !validPort(port) {
		return "", "", fault.New(fault.Invalid, "the host has a bad port")
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if !validName(host) {
		return "", "", fault.New(fault.Invalid, "the host is not a DNS name")
	}
	return host, port, nil
}

// parseAddress reads an IPv6 address in brackets.
func parseAddress(s string) (host, port string, err error) {
	inner, rest, ok := strings.Cut(s[1:], "]")
	addr, perr := netip.ParseAddr(inner)
	port, colon := strings.CutPrefix(rest, ":")
	if !ok || perr != nil || !addr.Is6() || addr.Zone() != "" || rest != "" && !colon || !validPort(port) {
		return "", "", fault.New(fault.Invalid, "the host is not an address")
	}
	return "[" + addr.String() + "]", port, nil
}

// validPort says whether s is empty or a number of at most five digits.
func validPort(s string) bool {
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		n = min(n*10+int(s[i]-'0'), 1<<16)
	}
	return len(s) <= 5 && n < 1<<16
}

// validName says whether s is a DNS name of letters, digits and hyphens, in lower case (RFC 1123 §2.1).
func validName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !validLabel(label) {
			return false
		}
	}
	return true
}

func validLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// withPort puts a parsed host and port together again.
func withPort(host, port string) string {
	if port == "" {
		return host
	}
	return host + ":" + port
}
