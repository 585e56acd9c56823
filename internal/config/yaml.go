package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of every file. A file is an operator's, but a slip must not cost the gateway its memory: the parser's time grows
// with the square of the depth.
const (
	MaxFileBytes = 8 << 20
	maxDepth     = 32
)

// readFile reads a file whole, if it is no larger than max bytes.
func readFile(path string, max int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("is larger than %d bytes", max)
	}
	return b, nil
}

// load reads and parses a YAML file of one document. The node is nil if the document is empty, or an error was added.
func load(path string, c *collector) ast.Node {
	src, err := readFile(path, MaxFileBytes)
	if err != nil {
		c.add(position{}, "%s", fileReason(err))
		return nil
	}
	return parse(src, c)
}

// require adds an error if a document, so far without one, lacks its list. To declare nothing takes an explicit empty list: a
// file that is empty is most likely being written, and would otherwise suspend every tenant.
func (c *collector) require(root ast.Node, list string) {
	if len(c.list) > 0 {
		return
	}
	if root != nil {
		if n := child(root, list, 0); n != nil && n.Type() != ast.NullType {
			return
		}
	}
	c.add(position{1, 1}, "there is no %[1]s list: write %[1]s: [] to declare none", list)
}

// fileReason returns an error of the file system without the path, which the message has already.
func fileReason(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		return fmt.Sprintf("cannot %s: %v", p.Op, p.Err)
	}
	return err.Error()
}

// parse parses one YAML document. Anchors, aliases, tags, merge keys and further documents are refused: nothing here needs
// them, and by them a short file can stand for a huge one.
func parse(src []byte, c *collector) (root ast.Node) {
	if at, ok := badText(src); !ok {
		c.add(at, "is not plain UTF-8 text")
		return nil
	}
	defer func() { // the parser is not ours, and a reload must not end the process
		if r := recover(); r != nil {
			c.add(position{}, "cannot be parsed (%v)", r)
			root = nil
		}
	}()
	tokens := lexer.Tokenize(string(src))
	if !checkTokens(tokens, c) {
		return nil
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		c.add(syntaxError(err))
		return nil
	}
	return onlyDocument(file, c)
}

// badText finds the first byte that is not UTF-8 text.
func badText(src []byte) (position, bool) {
	if utf8.Valid(src) && bytes.IndexByte(src, 0) < 0 {
		return position{}, true
	}
	at := position{1, 1}
	for len(src) > 0 {
		r, n := utf8.DecodeRune(src)
		if r == utf8.RuneError && n == 1 || r == 0 {
			break
		}
		at.column++
		if r == '\n' {
			at = position{at.line + 1, 1}
		}
		src = src[n:]
	}
	return at, false
}

// checkTokens refuses what no configuration needs, before the parser builds anything of it.
func checkTokens(tokens token.Tokens, c *collector) bool {
	flow, dashes, line := 0, 0, 0
	var indents []int // of the lines that hold the present one; the lexer's own count of them grows with the length of a file
	for _, t := range tokens {
		if t.Position.Line != line {
			line, dashes = t.Position.Line, 0
			indents = indented(indents, t)
		}
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType, token.TagType, token.DirectiveType, token.MappingKeyType:
			c.add(at(t), "YAML's %s is not supported here: write the value out", strings.ToLower(t.Type.String()))
			return false
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType:
			dashes++
		}
		if flow > maxDepth || dashes > maxDepth || len(indents) > maxDepth {
			c.add(at(t), "is nested more than %d deep", maxDepth)
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

// syntaxError returns the place and the message of a parser's error, as the arguments of collector.add.
func syntaxError(err error) (position, string, any) {
	var e yaml.Error
	if errors.As(err, &e) && e.GetToken() != nil {
		return at(e.GetToken()), "%s", e.GetMessage()
	}
	return position{}, "%s", err.Error()
}

func onlyDocument(file *ast.File, c *collector) ast.Node {
	var root ast.Node
	for _, d := range file.Docs {
		if d == nil || d.Body == nil {
			continue
		}
		if root != nil {
			c.add(place(d.Body), "is a second YAML document: a file has one")
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

func at(t *token.Token) position {
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
	return at(n.GetToken())
}

// pairs returns the entries of a mapping.
func pairs(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

// keyOf returns the text of an entry's key.
func keyOf(p *ast.MappingValueNode) string {
	if s, ok := p.Key.(*ast.StringNode); ok {
		return s.Value
	}
	return p.Key.GetToken().Value
}

// find returns the node at a path such as "listen.public" or "shared_hosts[1]", or the nearest one above it.
func find(n ast.Node, path string) ast.Node {
	for path != "" && n != nil {
		name, index, rest := cutPath(path)
		next := child(n, name, index)
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

func child(n ast.Node, name string, index int) ast.Node {
	if name == "" {
		if s, ok := n.(*ast.SequenceNode); ok && index >= 0 && index < len(s.Values) {
			return s.Values[index]
		}
		return nil
	}
	entries, _ := pairs(n)
	for _, p := range entries {
		if keyOf(p) == name {
			return p.Value
		}
	}
	return nil
}
