package plan

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// The part of the product that is planned for, and the factors within which the plan has to be right.
const (
	virtualTenants   = 300
	dedicatedTenants = 200
	oneIn            = 10  // of them is asked: so few that most are asked again before their heads are anchored
	withinRates      = 1.7 // heads and keys a second
	withinTxns       = 1.8 // transactions a second: a settlement that is late is one fewer
	withinBytes      = 2   // of etcd
)

// TestPlanOfTheProduct plans for what it then does to the real program, and compares etcd's size and writes with the plan. With
// POLYGATE_PLAN_SPAN=65s the last uses of keys, which are stored once a minute, are compared too.
func TestPlanOfTheProduct(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the program and runs it for half a minute")
	}
	span := 12 * time.Second
	if v := os.Getenv("POLYGATE_PLAN_SPAN"); v != "" {
		var err error
		if span, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	p := startProduct(t)
	keys := p.populate()
	p.awaitQuiet()
	before := p.status()
	requests, changes, took := p.busy(keys, span)
	p.awaitQuiet()
	after := p.status()
	got, transactions := p.writes(before.Header.Revision, after.Header.Revision)

	c, err := DefaultCosts()
	if err != nil {
		t.Fatal(err)
	}
	c.Costs[costPeakDay] = Cost{Value: 1} // the rates are those of the span
	d := defaults()
	d.Tenants, d.VirtualShare, d.Keys, d.Servers = len(keys), float64(virtualTenants)/float64(len(keys)), 2, 2
	d.Requests.PerSecond, d.ChangesPerDay = float64(requests)/took, float64(changes)/took*86400
	d.ActiveShare, d.SpareReplicas, d.Etcd.Kind = 1.0/oneIn, 0, External
	want, err := Compute(d, c, Machine{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d requests, %d changes in %.1f s; written: %+v", requests, changes, took, got)
	uses := term(want.Etcd.Puts, "last uses of keys")
	openings := term(want.Etcd.Puts, "gateways opened and closed") // none are idle for long enough here
	puts := 0.0
	for kind, w := range got {
		if kind != "c/used" {
			puts += float64(w.puts + w.deletes)
		}
	}
	compare(t, "heads a second", float64(got["c/audit"].puts)/took, term(want.Etcd.Puts, "audit heads of tenants that were asked something")+d.perSecond(), withinRates)
	compare(t, "keys a second", puts/took, want.Etcd.Puts.Total-uses-openings, withinRates)
	compare(t, "transactions a second", float64(transactions)/took, want.Etcd.Writes.Total-term(want.Etcd.Writes, "last uses of keys")-term(want.Etcd.Writes, "gateways opened and closed"), withinTxns)
	if span >= time.Minute {
		compare(t, "uses of keys a second", float64(got["c/used"].puts)/took, uses, withinBytes)
	}
	force := term(want.Etcd.Size, "in force")
	history := (want.Etcd.Size.Total - force) / (2 * d.Etcd.CompactAfter.Seconds())
	compare(t, "bytes a second", float64(after.InUse-before.InUse)/took, history, withinBytes)
	compacted, defragmented := p.forget()
	compare(t, "bytes behind a compaction", float64(compacted), force, withinBytes)
	compare(t, "bytes in force", float64(defragmented), want.Etcd.Live.Total, withinBytes)
}

// perSecond is the heads that changes add: each is anchored behind its own.
func (d Demand) perSecond() float64 { return d.ChangesPerDay / 86400 }

func compare(t *testing.T, what string, got, want, factor float64) {
	t.Helper()
	t.Logf("%s: measured %.4g, planned %.4g (%.2f)", what, got, want, want/got)
	if got > want*factor || want > got*factor {
		t.Errorf("%s: got %.4g, the plan says %.4g: they have to lie within a factor of %v", what, got, want, factor)
	}
}

func term(s Sum, name string) float64 {
	for _, t := range s.Terms {
		if t.Name == name {
			return t.Amount
		}
	}
	return 0
}

// populate makes the tenants, opens the gateways of those that have one, and returns a key of each.
func (p *product) populate() []string {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	p.t.Cleanup(up.Close)
	keys := make([]string, virtualTenants+dedicatedTenants)
	each(len(keys), 8, func(i int) {
		if i >= virtualTenants {
			keys[i] = p.makeTenant(tenantName(i), fmt.Sprintf(`{"id":%q,"mode":"dedicated","dedicated":{"upstream":%q,"auth":"gateway"}}`, tenantName(i), up.URL), 2)
			return
		}
		keys[i] = p.makeTenant(tenantName(i), fmt.Sprintf(`{"id":%q}`, tenantName(i)), 2)
		for k := range 2 {
			p.ask("POST", i, keys[i], "/api/v1/servers", fmt.Sprintf(`{"name":"s%d","url":"https://mcp.example.com/mcp"}`, k))
		}
	})
	return keys
}

func tenantName(i int) string { return fmt.Sprintf("team-%04d", i) }

// ask sends a request of a tenant.
func (p *product) ask(method string, i int, key, path, body string) {
	if _, err := p.call(p.t.Context(), method, "https://"+tenantName(i)+".plan.test"+path, key, body); err != nil && p.t.Context().Err() == nil {
		p.t.Error(err)
	}
}

// busy sends requests of tenants at random, and now and then a change, for a span.
func (p *product) busy(keys []string, span time.Duration) (requests, changes int64, seconds float64) {
	var sent, changed atomic.Int64
	began := time.Now()
	each(8, 8, func(w int) {
		draw := rand.New(rand.NewPCG(7, uint64(w)))
		tick := time.NewTicker(40 * time.Millisecond)
		defer tick.Stop()
		for n := 0; time.Since(began) < span; n++ {
			<-tick.C
			i := draw.IntN(len(keys)/oneIn) * oneIn
			path := "/"
			if i < virtualTenants {
				path = "/api/v1/servers"
			}
			if i < virtualTenants && n%20 == 0 {
				p.ask("POST", i, keys[i], "/api/v1/servers", fmt.Sprintf(`{"name":"n%d-%d","url":"https://mcp.example.com/mcp"}`, w, n))
				changed.Add(1)
				continue
			}
			p.ask("GET", i, keys[i], path, "")
			sent.Add(1)
		}
	})
	return sent.Load() + changed.Load(), changed.Load(), time.Since(began).Seconds()
}

// awaitQuiet returns when nothing was written for longer than the audit's heads wait.
func (p *product) awaitQuiet() {
	tick := time.NewTicker(1500 * time.Millisecond)
	defer tick.Stop()
	for last := int64(0); ; <-tick.C {
		now := p.status().Header.Revision
		if now == last {
			return
		}
		last = now
	}
}

// forget has etcd forget its history, and returns the bytes that are in use then, and once the file is written anew.
func (p *product) forget() (compacted, defragmented int64) {
	var none struct{}
	p.etcdCall("/v3/kv/compaction", map[string]any{"revision": p.status().Header.Revision, "physical": true}, &none)
	compacted = p.status().InUse
	p.etcdCall("/v3/maintenance/defragment", struct{}{}, &none)
	return compacted, p.status().InUse
}
