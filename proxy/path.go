package proxy

import (
	"strings"

	"github.com/polygate/polygate/internal/fault"
)

// maxDecodings is how often a path may be percent-encoded upon itself. Chains of hops each decode once; more than this is
// nobody's file name.
const maxDecodings = 4

// target is a request target as it was received: the very bytes, neither decoded nor cleaned.
type target struct {
	path  string // begins with '/'
	query string // without '?'
	mark  bool   // a '?' was there, even if nothing followed it
}

// splitTarget splits a request target. origin-form is usual; absolute-form must be accepted (RFC 9112 §3.2.2) and has to
// name the very host that the request was judged by.
func splitTarget(uri, host string) (target, error) {
	if !strings.HasPrefix(uri, "/") {
		rest, ok := cutFold(uri, "https://")
		if ok {
			rest, ok = cutFold(rest, host)
		}
		if !ok || rest != "" && rest[0] != '/' && rest[0] != '?' {
			return target{}, fault.New(fault.Invalid, "the request target must be a path, or an https URL of the request's host")
		}
		if rest == "" || rest[0] == '?' {
			rest = "/" + rest
		}
		uri = rest
	}
	path, query, mark := strings.Cut(uri, "?")
	return target{path, query, mark}, nil
}

// cutFold is strings.CutPrefix without regard to the case of ASCII letters.
func cutFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// judge refuses a target that two parsers could read as two paths (case X26), so that the path that is authorized is the
// path that the upstream serves. What passes is forwarded byte for byte.
func (t target) judge() error {
	if err := judgePath(t.path); err != nil {
		return err
	}
	for i := range len(t.query) {
		if c := t.query[i]; c <= ' ' || c == 0x7f || c == '#' {
			return fault.New(fault.Invalid, "the query holds a byte that must be percent-encoded")
		}
	}
	return nil
}

// judgePath refuses dot segments however they are encoded, empty segments, backslashes, control bytes and bad escapes.
// An encoded slash alone is fine: APIs put names with slashes into one segment. Two of them in a row are, too: we forward
// them as they are and no decision of ours reads them as separators.
func judgePath(raw string) error {
	if err := judgeRaw(raw); err != nil {
		return err
	}
	s := raw
	for range maxDecodings {
		if !plainSegments(s) {
			return fault.New(fault.Invalid, "the path has a dot segment, a backslash or a control byte")
		}
		next, changed := decode(s)
		if !changed {
			return nil
		}
		s = next
	}
	return fault.New(fault.Invalid, "the path is percent-encoded more than %d times over", maxDecodings-1)
}

// judgeRaw checks the bytes as received.
func judgeRaw(s string) error {
	if s == "" || s[0] != '/' {
		return fault.New(fault.Invalid, "the path does not begin with /")
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ' || c >= 0x7f || c == '#':
			return fault.New(fault.Invalid, "the path holds a byte that must be percent-encoded")
		case c == '%' && !escapeAt(s, i):
			return fault.New(fault.Invalid, "the path holds a %% that two hexadecimal digits do not follow")
		case c == '/' && i > 0 && s[i-1] == '/':
			return fault.New(fault.Invalid, "the path has an empty segment")
		}
	}
	return nil
}

// plainSegments says whether s holds no dot segment, not even one with a parameter (`..;x`, which some servers cut off
// before they resolve it), and no byte that makes a path mean two things: backslash, control bytes, and 0xC0 and 0xC1,
// which occur only in overlong UTF-8 for ASCII such as '/' and '.'.
func plainSegments(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == 0x7f || c == '\\' || c == 0xc0 || c == 0xc1 {
			return false
		}
	}
	if !strings.Contains(s, "/.") {
		return true
	}
	for seg := range strings.SplitSeq(s, "/") {
		name, _, _ := strings.Cut(seg, ";")
		if name == "." || name == ".." {
			return false
		}
	}
	return true
}

// decode takes away one layer of percent-encoding and leaves what is no escape as it is.
func decode(s string) (string, bool) {
	i := strings.IndexByte(s, '%')
	for i >= 0 && !escapeAt(s, i) {
		j := strings.IndexByte(s[i+1:], '%')
		if j < 0 {
			return s, false
		}
		i += 1 + j
	}
	if i < 0 {
		return s, false
	}
	b := make([]byte, 0, len(s))
	b = append(b, s[:i]...)
	for i < len(s) {
		if s[i] == '%' && escapeAt(s, i) {
			b = append(b, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 3
			continue
		}
		b = append(b, s[i])
		i++
	}
	return string(b), true
}

// escapeAt says whether a percent sign at i begins an escape.
func escapeAt(s string, i int) bool { return i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]) }

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}

// cutTenant takes the prefix /tenant/<id> off a path, in the bytes as received. The id may name nobody.
func cutTenant(path string) (id, rest string, ok bool) {
	after, ok := strings.CutPrefix(path, "/tenant/")
	if !ok {
		return "", path, false
	}
	i := strings.IndexByte(after, '/')
	if i < 0 {
		return after, "/", true
	}
	return after[:i], after[i:], true
}
