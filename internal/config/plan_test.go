package config_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/tenant"
)

// registry is what Plan's changes are applied to in these tests: it has the registry's rule that a host and a key hash belong
// to one tenant, so a plan in a bad order fails.
type registry struct {
	t       *testing.T
	records map[tenant.ID]*tenant.Record
	now     time.Time
	notes   string // of the last load's changes
}

func newRegistry(t *testing.T) *registry {
	return &registry{t: t, records: make(map[tenant.ID]*tenant.Record), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
}

func (r *registry) list() []*tenant.Record {
	var list []*tenant.Record
	for _, rec := range r.records {
		list = append(list, rec)
	}
	return list
}

// load plans and applies a tenants.yaml, and returns the changes as "kind id" and what was refused, without places.
func (r *registry) load(text string) (changes, refused string) {
	r.t.Helper()
	r.now = r.now.Add(time.Hour)
	ts := loadTenants(r.t, write(r.t, "tenants.yaml", text))
	r.notes = ""
	plan, errs := config.Plan(ts, r.list(), r.now)
	var steps []string
	for _, c := range plan {
		steps = append(steps, fmt.Sprintf("%s %s", c.Kind, c.ID))
		r.notes += strings.Join(c.Notes, "\n")
		r.apply(c)
	}
	again, errs2 := config.Plan(ts, r.list(), r.now.Add(time.Hour))
	if len(again) > 0 || errs.Error() != errs2.Error() {
		r.t.Errorf("a second plan is not empty: %v; refused %v, then %v", again, errs, errs2)
	}
	var msgs []string
	for _, e := range errs {
		if e.Line == 0 || !strings.HasSuffix(e.File, "tenants.yaml") {
			r.t.Errorf("%v has no place", e)
		}
		msgs = append(msgs, e.Msg)
	}
	return strings.Join(steps, ", "), strings.Join(msgs, "\n")
}

func (r *registry) apply(c config.Change) {
	r.t.Helper()
	rec := c.Record
	if c.Kind == config.Create {
		if c.Edit != nil || r.records[c.ID] != nil {
			r.t.Errorf("create %s: %v", c.ID, r.records[c.ID])
		}
		rec.UID = "uid of " + string(c.ID)
	} else {
		rec = r.records[c.ID].Clone()
		for range 2 { // an edit may be retried
			if err := c.Edit(rec); err != nil {
				r.t.Errorf("%s %s: %v", c.Kind, c.ID, err)
			}
		}
	}
	if err := rec.Validate("example.com"); err != nil {
		r.t.Errorf("%s %s makes a bad record: %v", c.Kind, c.ID, err)
	}
	for id, other := range r.records {
		if id != c.ID && shares(rec, other) {
			r.t.Errorf("%s %s: it shares a host or key with %s", c.Kind, c.ID, id)
		}
	}
	r.records[c.ID] = stored(r.t, rec)
}

// stored returns a record as the store would return it.
func stored(t *testing.T, rec *tenant.Record) *tenant.Record {
	t.Helper()
	b, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	var back tenant.Record
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	return &back
}

func shares(a, b *tenant.Record) bool {
	return slices.ContainsFunc(a.Hosts, func(h string) bool { return slices.Contains(b.Hosts, h) }) ||
		slices.ContainsFunc(a.Keys, func(k tenant.Key) bool { _, ok := b.KeyByHash(k.Hash); return ok })
}

// want checks one step of a story.
func (r *registry) want(text, changes, refused string) {
	r.t.Helper()
	gotChanges, gotRefused := r.load(text)
	if gotChanges != changes {
		r.t.Errorf("changes: got %q, want %q", gotChanges, changes)
	}
	if gotRefused == "" && refused != "" || !strings.Contains(gotRefused, refused) || refused == "" && gotRefused != "" {
		r.t.Errorf("refused: got %q, want %q", gotRefused, refused)
	}
}

func keyText(b byte) string { return hash(b).String() }

func TestPlanStory(t *testing.T) {
	r := newRegistry(t)
	both := "tenants:\n  - {id: a, display_name: A, api_keys: [{name: ci, key_hash: '" + keyText('1') + "'}]}\n  - {id: b}\n"
	r.want(both, "create a, create b", "")
	made := r.records["a"].Keys[0]
	if made.ID == "" || !made.Created.Equal(r.now) || made.Source != tenant.SourceFile {
		t.Errorf("its key is %+v", made)
	}
	r.want(both, "", "")

	// The API adds a key; the file changes the tenant: the key stays, and so do id and date of the file's own.
	api := tenant.Key{ID: "k", Name: "mine", Hash: hash('9'), Role: tenant.Admin, Source: tenant.SourceAPI, Created: r.now}
	r.records["a"].Keys = append(r.records["a"].Keys, api)
	r.want(strings.Replace(both, "display_name: A", "display_name: Alpha", 1), "update a", "")
	if a := r.records["a"]; a.DisplayName != "Alpha" || len(a.Keys) != 2 || a.Keys[0] != made || a.Keys[1] != api || a.UID != "uid of a" {
		t.Errorf("after the update: %+v", a)
	}

	// It vanishes: suspended, all kept. A second load does nothing more. It comes back: resumed.
	r.want("tenants:\n  - {id: b}\n", "suspend a", "")
	if a := r.records["a"]; a.State != tenant.StateSuspended || a.SuspendReason != config.Vanished || len(a.Keys) != 2 || a.DisplayName != "Alpha" {
		t.Errorf("vanished: %+v", a)
	}
	r.want("tenants:\n  - {id: b}\n", "", "")
	r.want(both, "resume a", "")
	if a := r.records["a"]; a.State != tenant.StateActive || a.SuspendReason != "" || len(a.Keys) != 2 || a.Keys[0] != made {
		t.Errorf("back: %+v", a)
	}

	// A key that the file takes away goes, the API's stays.
	r.want("tenants:\n  - {id: a, display_name: A}\n  - {id: b}\n", "update a", "")
	if a := r.records["a"]; len(a.Keys) != 1 || a.Keys[0] != api {
		t.Errorf("its keys: %+v", a.Keys)
	}
}

func TestPlanOperatorsSuspendStays(t *testing.T) {
	r := newRegistry(t)
	r.want("tenants: [{id: a}]", "create a", "")
	r.records["a"].State, r.records["a"].SuspendReason = tenant.StateSuspended, "abuse"
	r.want("tenants: [{id: a}]", "", "")
	r.want("tenants: [{id: a, display_name: A}]", "update a", "")
	r.want("tenants: []", "", "")
	r.want("tenants: [{id: a, display_name: A}]", "", "")
	if a := r.records["a"]; a.State != tenant.StateSuspended || a.SuspendReason != "abuse" {
		t.Errorf("the operator's suspend is gone: %+v", a)
	}
	r.want("tenants: [{id: a, display_name: A, state: active}]", "resume a", "")
}

func TestPlanDeclaredState(t *testing.T) {
	r := newRegistry(t)
	r.want("tenants: [{id: a, state: suspended, suspend_reason: unpaid}]", "create a", "")
	if a := r.records["a"]; a.State != tenant.StateSuspended || a.SuspendReason != "unpaid" {
		t.Errorf("created as %+v", a)
	}
	r.want("tenants: [{id: a, state: active}]", "resume a", "")
	r.want("tenants: [{id: a, state: suspended}]", "suspend a", "")
}

func TestPlanLeavesTheAPIsTenants(t *testing.T) {
	r := newRegistry(t)
	r.records["made"] = &tenant.Record{
		ID: "made", UID: "u", State: tenant.StateActive, Mode: tenant.ModeVirtual, Source: tenant.SourceAPI,
		Hosts: []string{"m.example.org"}, Keys: []tenant.Key{{ID: "k", Name: "ci", Hash: hash('1'), Role: tenant.Editor, Source: tenant.SourceAPI}},
	}
	was := *r.records["made"]
	r.want("tenants: [{id: made}, {id: good}]", "create good", `tenant "made" was made through the API`)
	r.want("tenants: [{id: h, hosts: [m.example.org]}, {id: good}]", "", `host "m.example.org" of tenant "h" belongs to tenant "made"`)
	r.want("tenants: [{id: k, api_keys: [{name: x, key_hash: '"+keyText('1')+"'}]}, {id: good}]", "", `a key_hash of tenant "k" belongs to tenant "made"`)
	r.want("tenants: []", "suspend good", "")
	if fmt.Sprint(*r.records["made"]) != fmt.Sprint(was) {
		t.Errorf("the API's tenant changed: %+v", r.records["made"])
	}
}

func TestPlanKeyClashWithTheAPIsKeys(t *testing.T) {
	for name, key := range map[string]string{
		"the name": "{name: mine, key_hash: '" + keyText('1') + "'}",
		"the hash": "{name: other, key_hash: '" + keyText('9') + "'}",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			r.want("tenants: [{id: a}]", "create a", "")
			r.records["a"].Keys = []tenant.Key{{ID: "k", Name: "mine", Hash: hash('9'), Role: tenant.Viewer, Source: tenant.SourceAPI}}
			r.want("tenants: [{id: a, display_name: A, api_keys: ["+key+"]}, {id: b}]", "create b", `made through the API`)
			if a := r.records["a"]; a.DisplayName != "" || len(a.Keys) != 1 {
				t.Errorf("applied by half: %+v", a)
			}
		})
	}
}

