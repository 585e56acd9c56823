package tenant

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// valid returns a record with every field set.
func valid() *Record {
	return &Record{
		V: RecordVersion, UID: "uid-1", ID: "team-a", DisplayName: "Team Ä", Namespace: "team-a", State: StateActive, Mode: ModeDedicated,
		Dedicated: &Dedicated{Upstream: "http://10.0.0.1:8080", Auth: AuthGateway, Identity: "X-User"},
		Hosts:     []string{"a.example.com"},
		Keys:      []Key{{ID: "k1", Name: "ci", Hash: HashKey("secret"), Role: Editor, Source: SourceAPI}},
		Quotas:    Quotas{MaxServers: 3, MaxConcurrentRequests: 9, RequestsPerSecond: 2.5, Burst: 5},
		Source:    SourceFile, File: "tenants.yaml", CatalogDigest: "d",
		Created: time.Unix(1, 0).UTC(), Updated: time.Unix(2, 0).UTC(),
	}
}

func TestRecordRoundTrip(t *testing.T) {
	r := valid()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Record
	if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(&back, r) {
		t.Errorf("comes back as %+v, %v", back, err)
	}
	if !strings.HasPrefix(string(b), `{"v":1,`) {
		t.Errorf("the record does not start with its version: %s", b)
	}
	if strings.Contains(string(b), "secret") {
		t.Error("the record holds the key itself")
	}
}

