package plan

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	got, err := Parse("d.yaml", []byte("tenants: 20\nrequests: {per_second: 5, protocols: {mcp: 1}}\nconnections: {life: 90s}\nmachine: {cores: 4, memory: 8GiB}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.fill()
	want.Tenants, want.Requests.PerSecond, want.Requests.Protocols = 20, 5, map[string]float64{"mcp": 1}
	want.Connections.Life, want.Machine.Cores, want.Machine.Memory = 90*time.Second, 4, 8<<30
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("got %+v\nwant %+v", *got, want)
	}
}

// TestParseRefuses has what people get wrong, with the place and the way out that they are told.
func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"nothing", "", "d.yaml:1:1: tenants is missing: say how many are registered"},
		{"no tenants", "about: x\n", "d.yaml:1:1: tenants is missing"},
		{"unknown field", "tenants: 1\nreplicas: 3\n", `d.yaml:2:1: unknown field "replicas"`},
		{"unknown field within", "tenants: 1\nrequests:\n  per_minute: 3\n", `d.yaml:3:3: unknown field "per_minute"`},
		{"twice", "tenants: 1\ntenants: 2\n", "d.yaml:2:1"},
		{"a word for a number", "tenants: many\n", "d.yaml:1:10"},
		{"negative", "tenants: -5\n", "d.yaml:1:10: tenants is -5: it has to be from 1 to 10000000"},
		{"little memory", "tenants: 5\nmachine: {memory: 8}\n", "machine.memory is 8: it has to be from 64MiB to 1024TiB"},
		{"not a number", "tenants: 5\nactive_share: .nan\n", "d.yaml:2:15: active_share is NaN"},
		{"more than all", "tenants: 5\nactive_share: 20\n", "d.yaml:2:15: active_share is 20: it has to be from 0 to 1"},
		{"infinitely many", "tenants: 5\nrequests: {per_second: .inf}\n", "requests.per_second is +Inf"},
		{"shares", "tenants: 5\nrequests:\n  protocols: {http1: 0.5, http2: 0.6}\n", "requests.protocols add up to 1.1: shares have to add up to 1"},
		{"a protocol", "tenants: 5\nrequests:\n  protocols: {http3: 1}\n", `requests.protocols has "http3": known are http1, http2, websocket, sse, mcp, grpc`},
		{"a share below nothing", "tenants: 5\nrequests:\n  protocols: {http1: -1, http2: 2}\n", "d.yaml:3:22: requests.protocols.http1 is -1: a share is from 0 to 1"},
		{"a credential", "tenants: 5\nrequests:\n  credentials: {password: 1}\n", `requests.credentials has "password": known are none, key, jwt`},
		{"decimal size", "tenants: 5\npolicy_bytes: 4MB\n", "d.yaml:2:15: policy_bytes: \"4MB\" is not a size: write bytes, or a whole number with KiB, MiB, GiB or TiB"},
		{"a span without a unit", "tenants: 5\nconnections: {life: 5x}\n", "d.yaml:2:21: connections.life"},
		{"a connection of no time", "tenants: 5\nconnections: {life: 0s}\n", "connections.life is 0"},
		{"a store", "tenants: 5\netcd: {kind: sqlite}\n", `d.yaml:2:14: etcd.kind is "sqlite": it is embedded, cluster or external`},
		{"too much headroom", "tenants: 5\nmachine: {headroom: 1.5}\n", "machine.headroom is 1.5"},
		{"two documents", "tenants: 5\n---\ntenants: 6\n", "d.yaml: holds more than one document"},
		{"not YAML", "tenants: {5\n", "d.yaml:1:"},
		{"a list", "tenants: [5]\n", "d.yaml:1:10: YAML's sequencestart is not supported here"},
		{"another list", "tenants:\n- 5\n", "d.yaml:2:1: YAML's sequenceentry is not supported here"},
		{"an anchor", "tenants: &a 5\n", "d.yaml:1:10: YAML's anchor is not supported here"},
		{"a pit", strings.Repeat("{a: ", 10_000), "d.yaml:1:33: braces stand more than 8 deep"},
		{"a book", strings.Repeat("# x\n", 20_000), "d.yaml: is larger than 64 KiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("d.yaml", []byte(c.in))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestExampleIsWhole: the example has every field, so nobody has to look for one.
func TestExampleIsWhole(t *testing.T) {
	b, err := os.ReadFile("demand.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("`yaml:\"([a-z_]+)\"").FindAllStringSubmatch(string(b), -1) {
		if !regexp.MustCompile(`[\n #{]` + m[1] + `:`).Match(Example()) {
			t.Errorf("the example does not have %s", m[1])
		}
	}
}

// TestExampleSaysDefaults: what the example says is the default of a field, is.
func TestExampleSaysDefaults(t *testing.T) {
	d, err := Parse("d.yaml", []byte("tenants: 1"))
	if err != nil {
		t.Fatal(err)
	}
	for word, holds := range map[string]bool{
		"of a tenant; default 2":        d.Keys == 2,
		"declared; default 2":           d.Servers == 2,
		"default 520":                   d.Requests.AnswerBytes == 520,
		"default 5m":                    d.Connections.Life == 5*time.Minute && d.Etcd.CompactAfter == 5*time.Minute,
		"default 2160h (90 days)":       d.Certificates.Life == 90*24*time.Hour,
		"at the peak; default 1":        d.SpareReplicas == 1,
		"default 2GiB":                  d.Etcd.QuotaBytes == 2<<30,
		"leave free; default 20":        d.Etcd.Reserve == 20,
		"default 4GiB":                  d.Machine.Memory == 4<<30,
		"may take; default 0.6":         d.Machine.Headroom == 0.6,
		"max_connections: 10000":        d.Limits.MaxConnections == 10_000,
		"max_streams: 10000":            d.Limits.MaxStreams == 10_000,
		"orders_per_minute: 60":         d.Limits.OrdersPerMinute == 60,
		"of the peak; default 1":        d.ActiveShare == 1,
		"of their own; default 1":       d.VirtualShare == 1,
		"default http2 alone":           d.Requests.Protocols["http2"] == 1,
		"default key alone":             d.Requests.Credentials["key"] == 1,
		"flags of the command go first": true,
	} {
		if !holds || !strings.Contains(string(Example()), strings.TrimSuffix(word, "of their own; default 1")) {
			t.Errorf("%q: in the example %v, true %v", word, strings.Contains(string(Example()), word), holds)
		}
	}
}

func TestSize(t *testing.T) {
	for in, want := range map[string]Size{"0": 0, "520": 520, "4KiB": 4096, "4 KiB": 4096, "2GiB": 2 << 30, "1TiB": 1 << 40} {
		var s Size
		if err := s.UnmarshalText([]byte(in)); err != nil || s != want {
			t.Errorf("%q: got %d, %v, want %d", in, s, err, want)
		}
	}
	for _, in := range []string{"", "-1", "1.5GiB", "GiB", "1GB", "9999999TiB", "0x10", "1e3"} {
		var s Size
		if err := s.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q: got %d, want an error", in, s)
		}
	}
}

// FuzzParse: whatever is in a file, it is refused in words or can be planned for.
func FuzzParse(f *testing.F) {
	f.Add(string(Example()))
	f.Add("tenants: 1\nrequests: {protocols: {http1: 1}}\n")
	f.Add("tenants: &a 1\nkeys: *a\n")
	f.Add("a: [[[[[[[[[[")
	c := testCosts(f)
	f.Fuzz(func(t *testing.T, in string) {
		d, err := Parse("d.yaml", []byte(in))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "d.yaml:") {
				t.Errorf("an error without the file: %v", err)
			}
			return
		}
		if p, err := Compute(*d, c, Machine{}); p == nil {
			t.Errorf("what can be read cannot be planned for: %v", err)
		}
	})
}
