package archtest

import (
	"go/ast"
	"go/token"
	"strings"
)

// Comments holds that every package says what it is for, and every exported name what it is: types, functions and the
// methods of exported types by a comment of their own, constants and variables by that or their group's.
func Comments(p *Package) []string {
	var bad []string
	stated := false
	for _, f := range p.Files {
		if f.Doc != nil {
			stated = stated || states(f.Doc.Text(), p.Name)
		}
		for _, d := range f.Decls {
			for _, id := range undocumented(d) {
				bad = append(bad, p.at(id.Pos())+": "+id.Name+" has no comment")
			}
		}
	}
	if !stated {
		bad = append(bad, p.Path+": no package comment that begins with \"Package "+p.Name+"\" (\"Command …\" for a program)")
	}
	return bad
}

func states(doc, name string) bool {
	if name == "main" {
		return strings.HasPrefix(doc, "Command ")
	}
	return strings.HasPrefix(doc, "Package "+name+" ")
}

// undocumented returns the exported names of a declaration that have no comment.
func undocumented(d ast.Decl) []*ast.Ident {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
			return []*ast.Ident{d.Name}
		}
	case *ast.GenDecl:
		var out []*ast.Ident
		for _, s := range d.Specs {
			out = append(out, undocumentedSpec(d, s)...)
		}
		return out
	}
	return nil
}

func undocumentedSpec(d *ast.GenDecl, s ast.Spec) []*ast.Ident {
	switch s := s.(type) {
	case *ast.TypeSpec:
		if s.Name.IsExported() && s.Doc == nil && (d.Doc == nil || d.Lparen != token.NoPos) {
			return []*ast.Ident{s.Name}
		}
	case *ast.ValueSpec:
		if d.Doc != nil || s.Doc != nil || s.Comment != nil {
			return nil
		}
		var out []*ast.Ident
		for _, id := range s.Names {
			if id.IsExported() {
				out = append(out, id)
			}
		}
		return out
	}
	return nil
}

// exportedReceiver says whether a function is one of the package's, or a method of an exported type.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return true
	}
	x := d.Recv.List[0].Type
	if ix, ok := x.(*ast.IndexExpr); ok {
		x = ix.X
	}
	id := root(x)
	return id != nil && id.IsExported()
}
