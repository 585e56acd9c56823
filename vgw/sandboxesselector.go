package vgw

import (
	"slices"
	"strings"

	"github.com/polygate/polygate/internal/fault"
)

// Bounds of a selector.
const (
	maxSelector     = 2048 // bytes
	maxRequirements = 32
	maxLabelName    = 63
	maxLabelPrefix  = 253
)

// selector chooses by labels, as Kubernetes' does: all of its requirements hold. nil chooses everything.
type selector []requirement

// requirement is about one label.
type requirement struct {
	key    string
	negate bool     // the label must be absent, or have none of values
	exists bool     // it is about the label's presence alone
	values []string // sorted, each once; one of them, unless exists
}

func (s selector) matches(labels map[string]string) bool {
	for i := range s {
		if !s[i].matches(labels) {
			return false
		}
	}
	return true
}

// matches: what is absent is different from every value.
func (r *requirement) matches(labels map[string]string) bool {
	v, ok := labels[r.key]
	if ok && !r.exists {
		_, ok = slices.BinarySearch(r.values, v)
	}
	return ok != r.negate
}

// parseSelector reads a selector: key=value, key==value, key!=value, key in (a,b), key notin (a,b), key, !key, joined by commas. A name
// that is no label's is refused: a selector that can match nothing is a mistake, and one that matches everything more of one.
func parseSelector(text string) (selector, error) {
	if len(text) > maxSelector {
		return nil, fault.New(fault.Invalid, "selector is longer than %d bytes", maxSelector)
	}
	p := selectorParser{rest: text}
	var s selector
	for {
		r, err := p.requirement()
		if err != nil {
			return nil, err
		}
		if s = append(s, r); len(s) > maxRequirements {
			return nil, fault.New(fault.Invalid, "selector has more than %d requirements", maxRequirements)
		}
		if p.rest == "" {
			return s, nil
		}
		if !p.take(",") {
			return nil, p.wrong("a comma")
		}
	}
}

// selectorParser reads from the left. Between tokens there may be spaces.
type selectorParser struct{ rest string }

func (p *selectorParser) spaces() { p.rest = strings.TrimLeft(p.rest, " \t") }

// take reads one of the fixed tokens.
func (p *selectorParser) take(token string) bool {
	p.spaces()
	rest, ok := strings.CutPrefix(p.rest, token)
	if ok {
		p.rest = rest
		p.spaces()
	}
	return ok
}

// word reads letters, digits and what else labels have; it may be empty.
func (p *selectorParser) word() string {
	p.spaces()
	end := strings.IndexFunc(p.rest, func(c rune) bool { return !labelChar(c) && c != '/' })
	if end < 0 {
		end = len(p.rest)
	}
	w := p.rest[:end]
	p.rest = p.rest[end:]
	p.spaces()
	return w
}

func (p *selectorParser) wrong(want string) error {
	if p.rest == "" {
		return fault.New(fault.Invalid, "selector ends where there should be %s: write key=value, key!=value, key in (a,b), key notin (a,b), key or !key, joined by commas", want)
	}
	return fault.New(fault.Invalid, "selector: there should be %s before %.32q: write key=value, key!=value, key in (a,b), key notin (a,b), key or !key, joined by commas", want, p.rest)
}

func (p *selectorParser) requirement() (r requirement, err error) {
	if p.take("!") {
		r = requirement{negate: true, exists: true}
		r.key, err = p.key()
		return r, err
	}
	if r.key, err = p.key(); err != nil {
		return r, err
	}
	switch {
	case p.take("!="):
		r.negate = true
		r.values, err = p.value()
	case p.take("=="), p.take("="):
		r.values, err = p.value()
	case p.rest == "" || p.rest[0] == ',':
		r.exists = true
	default:
		err = p.set(&r)
	}
	return r, err
}

// set reads in (…) or notin (…).
func (p *selectorParser) set(r *requirement) error {
	switch p.word() {
	case "in":
	case "notin":
		r.negate = true
	default:
		return p.wrong("=, !=, in or notin")
	}
	if !p.take("(") {
		return p.wrong("an opening parenthesis")
	}
	for {
		v, err := p.value()
		if err != nil {
			return err
		}
		r.values = append(r.values, v...)
		if p.take(")") {
			break
		}
		if !p.take(",") {
			return p.wrong("a comma or a closing parenthesis")
		}
	}
	slices.Sort(r.values)
	r.values = slices.Compact(r.values)
	return nil
}

func (p *selectorParser) key() (string, error) {
	w := p.word()
	prefix, name, ok := strings.Cut(w, "/")
	if !ok {
		prefix, name = "", w
	}
	switch {
	case w == "":
		return "", p.wrong("the key of a label")
	case !labelText(name) || name == "" || ok && !labelPrefix(prefix):
		return "", fault.New(fault.Invalid, "selector: %.64q is no label's key", w)
	}
	return w, nil
}

func (p *selectorParser) value() ([]string, error) {
	w := p.word()
	if !labelText(w) {
		return nil, fault.New(fault.Invalid, "selector: %.64q is no label's value", w)
	}
	return []string{w}, nil
}

func labelChar(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
}

// labelText says whether s can be a label's value: empty, or up to 63 characters, the first and last of which are letters or digits.
func labelText(s string) bool {
	if s == "" {
		return true
	}
	edge := func(c byte) bool { return labelChar(rune(c)) && c != '-' && c != '_' && c != '.' }
	return len(s) <= maxLabelName && edge(s[0]) && edge(s[len(s)-1]) && !strings.ContainsFunc(s, func(c rune) bool { return !labelChar(c) })
}

// labelPrefix says whether s is a DNS subdomain in lower case.
func labelPrefix(s string) bool {
	if s == "" || len(s) > maxLabelPrefix || s != strings.ToLower(s) || strings.Contains(s, "_") {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' {
			return false
		}
	}
	return true
}
