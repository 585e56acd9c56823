// Package archtest holds the map of the project: which package may import which, and the habits that keep packages
// apart. Its rules are pure functions over parsed packages, each tested on a bad sample, so that a rule that no longer
// bites is seen. Its test applies them to the whole module.
package archtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strings"
)

// Module is the path of the module that the rules speak of.
const Module = "github.com/polygate/polygate"

// Package is one package as the rules see it: its code without its tests.
type Package struct {
	Path    string   // within the module, such as "internal/tenant"
	Name    string   // as in its package clause
	Imports []string // full paths
	Fset    *token.FileSet
	Files   []*ast.File
}

// Rule returns a line for each offence of a package.
type Rule func(*Package) []string

// Rules returns all rules by name.
func Rules() map[string]Rule {
	return map[string]Rule{
		"import map":   ImportMap,
		"libraries":    Libraries,
		"confinement":  Confinement,
		"global state": GlobalState,
		"comments":     Comments,
	}
}

// Load parses the packages of the module in dir. It lists them with the go command, so build constraints hold.
func Load(dir string) ([]*Package, error) {
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Name,Dir,GoFiles,CgoFiles,Imports", "./...")
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, stderr.Bytes())
	}
	var all []*Package
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var l struct {
			ImportPath, Name, Dir      string
			GoFiles, CgoFiles, Imports []string
		}
		if err := dec.Decode(&l); err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		p := &Package{Path: within(l.ImportPath), Name: l.Name, Imports: l.Imports, Fset: token.NewFileSet()}
		for _, name := range append(l.GoFiles, l.CgoFiles...) {
			f, err := parser.ParseFile(p.Fset, filepath.Join(l.Dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			p.Files = append(p.Files, f)
		}
		if len(p.Files) > 0 { // else it is only tests
			all = append(all, p)
		}
	}
	return all, nil
}

// within returns an import path relative to the module, or as it is if it lies elsewhere.
func within(path string) string {
	if path == Module {
		return "."
	}
	return strings.TrimPrefix(path, Module+"/")
}

// at returns a position for people: the file's name and the line.
func (p *Package) at(pos token.Pos) string {
	where := p.Fset.Position(pos)
	return fmt.Sprintf("%s/%s:%d", p.Path, filepath.Base(where.Filename), where.Line)
}

// under says whether path is root or lies below it.
func under(path, root string) bool { return path == root || strings.HasPrefix(path, root+"/") }
