package config_test

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/tenant"
)

// people is a tenants.yaml with one tenant, a, that has one of everything that is said of people.
const people = `
tenants:
  - id: a
    api_keys:
      - {name: ci, key_hash: 'sha256:0000000000000000000000000000000000000000000000000000000000000001', expires: 2031-01-01T02:00:00+02:00}
    bots:
      - name: deploy
        role: editor
        keys:
          - {name: d1, key_hash: 'sha256:0000000000000000000000000000000000000000000000000000000000000002', expires: 2026-12-01T00:00:00Z}
    authenticators:
      - name: corp
        type: oidc
        default_role: viewer
        oidc:
          issuer: https://one.example.com
          required_claims: {}
          claims: {attributes: {team: team}}
          login: {client_id: x, client_secret_env: TOKEN, scopes: []}
      - {name: front, type: upstream, upstream: {header: X-User, sources: [10.0.0.0/8]}}
      - {name: cluster, type: kubernetes}
    members:
      - {user: boss, authenticator: corp, role: admin}
      - {group: dev, authenticator: corp, role: editor}
    allowed_origins: [https://app.example.org]
`

// edit replaces a text that must be there.
func edit(t *testing.T, text, old, with string) string {
	t.Helper()
	if !strings.Contains(text, old) {
		t.Fatalf("there is no %q", old)
	}
	return strings.ReplaceAll(text, old, with)
}

// apiMember adds a member to a that the API made.
func (r *registry) apiMember(authenticator, name string, role tenant.Role) tenant.Member {
	m := tenant.Member{
		ID: "api " + authenticator + " " + name, Kind: tenant.MemberUser, Authenticator: authenticator, Name: name, Role: role,
		Source: tenant.SourceAPI, Created: r.now, By: "key:k",
	}
	r.records["a"].Members = append(r.records["a"].Members, m)
	return m
}

// TestPlanKeepsPeople: a reload of the same file writes nothing, whatever the store made of the record, and a change of one
// thing leaves ids, dates and generations of the others.
func TestPlanKeepsPeople(t *testing.T) {
	r := newRegistry(t)
	r.want(people, "create a", "")
	made := r.records["a"].Clone()
	if b, k := made.Bots[0], made.Keys[1]; b.ID == "" || k.Bot != b.ID || k.Role != tenant.Editor || !b.Created.Equal(r.now) || !k.Created.Equal(r.now) {
		t.Errorf("bot %+v, its key %+v", b, k)
	}
	if a := made.Authenticators[0]; a.Generation == "" || !a.Created.Equal(r.now) || !a.Updated.Equal(r.now) || a.Source != tenant.SourceFile || a.OIDC.Login.ClientSecret == "" {
		t.Errorf("authenticator %+v", a)
	}
	if m := made.Members[0]; m.ID == "" || m.ID == made.Members[1].ID || !m.Created.Equal(r.now) || m.Source != tenant.SourceFile {
		t.Errorf("members %+v", made.Members)
	}
	r.want(people, "", "")
	r.want(people+"    display_name: A\n", "update a", "")
	now := r.records["a"]
	if !reflect.DeepEqual(now.Bots, made.Bots) || !reflect.DeepEqual(now.Keys, made.Keys) || !reflect.DeepEqual(now.Members, made.Members) ||
		!reflect.DeepEqual(now.Authenticators, made.Authenticators) {
		t.Errorf("changed by another field:\n got %+v\nwant %+v", now, made)
	}
}

// TestPlanGenerations: a changed authenticator gets a new generation, one that it never had, and the others keep theirs.
func TestPlanGenerations(t *testing.T) {
	r := newRegistry(t)
	r.want(people, "create a", "")
	first := r.records["a"].Clone()
	api := r.apiMember("corp", "eve", tenant.Viewer)
	changed := edit(t, people, "default_role: viewer", "default_role: editor")
	r.want(changed, "update a", "")
	second := r.records["a"].Clone()
	r.want(people, "update a", "")
	third := r.records["a"]
	if g1, g2, g3 := first.Authenticators[0].Generation, second.Authenticators[0].Generation, third.Authenticators[0].Generation; g1 == g2 || g2 == g3 || g1 == g3 {
		t.Errorf("generations %s, %s, %s: want three", g1, g2, g3)
	}
	if !reflect.DeepEqual(third.Authenticators[1:], first.Authenticators[1:]) || !third.Authenticators[0].Created.Equal(first.Authenticators[0].Created) {
		t.Errorf("authenticators:\n got %+v\nwant %+v", third.Authenticators, first.Authenticators)
	}
	if m, ok := third.MemberByID(api.ID); !ok || *m != api || r.notes != "" {
		t.Errorf("the API's member is %+v; notes %q", m, r.notes)
	}
	// The registry may apply an edit more than once, and to a record that another replica has changed already.
	later := third.Clone()
	plan, _ := config.Plan(loadTenants(t, write(t, "tenants.yaml", changed)), []*tenant.Record{third}, r.now)
	if err := plan[0].Edit(later); err != nil {
		t.Fatal(err)
	}
	once := later.Clone()
	if err := plan[0].Edit(later); err != nil || !reflect.DeepEqual(later, once) {
		t.Errorf("a second application changes it: %v", err)
	}
}

