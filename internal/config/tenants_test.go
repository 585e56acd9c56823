package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/tenant"
)

const wholeTenants = `
# Every field of a tenants.yaml.
tenants:
  - id: team-a
    display_name: "Team A"
    namespace: team-a-ns
    hosts: [a.example.org, tools.example.org]
    api_keys:
      - name: ci
        key_hash: sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
      - name: 007
        key_hash: sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
        role: admin
    quotas: {max_servers: 3, max_concurrent_requests: 4, requests_per_second: 0.5, burst: 6}
    catalog_file: catalogs/a.yaml
  - id: "7"
    mode: dedicated
    dedicated:
      upstream: https://10.0.0.7:8443
      auth: gateway
      identity: X-User
    state: suspended
    suspend_reason: unpaid
  - {id: plain}
`

const wholeCatalog = `
servers:
  - name: one
    url: https://one.example.com/mcp?x=1
    timeout: 90s
    headers:
      - {name: Authorization, value: Bearer inline}
      - {name: X-File, value_file: secret.txt}
      - {name: X-Env, value_env: TOKEN}
  - name: two
    url: http://127.0.0.1:9/mcp
`

// folder writes a tenants.yaml with its catalog and returns its path.
func folder(t testing.TB, tenants, catalog, secret string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "catalogs"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"tenants.yaml": tenants, "catalogs/a.yaml": catalog, "catalogs/secret.txt": secret} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "tenants.yaml")
}

