package vgw_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw"
)

func (w *world) awake(id tenant.ID) bool { return w.store.entry(id).Record.Awake }

// A tenant whose sandbox lives is awake in its record, before the run begins and until the last has come to rest; its gateway is not
// closed as idle meanwhile.
func TestSandboxAwake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stage := newStage()
		w := full(t, withSandboxes(stage))
		w.run(t)
		w.store.add("team-a")
		w.store.add("team-b")
		admin := w.principal("team-a", tenant.Admin)
		w.must(t, "team-b", w.principal("team-b", tenant.Admin), get("/api/v1/sandboxes"), 200)
		w.must(t, "team-a", admin, get("/api/v1/sandboxes"), 200)
		synctest.Wait()
		if w.awake("team-a") || w.awake("team-b") {
			t.Fatal("awake without a sandbox")
		}
		first := true
		w.store.mu.Lock()
		w.store.onCommit = func(_ tenant.Scope, writes []tenant.Write) (before, after error) {
			if first && writes[0].Kind == "sandbox" {
				first = false
				if !w.awake("team-a") {
					t.Error("the first run is stored while the record says that nothing lives")
				}
			}
			return nil, nil
		}
		w.store.mu.Unlock()
		w.must(t, "team-a", admin, post("/api/v1/sandboxes", `{"name":"s","command":["sleep","1h"]}`), 201)
		time.Sleep(time.Hour)
		if st := w.mux.Stats(); st.Open != 1 || !w.awake("team-a") || stage.tenant(w, "team-a").Live() != 1 {
			t.Errorf("after an hour without requests: %+v, awake %t", st, w.awake("team-a"))
		}
		time.Sleep(24 * time.Hour) // its lifetime
		if st := w.mux.Stats(); st.Open != 0 || w.awake("team-a") || stage.tenant(w, "team-a").Live() != 0 {
			t.Errorf("after its lifetime: %+v, awake %t", st, w.awake("team-a"))
		}
		w.says(t, "team-a", admin, get("/api/v1/sandboxes/s"), 200, "LifetimeOver")
	})
}

// A tenant whose budget of bytes is used up makes and starts nothing; it stops and deletes, and what its sandboxes do is stored.
func TestFullTenantStopsAndDeletes(t *testing.T) {
	w, stage := sandboxed(t)
	admin := w.principal("team-a", tenant.Admin)
	ends := w.makeSandbox(t, admin, `{"name":"ends","command":["sleep","1h"]}`)
	w.store.mu.Lock()
	w.store.onCommit = func(_ tenant.Scope, writes []tenant.Write) (before, after error) {
		for _, one := range writes {
			if !one.Owed {
				return fault.New(fault.Conflict, "over the quota of stored bytes"), nil
			}
		}
		return nil, nil
	}
	w.store.mu.Unlock()
	w.says(t, "team-a", admin, post("/api/v1/sandboxes", `{"name":"more"}`), 409, "over the quota")
	stage.tenant(w, "team-a").End(ends["id"].(string), 0, "")
	w.awaits(t, admin, "ends", "stopped")
	w.says(t, "team-a", admin, post("/api/v1/sandboxes/ends/start", ""), 409, "over the quota")
	w.must(t, "team-a", admin, post("/api/v1/sandboxes/other/stop", ""), 202)
	w.awaits(t, admin, "other", "stopped")
	for _, name := range []string{"hers", "other", "ends"} {
		w.must(t, "team-a", admin, del("/api/v1/sandboxes/"+name), 202)
	}
	eventually(t, "all are gone", func() bool {
		all, _ := w.must(t, "team-a", admin, get("/api/v1/sandboxes"), 200)["items"].([]any)
		return len(all) == 0
	})
}

// The record is written late where the store is away, and again where a former owner wrote over it.
func TestSandboxAwakeIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := full(t, withSandboxes(newStage()))
		w.run(t)
		w.store.add("team-a")
		admin := w.principal("team-a", tenant.Admin)
		w.must(t, "team-a", admin, get("/api/v1/sandboxes"), 200)
		var broken atomic.Bool
		broken.Store(true)
		w.store.beforeUpdate(func(tenant.ID) error {
			if broken.Load() {
				return fault.New(fault.Unavailable, "the store is away")
			}
			return nil
		})
		w.must(t, "team-a", admin, post("/api/v1/sandboxes", `{"name":"s","command":["sleep","1h"]}`), 201)
		time.Sleep(5 * time.Second)
		broken.Store(false)
		time.Sleep(2 * time.Second)
		if !w.awake("team-a") {
			t.Error("the record was not written again")
		}
		e := w.store.edit("team-a", func(r *tenant.Record) { r.Awake = false })
		w.mux.Changed("team-a", e)
		time.Sleep(time.Second)
		if !w.awake("team-a") {
			t.Error("what another wrote over it stays")
		}
	})
}

