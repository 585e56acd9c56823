package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// yamlWriter writes JSON as YAML, keys in the same order. It is our own, since the library's writer lets control
// characters through, and texts with tabs and carriage returns come back as others. A test reads with the library what
// this writes.
type yamlWriter struct {
	in  *json.Decoder
	out bytes.Buffer
}

// jsonToYAML returns one JSON value as a YAML document in which nothing can drive a terminal.
func jsonToYAML(b []byte) ([]byte, error) {
	w := &yamlWriter{in: json.NewDecoder(bytes.NewReader(b))}
	w.in.UseNumber()
	if err := w.value("", nothing); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	return w.out.Bytes(), nil
}

func printYAML(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if b, err = jsonToYAML(b); err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// lead is what is before a value on its line.
type lead int

const (
	nothing lead = iota
	afterKey
	afterDash
)

// value writes the next value; indent is that of what it holds.
func (w *yamlWriter) value(indent string, after lead) error {
	tok, err := w.in.Token()
	if err != nil {
		return err
	}
	switch tok := tok.(type) {
	case json.Delim:
		return w.collection(tok, indent, after)
	case string:
		w.text(tok, indent, after)
	default: // a number as it stood, a truth value or null
		if tok == nil {
			tok = "null"
		}
		w.space(after)
		fmt.Fprintf(&w.out, "%v\n", tok)
	}
	return nil
}

func (w *yamlWriter) space(after lead) {
	if after != nothing {
		w.out.WriteByte(' ')
	}
}

// collection writes a mapping or a list. The first entry of one in a list is on the line of its dash.
func (w *yamlWriter) collection(open json.Delim, indent string, after lead) error {
	if !w.in.More() {
		w.space(after)
		w.out.WriteString(map[json.Delim]string{'{': "{}\n", '[': "[]\n"}[open])
		_, err := w.in.Token()
		return err
	}
	switch after {
	case afterKey:
		w.out.WriteByte('\n')
	case afterDash:
		w.out.WriteByte(' ')
	}
	for first := true; w.in.More(); first = false {
		if !first || after != afterDash {
			w.out.WriteString(indent)
		}
		if err := w.entry(open, indent+"  "); err != nil {
			return err
		}
	}
	_, err := w.in.Token()
	return err
}

// entry writes the next entry of a collection.
func (w *yamlWriter) entry(open json.Delim, indent string) error {
	if open == '[' {
		w.out.WriteByte('-')
		return w.value(indent, afterDash)
	}
	name, err := w.in.Token()
	if err != nil {
		return err
	}
	w.out.WriteString(yamlScalar(name.(string)) + ":") // a JSON object's names are texts
	return w.value(indent, afterKey)
}

// text writes a text, one of several lines as a block where that is certain to be read back the same.
func (w *yamlWriter) text(s, indent string, after lead) {
	w.space(after)
	if after == nothing || !isBlock(s) {
		w.out.WriteString(yamlScalar(s) + "\n")
		return
	}
	head := "|"
	if !strings.HasSuffix(s, "\n") {
		head = "|-"
	}
	w.out.WriteString(head + "\n")
	for line := range strings.Lines(s) {
		if line != "\n" {
			w.out.WriteString(indent)
		}
		w.out.WriteString(strings.TrimSuffix(line, "\n") + "\n")
	}
}

func isBlock(s string) bool {
	if !strings.Contains(s, "\n") || strings.HasSuffix(s, "\n\n") || strings.TrimLeft(s, " \t\n") != s {
		return false
	}
	for line := range strings.Lines(s) {
		if line = strings.TrimSuffix(line, "\n"); strings.TrimRight(line, " \t") != line || strings.ContainsFunc(strings.ReplaceAll(line, "\t", ""), hostile) {
			return false
		}
	}
	return true
}

// plainText is what needs no quotes in any version of YAML: a letter first, and nothing that has a meaning.
var plainText = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_./@+-]*( [A-Za-z0-9_./@+-]+)*$`)

// yamlScalar returns a text as one scalar. Go's quoted form is one of YAML's double-quoted ones, but for what it writes as
// \x, which YAML takes for a code point too; \a \b \f \n \r \t \v mean the same.
func yamlScalar(s string) string {
	switch strings.ToLower(s) {
	case "null", "true", "false", "yes", "no", "on", "off", "y", "n":
		return strconv.Quote(s)
	}
	if plainText.MatchString(s) {
		return s
	}
	return strconv.Quote(s)
}
