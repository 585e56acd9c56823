package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
)

// data is one tenant's base document as OPA reads it. It is immutable, so transactions are nothing and readers need no
// lock; and it has no way to reach another tenant's.
type data struct {
	storage.WritesNotSupported
	storage.PolicyNotSupported
	storage.TriggersNotSupported
	root ast.Object
}

// noTransaction is the only transaction.
type noTransaction struct{}

// ID implements storage.Transaction.
func (noTransaction) ID() uint64 { return 1 }

// NewTransaction implements storage.Store.
func (*data) NewTransaction(context.Context, ...storage.TransactionParams) (storage.Transaction, error) {
	return noTransaction{}, nil
}

// Commit implements storage.Store.
func (*data) Commit(context.Context, storage.Transaction) error { return nil }

// Abort implements storage.Store.
func (*data) Abort(context.Context, storage.Transaction) {}

// Truncate implements storage.Store.
func (*data) Truncate(context.Context, storage.Transaction, storage.TransactionParams, storage.Iterator) error {
	return &storage.Error{Code: storage.WritesNotSupportedErr}
}

// Read implements storage.Store. It returns an ast.Value.
func (d *data) Read(_ context.Context, _ storage.Transaction, path storage.Path) (any, error) {
	var at ast.Value = d.root
	for _, key := range path {
		if at = child(at, key); at == nil {
			return nil, &storage.Error{Code: storage.NotFoundErr, Message: path.String()}
		}
	}
	return at, nil
}

func child(v ast.Value, key string) ast.Value {
	switch v := v.(type) {
	case ast.Object:
		if t := v.Get(ast.StringTerm(key)); t != nil {
			return t.Value
		}
	case *ast.Array:
		for i := range v.Len() {
			if ast.Number(key).Compare(ast.InternedTerm(i).Value) == 0 {
				return v.Elem(i).Value
			}
		}
	}
	return nil
}

// parseData reads a bundle's data and says what is wrong with it. packages are those of the bundle: a document at the path
// of a package would shadow its rules or be shadowed.
func parseData(raw json.RawMessage, packages []ast.Ref) (*data, error) {
	var p problems
	d := &data{root: ast.NewObject()}
	if len(bytes.TrimSpace(raw)) == 0 {
		return d, nil
	}
	v, err := decodeData(raw)
	if err != nil {
		p.add("data.json", "%s", err)
		return nil, p.err()
	}
	d.root = v
	for _, reserved := range []string{"polygate", "system"} {
		if child(v, reserved) != nil {
			p.add("data.json", "%q is reserved: name the document otherwise", reserved)
		}
	}
	for _, ref := range packages {
		if at := shadows(v, ref); at != "" {
			p.add("data.json", "%s is a package of the bundle: name the document otherwise", at)
		}
	}
	return d, p.err()
}

func decodeData(raw json.RawMessage) (ast.Object, error) {
	if depth := nesting(raw); depth > maxData {
		return nil, errors.New("data is nested too deeply")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v map[string]any
	if err := dec.Decode(&v); err != nil || v == nil {
		return nil, errors.Join(errors.New("data is no JSON object"), err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("data holds more than one JSON object")
	}
	val, err := ast.InterfaceToValue(v)
	if err != nil {
		return nil, err
	}
	if !smallNumbers(val) {
		return nil, errors.New("data holds a number of too many digits or too large an exponent")
	}
	return val.(ast.Object), nil
}

// nesting returns how deep the brackets of JSON lie within each other.
func nesting(raw []byte) int {
	depth, deepest, quoted := 0, 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			depth++
			deepest = max(deepest, depth)
		case c == ']' || c == '}':
			depth--
		}
	}
	return deepest
}

// shadows returns the path at which data meets a package, or "".
func shadows(root ast.Value, pkg ast.Ref) string {
	at := root
	for _, t := range pkg[1:] {
		if _, ok := at.(ast.Object); !ok {
			break
		}
		if at = child(at, text(t.Value)); at == nil {
			return ""
		}
	}
	return pkg.String()
}