// TestPlanKeepsTheAPIs: what the API alone has is never lost by a reload.
func TestPlanKeepsTheAPIs(t *testing.T) {
	r := newRegistry(t)
	r.want(people, "create a", "")
	a := r.records["a"]
	api := tenant.Authenticator{
		Name: "own", Type: tenant.AuthnOIDC, Source: tenant.SourceAPI, Generation: "g", Created: r.now,
		OIDC: &tenant.OIDC{Issuer: "https://two.example.com"},
	}
	a.Authenticators = append(a.Authenticators, api)
	bot := tenant.Bot{ID: "b", Name: "mine", Role: tenant.Viewer, Source: tenant.SourceAPI, Created: r.now}
	a.Bots = append(a.Bots, bot)
	key := tenant.Key{ID: "k", Name: "mine", Hash: hash('9'), Role: tenant.Viewer, Bot: "b", Expires: r.now.Add(time.Hour), Source: tenant.SourceAPI, Created: r.now}
	a.Keys = append(a.Keys, key)
	one, two := r.apiMember("own", "x", tenant.Admin), r.apiMember("corp", "x", tenant.Viewer)
	a.Revoked = []tenant.Revocation{{Principal: "user:corp/x", Before: r.now, Until: r.now.Add(time.Hour)}}
	a.NotBefore, a.CatalogDigest = r.now, "hmac-sha256:00"
	a.Policy = &tenant.PolicyRef{Digest: hash('p').String(), Source: tenant.SourceAPI, Updated: r.now}
	was := a.Clone()
	r.want(people, "", "")
	r.want(edit(t, people, "user: boss", "user: chief"), "update a", "")
	a = r.records["a"]
	if !reflect.DeepEqual(a.Revoked, was.Revoked) || !a.NotBefore.Equal(was.NotBefore) || !reflect.DeepEqual(a.Policy, was.Policy) || a.CatalogDigest != was.CatalogDigest {
		t.Errorf("lost: %+v", a)
	}
	if got, ok := a.AuthenticatorByName("own"); !ok || !reflect.DeepEqual(*got, api) {
		t.Errorf("authenticator %+v", got)
	}
	if got, ok := a.BotByName("mine"); !ok || *got != bot {
		t.Errorf("bot %+v", got)
	}
	if got, ok := a.KeyByHash(key.Hash); !ok || *got != key {
		t.Errorf("key %+v", got)
	}
	for _, m := range []tenant.Member{one, two} {
		if got, ok := a.MemberByID(m.ID); !ok || *got != m {
			t.Errorf("member %+v", got)
		}
	}
	if a.RoleOf("corp", "chief", nil) != tenant.Admin || a.RoleOf("corp", "boss", nil) != tenant.Viewer || r.notes != "" {
		t.Errorf("members %+v; notes %q", a.Members, r.notes)
	}
}

// TestPlanAdoptsMembers: a declared member that the API made before is the file's from then on, under its id.
func TestPlanAdoptsMembers(t *testing.T) {
	r := newRegistry(t)
	r.want(people, "create a", "")
	api := r.apiMember("corp", "eve", tenant.Viewer)
	more := edit(t, people, "    allowed_origins", "      - {user: eve, authenticator: corp, role: admin}\n    allowed_origins")
	r.want(more, "update a", "")
	m, ok := r.records["a"].MemberByID(api.ID)
	if !ok || m.Source != tenant.SourceFile || m.Role != tenant.Admin || !m.Created.Equal(api.Created) || m.By != api.By || len(r.records["a"].Members) != 3 {
		t.Errorf("got %+v", r.records["a"].Members)
	}
	if !strings.Contains(r.notes, `user "eve" of authenticator "corp" was made a member through the API`) {
		t.Errorf("notes %q", r.notes)
	}
	r.want(people, "update a", "")
	if _, ok := r.records["a"].MemberByID(api.ID); ok || r.notes != "" {
		t.Errorf("it is the file's, and stays when the file drops it; notes %q", r.notes)
	}
}

