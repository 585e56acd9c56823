// Package wire reads just so much of one JSON-RPC 2.0 message as it takes to judge it: what kind it is, its id, its
// method and the one name it acts on. It never changes or re-encodes a byte: what was judged is what is relayed. So it
// has to refuse every message that another parser could read differently.
package wire

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/polygate/polygate/internal/fault"
)

// JSON-RPC 2.0 error codes (§5.1).
const (
	CodeParse         = -32700 // not JSON
	CodeInvalid       = -32600 // not one message
	CodeInvalidParams = -32602
)

// maxID bounds an id, which error answers repeat.
const maxID = 1024

// Message is the envelope of one JSON-RPC message. Its slices lie in the body that was parsed.
type Message struct {
	ID        []byte // the raw id; nil if there is none (a notification)
	Method    string // "" for a response
	HasParams bool   // params is an object
	Name      string // params.name, if HasName
	HasName   bool
	URI       string // params.uri, if HasURI
	HasURI    bool
}

// Response says whether m answers a request of the other side.
func (m *Message) Response() bool { return m.Method == "" }

// Parse reads the one message that body holds. Every error is a fault.Invalid with a JSON-RPC code. Where body is JSON
// at all, the Message is not nil even then, and holds the id if that was read, so that the error can be answered to it.
//
// Refused are, beside what is no JSON-RPC: invalid UTF-8, which parsers repair differently; a name that appears twice,
// of which parsers take the first or the last; and a name spelled in another case ("Method"), which some parsers
// (Go's encoding/json among them) take for the real one. The contents of params are otherwise none of our business.
func Parse(body []byte) (*Message, error) {
	p := &parser{body: body, dec: jsontext.NewDecoder(bytes.NewBuffer(body), jsontext.AllowDuplicateNames(true))}
	switch p.dec.PeekKind() {
	case '{':
	case '[':
		return &p.msg, invalid(CodeInvalid, "send one JSON-RPC message for each POST: batches are not supported (MCP 2025-06-18 and later)")
	default:
		if _, err := p.dec.ReadToken(); err != nil {
			return &p.msg, syntax(err)
		}
		return &p.msg, invalid(CodeInvalid, "the body is not a JSON object")
	}
	if err := p.object(p.member); err != nil {
		return &p.msg, err
	}
	if _, err := p.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return &p.msg, invalid(CodeParse, "data follows the JSON-RPC message at offset %d", p.dec.InputOffset())
	}
	return &p.msg, p.check()
}

type parser struct {
	body    []byte
	dec     *jsontext.Decoder
	msg     Message
	version bool // jsonrpc is "2.0"
	method  bool // a method member is present
	result  bool
	failure bool // an error member is present
}

// object reads an object and calls member at each value, having refused names that occur twice or in disguise.
func (p *parser) object(member func(name string) error) error {
	if _, err := p.dec.ReadToken(); err != nil {
		return syntax(err)
	}
	seen := make([]string, 0, 4) // only the names that matter
	for p.dec.PeekKind() == '"' {
		token, err := p.dec.ReadToken()
		if err != nil {
			return syntax(err)
		}
		name := token.String()
		if known := p.resembles(name); known != "" {
			if known != name {
				return invalid(CodeInvalid, "the member %q is spelled like %q, for which a server could take it", name, known)
			}
			for _, s := range seen {
				if s == name {
					return invalid(CodeInvalid, "the member %q appears twice", name)
				}
			}
			seen = append(seen, name)
		}
		if err := member(name); err != nil {
			return err
		}
	}
	if _, err := p.dec.ReadToken(); err != nil {
		return syntax(err)
	}
	return nil
}

// resembles returns the name of the envelope, or of params, that a lenient parser could take name for; "" if none.
func (p *parser) resembles(name string) string {
	// Some parsers pass over - and _ as well (Go's json/v2 with MatchCaseInsensitiveNames).
	plain := name
	if strings.ContainsAny(name, "-_") {
		plain = strings.ReplaceAll(strings.ReplaceAll(name, "-", ""), "_", "")
	}
	if p.dec.StackDepth() > 1 {
		for _, known := range [...]string{"name", "uri", "protocolVersion"} {
			if strings.EqualFold(plain, known) {
				return known
			}
		}
		if strings.EqualFold(name, "_meta") { // "meta" is a name of its own
			return "_meta"
		}
		return ""
	}
	for _, known := range [...]string{"jsonrpc", "id", "method", "params", "result", "error"} {
		if strings.EqualFold(plain, known) {
			return known
		}
	}
	return ""
}

