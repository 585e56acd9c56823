package registry

import (
	"encoding/json"
	"testing"

	"github.com/polygate/polygate/internal/tenant"
)

func decodeAny(s string) (*tenant.Record, error) {
	r := new(tenant.Record)
	return r, json.Unmarshal([]byte(s), r)
}

func decodes(b []byte) bool {
	_, err := decodeAny(string(b))
	return err == nil
}

func mustMembers(t *testing.T, r *tenant.Record) []member {
	t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	ms, _ := members(b)
	return ms
}

func TestKeepUnknown(t *testing.T) {
	for _, c := range []struct{ name, old, known, next, want string }{
		{"an unknown member", `{"v":2,"new":1}`, `{"v":2}`, `{"v":2,"a":3}`, `{"v":2,"a":3,"new":1}`},
		{"a member that was removed", `{"v":2,"a":1}`, `{"v":2,"a":1}`, `{"v":2}`, `{"v":2}`},
		{"in an object", `{"q":{"a":1,"new":2}}`, `{"q":{"a":1}}`, `{"q":{"a":5}}`, `{"q":{"a":5,"new":2}}`},
		{"in an element", `{"k":[{"id":"1","new":1},{"id":"2","new":2}]}`, `{"k":[{"id":"1"},{"id":"2"}]}`, `{"k":[{"id":"2","a":1},{"id":"3"}]}`, `{"k":[{"id":"2","a":1,"new":2},{"id":"3"}]}`},
		{"strings", `{"h":["a","b"]}`, `{"h":["a","b"]}`, `{"h":["b"]}`, `{"h":["b"]}`},
		{"a big number", `{"n":12345678901234567890.123}`, `{}`, `{}`, `{"n":12345678901234567890.123}`},
	} {
		got, err := keepUnknown([]byte(c.old), []byte(c.known), []byte(c.next))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: got %s, %v, want %s", c.name, got, err, c.want)
		}
	}
}

// TestQuotasSurvive: the last quota that this version knows is taken away, those that it does not know stay.
func TestQuotasSurvive(t *testing.T) {
	old := `{"v":2,"uid":"u","id":"t1","state":"active","mode":"virtual","quotas":{"max_servers":3,"new":1},"source":"api"}`
	r, err := decodeAny(old)
	if err != nil {
		t.Fatal(err)
	}
	r.Quotas = tenant.Quotas{}
	got, err := encodeRecord(r, []byte(old))
	if err != nil {
		t.Fatal(err)
	}
	ms, _ := members(got)
	if q, _ := lookup(ms, "quotas"); string(q) != `{"new":1}` {
		t.Errorf("quotas: got %s in %s", q, got)
	}
}

// FuzzKeepUnknown: whatever a newer version stored, an update by this one neither fails on what it could decode nor loses
// a member at the top.
func FuzzKeepUnknown(f *testing.F) {
	f.Add(`{"v":2,"uid":"u","id":"t1","state":"active","mode":"virtual","source":"api","new":[1,{"a":1e400}],"quotas":{"x":1}}`)
	f.Add(`{"v":1,"keys":[{"id":"a","z":1},{"id":"a","z":2}],"hosts":null}`)
	f.Add(`{"V":1,"v":2,"v":3}`)
	f.Fuzz(func(t *testing.T, old string) {
		e, err := decodeAny(old)
		if err != nil {
			return
		}
		if plain, err := encodeRecord(e, nil); err != nil || !decodes(plain) {
			return // such as a key without a role, which Validate refuses
		}
		val, err := encodeRecord(e, []byte(old))
		if err != nil {
			t.Fatalf("encodeRecord: %v", err)
		}
		if !decodes(val) {
			t.Fatalf("%s became %s, which does not decode", old, val)
		}
		was, _ := members([]byte(old))
		is, ok := members(val)
		for _, m := range was {
			if _, known := lookup(mustMembers(t, e), m.name); ok && !known && index(is, m.name) < 0 {
				t.Fatalf("%q of %s is missing from %s", m.name, old, val)
			}
		}
	})
}
