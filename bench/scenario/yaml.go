package scenario

import (
	"bytes"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of a file. A scenario may be anybody's, and the parser's time grows with the square of the depth.
const (
	mostBytes = 256 << 10
	deepest   = 16
)

// tree parses a file of one YAML document. It is nil if the document is empty, or a problem was added.
func (c *collector) tree(src []byte) (root ast.Node) {
	switch {
	case len(src) > mostBytes:
		c.add(position{}, "is larger than the %d KiB that a scenario may have", mostBytes>>10)
		return nil
	case !utf8.Valid(src) || bytes.IndexByte(src, 0) >= 0:
		c.add(position{}, "is not plain UTF-8 text")
		return nil
	}
	defer func() { // the parser is not ours, and must not end the process
		if r := recover(); r != nil {
			c.add(position{}, "cannot be parsed (%v)", r)
			root = nil
		}
	}()
	tokens := lexer.Tokenize(string(src))
	if !c.plain(tokens) {
		return nil
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		c.syntax(err)
		return nil
	}
	return c.document(file)
}

// plain refuses what no scenario needs, before the parser builds anything of it: by an alias a short file can stand for a huge one.
func (c *collector) plain(tokens token.Tokens) bool {
	flow, dashes, line := 0, 0, 0
	var indents []int // of the lines that hold the present one
	for _, t := range tokens {
		if t.Position.Line != line {
			line, dashes = t.Position.Line, 0
			indents = indented(indents, t)
		}
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType, token.TagType, token.DirectiveType, token.MappingKeyType:
			c.add(placeOf(t), "YAML's %s is not supported here: write the value out", strings.ToLower(t.Type.String()))
			return false
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType:
			dashes++
		}
		if max(flow, dashes, len(indents)) > deepest {
			c.add(placeOf(t), "is nested more than %d deep", deepest)
			return false
		}
	}
	return true
}

// indented returns the indents that hold the line which begins with t, and its own.
func indented(above []int, t *token.Token) []int {
	if t.Type == token.CommentType {
		return above
	}
	for len(above) > 0 && above[len(above)-1] >= t.Position.Column {
		above = above[:len(above)-1]
	}
	return append(above, t.Position.Column)
}

func (c *collector) syntax(err error) {
	var e yaml.Error
	if errors.As(err, &e) && e.GetToken() != nil {
		c.add(placeOf(e.GetToken()), "%s", clip(e.GetMessage()))
		return
	}
	c.add(position{}, "%s", clip(err.Error()))
}

func (c *collector) document(file *ast.File) ast.Node {
	var root ast.Node
	for _, d := range file.Docs {
		if d == nil || d.Body == nil {
			continue
		}
		if root != nil {
			c.add(place(d.Body), "is a second YAML document: a file has one scenario")
			return nil
		}
		root = d.Body
	}
	switch root.(type) {
	case *ast.CommentGroupNode, *ast.NullNode:
		return nil
	}
	return root
}

func placeOf(t *token.Token) position {
	if t == nil || t.Position == nil {
		return position{}
	}
	return position{t.Position.Line, t.Position.Column}
}

// place returns where a node begins: a block mapping at its first key, not at the colon after it.
func place(n ast.Node) position {
	switch n := n.(type) {
	case nil:
		return position{}
	case *ast.MappingNode:
		if len(n.Values) > 0 && !n.IsFlowStyle {
			return place(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return place(n.Key)
	}
	return placeOf(n.GetToken())
}

// entries returns those of a mapping.
func entries(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

// keyOf returns the text of an entry's key.
func keyOf(e *ast.MappingValueNode) string {
	if s, ok := e.Key.(*ast.StringNode); ok {
		return s.Value
	}
	return e.Key.GetToken().Value
}

// scalarText returns the text of a scalar as it stands in the file.
func scalarText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// kindOf returns what a node is, for people.
func kindOf(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "mapping"
	case *ast.SequenceNode:
		return "list"
	case *ast.NullNode, nil:
		return "blank"
	}
	return "single value"
}