func TestValidate(t *testing.T) {
	if err := valid().Validate("localhost"); err != nil {
		t.Fatalf("the sample: %v", err)
	}
	many := func(n int, f func(i int) string) (out []string) {
		for i := range n {
			out = append(out, f(i))
		}
		return out
	}
	for _, c := range []struct {
		name string
		edit func(*Record)
		want string // part of the error; "" = valid
	}{
		{"virtual", func(r *Record) { r.Mode, r.Dedicated = ModeVirtual, nil }, ""},
		{"suspended", func(r *Record) { r.State = StateSuspended }, ""},
		{"bare", func(r *Record) {
			*r = Record{ID: "a", State: StateActive, Mode: ModeVirtual}
		}, ""},
		{"upstream with a slash", func(r *Record) { r.Dedicated.Upstream = "https://gw.example.com/" }, ""},
		{"as many hosts as may be", func(r *Record) {
			r.Hosts = many(MaxHosts, func(i int) string { return fmt.Sprintf("h%d.example.com", i) })
		}, ""},
		{"a host that ends like the base domain", func(r *Record) { r.Hosts = []string{"a.notlocalhost"} }, ""},

		{"bad id", func(r *Record) { r.ID = "A" }, "tenant id"},
		{"no state", func(r *Record) { r.State = "" }, "state"},
		{"unknown mode", func(r *Record) { r.Mode = "passthrough" }, "mode"},
		{"virtual with dedicated", func(r *Record) { r.Mode = ModeVirtual }, "mode is virtual"},
		{"dedicated without upstream", func(r *Record) { r.Dedicated = nil }, "dedicated.upstream is missing"},
		{"upstream of another scheme", func(r *Record) { r.Dedicated.Upstream = "ftp://x" }, "http or https"},
		{"upstream with a path", func(r *Record) { r.Dedicated.Upstream = "http://x/y" }, "nothing more"},
		{"upstream with a query", func(r *Record) { r.Dedicated.Upstream = "http://x?y=1" }, "nothing more"},
		{"upstream with a user", func(r *Record) { r.Dedicated.Upstream = "http://u:p@x" }, "nothing more"},
		{"upstream without host", func(r *Record) { r.Dedicated.Upstream = "http://" }, "http or https"},
		{"upstream is no URL", func(r *Record) { r.Dedicated.Upstream = "http://[::1" }, "http or https"},
		{"unknown auth", func(r *Record) { r.Dedicated.Auth = "none" }, "dedicated.auth"},
		{"identity without gateway auth", func(r *Record) { r.Dedicated.Auth = AuthUpstream }, "dedicated.identity"},
		{"identity that HTTP uses", func(r *Record) { r.Dedicated.Identity = "Transfer-Encoding" }, "dedicated.identity"},
		{"identity with a CR", func(r *Record) { r.Dedicated.Identity = "X-User\r\nX" }, "dedicated.identity"},
		{"identity with _", func(r *Record) { r.Dedicated.Identity = "X_User" }, "dedicated.identity"},
		{"long identity", func(r *Record) { r.Dedicated.Identity = strings.Repeat("a", 65) }, "dedicated.identity"},
		{"display name with a newline", func(r *Record) { r.DisplayName = "a\nb" }, "display_name"},
		{"display name with an override", func(r *Record) { r.DisplayName = "a\u202eb" }, "display_name"},
		{"display name not UTF-8", func(r *Record) { r.DisplayName = "a\xff" }, "display_name"},
		{"long reason", func(r *Record) { r.SuspendReason = strings.Repeat("x", MaxNameLen+1) }, "suspend_reason"},
		{"kube namespace", func(r *Record) { r.Namespace = "kube-system" }, "belongs to the cluster"},
		{"default namespace", func(r *Record) { r.Namespace = "default" }, "belongs to the cluster"},
		{"bad namespace", func(r *Record) { r.Namespace = "a/b" }, "namespace"},
		{"host in the base domain", func(r *Record) { r.Hosts = []string{"team-b.localhost"} }, "base domain"},
		{"deep host in the base domain", func(r *Record) { r.Hosts = []string{"x.team-b.localhost"} }, "base domain"},
		{"host twice", func(r *Record) { r.Hosts = []string{"a.example.com", "a.example.com"} }, "listed twice"},
		{"too many hosts", func(r *Record) {
			r.Hosts = many(MaxHosts+1, func(i int) string { return fmt.Sprintf("h%d.example.com", i) })
		}, "hosts: at most"},
		{"key without role", func(r *Record) { r.Keys[0].Role = NoRole }, "has no role"},
		{"key without name", func(r *Record) { r.Keys[0].Name = "" }, "key name is empty"},
		{"key name twice", func(r *Record) { r.Keys = append(r.Keys, Key{Name: "ci", Hash: HashKey("x"), Role: Viewer}) }, "in use"},
		{"key hash twice", func(r *Record) { r.Keys = append(r.Keys, Key{Name: "cd", Hash: HashKey("secret"), Role: Viewer}) }, "hash of another"},
		{"too many keys", func(r *Record) { r.Keys = make([]Key, MaxKeys+1) }, "API keys: at most"},
		{"negative quota", func(r *Record) { r.Quotas.MaxServers = -1 }, "max_servers"},
		{"huge quota", func(r *Record) { r.Quotas.MaxConcurrentRequests = 1e6 + 1 }, "max_concurrent_requests"},
		{"NaN rate", func(r *Record) { r.Quotas.RequestsPerSecond = math.NaN() }, "requests_per_second"},
		{"infinite rate", func(r *Record) { r.Quotas.RequestsPerSecond = math.Inf(1) }, "requests_per_second"},
		{"tiny rate", func(r *Record) { r.Quotas.RequestsPerSecond = 0.0001 }, "requests_per_second"},
		{"burst without rate", func(r *Record) { r.Quotas.RequestsPerSecond = 0 }, "quotas.burst"},
	} {
		r := valid()
		c.edit(r)
		err := r.Validate("localhost")
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if k := fault.KindOf(err); err != nil && k != fault.Invalid && k != fault.Conflict {
			t.Errorf("%s: kind %s, want invalid or conflict", c.name, k)
		}
	}
}

func TestCheckHost(t *testing.T) {
	for _, good := range []string{"a.b", "team.example.com", "xn--bcher-kva.example", "0.example", strings.Repeat("a", 63) + ".example"} {
		if err := CheckHost(good); err != nil {
			t.Errorf("CheckHost(%q) = %v", good, err)
		}
	}
	for _, bad := range []string{"", "localhost", "10.0.0.1", "::1", "a.b.", ".a.b", "a..b", "A.b", "*.a.b", "a.b:443", "a_b.c", "-a.b", "a-.b",
		"a.b/c", "bücher.example", strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 127) + "b"} {
		if err := CheckHost(bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("CheckHost(%q) = %v, want a fault.Invalid", bad, err)
		}
	}
}

