package policy

import (
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// shape counts what a bundle is made of and holds it against the bounds in limits.go. It looks at what the parser made,
// before the compiler, which is where the cost lies.
type shape struct {
	p                                            *problems
	rules, imports, exprs, terms, dynamic, order int
}

func (s *shape) module(m *ast.Module) {
	s.imports += len(m.Imports)
	s.ref(m.Package.Path, m.Package.Loc())
	for _, im := range m.Imports {
		if r, ok := im.Path.Value.(ast.Ref); ok {
			s.ref(r, im.Loc())
		}
	}
	for _, r := range m.Rules {
		s.rule(r)
	}
	s.total(m, s.rules, maxRules, "rules")
	s.total(m, s.imports, maxImports, "imports")
	s.total(m, s.exprs, maxExprs, "expressions")
	s.total(m, s.terms, maxTerms, "terms")
	if s.order > maxOrder {
		s.p.at(m.Package.Loc(), "too many long bodies by the end of this module: split them into rules")
	}
	s.total(m, s.dynamic*s.rules, maxSearch, "rules searched by references into data that hold a variable")
}

func (s *shape) rule(r *ast.Rule) {
	n := 0
	for e := r; e != nil; e = e.Else {
		s.rules++
		if n++; n == maxElse+2 {
			s.p.at(e.Loc(), "a rule has more than %d else branches", maxElse)
		}
		if len(e.Head.Args) > maxArgs {
			s.p.at(e.Loc(), "a function has %d parameters: at most %d are allowed", len(e.Head.Args), maxArgs)
		}
		s.ref(e.Head.Ref(), e.Loc())
	}
	s.node(r, r.Loc(), 0)
}

func (s *shape) ref(r ast.Ref, loc *ast.Location) {
	if len(r) > maxRef {
		s.p.at(loc, "a reference has %d segments: at most %d are allowed", len(r), maxRef)
	}
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
			return s.deeper(y, y.Loc(), nest)
		}
		return false
	})
	v.Walk(x)
}

func (s *shape) body(b ast.Body, loc *ast.Location) {
	s.exprs += len(b)
	s.order += len(b) * len(b) * within(b)
	if len(b) > maxBody {
		s.p.at(loc, "a body has %d expressions: at most %d are allowed, split it", len(b), maxBody)
	}
}

// within returns how many expressions lie in b, however deep.
func within(b ast.Body) int {
	n := 0
	ast.WalkBodies(b, func(inner ast.Body) bool { n += len(inner); return false })
	return n
}

func (s *shape) expr(e *ast.Expr) {
	if len(e.With) > maxWith {
		s.p.at(e.Loc(), "an expression has %d with modifiers: at most %d are allowed", len(e.With), maxWith)
	}
	for _, w := range e.With {
		if _, ok := ast.BuiltinMap[w.Target.String()]; ok {
			s.p.at(e.Loc(), "with replaces the built-in function %s: replace a function of your own", w.Target)
		}
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
		s.ref(v, loc)
		if variable(v) {
			s.dynamic++
		}
	case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
		return s.deeper(v, loc, nest)
	}
	return false
}

// variable says whether a reference into data holds a variable, so that it may mean many rules.
func variable(r ast.Ref) bool {
	return len(r) > 1 && r.HasPrefix(ast.DefaultRootRef) && !r.IsGround()
}

// deeper walks what lies one body further in. It returns true: the caller need not.
func (s *shape) deeper(inner any, loc *ast.Location, nest int) bool {
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
	s.order += in.order
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
// and so on. Each takes a few hundred bytes of stack, and a Go stack that overflows ends the process. It finds rules that
// refer to themselves as well: OPA's own search costs the product of rules and edges (2 s for 900 rules in a row), this one
// their sum.
type chains struct {
	graph *ast.Graph
	known map[*ast.Rule]int // unfinished: being walked
	edges int
	bad   *ast.Error
}

const unfinished = -1

// chainStage is the compiler stage that does so. It stands in for ast.StageCheckRecursion.
func chainStage(c *ast.Compiler) *ast.Error {
	g := &chains{graph: c.Graph, known: make(map[*ast.Rule]int)}
	for _, name := range slices.Sorted(maps.Keys(c.Modules)) {
		ast.WalkRules(c.Modules[name], func(r *ast.Rule) bool { g.walk(r, 0); return false })
	}
	return g.bad
}

// walk returns the length of the longest chain from r on. above is what led here; it bounds the recursion of walk itself.
func (g *chains) walk(r *ast.Rule, above int) int {
	n, seen := g.known[r]
	switch {
	case g.bad != nil:
		return 0
	case n == unfinished:
		return g.fail(r, "rule %v is recursive: it refers to itself, if only through others", r.Ref())
	case above+n > maxChain:
		return g.fail(r, "rules refer to each other over more than %d expressions", maxChain)
	case g.edges > maxEdges:
		return g.fail(r, "more than %d pairs of rules refer to each other", maxEdges)
	case seen:
		return n
	}
	g.known[r] = unfinished
	own := 1
	ast.WalkBodies(r, func(b ast.Body) bool { own += len(b); return false })
	below := 0
	for dep := range g.graph.Dependencies(r) {
		g.edges++
		below = max(below, g.walk(dep.(*ast.Rule), above+own))
	}
	g.known[r] = own + below
	return own + below
}

func (g *chains) fail(r *ast.Rule, format string, args ...any) int {
	if g.bad == nil {
		g.bad = ast.NewError(ast.RecursionErr, r.Loc(), format, args...)
	}
	return 0
}
