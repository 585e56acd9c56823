package policy

import (
	"github.com/open-policy-agent/opa/v1/ast"
)

// renameStage makes the compiled modules call the guarded functions. It runs when OPA has resolved names and expanded
// calls, so a tenant's own function of the same name is left alone.
func renameStage(c *ast.Compiler) *ast.Error {
	names := make(map[string]*ast.Term)
	for _, name := range guardedNames() {
		names[name] = ast.NewTerm(ast.MustParseRef(guarded + name))
	}
	for _, m := range c.Modules {
		renameCalls(m, names)
	}
	return nil
}

func renameCalls(x any, names map[string]*ast.Term) {
	rename := func(t *ast.Term) *ast.Term {
		if r, ok := t.Value.(ast.Ref); ok && len(r) <= 2 {
			if to, ok := names[r.String()]; ok {
				return &ast.Term{Value: to.Value.(ast.Ref).Copy(), Location: t.Location}
			}
		}
		return t
	}
	v := ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Expr:
			if terms, ok := x.Terms.([]*ast.Term); ok {
				terms[0] = rename(terms[0])
			}
			for _, w := range x.With {
				w.Target, w.Value = rename(w.Target), rename(w.Value)
			}
		case ast.Call:
			x[0] = rename(x[0])
		}
		return false
	})
	v.Walk(x)
}

// weighStage puts a call of bounded.weigh behind, or before, every expression that makes a value of other values. It runs
// when bodies are in their final order.
func weighStage(c *ast.Compiler) *ast.Error {
	w := &weigher{c: c, op: ast.MustParseRef(weighName)}
	for _, m := range c.Modules {
		ast.WalkRules(m, func(r *ast.Rule) bool {
			r.Body = w.body(r.Body, r.Head.Key, r.Head.Value)
			return false
		})
		v := ast.NewGenericVisitor(func(x any) bool {
			switch x := x.(type) {
			case *ast.ArrayComprehension:
				x.Body = w.body(x.Body, x.Term)
			case *ast.SetComprehension:
				x.Body = w.body(x.Body, x.Term)
			case *ast.ObjectComprehension:
				x.Body = w.body(x.Body, x.Key, x.Value)
			case *ast.Every:
				x.Body = w.body(x.Body)
			}
			return false
		})
		v.Walk(m)
	}
	return nil
}

type weigher struct {
	c  *ast.Compiler
	op ast.Ref
}

// body returns b with weights taken, those of made at its end.
func (w *weigher) body(b ast.Body, made ...*ast.Term) ast.Body {
	out := make(ast.Body, 0, len(b)+2)
	for _, e := range b {
		before, after := w.expr(e)
		for _, t := range before {
			out.Append(w.weigh(t, e.Location))
		}
		out.Append(e)
		for _, t := range after {
			out.Append(w.weigh(t, e.Location))
		}
	}
	for _, t := range made {
		if t != nil && composite(t) && len(b) > 0 {
			out.Append(w.weigh(t, b[len(b)-1].Location))
		}
	}
	return out
}

func (w *weigher) weigh(t *ast.Term, loc *ast.Location) *ast.Expr {
	e := ast.NewExpr([]*ast.Term{ast.NewTerm(w.op.Copy()).SetLocation(loc), t.Copy()})
	e.Location, e.Generated = loc, true
	return e
}

// expr returns what to weigh before and after an expression. The operands of a call are known before it; what a
// unification binds is known after it.
func (w *weigher) expr(e *ast.Expr) (before, after []*ast.Term) {
	terms, ok := e.Terms.([]*ast.Term)
	if !ok || len(terms) == 0 {
		return nil, nil
	}
	if e.IsEquality() && len(terms) == 3 {
		return w.equality(e, terms[1], terms[2])
	}
	op, ok := terms[0].Value.(ast.Ref)
	if !ok {
		return nil, nil
	}
	arity := w.c.GetArity(op)
	for i, t := range terms[1:] {
		if i < arity && composite(t) {
			before = append(before, t)
		}
	}
	return before, nil
}

func (w *weigher) equality(e *ast.Expr, a, b *ast.Term) (before, after []*ast.Term) {
	if _, ok := a.Value.(ast.Var); !ok {
		a, b = b, a
	}
	_, isVar := a.Value.(ast.Var)
	switch {
	case e.Negated:
		return pickComposite(a, b), nil
	case isVar && (composite(b) || comprehension(b)):
		return nil, []*ast.Term{a}
	}
	return nil, pickComposite(a, b)
}

func pickComposite(ts ...*ast.Term) []*ast.Term {
	var out []*ast.Term
	for _, t := range ts {
		if composite(t) {
			out = append(out, t)
		}
	}
	return out
}

// composite says whether a term makes a collection of values that are not known yet.
func composite(t *ast.Term) bool {
	switch t.Value.(type) {
	case *ast.Array, ast.Set, ast.Object:
		return !t.IsGround()
	}
	return false
}

func comprehension(t *ast.Term) bool {
	switch t.Value.(type) {
	case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
		return true
	}
	return false
}
