package scenario

import (
	"github.com/goccy/go-yaml/ast"

	"github.com/polygate/polygate/internal/strictyaml"
)

// Bounds of a file. A scenario may be anybody's, and the parser's time grows with the square of the depth.
const (
	mostBytes = 256 << 10
	deepest   = 16
)

// position is a place in a file. The zero value is the file as a whole.
type position = strictyaml.Position

// tree parses a file of one YAML document. It is nil if the document is empty, or a problem was added.
func (c *collector) tree(src []byte) ast.Node {
	if len(src) > mostBytes {
		c.Add(position{}, "is larger than the %d KiB that a scenario may have", mostBytes>>10)
		return nil
	}
	return strictyaml.Parse(src, deepest, c)
}

// decode puts a document into s, and remembers where each value stands.
func (c *collector) decode(root ast.Node, s *Scenario) {
	c.where[""] = strictyaml.Place(root)
	strictyaml.Decoder{Mistakes: c, Seen: func(path string, at position) { c.where[path] = at }}.Document(root, s)
}