// TestPlanMoves moves hosts and keys between tenants; the registry of these tests fails a plan in a bad order.
func TestPlanMoves(t *testing.T) {
	key := func(b byte) string { return "{name: ci, key_hash: '" + keyText(b) + "'}" }
	r := newRegistry(t)
	r.want("tenants: [{id: a, hosts: [x.example.org], api_keys: ["+key('1')+"]}, {id: b, hosts: [y.example.org], api_keys: ["+key('2')+"]}]", "create a, create b", "")
	r.want("tenants: [{id: a, hosts: [y.example.org], api_keys: ["+key('2')+"]}, {id: b, hosts: [x.example.org], api_keys: ["+key('1')+"]}]",
		"release a, release b, update a, update b", "")
	if a, b := r.records["a"], r.records["b"]; a.Hosts[0] != "y.example.org" || b.Hosts[0] != "x.example.org" || a.Keys[0].Hash != hash('2') || b.Keys[0].Hash != hash('1') {
		t.Errorf("not swapped: %+v, %+v", a, b)
	}
	r.want("tenants: [{id: a, hosts: [y.example.org], api_keys: ["+key('2')+"]}, {id: c, hosts: [x.example.org], api_keys: ["+key('1')+"]}]",
		"release b, suspend b, create c", "") // b was renamed to c
	if b := r.records["b"]; b.State != tenant.StateSuspended || len(b.Hosts)+len(b.Keys) != 0 {
		t.Errorf("b keeps what c has: %+v", b)
	}
}

