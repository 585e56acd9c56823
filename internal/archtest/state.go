package archtest

import (
	"errors"
	"go/ast"
	"go/token"
	"go/types"
	"strings"
)

// GlobalState holds that packages have no state of their own and do nothing when they are loaded: no func init, and no
// package-level variable but
//   - `var _ I = …`, which only checks a type;
//   - error sentinels: errors.New, fmt.Errorf or fault.New (and After on it), never assigned again;
//   - values of //go:embed;
//   - constants that Go cannot express: an unexported variable whose value is a literal, or comes from a constructor
//     of immutable values (time.Date, regexp.MustCompile, netip.MustParse…, reflect.TypeFor), and that nothing in the package
//     assigns to, takes the address of, or hands to append, clear, copy or delete.
func GlobalState(p *Package) []string {
	var bad []string
	vars := make(map[types.Object]bool)
	info := resolve(p)
	for _, f := range p.Files {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				bad = append(bad, p.at(fn.Pos())+": func init: build it in New")
			}
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, spec := range g.Specs {
				bad = append(bad, judgeVar(p, g, spec.(*ast.ValueSpec), info, vars)...)
			}
		}
	}
	for _, f := range p.Files {
		ast.Inspect(f, func(n ast.Node) bool {
			for _, target := range changes(n) {
				if id := root(target); id != nil && vars[info.Uses[id]] {
					bad = append(bad, p.at(id.Pos())+": the package-level variable "+id.Name+" is changed: make it a field")
				}
			}
			return true
		})
	}
	return bad
}

// judgeVar adds the accepted variables of a declaration to vars and returns what is wrong with the others.
func judgeVar(p *Package, g *ast.GenDecl, v *ast.ValueSpec, info *types.Info, vars map[types.Object]bool) []string {
	var bad []string
	for i, name := range v.Names {
		if name.Name == "_" {
			continue
		}
		vars[info.Defs[name]] = true
		if embedded(g.Doc) || embedded(v.Doc) {
			continue
		}
		var value ast.Expr
		if i < len(v.Values) {
			value = v.Values[i]
		}
		if !constant(name, value) {
			bad = append(bad, p.at(name.Pos())+": package-level variable "+name.Name+": make it a field, a constant or a function")
		}
	}
	return bad
}

func embedded(doc *ast.CommentGroup) bool {
	if doc == nil {
		return false
	}
	for _, c := range doc.List {
		if strings.HasPrefix(c.Text, "//go:embed ") {
			return true
		}
	}
	return false
}

// constant says whether a variable can stand for a constant by its name and value.
func constant(name *ast.Ident, value ast.Expr) bool {
	switch v := value.(type) {
	case *ast.CallExpr:
		switch callee(v) {
		case "errors.New", "fmt.Errorf", "fault.New":
			return true
		case "time.Unix", "time.Date", "regexp.MustCompile", "netip.MustParsePrefix", "netip.MustParseAddr", "netip.AddrFrom4", "reflect.TypeFor":
			return !name.IsExported()
		}
		return false
	case *ast.CompositeLit, *ast.BasicLit:
		return !name.IsExported()
	}
	return false
}

// callee returns "pkg.Func" for a call of that form.
func callee(c *ast.CallExpr) string {
	fun := c.Fun
	if ix, ok := fun.(*ast.IndexExpr); ok { // a type argument
		fun = ix.X
	}
	s, ok := fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	if made, ok := s.X.(*ast.CallExpr); ok && s.Sel.Name == "After" {
		return callee(made)
	}
	x, ok := s.X.(*ast.Ident)
	if !ok {
		return ""
	}
	return x.Name + "." + s.Sel.Name
}

// changes returns the expressions that a node may change.
func changes(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			return n.Lhs
		}
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	case *ast.RangeStmt:
		if n.Tok == token.ASSIGN {
			return []ast.Expr{n.Key, n.Value}
		}
	case *ast.UnaryExpr:
		if n.Op == token.AND {
			return []ast.Expr{n.X}
		}
	case *ast.CallExpr:
		if id, ok := n.Fun.(*ast.Ident); ok && len(n.Args) > 0 {
			switch id.Name {
			case "append", "clear", "copy", "delete":
				return n.Args[:1]
			}
		}
	}
	return nil
}

// root returns the identifier that x is a part of: v of v.f[i].
func root(x ast.Expr) *ast.Ident {
	for {
		switch e := x.(type) {
		case *ast.Ident:
			return e
		case *ast.SelectorExpr:
			x = e.X
		case *ast.IndexExpr:
			x = e.X
		case *ast.SliceExpr:
			x = e.X
		case *ast.StarExpr:
			x = e.X
		case *ast.ParenExpr:
			x = e.X
		default:
			return nil
		}
	}
}

// resolve finds which identifier means what within the package. Imports stay unknown, which the rules do not need, so
// nothing has to be compiled.
func resolve(p *Package) *types.Info {
	info := &types.Info{Defs: make(map[*ast.Ident]types.Object), Uses: make(map[*ast.Ident]types.Object)}
	cfg := types.Config{Importer: noImports{}, Error: func(error) {}}
	_, _ = cfg.Check(p.Path, p.Fset, p.Files, info) // the errors are those of the unknown imports
	return info
}

type noImports struct{}

func (noImports) Import(string) (*types.Package, error) { return nil, errors.New("not loaded") }
