package config_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/policy"
)

const (
	exampleFile = "../../deploy/polygate.example.yaml"
	demoFile    = "../../deploy/demo/polygate.yaml"
)

// write puts text into a file of a folder of its own and returns its path.
func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExampleIsTheDefault(t *testing.T) {
	got, err := config.LoadPlatform(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	want, err := config.LoadPlatform(write(t, "polygate.yaml", "base_domain: gateway.example.com\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got.TenantsFile != filepath.Clean("../../deploy/demo/tenants.yaml") {
		t.Errorf("tenants_file is %q: want it beside the file", got.TenantsFile)
	}
	got.TenantsFile, got.Egress.Allow = want.TenantsFile, want.Egress.Allow
	got.Sandboxes.Images, got.Sandboxes.RuntimeClasses, got.Sandboxes.GPUs, got.Sandboxes.Process.Paths = nil, nil, nil, nil // empty lists
	got.Sandboxes.Kube.Gateway.Addresses, got.Sandboxes.Kube.DNS.Addresses = nil, nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the example differs from the defaults:\n got %+v\nwant %+v", got, want)
	}
}

// TestExampleHasEveryField takes the #name: lines of the example in, and looks for each field at its place.
func TestExampleHasEveryField(t *testing.T) {
	src, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	whole := takeIn(string(src))
	// The two kinds of store exclude each other: the one is loaded, then the other.
	endpoints := regexp.MustCompile(`(?m)^  endpoints: .*$`).FindString(whole)
	settings := regexp.MustCompile(`(?ms)^    cluster:.*?key: [^\n]*\n`).FindString(whole)
	p, err := config.LoadPlatform(write(t, "polygate.yaml", strings.Replace(whole, settings, "", 1)))
	if err != nil {
		t.Fatalf("with every setting taken in: %v", err)
	}
	other := regexp.MustCompile(`(?ms)^  tls: .*?^  password_file:[^\n]*\n`).ReplaceAllString(strings.Replace(whole, endpoints, "", 1), "")
	if c, err := config.LoadPlatform(write(t, "cluster.yaml", other)); err != nil || len(c.Etcd.Embedded.Cluster.Members) != 3 || c.Listen.Peer != "" {
		t.Errorf("with an embedded cluster: %v", err)
	}
	if p.Demo.EnvFile == "" || p.Etcd.TLS.Key == "" || p.Replica.Name != "replica-0" || len(p.Admin.OIDC) != 1 || len(p.Certificates.Files) != 1 || p.Certificates.ACME.DNS.Webhook.TokenFile == "" || p.Tracing.CAFile == "" {
		t.Errorf("a setting that was taken in has no effect: %+v", p)
	}
	wantPaths(t, whole, reflect.TypeFor[config.Platform]())
}

// takeIn takes in the settings of an example that are commented out as #name:.
func takeIn(src string) string {
	return regexp.MustCompile(`(?m)^( *)#((- )?\{?[a-z_]+:)`).ReplaceAllString(src, "$1$2")
}

// wantPaths looks for each field of a struct, and of the structs in it, at its place in a document.
func wantPaths(t *testing.T, text string, typ reflect.Type) {
	t.Helper()
	var doc any
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	for _, path := range fieldPaths(typ, nil) {
		if !hasPath(doc, path) {
			t.Errorf("the example has no %s", strings.Join(path, "."))
		}
	}
}

// fieldPaths returns the path of every field of a struct and of those in it, those in lists and behind pointers included.
func fieldPaths(t reflect.Type, above []string) [][]string {
	var list [][]string
	for i := range t.NumField() {
		f := t.Field(i)
		typ := f.Type
		if typ.Kind() == reflect.Slice || typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		path := above
		if tag := f.Tag.Get("yaml"); tag == "" {
			continue
		} else if tag != ",inline" {
			path = append(append([]string(nil), above...), tag)
			list = append(list, path)
		}
		if typ.Kind() == reflect.Struct && typ != reflect.TypeFor[netip.Prefix]() && typ != reflect.TypeFor[time.Time]() {
			list = append(list, fieldPaths(typ, path)...)
		}
	}
	return list
}

// hasPath says whether a document has a key at a path, in any element of the lists on the way.
func hasPath(doc any, path []string) bool {
	if len(path) == 0 {
		return true
	}
	switch n := doc.(type) {
	case []any:
		return slices.ContainsFunc(n, func(e any) bool { return hasPath(e, path) })
	case map[string]any:
		value, ok := n[path[0]]
		return ok && hasPath(value, path[1:])
	}
	return false
}

// TestFieldsSayTheirDefault holds that each setting's comment in the struct names its default, or that it is required.
func TestFieldsSayTheirDefault(t *testing.T) {
	var src strings.Builder
	for _, file := range []string{"platform.go", "platform_identity.go", "platform_records.go", "platform_sandboxes.go", "platform_tls.go", "quotas.go"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		src.Write(b)
	}
	for line := range strings.Lines(src.String()) {
		tag, comment, _ := strings.Cut(line, "`yaml:")
		if comment == "" || strings.HasPrefix(comment, `",inline"`) {
			continue
		}
		typ := strings.Fields(tag)[1]
		leaf := strings.Contains("string []string int float64 bool Size time.Duration []netip.Prefix map[string]string", typ)
		if _, prose, ok := strings.Cut(comment, "// "); leaf && (!ok || !strings.Contains(prose, "default") && !strings.Contains(prose, "required")) {
			t.Errorf("there is no default in: %s", strings.TrimSpace(line))
		}
	}
}

func TestDemo(t *testing.T) {
	p, err := config.LoadPlatform(demoFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{p.Listen.Public, p.Listen.Plain, p.Listen.Admin, p.Listen.Telemetry} {
		if !strings.HasPrefix(addr, "127.0.0.1:") {
			t.Errorf("the demo listens on %s, which is not loopback", addr)
		}
	}
	ts, err := config.LoadTenants(p.TenantsFile, config.Options{BaseDomain: p.BaseDomain, Reserved: p.SharedHosts, DigestKey: []byte("k")})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, d := range ts.List {
		ids = append(ids, string(d.Record.ID))
		if len(d.Record.Keys) > 0 {
			t.Errorf("the demo's tenant %s has keys in the file", d.Record.ID)
		}
	}
	if !reflect.DeepEqual(ids, p.Demo.Tenants) {
		t.Errorf("the demo declares %v and makes keys for %v", ids, p.Demo.Tenants)
	}
	if s := ts.List[0].Servers; len(s) != 1 || s[0].Name != "everything" || s[0].URL != "http://127.0.0.1:18110/mcp" {
		t.Errorf("team-a's servers are %+v", s)
	}
}

// TestDemoTakenIn takes in what the demo shows commented out: it must work for whoever tries it, the policy's own tests too.
func TestDemoTakenIn(t *testing.T) {
	src, err := os.ReadFile("../../deploy/demo/tenants.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../deploy/demo")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tenants.yaml")
	if err := os.WriteFile(path, []byte(takeIn(string(src))), 0o600); err != nil {
		t.Fatal(err)
	}
	ts, err := config.LoadTenants(path, config.Options{BaseDomain: "localhost", CheckPolicy: func(b *policy.Bundle) error {
		_, err := policy.Check(t.Context(), b, policy.Defaults())
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	a := ts.List[0]
	if len(a.Record.Authenticators) != 1 || len(a.Record.Members) != 2 || a.Policy == nil {
		t.Fatalf("got %+v", a.Record)
	}
	results, err := policy.Test(t.Context(), a.Policy, policy.Defaults())
	if err != nil || len(results) != 4 {
		t.Errorf("%d tests, %v", len(results), err)
	}
	for _, r := range results {
		if !r.Pass {
			t.Errorf("%s: %s", r.Name, r.Error)
		}
	}
}

func TestDerivedDefaults(t *testing.T) {
	path := write(t, "polygate.yaml", "base_domain: example.com\ndata_dir: /var/lib/polygate\ntenants_file: t/tenants.yaml\n")
	p, err := config.LoadPlatform(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, got, want string }{
		{"kek_file", p.KEKFile, "/var/lib/polygate/kek"},
		{"admin.token_file", p.Admin.TokenFile, "/var/lib/polygate/admin-token"},
		{"audit.file", p.Audit.File, "/var/lib/polygate/audit.jsonl"},
		{"tenants_file", p.TenantsFile, filepath.Join(filepath.Dir(path), "t/tenants.yaml")},
		{"shared_hosts", strings.Join(p.SharedHosts, " "), "example.com"},
	} {
		if c.got != c.want {
			t.Errorf("%s is %q, want %q", c.name, c.got, c.want)
		}
	}
	if p.Replica.Name == "" {
		t.Error("replica.name is empty")
	}
}

func TestValidateNamesTheField(t *testing.T) {
	p := config.Default()
	p.BaseDomain = "example.com"
	if err := p.Validate(); err != nil {
		t.Errorf("the defaults with a base domain: %v", err)
	}
	p.Limits.HeaderTimeout = time.Millisecond
	if err := p.Validate(); err == nil || err.Error() != "limits.header_timeout: is 1ms: 100ms to 5m0s are allowed" {
		t.Errorf("got %v", err)
	}
}

// TestCeilingsAreDefaults: where the default is "no limit", the ceiling holds, or a tenant would get past it by asking for nothing.
func TestCeilingsAreDefaults(t *testing.T) {
	p := config.Default()
	p.Quotas.BytesPerSecond, p.Quotas.Ceilings.BytesPerSecond = 0, 5<<20
	p.Quotas.Ceilings.PerKey.Burst, p.Quotas.Ceilings.MaxServers = 7, 1000
	want := p.Quotas.Tenant()
	want.BytesPerSecond, want.PerKey.Burst = 5<<20, 7
	if got := p.Quotas.Defaults(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestPolicyLimits(t *testing.T) {
	got, d := config.Default().Policy.Limits(), policy.Defaults()
	want := policy.Limits{BundleBytes: d.BundleBytes, DataBytes: d.DataBytes, Modules: d.Modules, EvalTime: d.EvalTime, Concurrent: d.Concurrent}
	if got != want {
		t.Errorf("the defaults are %+v, and those of package policy %+v", got, want)
	}
}

func TestHeaders(t *testing.T) {
	got, err := config.Headers(write(t, "headers", "# for the collector\n\nAuthorization: Bearer a:b \r\nX-Scope:one\n"))
	if want := map[string]string{"Authorization": "Bearer a:b", "X-Scope": "one"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	for _, text := range []string{"hunter2\n", "A: 1\nA: hunter2\n", "A b: hunter2\n", "A:\n", ": hunter2\n", "A: hunter2\x00\n"} {
		if got, err := config.Headers(write(t, "headers", text)); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q is read as %v, %v", text, got, err)
		}
	}
	if got, err := config.Headers(""); got != nil || err != nil {
		t.Errorf("no file: %v, %v", got, err)
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]config.Size{
		"0": 0, "1": 1, "17B": 17, "4KiB": 4096, "4 MiB": 4 << 20, "2GiB": 2 << 30, "1TiB": 1 << 40,
	} {
		var s config.Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%s: got %d, %v; want %d", text, s, err, want)
		}
		var again config.Size
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%s is written as %s, which reads as %d, %v", text, s, again, err)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5MiB", "4MB", "4M", "4 mib", "4MiBMiB", "9999999999GiB", "99999999999999999999", "4iB"} {
		var s config.Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %d", text, s)
		}
	}
}

func FuzzLoadPlatform(f *testing.F) {
	for _, file := range []string{exampleFile, demoFile} {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Add([]byte("limits: {header_timeout: 5}\n"))
	path := filepath.Join(f.TempDir(), "polygate.yaml")
	f.Fuzz(func(t *testing.T, src []byte) {
		if err := os.WriteFile(path, src, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := config.LoadPlatform(path)
		if (p == nil) == (err == nil) {
			t.Fatalf("got %v, %v", p, err)
		}
		if err == nil {
			if err := p.Validate(); err != nil {
				t.Errorf("loaded, but invalid: %v", err)
			}
		}
	})
}
