// Package strictyaml reads the YAML files that people write for us: one plain document, without anything by which a short file can
// stand for a huge one, put into a struct more strictly than YAML libraries do, with the place of every mistake. What a value may be
// is its reader's business.
package strictyaml

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Position is a place in a file, both from 1. The zero value is the file as a whole.
type Position struct{ Line, Column int }

// Mistakes is told what is wrong with a file.
type Mistakes interface {
	Add(at Position, format string, args ...any)
	// Full tells that no more need to be looked for.
	Full() bool
}

// Parse parses one YAML document that is nested at most maxDepth deep: the parser's time grows with the square of the depth. Anchors,
// aliases, tags, merge keys and further documents are refused: nothing of ours needs them. The node is nil if the document is empty, or
// a mistake was told.
func Parse(src []byte, maxDepth int, m Mistakes) (root ast.Node) {
	if at, ok := badText(src); !ok {
		m.Add(at, "is not plain UTF-8 text")
		return nil
	}
	defer func() { // the parser is not ours, and must not end the process
		if r := recover(); r != nil {
			m.Add(Position{}, "cannot be parsed (%v)", r)
			root = nil
		}
	}()
	tokens := lexer.Tokenize(string(src))
	if !checkTokens(tokens, maxDepth, m) {
		return nil
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		var e yaml.Error
		if errors.As(err, &e) && e.GetToken() != nil {
			m.Add(placeOf(e.GetToken()), "%s", e.GetMessage())
		} else {
			m.Add(Position{}, "%s", err.Error())
		}
		return nil
	}
	return onlyDocument(file, m)
}

// badText finds the first byte that is not UTF-8 text.
func badText(src []byte) (Position, bool) {
	if utf8.Valid(src) && bytes.IndexByte(src, 0) < 0 {
		return Position{}, true
	}
	at := Position{1, 1}
	for len(src) > 0 {
		r, n := utf8.DecodeRune(src)
		if r == utf8.RuneError && n == 1 || r == 0 {
			break
		}
		at.Column++
		if r == '\n' {
			at = Position{at.Line + 1, 1}
		}
		src = src[n:]
	}
	return at, false
}

// checkTokens refuses what no file of ours needs, before the parser builds anything of it.
func checkTokens(tokens token.Tokens, maxDepth int, m Mistakes) bool {
	flow, dashes, line := 0, 0, 0
	var indents []int // of the lines that hold the present one; the lexer's own count of them grows with the length of a file
	for _, t := range tokens {
		if t.Position.Line != line {
			line, dashes = t.Position.Line, 0
			indents = indented(indents, t)
		}
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType, token.TagType, token.DirectiveType, token.MappingKeyType:
			m.Add(placeOf(t), "YAML's %s is not supported here: write the value out", strings.ToLower(t.Type.String()))
			return false
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType:
			dashes++
		}
		if flow > maxDepth || dashes > maxDepth || len(indents) > maxDepth {
			m.Add(placeOf(t), "is nested more than %d deep", maxDepth)
			return false
		}
	}
	return true
}

// indented returns the indents that hold a line, which begins with t, and its own.
func indented(above []int, t *token.Token) []int {
	if t.Type == token.CommentType {
		return above
	}
	for len(above) > 0 && above[len(above)-1] >= t.Position.Column {
		above = above[:len(above)-1]
	}
	return append(above, t.Position.Column)
}

func onlyDocument(file *ast.File, m Mistakes) ast.Node {
	var root ast.Node
	for _, d := range file.Docs {
		if d == nil || d.Body == nil {
			continue
		}
		if root != nil {
			m.Add(Place(d.Body), "is a second YAML document: a file has one")
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

func placeOf(t *token.Token) Position {
	if t == nil || t.Position == nil {
		return Position{}
	}
	return Position{t.Position.Line, t.Position.Column}
}

// Place returns where a node begins: a block mapping at its first key, not at the colon after it.
func Place(n ast.Node) Position {
	switch n := n.(type) {
	case nil:
		return Position{}
	case *ast.MappingNode:
		if len(n.Values) > 0 && !n.IsFlowStyle {
			return Place(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return Place(n.Key)
	}
	return placeOf(n.GetToken())
}

// Pairs returns the entries of a mapping.
func Pairs(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

// KeyOf returns the text of an entry's key.
func KeyOf(p *ast.MappingValueNode) string {
	if s, ok := p.Key.(*ast.StringNode); ok {
		return s.Value
	}
	return p.Key.GetToken().Value
}

// Find returns the node at a path such as "listen.public" or "shared_hosts[1]", or the nearest one above it.
func Find(n ast.Node, path string) ast.Node {
	for path != "" && n != nil {
		name, index, rest := cutPath(path)
		next := Child(n, name, index)
		if next == nil {
			return n
		}
		n, path = next, rest
	}
	return n
}

// cutPath splits off the first step of a path: a name, or an index if name is empty.
func cutPath(path string) (name string, index int, rest string) {
	if after, ok := strings.CutPrefix(path, "["); ok {
		digits, rest, _ := strings.Cut(after, "]")
		index, err := strconv.Atoi(digits)
		if err != nil {
			index = -1
		}
		return "", index, strings.TrimPrefix(rest, ".")
	}
	end := strings.IndexAny(path, ".[")
	if end < 0 {
		return path, 0, ""
	}
	return path[:end], 0, strings.TrimPrefix(path[end:], ".")
}

// Child returns the value of a mapping by name, or of a list by index if name is empty; nil = there is none.
func Child(n ast.Node, name string, index int) ast.Node {
	if name == "" {
		if s, ok := n.(*ast.SequenceNode); ok && index >= 0 && index < len(s.Values) {
			return s.Values[index]
		}
		return nil
	}
	entries, _ := Pairs(n)
	for _, p := range entries {
		if KeyOf(p) == name {
			return p.Value
		}
	}
	return nil
}