// TestPlanDropsMembers: an authenticator that goes, or knows other users under the same name, takes its members with it:
// whoever is "boss" at another issuer is somebody else.
func TestPlanDropsMembers(t *testing.T) {
	for name, c := range map[string]struct{ old, with, note string }{
		"issuer":  {"https://one.example.com", "https://two.example.com", `authenticator "corp" has another issuer`},
		"subject": {"claims: {attributes", "claims: {subject: email, attributes", `authenticator "corp" has another issuer or names its users otherwise`},
		"type": {"type: oidc\n        default_role: viewer\n        oidc:\n          issuer: https://one.example.com\n          required_claims: {}\n" +
			"          claims: {attributes: {team: team}}\n          login: {client_id: x, client_secret_env: TOKEN, scopes: []}", "type: kubernetes", `counts as a new one: 1 members`},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			r.want(people, "create a", "")
			was := r.records["a"].Clone()
			api := r.apiMember("corp", "eve", tenant.Admin)
			r.want(edit(t, people, c.old, c.with), "update a", "")
			a := r.records["a"]
			if _, ok := a.MemberByID(api.ID); ok || len(a.Members) != 2 || !a.Members[0].Created.Equal(r.now) {
				t.Errorf("members %+v", a.Members)
			}
			if x := a.Authenticators[0]; x.Generation == was.Authenticators[0].Generation || !x.Created.Equal(r.now) {
				t.Errorf("authenticator %+v", x)
			}
			if !strings.Contains(r.notes, c.note) {
				t.Errorf("notes %q, want %q", r.notes, c.note)
			}
		})
	}
}

func TestPlanRemovesAuthenticators(t *testing.T) {
	r := newRegistry(t)
	r.want(people, "create a", "")
	api := r.apiMember("corp", "eve", tenant.Admin)
	front := r.apiMember("front", "f", tenant.Viewer)
	r.want("tenants: [{id: a, authenticators: [{name: front, type: upstream, upstream: {header: X-User, sources: [10.0.0.0/8]}}]}]", "update a", "")
	a := r.records["a"]
	if _, ok := a.MemberByID(api.ID); ok || len(a.Authenticators) != 1 || len(a.Members) != 1 || a.Members[0] != front {
		t.Errorf("authenticators %+v, members %+v", a.Authenticators, a.Members)
	}
	if !strings.Contains(r.notes, `authenticator "corp" is removed, and with it 1 members that were made through the API`) {
		t.Errorf("notes %q", r.notes)
	}
	if len(a.Bots)+len(a.Keys)+len(a.AllowedOrigins) != 0 {
		t.Errorf("what the file dropped stays: %+v", a)
	}
}

// TestPlanBots: keys that the API made for a declared bot have its role, and go with it.
func TestPlanBots(t *testing.T) {
	r := newRegistry(t)
	r.want(people, "create a", "")
	a := r.records["a"]
	a.Keys = append(a.Keys, tenant.Key{ID: "k", Name: "d2", Hash: hash('9'), Role: tenant.Editor, Bot: a.Bots[0].ID, Expires: r.now.Add(time.Hour), Source: tenant.SourceAPI, Created: r.now})
	r.want(edit(t, people, "role: editor\n        keys", "role: viewer\n        keys"), "update a", "")
	for _, k := range r.records["a"].Keys[1:] {
		if k.Role != tenant.Viewer {
			t.Errorf("key %s has the role %s", k.Name, k.Role)
		}
	}
	from, to := strings.Index(people, "    bots:"), strings.Index(people, "    authenticators:")
	r.want(people[:from]+people[to:], "update a", "")
	if a := r.records["a"]; len(a.Bots) != 0 || len(a.Keys) != 1 || !strings.Contains(r.notes, `key "d2", which was made through the API, is removed with its bot`) {
		t.Errorf("bots %+v, keys %+v, notes %q", a.Bots, a.Keys, r.notes)
	}
}