// TestPlanRefusalSpreads: a would give its host to b, but a is refused and keeps it; so b is refused too.
func TestPlanRefusalSpreads(t *testing.T) {
	r := newRegistry(t)
	r.want("tenants: [{id: a, hosts: [x.example.org]}, {id: b}]", "create a, create b", "")
	r.records["a"].Keys = []tenant.Key{{ID: "k", Name: "mine", Hash: hash('9'), Role: tenant.Viewer, Source: tenant.SourceAPI}}
	changes, refused := r.load("tenants: [{id: a, api_keys: [{name: mine, key_hash: '" + keyText('1') + "'}]}, {id: b, hosts: [x.example.org]}, {id: c}]")
	if changes != "create c" || strings.Count(refused, "\n") != 1 || !strings.Contains(refused, `host "x.example.org" of tenant "b" belongs to tenant "a"`) {
		t.Errorf("changes %q, refused %q", changes, refused)
	}
}

// TestPlanClashSpreads: the same where a is refused for a host that it wants.
func TestPlanClashSpreads(t *testing.T) {
	r := newRegistry(t)
	r.want("tenants: [{id: a, hosts: [x.example.org]}, {id: b}]", "create a, create b", "")
	r.records["made"] = &tenant.Record{ID: "made", State: tenant.StateActive, Mode: tenant.ModeVirtual, Source: tenant.SourceAPI, Hosts: []string{"m.example.org"}}
	changes, refused := r.load("tenants: [{id: b, hosts: [x.example.org]}, {id: a, hosts: [m.example.org]}]")
	if changes != "" || !strings.Contains(refused, `"m.example.org" of tenant "a" belongs to tenant "made"`) || !strings.Contains(refused, `"x.example.org" of tenant "b" belongs to tenant "a"`) {
		t.Errorf("changes %q, refused %q", changes, refused)
	}
}

func TestPlanOtherFiles(t *testing.T) {
	r := newRegistry(t)
	r.want("tenants: [{id: a}, {id: b}]", "create a, create b", "")
	r.records["a"].File, r.records["b"].File = "old.yaml", "old.yaml"
	r.want("tenants: [{id: a}]", "update a", "") // b is not this file's to suspend
	if r.records["a"].File != "tenants.yaml" || r.records["b"].State != tenant.StateActive {
		t.Errorf("a %+v, b %+v", r.records["a"], r.records["b"])
	}
}

func TestPlanKeepsCatalogDigest(t *testing.T) {
	r := newRegistry(t)
	r.want("tenants: [{id: a}]", "create a", "")
	r.records["a"].CatalogDigest = "hmac-sha256:00"
	r.want("tenants: [{id: a, display_name: A}]", "update a", "")
	if r.records["a"].CatalogDigest != "hmac-sha256:00" {
		t.Error("the plan took away what the catalog's own application keeps")
	}
}

func TestEmptyListsAreNoChange(t *testing.T) {
	r := newRegistry(t)
	r.want("tenants: [{id: a, hosts: [], api_keys: []}]", "create a", "")
	r.records["a"].Hosts, r.records["a"].Keys = []string{}, []tenant.Key{}
	r.want("tenants: [{id: a}]", "", "")
}

func BenchmarkReload(b *testing.B) {
	var text strings.Builder
	text.WriteString("tenants:\n")
	for i := range 1000 {
		fmt.Fprintf(&text, "  - id: t%d\n    api_keys: [{name: ci, key_hash: 'sha256:%064d'}]\n", i, i+1)
	}
	path := write(b, "tenants.yaml", text.String())
	ts := loadTenants(b, path)
	var records []*tenant.Record
	plan, _ := config.Plan(ts, nil, time.Now())
	for _, c := range plan {
		records = append(records, c.Record)
	}
	for b.Loop() {
		ts := loadTenants(b, path)
		if plan, errs := config.Plan(ts, records, time.Now()); len(plan)+len(errs) > 0 {
			b.Fatal(plan, errs)
		}
	}
}
