package config

import (
	"github.com/goccy/go-yaml/ast"

	"github.com/polygate/polygate/internal/strictyaml"
)

// position is a place in a file. The zero value is the file as a whole.
type position = strictyaml.Position

// mistakes is a collector as strictyaml tells it what is wrong.
type mistakes struct{ *collector }

// Add implements strictyaml.Mistakes.
func (m mistakes) Add(at position, format string, args ...any) { m.add(at, format, args...) }

// Full implements strictyaml.Mistakes.
func (m mistakes) Full() bool { return m.full() }

// parse parses one YAML document. The node is nil if the document is empty, or an error was added.
func parse(src []byte, c *collector) ast.Node { return strictyaml.Parse(src, maxDepth, mistakes{c}) }

// decode puts a whole document into a struct; what it does not set keeps its value.
func (c *collector) decode(root ast.Node, into any) {
	strictyaml.Decoder{Mistakes: mistakes{c}, Reason: reason}.Document(root, into)
}

// place returns where a node begins.
func place(n ast.Node) position { return strictyaml.Place(n) }

// find returns the node at a path such as "listen.public" or "shared_hosts[1]", or the nearest one above it.
func find(n ast.Node, path string) ast.Node { return strictyaml.Find(n, path) }

// clip bounds a piece of the file that a message quotes.
func clip(s string) string { return strictyaml.Clip(s) }
