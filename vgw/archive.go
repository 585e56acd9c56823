package vgw

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/catalog"
)

// OpenDataKey opens a tenant's stored data key.
func OpenDataKey(w seal.Wrapper, s tenant.Scope, envelope []byte) (*seal.DataKey, error) {
	b, err := w.Unwrap(envelope, s.UID(), kindDataKey, idDataKey)
	if err != nil {
		return nil, fmt.Errorf("unwrap the data key of %s: %w", s, err)
	}
	return seal.DataKeyFrom(b)
}

// NewDataKey makes a data key for a tenant that has none, and what stores it.
func NewDataKey(w seal.Wrapper, s tenant.Scope) (*seal.DataKey, tenant.Write, error) {
	key := seal.NewDataKey()
	envelope, err := w.Wrap(key.Bytes(), s.UID(), kindDataKey, idDataKey)
	if err != nil {
		return nil, tenant.Write{}, fmt.Errorf("wrap a data key for %s: %w", s, err)
	}
	return key, tenant.Write{Kind: kindDataKey, ID: idDataKey, Value: envelope}, nil
}

// Portable is an object of a tenant's state without what binds it to this platform: nothing in Value is sealed. Secrets are in the
// clear, by their names within the object.
type Portable struct {
	Value   []byte
	Secrets map[string]string
}

// Export makes an object portable. key is the tenant's data key, nil where its secrets are to be left out; then their names are
// in Secrets all the same, empty. ok is false for what is of no use elsewhere, or not known to this version, and is left out.
func Export(key *seal.DataKey, s tenant.Scope, o tenant.Object) (p Portable, ok bool, err error) {
	switch o.Kind {
	case kindGrant, KindPolicy, kindPolicyInfo:
		return Portable{Value: o.Value}, true, nil
	case kindServer:
		p, err = exportServer(key, s, o)
		return p, err == nil, err
	}
	return Portable{}, false, nil
}

func exportServer(key *seal.DataKey, s tenant.Scope, o tenant.Object) (p Portable, err error) {
	var v server
	if err := json.Unmarshal(o.Value, &v); err != nil {
		return p, fmt.Errorf("server %s: %w", o.ID, err)
	}
	p.Secrets = make(map[string]string, len(v.Headers))
	for _, h := range v.Headers {
		p.Secrets[h.Name] = ""
		if key == nil {
			continue
		}
		plain, err := key.Open(h.Value, s.UID(), kindServer, v.Name, h.Name)
		if err != nil {
			return p, fmt.Errorf("header %s of server %s: %w", h.Name, v.Name, err)
		}
		p.Secrets[h.Name] = string(plain)
	}
	v.Headers = nil
	v.Source, v.File, v.Digest = tenant.SourceAPI, "", "" // no file declares it where it is imported
	p.Value, err = json.Marshal(&v)
	return p, err
}

// Import is the reverse of Export: it seals what is secret with the data key of the tenant that the object becomes one of.
func Import(key *seal.DataKey, s tenant.Scope, kind, id string, p Portable) (tenant.Write, error) {
	w := tenant.Write{Kind: kind, ID: id, Value: p.Value}
	switch kind {
	case kindGrant:
		return w, checkGrant(id, p.Value)
	case KindPolicy, kindPolicyInfo:
		return w, nil
	case kindServer:
		return w, importServer(key, s, &w, p)
	}
	return w, fault.New(fault.Invalid, "the archive holds a %.64q, which this version does not know: use the version that wrote it", kind)
}

// checkGrant refuses a delegation that would keep the tenant's gateway from opening.
func checkGrant(id string, value []byte) error {
	var v grant
	if err := json.Unmarshal(value, &v); err != nil || v.V < grantVersion || v.V > grantVersion+1 || v.ID != id {
		return fault.Wrap(fault.Invalid, err, "the archive's delegation %.64q cannot be read", id)
	}
	return nil
}

func importServer(key *seal.DataKey, s tenant.Scope, w *tenant.Write, p Portable) error {
	var v server
	if err := json.Unmarshal(p.Value, &v); err != nil || v.Name != w.ID {
		return fault.Wrap(fault.Invalid, err, "the archive's server %.64q cannot be read", w.ID)
	}
	have := catalog.Server{Name: v.Name, URL: v.URL, Headers: make(map[string]string), Timeout: time.Duration(v.Timeout) * time.Second}
	for name, value := range p.Secrets {
		if value != "" {
			have.Headers[name] = value
		}
	}
	if err := have.Check(); err != nil { // its words never hold a value
		return fault.Wrap(fault.Invalid, err, "the archive's server %.64q cannot be served: %s", w.ID, fault.From(err).Detail)
	}
	v.Source, v.File, v.Digest = tenant.SourceAPI, "", ""
	v.Headers = nil
	for _, name := range sortedNames(p.Secrets) {
		if p.Secrets[name] == "" {
			continue
		}
		sealed, err := key.Seal([]byte(p.Secrets[name]), s.UID(), kindServer, v.Name, name)
		if err != nil {
			return fmt.Errorf("seal header %s: %w", name, err)
		}
		v.Headers = append(v.Headers, sealedHeader{name, sealed})
	}
	var err error
	w.Value, err = json.Marshal(&v)
	return err
}

func sortedNames(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
