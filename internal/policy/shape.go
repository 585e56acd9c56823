package policy

import (
	"github.com/open-policy-agent/opa/v1/ast"
)

// shape counts what a bundle is made of and holds it against the bounds in limits.go. It looks at what the parser made,
// before the compiler, which is where the cost lies.
type shape struct {
	p                            *problems
	rules, exprs, terms, dynamic int
}

func (s *shape) module(m *ast.Module) {
	for _, r := range m.Rules {
		n := 0
		for e := r; e != nil; e = e.Else {
			s.rules++
			if n++; n == maxElse+2 {
				s.p.at(e.Loc(), "a rule has more than %d else branches", maxElse)
			}
		}
		s.node(r, r.Loc(), 0)
	}
	s.total(m, s.rules, maxRules, "rules")
	s.total(m, s.exprs, maxExprs, "expressions")
	s.total(m, s.terms, maxTerms, "terms")
	s.total(m, s.dynamic, maxDynamic, "references into data by a variable")
}

func (s *shape) total(m *ast.Module, n, most int, what string) {
	if n > most {
		s.p.at(m.Package.Loc(), "the bundle has more than %d %s by the end of this module", most, what)
	}
}

// node walks x, of which loc is the nearest place, within nest bodies.
func (s *shape) node(x any, loc *ast.Location, nest int) {
	if len(s.p.list) >= maxProblems {
		return
	}
	v := ast.NewGenericVisitor(func(y any) bool {
		switch y := y.(type) {
		case ast.Body:
			s.body(y, loc)
		case *ast.Expr:
			loc = y.Loc()
			s.expr(y)
		case *ast.Term:
			s.terms++
			return s.term(y, loc, nest)
		case *ast.Every:
			return s.deeper(y.Body, y.Loc(), nest, y)
		case *ast.Rule:
			if y != x && y.Else == nil {
				loc = y.Loc()
			}
		}
		return false
	})
	v.Walk(x)
}

func (s *shape) body(b ast.Body, loc *ast.Location) {
	s.exprs += len(b)
	if len(b) > maxBody {
		s.p.at(loc, "a body has %d expressions: at most %d are allowed, split it", len(b), maxBody)
	}
}

func (s *shape) expr(e *ast.Expr) {
	if len(e.With) > maxWith {
		s.p.at(e.Loc(), "an expression has %d with modifiers: at most %d are allowed", len(e.With), maxWith)
	}
	if n := variables(e); n > maxExprSize {
		s.p.at(e.Loc(), "an expression refers to variables %d times: at most %d are allowed", n, maxExprSize)
	}
}

func variables(e *ast.Expr) int {
	n := 0
	ast.WalkTerms(e, func(t *ast.Term) bool {
		switch t.Value.(type) {
		case ast.Var, ast.Ref:
			n++
		}
		return n > maxExprSize
	})
	return n
}

func (s *shape) term(t *ast.Term, loc *ast.Location, nest int) bool {
	switch v := t.Value.(type) {
	case ast.Number:
		if !smallNumber(string(v), maxDigits) {
			s.p.at(loc, "a number has more than %d digits or too large an exponent", maxDigits)
		}
	case ast.Ref:
		if len(v) > maxRef {
			s.p.at(loc, "a reference has %d segments: at most %d are allowed", len(v), maxRef)
		}
		if variable(v) {
			s.dynamic++
		}
	case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
		return s.deeper(v, loc, nest, v)
	}
	return false
}

// variable says whether a reference into data holds a variable, so that it may mean many rules.
func variable(r ast.Ref) bool {
	return len(r) > 1 && r.HasPrefix(ast.DefaultRootRef) && !r.IsGround()
}

// deeper walks what lies one body further in. It returns true: the caller need not.
func (s *shape) deeper(_ any, loc *ast.Location, nest int, inner any) bool {
	if nest+1 > maxNest {
		s.p.at(loc, "more than %d comprehensions or every lie within each other", maxNest)
		return true
	}
	in := &shape{p: s.p}
	switch v := inner.(type) {
	case *ast.ArrayComprehension:
		in.parts(loc, nest+1, v.Term, nil, v.Body)
	case *ast.SetComprehension:
		in.parts(loc, nest+1, v.Term, nil, v.Body)
	case *ast.ObjectComprehension:
		in.parts(loc, nest+1, v.Key, v.Value, v.Body)
	case *ast.Every:
		in.parts(loc, nest+1, v.Domain, nil, v.Body)
	}
	s.exprs += in.exprs
	s.terms += in.terms
	s.dynamic += in.dynamic
	return true
}

func (s *shape) parts(loc *ast.Location, nest int, key, value *ast.Term, body ast.Body) {
	s.node(key, loc, nest)
	if value != nil {
		s.node(value, loc, nest)
	}
	s.node(body, loc, nest)
}

// chains finds how many expressions an evaluation can have open at once: those of a rule, of the rules that it refers to,
// and so on. Each takes a few hundred bytes of stack, and a Go stack that overflows ends the process. It
// bounds the graph as well, as the search for recursion costs the product of rules and edges.
type chains struct {
	graph *ast.Graph
	known map[*ast.Rule]int
	edges int
}

// chainStage is the compiler stage that does so.
func chainStage(c *ast.Compiler) *ast.Error {
	g := &chains{graph: c.Graph, known: make(map[*ast.Rule]int)}
	for _, m := range c.Modules {
		for _, r := range m.Rules {
			if n := g.depth(r); n > maxChain {
				return ast.NewError(ast.CompileErr, r.Loc(), "rules refer to each other over more than %d expressions", maxChain)
			}
			if g.edges > maxEdges {
				return ast.NewError(ast.CompileErr, r.Loc(), "more than %d pairs of rules refer to each other", maxEdges)
			}
		}
	}
	return nil
}

// depth is recursive itself, as deep as maxChain: what is deeper is not looked into. A cycle counts as its length; OPA refuses it later.
func (g *chains) depth(r *ast.Rule) int { return g.walk(r, 0) }

func (g *chains) walk(r *ast.Rule, above int) int {
	if n, ok := g.known[r]; ok || above > maxChain || g.edges > maxEdges {
		return n
	}
	g.known[r] = 0
	own := 1
	for e := r; e != nil; e = e.Else {
		ast.WalkBodies(e, func(b ast.Body) bool { own += len(b); return false })
	}
	below := 0
	for dep := range g.graph.Dependencies(r) {
		g.edges++
		below = max(below, g.walk(dep.(*ast.Rule), above+own))
	}
	n := own + below
	if above+own > maxChain {
		n = maxChain + 1
	}
	g.known[r] = n
	return n
}