func TestPlanClashesOfNames(t *testing.T) {
	for name, c := range map[string]struct {
		make func(*tenant.Record)
		want string
	}{
		"bot": {func(r *tenant.Record) {
			r.Bots = []tenant.Bot{{ID: "b", Name: "deploy", Role: tenant.Viewer, Source: tenant.SourceAPI}}
		}, `bot "deploy" of tenant "a" was made through the API`},
		"authenticator": {func(r *tenant.Record) {
			r.Authenticators = []tenant.Authenticator{{Name: "corp", Type: tenant.AuthnOIDC, Source: tenant.SourceAPI, OIDC: &tenant.OIDC{Issuer: "https://i.example.com"}}}
		}, `authenticator "corp" of tenant "a" was made through the API`},
		"two upstreams": {func(r *tenant.Record) {
			r.Authenticators = []tenant.Authenticator{{Name: "other", Type: tenant.AuthnUpstream, Source: tenant.SourceAPI, Upstream: r.Authenticators[1].Upstream}}
		}, `together with what was made of it through the API: 2 authenticators of the type upstream`},
		"too many keys": {func(r *tenant.Record) {
			for i := range tenant.MaxKeys - 1 {
				r.Keys = append(r.Keys, tenant.Key{ID: "k", Name: strings.Repeat("k", i+1), Hash: tenant.HashKey(strings.Repeat("k", i)), Role: tenant.Viewer, Source: tenant.SourceAPI})
			}
		}, `together with what was made of it through the API: 129 API keys`},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			r.want(people, "create a", "")
			full := r.records["a"].Clone()
			r.want("tenants: [{id: a}]", "update a", "")
			rec := r.records["a"]
			rec.Authenticators = full.Authenticators
			c.make(rec)
			if name != "two upstreams" && name != "authenticator" {
				rec.Authenticators = nil
			}
			was := rec.Clone()
			r.want(people, "", c.want)
			if !reflect.DeepEqual(r.records["a"], was) {
				t.Errorf("applied by half: %+v", r.records["a"])
			}
		})
	}
}

// TestA6PlanBotKeysEnd: the year of a bot's key runs from the day on which it was first declared, so that no file can
// prolong a key for ever.
func TestA6PlanBotKeysEnd(t *testing.T) {
	r := newRegistry(t)
	r.want(people, "create a", "")
	r.want(edit(t, people, "2026-12-01T00", "2027-01-03T03"), "update a", "")
	later := edit(t, people, "2026-12-01T00", "2027-06-01T00")
	path := write(t, "tenants.yaml", later)
	opt := testOptions()
	opt.Now = func() time.Time { return r.now.AddDate(0, 6, 0) }
	ts, err := config.LoadTenants(path, opt)
	if err != nil {
		t.Fatal(err)
	}
	plan, errs := config.Plan(ts, r.list(), r.now.AddDate(0, 6, 0))
	if len(plan) != 0 || len(errs) != 1 || !strings.Contains(errs[0].Msg, "must end within a year of that: make a new key") || errs[0].Line != 10 {
		t.Errorf("changes %v, refused %v", plan, errs)
	}
}

// TestPlanPolicy follows a tenant's policy through the file: a new tenant names it at once, so that nobody gets in before it
// is in force.
func TestPlanPolicy(t *testing.T) {
	path := files(t, [2]string{"tenants.yaml", "tenants: [{id: a, policy_dir: p}, {id: b}]"}, [2]string{"p/a.rego", "package polygate.authz\n"})
	ts := loadTenants(t, path)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	plan, errs := config.Plan(ts, nil, now)
	if len(plan) != 2 || len(errs) != 0 {
		t.Fatalf("changes %v, refused %v", plan, errs)
	}
	a, b, r := &ts.List[0], &ts.List[1], plan[0].Record
	if r.Policy == nil || r.Policy.Digest != a.PolicyDigest || r.Policy.Source != tenant.SourceFile || !a.PolicyDue(r) {
		t.Errorf("the new tenant's policy is %+v, due: %t", r.Policy, a.PolicyDue(r))
	}
	if plan[1].Record.Policy != nil || b.PolicyDue(plan[1].Record) {
		t.Error("a policy for nothing")
	}
	r.Policy.Updated = now // as ApplyPolicy leaves it
	if plan, errs := config.Plan(ts, []*tenant.Record{r, plan[1].Record}, now); len(plan)+len(errs) != 0 || a.PolicyDue(r) {
		t.Errorf("once in force: changes %v, refused %v, due: %t", plan, errs, a.PolicyDue(r))
	}
	if !b.PolicyDue(r) {
		t.Error("a policy that the file no longer has stays in force")
	}
	other := r.Clone()
	other.Policy.Digest = hash('x').String()
	if !a.PolicyDue(other) {
		t.Error("a changed bundle is not due")
	}
	other.Policy.Source = tenant.SourceAPI
	plan, errs = config.Plan(ts, []*tenant.Record{other}, now)
	if len(plan) != 1 || plan[0].Kind != config.Create || len(errs) != 1 || !strings.Contains(errs[0].Msg, "through the API, which stays") || errs[0].Line != 1 {
		t.Errorf("over the API's policy: changes %v, refused %v", plan, errs)
	}
	if a.PolicyDue(other) || b.PolicyDue(other) {
		t.Error("the API's policy would be replaced")
	}
	if filepath.Base(r.Policy.File) != "p" {
		t.Errorf("its folder is %q", r.Policy.File)
	}
}
