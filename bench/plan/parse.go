package plan

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	yamltoken "github.com/goccy/go-yaml/token"
)

// maxBytes bounds a demand: the parser's time grows with the square of the depth, and nobody writes so much.
const maxBytes = 64 << 10

//go:embed example.yaml
var example []byte

// Example returns the commented demand that comes with the program.
func Example() []byte { return bytes.Clone(example) }

// Parse reads a demand, strictly, and fills in its defaults. Errors name file, line and column.
func Parse(name string, b []byte) (d *Demand, err error) {
	if len(b) > maxBytes {
		return nil, fmt.Errorf("%s: is larger than %d KiB: a demand is a page", name, maxBytes>>10)
	}
	defer func() { // the parser is not ours
		if r := recover(); r != nil {
			d, err = nil, fmt.Errorf("%s: cannot be parsed as YAML (%v): see polybench plan --example", name, r)
		}
	}()
	if err := shallow(name, b); err != nil {
		return nil, err
	}
	read := defaults()
	dec := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict())
	if err := dec.Decode(&read); err != nil && !errors.Is(err, io.EOF) {
		return nil, misread(name, b, err)
	}
	if err := dec.Decode(new(Demand)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: holds more than one document: write one demand a file", name)
	}
	read.fill()
	if p := read.problem(); p != nil {
		return nil, fmt.Errorf("%s:%s: %w", name, place(b, p.field), p)
	}
	return &read, nil
}

// maxDepth is how deep braces may stand in each other. A demand needs two.
const maxDepth = 8

// shallow refuses what no file of ours needs before the parser builds anything of it: lists, anchors and the like, by which a short
// file takes the parser half a minute.
func shallow(name string, b []byte) error {
	depth := 0
	for _, t := range lexer.Tokenize(string(b)) {
		switch t.Type {
		case yamltoken.MappingStartType:
			depth++
		case yamltoken.MappingEndType:
			depth--
		case yamltoken.SequenceStartType, yamltoken.SequenceEntryType, yamltoken.AnchorType, yamltoken.AliasType, yamltoken.TagType,
			yamltoken.MergeKeyType, yamltoken.MappingKeyType:
			return fmt.Errorf("%s:%d:%d: YAML's %s is not supported here: write the value out", name, t.Position.Line, t.Position.Column, strings.ToLower(t.Type.String()))
		default:
		}
		if depth > maxDepth {
			return fmt.Errorf("%s:%d:%d: braces stand more than %d deep", name, t.Position.Line, t.Position.Column, maxDepth)
		}
	}
	return nil
}

// misread puts the place before an error of the decoder, which does not know it where text was no size or span.
func misread(name string, b []byte, err error) error {
	if e := yaml.Error(nil); errors.As(err, &e) {
		return located(name, err)
	}
	span := func(s string) error { _, err := time.ParseDuration(s); return err }
	size := func(s string) error { return new(Size).UnmarshalText([]byte(s)) }
	for field, read := range map[string]func(string) error{
		"connections.life": span, "certificates.life": span, "etcd.compact_after": span,
		"policy_bytes": size, "requests.answer_bytes": size, "etcd.quota_bytes": size, "machine.memory": size,
	} {
		if t := token(b, field); t != nil && read(t.Value) != nil {
			return fmt.Errorf("%s:%d:%d: %s: %w", name, t.Position.Line, t.Position.Column, field, read(t.Value))
		}
	}
	return fmt.Errorf("%s: %w", name, err)
}

// located puts file, line and column before what the decoder says.
func located(name string, err error) error {
	var e yaml.Error
	if errors.As(err, &e) && e.GetToken() != nil {
		at := e.GetToken().Position
		return fmt.Errorf("%s:%d:%d: %s", name, at.Line, at.Column, e.GetMessage())
	}
	return fmt.Errorf("%s: %w", name, err)
}

// place returns line and column of a field, of the document's begin where it is not written.
func place(b []byte, field string) string {
	if t := token(b, field); t != nil {
		return fmt.Sprintf("%d:%d", t.Position.Line, t.Position.Column)
	}
	return "1:1"
}

// token returns where the value of a field begins, nil where it is not written.
func token(b []byte, field string) *yamltoken.Token {
	f, err := parser.ParseBytes(b, 0)
	if err != nil {
		return nil
	}
	p, err := yaml.PathString("$." + field)
	if err != nil {
		return nil
	}
	n, err := p.FilterFile(f)
	if err != nil || n == nil {
		return nil
	}
	return n.GetToken()
}