// member reads one member of the envelope.
func (p *parser) member(name string) (err error) {
	switch name {
	case "params":
		return p.params()
	case "result":
		p.result = true
	case "error":
		p.failure = true
	case "jsonrpc":
		v, ok, err := p.text()
		p.version = ok && v == "2.0"
		return err
	case "method":
		p.method = true
		p.msg.Method, _, err = p.text()
		return err
	case "id":
		return p.id()
	}
	return p.skip()
}

func (p *parser) id() error {
	kind := p.dec.PeekKind()
	v, err := p.value()
	if err != nil {
		return err
	}
	if kind != '"' && kind != '0' && kind != 'n' {
		return invalid(CodeInvalid, "id is neither a string nor a number")
	}
	if len(v) > maxID {
		return invalid(CodeInvalid, "id is %d bytes long: at most %d are allowed", len(v), maxID)
	}
	p.msg.ID = v
	return nil
}

func (p *parser) params() error {
	if p.dec.PeekKind() != '{' {
		return p.skip() // an array or null: no name in it, which matters only to methods that need one
	}
	p.msg.HasParams = true
	return p.object(func(name string) (err error) {
		switch name {
		case "name":
			p.msg.Name, p.msg.HasName, err = p.text()
		case "uri":
			p.msg.URI, p.msg.HasURI, err = p.text()
		default:
			err = p.skip()
		}
		return err
	})
}

// text reads a value and returns it if it is a string.
func (p *parser) text() (s string, ok bool, err error) {
	if p.dec.PeekKind() != '"' {
		return "", false, p.skip()
	}
	token, err := p.dec.ReadToken()
	if err != nil {
		return "", false, syntax(err)
	}
	return token.String(), true, nil
}

// value reads a value and returns its bytes as they lie in the body.
func (p *parser) value() ([]byte, error) {
	v, err := p.dec.ReadValue()
	if err != nil {
		return nil, syntax(err)
	}
	end := int(p.dec.InputOffset())
	return p.body[end-len(v) : end : end], nil
}

func (p *parser) skip() error {
	if err := p.dec.SkipValue(); err != nil {
		return syntax(err)
	}
	return nil
}

// check judges the envelope as a whole: a request, a notification or a response, and never two of them at once.
func (p *parser) check() error {
	m := &p.msg
	switch {
	case !p.version:
		return invalid(CodeInvalid, `jsonrpc is not "2.0"`)
	case p.method && (p.result || p.failure):
		return invalid(CodeInvalid, "the message has both a method and a result or error")
	case p.method && m.Method == "":
		return invalid(CodeInvalid, "method is not a string, or empty")
	case p.method && string(m.ID) == "null":
		return invalid(CodeInvalid, "the id of a request is null")
	case p.method:
		return nil
	case p.result == p.failure:
		return invalid(CodeInvalid, "the message has no method, and not one of result and error")
	case m.ID == nil:
		return invalid(CodeInvalid, "the response has no id")
	}
	return nil
}

func invalid(code int, format string, args ...any) error {
	e := fault.New(fault.Invalid, format, args...)
	e.Code = code
	return e
}

// syntax classifies an error of the decoder. Its text names an offset and a rule, and at most a few bytes of the body.
func syntax(err error) error {
	e := fault.Wrap(fault.Invalid, err, "the body is not valid JSON in UTF-8")
	var s *jsontext.SyntacticError
	if errors.As(err, &s) {
		e.Detail += " (near offset " + strconv.FormatInt(s.ByteOffset, 10) + ")"
	} else if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		e.Detail = "the body is empty or ends within the JSON message"
	}
	e.Code = CodeParse
	return e
}
