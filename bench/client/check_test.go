package client

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/backend"
	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/scenario"
)

// TestForeignCanaryStops has two tenants whose upstreams are mistaken for each other, in every protocol.
func TestForeignCanaryStops(t *testing.T) {
	l := newLab(t)
	tenants := upstream(t, l, 2)
	tenants[0].Canary, tenants[1].Canary = tenants[1].Canary, tenants[0].Canary
	for _, p := range protocols() {
		t.Run(string(p), func(t *testing.T) {
			c := newClient(t, Config{Load: loadOf(p), Tenants: tenants, Roots: l.roots})
			err := call(t, newCaller(t, c), 0)
			var stop load.Stop
			var foreign *Foreign
			if !errors.As(err, &stop) || !stop.StopsRun() || !errors.As(err, &foreign) {
				t.Fatalf("got %v, want what stops the run", err)
			}
			if foreign.Tenant != "t0" || foreign.Other != "t1" || foreign.Canary != tenants[1].Canary {
				t.Errorf("got %+v, want t1's canary at t0", foreign)
			}
		})
	}
}

// TestForeignCanaryInARefusalStops looks at answers with every status, in which a leak would hide as an error.
func TestForeignCanaryInARefusalStops(t *testing.T) {
	l := newLab(t)
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
		fmt.Fprintf(w, "upstream said %s", backend.Canary(seed, 5))
	})
	tenant := serve(t, l, handler)
	for _, p := range protocols() {
		c := newClient(t, Config{Load: loadOf(p), Tenants: []Tenant{tenant}, Roots: l.roots})
		var foreign *Foreign
		if err := call(t, newCaller(t, c), 0); !errors.As(err, &foreign) || foreign.Other != "" {
			t.Errorf("%s: got %v, want the canary of nobody who is known", p, err)
		}
	}
}

func TestJudge(t *testing.T) {
	own, other := backend.Canary(seed, 0), backend.Canary(seed, 1)
	c := newClient(t, Config{Tenants: []Tenant{
		{Name: "a", Host: "a.test", Addr: "127.0.0.1:1", Canary: own}, {Name: "b", Host: "b.test", Addr: "127.0.0.1:1", Canary: other},
	}})
	for name, v := range map[string]struct{ body, want string }{
		"own":                   {own + "xxx", ""},
		"own at the end":        {"xxx" + own, ""},
		"none":                  {"hello", "wrong answer"},
		"empty":                 {"", "wrong answer"},
		"own twice":             {own + own, "wrong answer"},
		"own and a bare marker": {own + "canary=", "wrong answer"},
		"own cut off":           {"xxx" + own[:len(own)-3], "wrong answer"},
		"another's":             {other, "foreign canary"},
		"own and another's":     {own + " " + other, "foreign canary"},
		"another's, then own":   {other + own, "foreign canary"},
		"nobody's":              {"canary=000000000000000000000000;", "foreign canary"},
	} {
		if got := classOf(c.judge(&c.targets[0], []byte(v.body))); got != v.want {
			t.Errorf("%s: got %q, want %q", name, got, v.want)
		}
	}
}

// TestWithoutACanaryTheStatusCounts is how a target is loaded that is not the lab's.
func TestWithoutACanaryTheStatusCounts(t *testing.T) {
	l := newLab(t)
	status := http.StatusNoContent
	tenant := serve(t, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	tenant.Canary = ""
	caller := newCaller(t, newClient(t, Config{Load: loadOf(scenario.HTTP1), Tenants: []Tenant{tenant}, Roots: l.roots}))
	if err := call(t, caller, 0); err != nil {
		t.Errorf("204: %v", err)
	}
	status = http.StatusNotFound
	if got := classOf(call(t, caller, 0)); got != "status 404" {
		t.Errorf("404: got %q", got)
	}
}

// TestWords: canaries may be any words, as long as none is mistaken for another.
func TestWords(t *testing.T) {
	tenants := func(words ...string) []Tenant {
		var out []Tenant
		for i, w := range words {
			out = append(out, Tenant{Name: fmt.Sprint("t", i), Host: "a.example.com", Addr: "127.0.0.1:1", Canary: w})
		}
		return out
	}
	c, err := New(Config{Tenants: tenants("served by alpha", "served by beta", "")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for body, want := range map[string]string{
		"this was served by alpha.":           "",
		"nothing of the kind":                 "wrong answer",
		"served by beta":                      "foreign canary",
		"served by alpha, and served by beta": "foreign canary",
	} {
		got := ""
		var classed interface{ Class() string }
		if err := c.judge(&c.targets[0], []byte(body)); errors.As(err, &classed) {
			got = classed.Class()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", body, got, want)
		}
	}
	for _, words := range [][]string{{"team", "team-a"}, {"x", "x"}, {"canary=1;", "1"}, {"canary=team-1", "canary=team-10"}, {"canary=b", "canary=a", "canary=b"}, {"canary="}, {"canary=acanary=b"}} {
		if _, err := New(Config{Tenants: tenants(words...)}); err == nil {
			t.Errorf("%q are accepted: one is a part of the other", words)
		}
	}
}

// TestMarkedCanariesOfAnyLengthAreTold has an answer of each tenant come to each other, where canaries differ in length.
func TestMarkedCanariesOfAnyLengthAreTold(t *testing.T) {
	tenants := []Tenant{
		{Name: "long", Canary: "canary=team-10;"}, {Name: "short", Canary: "canary=b;"}, {Name: "middle", Canary: "canary=team-2;"}, {Name: "none"},
	}
	for i := range tenants {
		tenants[i].Host, tenants[i].Addr = "a.test", "127.0.0.1:1"
	}
	c := newClient(t, Config{Tenants: tenants})
	for i := range c.targets {
		for j, other := range tenants {
			for _, judge := range []func(*target, []byte) error{c.judge, c.foreign} {
				err := judge(&c.targets[i], []byte(other.Canary))
				var foreign *Foreign
				if got := errors.As(err, &foreign); got != (i != j && other.Canary != "") || got && foreign.Other != other.Name {
					t.Errorf("%s's answer to %s: got %v", other.Name, tenants[i].Name, err)
				}
			}
		}
	}
	if err := c.judge(&c.targets[3], []byte("canary=of its own content")); err != nil {
		t.Errorf("what nobody owns, to a tenant without a canary: %v", err)
	}
}

// TestATenantWithoutACanaryIsSearchedForOthers: words are searched for in its answers too.
func TestATenantWithoutACanaryIsSearchedForOthers(t *testing.T) {
	c := newClient(t, Config{Tenants: []Tenant{
		{Name: "a", Host: "a.test", Addr: "127.0.0.1:1", Canary: "served by alpha"}, {Name: "b", Host: "b.test", Addr: "127.0.0.1:1"},
	}})
	for body, want := range map[string]string{"served by alpha": "foreign canary", "served by nobody": "", "": ""} {
		if got := classOf(c.judge(&c.targets[1], []byte(body))); got != want {
			t.Errorf("%q: got %q, want %q", body, got, want)
		}
	}
}

// TestManyMarkedCanariesAreComparedFast has as many tenants as a run may have; comparing each with each would take minutes.
func TestManyMarkedCanariesAreComparedFast(t *testing.T) {
	tenants := make([]Tenant, 100_000)
	for i := range tenants {
		tenants[i] = Tenant{Name: "t", Canary: fmt.Sprintf("canary=%d;", i)}
	}
	begun := time.Now()
	if _, err := newCanaries(tenants); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
}