func loadTenants(t testing.TB, path string) *config.Tenants {
	t.Helper()
	ts, err := config.LoadTenants(path, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	return ts
}

func hash(b byte) tenant.Hash { return tenant.Hash([]byte(strings.Repeat(string(rune(b)), 32))) }

func TestLoadTenants(t *testing.T) {
	path := folder(t, wholeTenants, wholeCatalog, "from file\r\n")
	ts := loadTenants(t, path)
	if len(ts.List) != 3 || ts.File != "tenants.yaml" || ts.Path != path {
		t.Fatalf("got %+v", ts)
	}
	a := *ts.List[0].Record
	h1, _ := tenant.ParseHash("sha256:" + strings.Repeat("a", 64))
	h2, _ := tenant.ParseHash("sha256:" + strings.Repeat("b", 64))
	want := tenant.Record{
		V: 1, ID: "team-a", DisplayName: "Team A", Namespace: "team-a-ns", State: tenant.StateActive, Mode: tenant.ModeVirtual,
		Hosts: []string{"a.example.org", "tools.example.org"},
		Keys: []tenant.Key{
			{Name: "ci", Hash: h1, Role: tenant.Editor, Source: tenant.SourceFile},
			{Name: "007", Hash: h2, Role: tenant.Admin, Source: tenant.SourceFile},
		},
		Quotas: tenant.Quotas{MaxServers: 3, MaxConcurrentRequests: 4, RequestsPerSecond: 0.5, Burst: 6},
		Source: tenant.SourceFile, File: "tenants.yaml",
	}
	if !reflect.DeepEqual(a, want) {
		t.Errorf("team-a:\n got %+v\nwant %+v", a, want)
	}
	servers := []config.Server{
		{Name: "one", URL: "https://one.example.com/mcp?x=1", Timeout: 90 * time.Second, Headers: map[string]string{
			"Authorization": "Bearer inline", "X-File": "from file", "X-Env": "from TOKEN",
		}},
		{Name: "two", URL: "http://127.0.0.1:9/mcp"},
	}
	if !reflect.DeepEqual(ts.List[0].Servers, servers) {
		t.Errorf("its servers:\n got %+v\nwant %+v", ts.List[0].Servers, servers)
	}
	seven := ts.List[1].Record
	if d := seven.Dedicated; d == nil || *d != (tenant.Dedicated{Upstream: "https://10.0.0.7:8443", Auth: tenant.AuthGateway, Identity: "X-User"}) {
		t.Errorf("7's gateway is %+v", d)
	}
	if seven.State != tenant.StateSuspended || seven.SuspendReason != "unpaid" || !ts.List[1].StateDeclared || ts.List[2].StateDeclared {
		t.Errorf("7 is %s (%s)", seven.State, seven.SuspendReason)
	}
	if ts.List[1].CatalogDigest != "" {
		t.Error("a tenant without a catalog has a digest")
	}
	var read []string
	for _, f := range ts.Files {
		read = append(read, strings.TrimPrefix(f, filepath.Dir(path)+"/"))
	}
	if got := strings.Join(read, " "); got != "tenants.yaml catalogs/a.yaml catalogs/secret.txt" {
		t.Errorf("files read: %s", got)
	}
}

// TestEmptyTenants holds that only an explicit empty list declares no tenants: an empty file is most likely being written,
// and would suspend every tenant.
func TestEmptyTenants(t *testing.T) {
	if ts := loadTenants(t, write(t, "tenants.yaml", "tenants: []\n")); len(ts.List) != 0 {
		t.Errorf("an empty list has %d tenants", len(ts.List))
	}
	for _, text := range []string{"", "# nothing\n", "tenants:\n", "---\n", "{}\n", "null\n"} {
		if _, err := config.LoadTenants(write(t, "tenants.yaml", text), testOptions()); err == nil || !strings.Contains(err.Error(), "tenants: []") {
			t.Errorf("%q: %v, want an error that says to write tenants: []", text, err)
		}
	}
	if _, err := config.LoadTenants(filepath.Join(t.TempDir(), "none.yaml"), testOptions()); err == nil {
		t.Error("a missing file is taken for an empty one, which would suspend every tenant")
	}
}

func TestDigest(t *testing.T) {
	of := func(catalog, secret, key string) string {
		opt := testOptions()
		opt.DigestKey = []byte(key)
		ts, err := config.LoadTenants(folder(t, wholeTenants, catalog, secret), opt)
		if err != nil {
			t.Fatal(err)
		}
		return ts.List[0].CatalogDigest
	}
	was := of(wholeCatalog, "s", "k")
	if again := of("# a comment\n"+wholeCatalog, "s\n", "k"); again != was {
		t.Error("a comment changes the digest")
	}
	for name, other := range map[string]string{
		"a secret in a file": of(wholeCatalog, "t", "k"),
		"the key":            of(wholeCatalog, "s", "l"),
		"a url":              of(strings.Replace(wholeCatalog, "?x=1", "?x=2", 1), "s", "k"),
		"a timeout":          of(strings.Replace(wholeCatalog, "90s", "91s", 1), "s", "k"),
		"a header's name":    of(strings.Replace(wholeCatalog, "X-File", "X-Fire", 1), "s", "k"),
		"no servers":         of("servers: []\n", "s", "k"),
	} {
		if other == was || other == "" {
			t.Errorf("%s does not change the digest: %s", name, other)
		}
	}
}

func TestFilesAreBounded(t *testing.T) {
	big := write(t, "tenants.yaml", strings.Repeat("#", config.MaxFileBytes+1))
	if _, err := config.LoadTenants(big, testOptions()); err == nil || !strings.Contains(err.Error(), "larger than 8388608 bytes") {
		t.Errorf("a huge file: got %v", err)
	}
	for name, c := range map[string]struct{ text, want string }{
		"brackets": {"tenants: " + strings.Repeat("[", 10_000), "nested more than 32 deep"},
		"braces":   {"tenants: " + strings.Repeat("{a: ", 10_000), "nested more than 32 deep"},
		"dashes":   {"tenants:\n" + strings.Repeat("- ", 10_000), "nested more than 32 deep"},
		"indents":  {indents(1000), "nested more than 32 deep"},
		"aliases":  {"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\ntenants: *c\n", "anchor is not supported"},
		"no text":  {"tenants:\n  - id: \xff\n", ":2:9: is not plain UTF-8 text"},
		"a zero":   {"tenants:\n  - id: é\x00\n", ":2:10: is not plain UTF-8 text"},
	} {
		_, err := config.LoadTenants(write(t, "tenants.yaml", c.text), testOptions())
		if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 1000 {
			t.Errorf("%s: got %.300v, want %q", name, err, c.want)
		}
	}
}

func indents(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

func FuzzLoadTenants(f *testing.F) {
	f.Add([]byte(wholeTenants), []byte(wholeCatalog))
	f.Add([]byte("tenants:\n  - id: a\n    catalog_file: catalogs/a.yaml\n"), []byte("servers: [{name: x, url: 'http://x/'}]"))
	f.Add([]byte("tenants: [{}, null, ~, 1]"), []byte("? a\n: b"))
	f.Add([]byte(people), []byte("servers: []"))
	f.Add([]byte("tenants: [{id: a, policy_dir: catalogs, authenticators: [{name: m, type: mtls, mtls: {ca_file: catalogs/a.yaml}}]}]"), []byte("-----BEGIN CERTIFICATE-----"))
	if src, err := os.ReadFile(tenantsExample); err == nil {
		f.Add([]byte(takeIn(string(src))), []byte("servers: []"))
	}
	outside := regexp.MustCompile(`\.\.|[\s"'\[{,]/|(file|dir)["']?\s*:/|\\`)
	path := folder(f, "", "", "s")
	dir := filepath.Dir(path)
	f.Fuzz(func(t *testing.T, tenants, catalog []byte) {
		if outside.Match(tenants) || outside.Match(catalog) {
			return // reads nothing outside the folder
		}
		if err := os.WriteFile(path, tenants, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "catalogs/a.yaml"), catalog, 0o600); err != nil {
			t.Fatal(err)
		}
		ts, err := config.LoadTenants(path, testOptions())
		if len(ts.Files) == 0 {
			t.Fatalf("no file to watch: %v", err)
		}
		if err != nil {
			if ts.List != nil {
				t.Fatalf("a broken file declares %v", ts.List)
			}
			return
		}
		now := testOptions().Now()
		plan, errs := config.Plan(ts, nil, now)
		if len(plan) != len(ts.List) || len(errs) > 0 {
			t.Errorf("%d tenants make %d changes, and %v", len(ts.List), len(plan), errs)
		}
		seen := make(map[tenant.ID]bool)
		var records []*tenant.Record
		for _, c := range plan {
			if err := c.Record.Validate("example.com"); err != nil || seen[c.ID] {
				t.Errorf("loaded %+v: %v", c.Record, err)
			}
			seen[c.ID] = true
			records = append(records, stored(t, c.Record))
		}
		if plan, errs := config.Plan(ts, records, now.Add(time.Hour)); len(plan)+len(errs) > 0 {
			t.Errorf("a second plan: %v, %v", plan, errs)
		}
	})
}
