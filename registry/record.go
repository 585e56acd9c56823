package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// storedVersion is the version of the registry's own small values: owners, replicas, commit markers, heads, outbox.
const storedVersion = 1

// version is how every stored value starts.
type version struct {
	V int `json:"v"`
}

// accepts says whether a reader that writes version v can read a value of version got: v or the one after it, so that
// two versions of the program run side by side.
func accepts(got, v int) bool { return got >= 1 && got <= v+1 }

// decodeRecord reads a routing record and confines its scope.
func decodeRecord(kv KV) (*tenant.Entry, error) {
	r, err := readRecord(kv.Value)
	if err != nil {
		return nil, fmt.Errorf("routing record %s: %w", kv.Key, err)
	}
	if !accepts(r.V, tenant.RecordVersion) {
		return nil, fmt.Errorf("routing record %s has version %d: this build reads 1 to %d", kv.Key, r.V, tenant.RecordVersion+1)
	}
	if kv.Key != recordKey(r.ID) || r.UID == "" {
		return nil, fmt.Errorf("routing record %s is of tenant %q, uid %q", kv.Key, r.ID, r.UID)
	}
	r.Revision = kv.ModRevision
	return &tenant.Entry{Record: r, Scope: tenant.Confine(r.ID, r.UID)}, nil
}

// encodeRecord writes a routing record. What is in old, the stored value that r replaces, and unknown to this build
// (a newer one wrote it) is kept, as is a newer version.
func encodeRecord(r *tenant.Record, old []byte) ([]byte, error) {
	val, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode routing record: %w", err)
	}
	if old == nil {
		return val, nil
	}
	was, err := readRecord(old)
	if err != nil {
		return nil, fmt.Errorf("decode routing record: %w", err)
	}
	known, err := json.Marshal(was)
	if err != nil {
		return nil, fmt.Errorf("encode routing record: %w", err)
	}
	return keepUnknown(old, withQuotas(known), withQuotas(val))
}

// withQuotas spells out quotas that are left out for being zero as far as this build knows them: members of a newer
// version may be among them, and must survive when the last that we know is set to zero.
func withQuotas(record []byte) []byte {
	ms, ok := members(record)
	if !ok || index(ms, "quotas") >= 0 {
		return record
	}
	return joinObject(append(ms, member{"quotas", json.RawMessage("{}")}))
}

// keepUnknown returns next with those members of old that known, which is old as this build understands it, lacks. What
// this build did not change stays as it was written, so that a role which it takes for none comes to no harm. It descends
// into objects, and into arrays of objects, whose elements it tells apart by "id" or "name".
func keepUnknown(old, known, next []byte) ([]byte, error) {
	if bytes.Equal(known, next) {
		return old, nil
	}
	o, oOK := members(old)
	k, kOK := members(known)
	n, nOK := members(next)
	if oOK && kOK && nOK {
		return mergeObjects(o, k, n)
	}
	oa, oOK := elements(old)
	ka, kOK := elements(known)
	na, nOK := elements(next)
	if oOK && kOK && nOK && len(oa) == len(ka) {
		return mergeArrays(oa, ka, na)
	}
	return next, nil
}

// member is one name and value of a JSON object; order is kept, so that the version stays first.
type member struct {
	name  string
	value json.RawMessage
}

func mergeObjects(old, known, next []member) ([]byte, error) {
	for _, o := range old {
		k, isKnown := lookup(known, o.name)
		i := index(next, o.name)
		switch {
		case !isKnown && i < 0:
			next = append(next, o)
		case isKnown && i >= 0:
			merged, err := keepUnknown(o.value, k, next[i].value)
			if err != nil {
				return nil, err
			}
			next[i].value = merged
		}
	}
	next = slices.DeleteFunc(next, func(n member) bool { // what reading alone has added
		k, isKnown := lookup(known, n.name)
		return isKnown && index(old, n.name) < 0 && bytes.Equal(k, n.value)
	})
	return joinObject(next), nil
}

func mergeArrays(old, known, next []json.RawMessage) ([]byte, error) {
	at := make(map[string]int, len(old))
	for i := range old {
		at[elementID(known[i])] = i
	}
	for j, n := range next {
		i, ok := at[elementID(n)]
		if !ok {
			continue
		}
		merged, err := keepUnknown(old[i], known[i], n)
		if err != nil {
			return nil, err
		}
		next[j] = merged
	}
	return json.Marshal(next)
}

// members reads a JSON object in order; false if b is none.
func members(b []byte) ([]member, bool) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, false
	}
	var ms []member
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, false
		}
		m := member{name: name}
		if err := d.Decode(&m.value); err != nil {
			return nil, false
		}
		ms = append(ms, m)
	}
	return ms, true
}

func elements(b []byte) ([]json.RawMessage, bool) {
	var a []json.RawMessage
	if len(b) == 0 || b[0] != '[' {
		return nil, false
	}
	err := json.Unmarshal(b, &a)
	return a, err == nil
}

// elementID tells an element of an array from the others: by its id or, failing that, its name; one with neither by all
// that it is.
func elementID(b []byte) string {
	var e struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	}
	switch {
	case len(b) == 0 || b[0] != '{' || json.Unmarshal(b, &e) != nil || e.ID == "" && e.Name == "":
		return string(b)
	case e.ID == "":
		return "name:" + e.Name
	}
	return "id:" + e.ID
}

func index(ms []member, name string) int {
	for i := range ms {
		if ms[i].name == name {
			return i
		}
	}
	return -1
}

func lookup(ms []member, name string) (json.RawMessage, bool) {
	if i := index(ms, name); i >= 0 {
		return ms[i].value, true
	}
	return nil, false
}

func joinObject(ms []member) []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range ms {
		if i > 0 {
			b.WriteByte(',')
		}
		name, _ := json.Marshal(m.name) // a string always encodes
		b.Write(name)
		b.WriteByte(':')
		b.Write(m.value)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// encode writes one of the registry's own values.
func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return b, nil
}

// decode reads one of the registry's own values and checks its version.
func decode(kv KV, into any) error {
	var v version
	if err := json.Unmarshal(kv.Value, &v); err != nil {
		return fmt.Errorf("decode %s: %w", kv.Key, err)
	}
	if !accepts(v.V, storedVersion) {
		return fault.Wrap(fault.Internal, fmt.Errorf("%s has version %d: this build reads 1 to %d", kv.Key, v.V, storedVersion+1), "")
	}
	if err := json.Unmarshal(kv.Value, into); err != nil {
		return fmt.Errorf("decode %s: %w", kv.Key, err)
	}
	return nil
}