// A claim that is lost ends the manager, and what runs goes on for the next owner.
func TestSandboxesOutliveTheirOwner(t *testing.T) {
	w, stage := sandboxed(t)
	alice := w.user("team-a", "corp", "alice")
	cluster := stage.tenant(w, "team-a")
	w.store.lose(w.store.entry("team-a").Scope)
	eventually(t, "the driver is closed", func() bool { return cluster.Closed() > 0 })
	if cluster.Live() != 2 {
		t.Errorf("%d runs live", cluster.Live())
	}
	if s := w.must(t, "team-a", alice, get(hers), 200); s["run"].(map[string]any)["number"] != 1.0 {
		t.Errorf("found again: %v", s)
	}
	w.must(t, "team-a", alice, post(hers+"/exec", `{"command":["echo"]}`), 200)
	if len(cluster.Twice()) != 0 {
		t.Errorf("two runs of %v", cluster.Twice())
	}
	// A watch is told to come again.
	o := w.watch(t, alice, "", "")
	o.until("", "sandbox", `"name":"hers"`)
	w.store.lose(w.store.entry("team-a").Scope)
	for event := ""; event != "end"; event, _ = o.next() {
	}
	// Suspended, nothing of it is served, and what runs is left to its deadline.
	w.must(t, "team-a", alice, get(hers), 200)
	before := cluster.Closed()
	w.mux.Changed("team-a", w.store.edit("team-a", func(r *tenant.Record) { r.State = tenant.StateSuspended }))
	eventually(t, "the driver is closed", func() bool { return cluster.Closed() > before })
	w.says(t, "team-a", alice, get(hers), 503, "suspended")
}

// A driver that cannot be opened harms sandboxes alone, and is asked again.
func TestSandboxDriverThatFails(t *testing.T) {
	stage := newStage()
	stage.fail = errors.New("no such namespace")
	w := full(t, withSandboxes(stage))
	w.run(t)
	w.store.add("team-a")
	admin := w.principal("team-a", tenant.Admin)
	w.must(t, "team-a", admin, get("/api/v1/servers"), 200)
	w.says(t, "team-a", admin, get("/api/v1/sandboxes"), 503, "could not be read")
	w.says(t, "team-a", admin, delegate("user:corp/bob", "sandbox.exec", "sandbox/x", ""), 503, "")
	stage.mu.Lock()
	stage.fail = nil
	stage.mu.Unlock()
	w.must(t, "team-a", admin, get("/api/v1/sandboxes"), 200)
}

// What operators decide is in force at once, without another owner.
func TestSandboxSettingsFollow(t *testing.T) {
	stage := newStage()
	w := full(t, withSandboxes(stage), func(c *vgw.Config) {
		c.SandboxTenant = nil
	})
	w.run(t)
	w.store.add("team-a")
	admin := w.principal("team-a", tenant.Admin)
	for range 3 {
		w.must(t, "team-a", admin, get("/api/v1/sandboxes"), 200)
	}
	e := w.store.edit("team-a", func(r *tenant.Record) {
		r.Namespace, r.Quotas.MaxSandboxes, r.Sandboxes = "ns-a", 1, &tenant.Sandboxes{Egress: []string{"internet"}}
	})
	w.mux.Changed("team-a", e)
	eventually(t, "the driver was told", func() bool {
		stage.mu.Lock()
		defer stage.mu.Unlock()
		return len(stage.told) == 2
	})
	if told := stage.told[1]; told.Namespace != "ns-a" || told.Quotas.MaxSandboxes != 1 || len(told.Settings.Egress) != 1 || told.Scope != e.Scope {
		t.Errorf("told %+v", told)
	}
	w.must(t, "team-a", admin, post("/api/v1/sandboxes", `{"name":"s","command":["sleep","1h"]}`), 201)
	w.says(t, "team-a", admin, post("/api/v1/sandboxes", `{"name":"t"}`), 409, "max_sandboxes")
}

// Delegations that an earlier version stored are read, and stored for it as it reads them.
func TestGrantsOfEarlierVersions(t *testing.T) {
	w := owned(t)
	alice, bob := w.user("team-a", "corp", "alice"), w.user("team-a", "corp", "bob")
	g := w.must(t, "team-a", alice, delegate("user:corp/bob", "mcp.call", "server/hers", ""), 201)
	stored := ""
	for line := range strings.SplitSeq(w.store.dump(), "\n") {
		if strings.Contains(line, "/grant/"+g["id"].(string)) {
			stored = line
		}
	}
	if !strings.Contains(stored, `"server":"`+g["object_id"].(string)+`"`) || strings.Contains(stored, `"type"`) {
		t.Errorf("stored %s", stored)
	}
	w.store.lose(w.store.entry("team-a").Scope)
	if !w.calls(t, bob, "hers", toolCall) {
		t.Error("after a move it is not read")
	}
}

// A gateway that has work is handed over, not closed, when its replica drains.
func TestSandboxDrainHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := full(t, withSandboxes(newStage()))
		w.run(t)
		w.store.add("team-a")
		admin := w.principal("team-a", tenant.Admin)
		w.must(t, "team-a", admin, post("/api/v1/sandboxes", `{"name":"s","command":["sleep","1h"]}`), 201)
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		tried := ""
		_ = w.mux.DrainAll(ctx, func(tenant.ID) (string, bool) { return "r2", true }, func(id tenant.ID, to string, err error) { tried += string(id) })
		if tried == "" || w.mux.Stats().Open != 1 {
			t.Errorf("tried %q, %+v: it was closed", tried, w.mux.Stats())
		}
	})
}
