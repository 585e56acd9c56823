package config

import (
	"os"

	"github.com/goccy/go-yaml/ast"

	"github.com/polygate/polygate/internal/tenant"
)

// Document is a YAML file of somebody else's making that was decoded with the strictness of the gateway's own: the commands'
// settings, or one authenticator.
type Document struct {
	collector
	root ast.Node
}

// Decode puts a document into a struct whose fields are named by yaml tags: an unknown or repeated key, or a value of
// another type, is an error with its place. name is what messages call it.
func Decode(name string, src []byte, into any) *Document {
	d := &Document{collector: collector{file: name}}
	d.root = parse(src, &d.collector)
	d.collector.decode(d.root, into)
	return d
}

// Wrong adds an error about a field, such as profiles[1].url.
func (d *Document) Wrong(field, format string, args ...any) {
	d.add(place(find(d.root, field)), format, args...)
}

// Err returns all errors, of type Errors, or nil.
func (d *Document) Err() error { return d.err() }

// DecodeAuthenticator reads one authenticator in the form of an entry of tenants.yaml's authenticators. Files that it names
// are below dir. Its client secret is left as it is, unsealed: the result is for the gateway's API alone.
func DecodeAuthenticator(name, dir string, src []byte) (*tenant.Authenticator, error) {
	var form authenticatorForm
	d := Decode(name, src, &form)
	if d.root == nil && len(d.list) == 0 {
		d.add(position{}, "is empty: write name, type and the settings of that type")
	}
	if len(d.list) > 0 {
		return nil, d.Err()
	}
	r := &tenantsReader{collector: &d.collector, valueReader: valueReader{dir: dir, env: os.LookupEnv}, root: d.root}
	r.opt.Seal = func(_ tenant.ID, _, plain string) (string, error) { return plain, nil }
	a := r.authenticator(d.root, &form, "")
	return &a, d.Err()
}