func TestHash(t *testing.T) {
	h := HashKey("abc") // FIPS 180-2, appendix B.1
	const want = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	if h.String() != want {
		t.Errorf("HashKey(abc) = %s, want %s", h, want)
	}
	if back, err := ParseHash(want); err != nil || back != h {
		t.Errorf("ParseHash = %v, %v", back, err)
	}
	var fromJSON Hash
	if err := json.Unmarshal([]byte(`"`+want+`"`), &fromJSON); err != nil || fromJSON != h {
		t.Errorf("JSON = %v, %v", fromJSON, err)
	}
	for _, bad := range []string{"", "sha256:", want[7:], "sha1:" + want[7:], want[:70], want + "0", strings.ToUpper(want), "sha256:" + strings.Repeat("g", 64)} {
		if _, err := ParseHash(bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("ParseHash(%q) = %v, want a fault.Invalid", bad, err)
		}
	}
	if _, err := ParseHash("pgk_abc"); err == nil || !strings.Contains(err.Error(), "looks like a key itself") {
		t.Errorf("ParseHash of a key = %v, want a warning", err)
	}
}

func TestCloneSharesNothing(t *testing.T) {
	r, before := valid(), valid()
	c := r.Clone()
	c.Hosts[0], c.Keys[0].Name, c.Dedicated.Upstream, c.Quotas.Burst = "x", "x", "x", 99
	c.Hosts, c.Keys = append(c.Hosts, "y"), append(c.Keys, Key{})
	if !reflect.DeepEqual(r, before) {
		t.Errorf("a change of the clone reached the record: %+v", r)
	}
}

func TestKeyLookup(t *testing.T) {
	r := valid()
	if k, ok := r.KeyByHash(HashKey("secret")); !ok || k.ID != "k1" {
		t.Error("KeyByHash does not find it")
	}
	if _, ok := r.KeyByHash(HashKey("other")); ok {
		t.Error("KeyByHash finds another")
	}
	for _, s := range []string{"ci", "k1"} {
		if k, ok := r.KeyByName(s); !ok || k.ID != "k1" {
			t.Errorf("KeyByName(%q) does not find it", s)
		}
	}
	if _, ok := r.KeyByName(""); ok {
		t.Error("KeyByName finds the empty name")
	}
}

func TestOwnHost(t *testing.T) {
	if got := OwnHost("team-a", "example.com"); got != "team-a.example.com" {
		t.Errorf("OwnHost = %q", got)
	}
}

// TestCredentialLife: a revocation is remembered until the last credential of its user is dead; certificates live longest.
func TestCredentialLife(t *testing.T) {
	r := Record{Authenticators: []Authenticator{
		{Name: "dex", Type: AuthnOIDC, OIDC: &OIDC{}}, {Name: "certs", Type: AuthnMTLS, MTLS: &MTLS{}},
	}}
	for ref, want := range map[string]time.Duration{
		"user:dex/alice": MaxTokenLife, "user:certs/spiffe://a/alice": MaxCertLife, "user:gone/alice": MaxTokenLife, "key:k1": MaxTokenLife,
	} {
		if got := r.CredentialLife(ref); got != want {
			t.Errorf("%s: got %v, want %v", ref, got, want)
		}
	}
}

// TestIdentityHeaders: what has a meaning of its own carries no identity. As the header of a trusted upstream, X-Api-Key would
// make every request with a key one with a forged identity.
func TestIdentityHeaders(t *testing.T) {
	for name, want := range map[string]bool{
		"X-Forwarded-User": true, "Remote-User": true, "X-User": true,
		"X-Api-Key": false, "x-tenant-id": false, "X-Polygate-Principal": false, "Origin": false, "Forwarded": false, "Authorization": false,
		"Sec-Fetch-Site": false, "X_User": false,
	} {
		d := Dedicated{Upstream: "https://10.0.0.1", Auth: AuthGateway, Identity: name}
		u := UpstreamUsers{Header: name, Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
		if got := d.validate() == nil; got != want {
			t.Errorf("dedicated.identity %s: allowed %t, want %t", name, got, want)
		}
		if got := u.validate() == nil; got != want {
			t.Errorf("upstream.header %s: allowed %t, want %t", name, got, want)
		}
	}
}
