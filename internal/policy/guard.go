package policy

import (
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// maxWork bounds the steps of one call of a function that cannot be interrupted, where its cost is a product of its
// operands' sizes.
const maxWork = 1 << 20

// functions returns the guarded functions for topdown.
func functions() map[string]*topdown.Builtin {
	decls := guards()
	out := make(map[string]*topdown.Builtin, len(decls))
	for _, name := range guardedNames() {
		if f := topdown.GetBuiltin(name); f != nil && decls[guarded+name] != nil {
			out[guarded+name] = &topdown.Builtin{Decl: decls[guarded+name], Func: guard(name, f)}
		}
	}
	out[weighName] = &topdown.Builtin{Decl: decls[weighName], Func: weighValue}
	return out
}

// guard wraps a function: its operands are bounded in size, what it would cost is estimated where that is more than
// their size, and what it made is charged.
func guard(name string, f topdown.BuiltinFunc) topdown.BuiltinFunc {
	estimate := estimator(name)
	return func(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
		b, ok := bctx.Cancel.(*budget)
		if !ok {
			return topdown.Halt{Err: fmt.Errorf("%s: called without a budget", name)}
		}
		for _, a := range args {
			if _, err := b.check(a.Value); err != nil {
				return err
			}
		}
		if estimate != nil {
			if err := b.afford(estimate(args)); err != nil {
				return err
			}
		}
		return f(bctx, args, func(t *ast.Term) error {
			n, err := b.check(t.Value)
			if err != nil {
				return err
			}
			if err := b.spend(n); err != nil {
				return err
			}
			if !smallNumbers(t.Value) {
				return b.over()
			}
			return iter(t)
		})
	}
}

// cost is what a call would take: bytes that it makes, and steps that it cannot be stopped in.
type cost struct{ bytes, work int }

func (b *budget) afford(c cost) error {
	if c.bytes > b.bytes || c.bytes < 0 || c.work > maxWork || c.work < 0 {
		return b.over()
	}
	return nil
}

func weighValue(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
	if b, ok := bctx.Cancel.(*budget); ok {
		if _, err := b.check(args[0].Value); err != nil {
			return err
		}
	}
	return iter(ast.InternedTerm(true))
}

// smallNumbers says whether the numbers that v holds can be reckoned with: JSON may say 1e1000000, and OPA writes such a
// number out in full.
func smallNumbers(v ast.Value) bool {
	switch v := v.(type) {
	case ast.Number:
		return smallNumber(string(v), 4*maxDigits)
	case *ast.Array:
		for i := range v.Len() {
			if !smallNumbers(v.Elem(i).Value) {
				return false
			}
		}
	case ast.Set:
		return !v.Until(func(t *ast.Term) bool { return !smallNumbers(t.Value) })
	case ast.Object:
		return !v.Until(func(k, t *ast.Term) bool { return !smallNumbers(k.Value) || !smallNumbers(t.Value) })
	}
	return true
}

// smallNumber says whether a number is at most n characters long and its exponent below 1000.
func smallNumber(s string, n int) bool {
	if len(s) > n {
		return false
	}
	i := strings.IndexAny(s, "eE")
	tail := strings.TrimLeft(s[i+1:], "+-0")
	return i < 0 || len(tail) <= 3 || strings.Trim(tail, "0123456789") != ""
}
