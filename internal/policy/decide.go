package policy

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

const (
	maxDenies = 16
	maxText   = 256 // bytes of one reason
)

// judge turns the answer of the query into a decision. Any `deny` that is not false or empty wins over `allow`, whatever its
// type; so does `require_approval`, as there is nobody to approve yet.
func (e *Engine) judge(answer ast.Object) Decision {
	reasons := reasonsOf(one(answer, "reason"))
	if deny := one(answer, "deny"); holds(deny) {
		d := Decision{Denies: reasonsOf(deny), Rule: entryPackage + ".deny"}
		d.Reason = firstOf(d.Denies, reasons, "denied by the tenant's policy")
		return d
	}
	allow := one(answer, "allow")
	if holds(one(answer, "require_approval")) {
		return Decision{
			RequireApproval: true, Rule: entryPackage + ".require_approval",
			Reason: "approval is required: " + firstOf(reasons, nil, "the tenant's policy asks for it"),
		}
	}
	d := Decision{Rule: entryPackage + ".allow"}
	switch v := allow.(type) {
	case nil:
		d.Failure = FailUndef
		d.Reason = firstOf(reasons, nil, FailUndef.reason())
	case ast.Boolean:
		d.Allow = bool(v)
		d.Reason = firstOf(reasons, nil, "")
		if !d.Allow {
			d.Reason = firstOf(reasons, nil, "denied by the tenant's policy")
		}
	default:
		d.Failure, d.Reason = FailType, FailType.reason()+": allow is no boolean"
	}
	return d
}

// one returns the value of an entrypoint; nil if it is undefined. The query leaves it in an array of its own.
func one(answer ast.Object, name string) ast.Value {
	t := answer.Get(ast.StringTerm(name))
	if t == nil {
		return nil
	}
	if a, ok := t.Value.(*ast.Array); ok && a.Len() == 1 {
		return a.Elem(0).Value
	}
	return nil
}

// holds says whether a deny or a demand for approval is meant: everything but undefined, false and what is empty. A
// number or null is a mistake of the author, and counts as meant.
func holds(v ast.Value) bool {
	switch v := v.(type) {
	case nil:
		return false
	case ast.Boolean:
		return bool(v)
	case ast.String:
		return v != ""
	case *ast.Array:
		return v.Len() > 0
	case ast.Set:
		return v.Len() > 0
	case ast.Object:
		return v.Len() > 0
	}
	return true
}

// reasonsOf returns what a value says as lines of text, sorted and bounded.
func reasonsOf(v ast.Value) []string {
	var out []string
	add := func(t *ast.Term) {
		if s := message(t.Value); s != "" && len(out) < 4*maxDenies {
			out = append(out, clip(printable(s), maxText))
		}
	}
	switch v := v.(type) {
	case nil, ast.Boolean:
	case *ast.Array:
		v.Foreach(add)
	case ast.Set:
		v.Foreach(add)
	case ast.Object:
		if s := message(v); s != "" && v.Get(ast.StringTerm("msg")) != nil {
			return []string{clip(printable(s), maxText)}
		}
		v.Foreach(func(k, t *ast.Term) {
			if b, ok := t.Value.(ast.Boolean); !ok || bool(b) {
				add(k)
			}
		})
	default:
		add(ast.NewTerm(v))
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return out[:min(len(out), maxDenies)]
}

// message returns a value as text: a string as it is, an object's msg or message, anything else as Rego, if it is small.
func message(v ast.Value) string {
	switch v := v.(type) {
	case ast.String:
		return string(v)
	case ast.Object:
		for _, key := range []string{"msg", "message", "reason"} {
			if t := v.Get(ast.StringTerm(key)); t != nil {
				if s, ok := t.Value.(ast.String); ok {
					return string(s)
				}
			}
		}
	}
	left := 16 << 10 // writing a value down costs a multiple of its weight
	if weigh(v, &left); left < 0 {
		return "a value too large to show"
	}
	return v.String()
}

// printable replaces control characters, as reasons go into logs and headers.
func printable(s string) string {
	s = clip(s, 4*maxText)
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// firstOf joins the first list that is not empty, or returns otherwise.
func firstOf(a, b []string, otherwise string) string {
	if len(a) == 0 {
		a = b
	}
	if len(a) == 0 {
		return otherwise
	}
	return strings.Join(a[:min(len(a), 4)], "; ")
}
