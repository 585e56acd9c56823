package policy

import (
	"encoding/json"
	"path"
	"strings"
	"unicode/utf8"
)

// Bundle is the source of one tenant's policy, as it was uploaded or read from a folder. It is not changed by this package.
type Bundle struct {
	RegoVersion string            `json:"rego_version,omitempty"` // "v1", "v0", or "": v1, and v0 with a warning if v1 does not parse
	Modules     map[string]string `json:"modules"`                // path, such as "actions.rego" or "lib/groups.rego", to source; *_test.rego are for Test alone
	Data        json.RawMessage   `json:"data,omitempty"`         // a JSON object, or empty; seen as `data` from its root on
}

// isTest says whether a module is for Test alone.
func isTest(name string) bool { return strings.HasSuffix(name, "_test.rego") }

// Size returns how many bytes of modules and data the bundle holds.
func (b *Bundle) Size() int {
	n := len(b.Data)
	for name, src := range b.Modules {
		n += len(name) + len(src)
	}
	return n
}

// check judges a bundle before any of it is parsed.
func (b *Bundle) check(l Limits) error {
	var p problems
	switch b.RegoVersion {
	case "", "v0", "v1":
	default:
		p.add("", "rego version %q is unknown: use v1 or v0, or leave it out", b.RegoVersion)
	}
	if len(b.Modules) > l.Modules {
		p.add("", "%d modules: at most %d are allowed", len(b.Modules), l.Modules)
		return p.err()
	}
	if n := b.Size(); n > l.BundleBytes {
		p.add("", "modules and data are %d bytes long: at most %d are allowed", n, l.BundleBytes)
		return p.err()
	}
	if n := b.Size() - len(b.Data); n > l.SourceBytes {
		p.add("", "modules are %d bytes long: at most %d are allowed; move tables into data", n, l.SourceBytes)
		return p.err()
	}
	if len(b.Data) > l.DataBytes {
		p.add("", "data is %d bytes long: at most %d are allowed", len(b.Data), l.DataBytes)
		return p.err()
	}
	for name, src := range b.Modules {
		if why := badName(name); why != "" {
			p.add("", "module %q: %s", name, why)
		}
		if len(src) > maxModule {
			p.add(name, "it is %d bytes long: at most %d are allowed, split it", len(src), maxModule)
			continue
		}
		if at := longRun(src); at > 0 {
			p.list = append(p.list, Problem{File: name, Line: at, Column: 1, Message: "a number or a dotted path is longer than is allowed"})
		}
	}
	return p.err()
}

// badName says what is wrong with the path of a module. Paths come back in messages and audit records and are joined to
// folders by tools, so they are plain relative paths.
func badName(name string) string {
	switch {
	case !strings.HasSuffix(name, ".rego"):
		return "its name does not end in .rego"
	case len(name) > 200:
		return "its name is over 200 bytes long"
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '\\' }):
		return "its name holds control characters or \\"
	case path.Clean("/" + name)[1:] != name:
		return "its name is no clean relative path"
	}
	return ""
}

// longRun returns the line that holds a run of over 500 digits, or of names joined by over 64 dots, or the 2000th "][", or 0. OPA's parser
// reads a number in time that grows with the square of its length (2 s for 1 MB), and needs 300 MB for a path of 1 MB
// and minutes for one of brackets, before anything else can look at it.
func longRun(src string) int {
	line, digits, dots, brackets := 1, 0, 0, 0
	for i := range len(src) {
		c := src[i]
		switch {
		case c >= '0' && c <= '9':
			digits++
		case c == '.':
			digits, dots = 0, dots+1
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_':
			digits = 0
		default:
			digits, dots = 0, 0
		}
		if i > 0 && src[i-1] == ']' && (c == '[' || c == '.') {
			brackets++
		}
		if digits > 500 || dots > maxDots || brackets > maxBrackets {
			return line
		}
		if c == '\n' {
			line++
		}
	}
	return 0
}
