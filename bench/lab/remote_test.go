package lab

import (
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/client"
	"github.com/polygate/polygate/bench/scenario"
)

// TestTarget: what is wrong with a target is said at once, and in words.
func TestTarget(t *testing.T) {
	serve := func(f http.HandlerFunc) *httptest.Server {
		s := httptest.NewTLSServer(f)
		t.Cleanup(s.Close)
		return s
	}
	right := serve(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello of team-a")) })
	wrong := serve(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no such tenant", http.StatusNotFound) })
	slow := serve(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(right.Certificate())
	for name, c := range map[string]struct {
		addr  string
		roots *x509.CertPool
		want  string
	}{
		"right":     {right.Listener.Addr().String(), trusted, ""},
		"errors":    {wrong.Listener.Addr().String(), trusted, "404"},
		"slow":      {slow.Listener.Addr().String(), trusted, "no answer in time"},
		"down":      {gone.Addr().String(), trusted, "refused"},
		"untrusted": {right.Listener.Addr().String(), x509.NewCertPool(), "certificate"},
		"public":    {"192.0.2.1:443", trusted, "--i-own-this-target"},
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := newLab(t)
			sc := parse(t, short)
			sc.Loads[0].Timeout = time.Second
			began := time.Now()
			found, err := l.Run(t.Context(), sc, Target{
				Name: "x", Roots: c.roots, Tenants: []client.Tenant{{Name: "team-a", Host: "example.com", Addr: c.addr, Canary: "hello of team-a"}},
			}, 1)
			if c.want == "" {
				if err != nil || found.Runs[0].Figures.Requests == 0 {
					t.Fatalf("Run: %v, %+v", err, found)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Run: %v, want it to say %q", err, c.want)
			}
			if took := time.Since(began); took > probeTime+5*time.Second {
				t.Errorf("said after %v", took)
			}
		})
	}
}

// TestHopeless: a target that answers the first requests and then nothing but errors is given up.
func TestHopeless(t *testing.T) {
	var n atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) > 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	s.Config.SetKeepAlivesEnabled(true)
	s.StartTLS()
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	l, _ := newLab(t)
	sc := parse(t, short)
	sc.Loads[0].Concurrency, sc.Phases[0].Loads[0].Concurrency = 1, 1
	sc.Phases[0].Duration = time.Minute
	_, err := l.Run(t.Context(), sc, Target{Name: "x", Roots: roots, Tenants: []client.Tenant{{Name: "a", Host: "example.com", Addr: s.Listener.Addr().String()}}}, 1)
	if !errors.Is(err, errHopeless) {
		t.Errorf("Run: %v", err)
	}
}

// TestMaxRate: a target gets no more requests a second than it may, of open and closed loops together.
func TestMaxRate(t *testing.T) {
	var n atomic.Int64
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { n.Add(1) }))
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	target := Target{Name: "x", Roots: roots, Tenants: []client.Tenant{{Name: "a", Host: "example.com", Addr: s.Listener.Addr().String()}}, MaxRate: 100}
	sc := parse(t, `
name: both
about: A test.
loads:
  - {name: due, loop: open, rate: 60, concurrency: 4}
  - {name: one, concurrency: 8}
  - {name: two, concurrency: 8}
phases: [{name: all, duration: 1s}]
`)
	l, _ := newLab(t)
	found, err := l.Run(t.Context(), sc, target, 1)
	if err != nil {
		t.Fatal(err)
	}
	const probes = 3
	if got := n.Load() - probes; got > 104 || got < 60 { // one of each closed loop is due at the begin
		t.Errorf("the target got %d requests in a second, want 100 at most", got)
	}
	if notes := strings.Join(found.Notes, "\n"); !strings.Contains(notes, "--max-rate") {
		t.Errorf("notes %q do not say that it was held", notes)
	}
	sc.Loads[0].Rate, sc.Phases[0].Loads[0].Rate = 100, 100
	if _, err := l.Run(t.Context(), sc, target, 1); err == nil || !strings.Contains(err.Error(), "raise --max-rate") {
		t.Errorf("with nothing left for the closed loops: %v", err)
	}
}

// TestKeysThatAreMissing: whom a load shows a key to has one, or it is said which flag gives it.
func TestKeysThatAreMissing(t *testing.T) {
	target := Target{Tenants: []client.Tenant{{Name: "a", Key: "k"}, {Name: "b"}}}
	for _, c := range []struct {
		draw scenario.Draw
		want bool
	}{
		{scenario.Draw{}, true},
		{scenario.Draw{Count: 1}, false},
		{scenario.Draw{First: 1}, true},
		{scenario.Draw{Draw: scenario.List, List: []string{"a"}}, false},
		{scenario.Draw{Draw: scenario.List, List: []string{"b"}}, true},
	} {
		err := target.checkKeys(scenario.Load{Name: "x", Tenants: c.draw})
		if got := err != nil && strings.Contains(err.Error(), "none for b: name its file with --key-file"); got != c.want {
			t.Errorf("%+v: %v", c.draw, err)
		}
	}
}

func TestAddress(t *testing.T) {
	for host, want := range map[string]string{
		"a.localhost": "127.0.0.1:8443", "Localhost.": "127.0.0.1:8443", "a.example.com": "a.example.com:8443", "notlocalhost": "notlocalhost:8443", "::1": "[::1]:8443",
	} {
		if got := Address(host, "8443"); got != want {
			t.Errorf("%s: got %s, want %s", host, got, want)
		}
	}
}

func TestParseTarget(t *testing.T) {
	env := func(name string) string { return map[string]string{"A_KEY": "pk_a"}[name] }
	got, err := ParseTarget("x/tenants.yaml", []byte(`
address: gw.example.com:8443
tenants:
  - {host: a.example.com, key_env: A_KEY, canary: mark-a}
  - {name: bee, host: b.example.com, address: "10.0.0.1:443"}
`), env)
	want := []client.Tenant{
		{Name: "a", Host: "a.example.com", Addr: "gw.example.com:8443", Canary: "mark-a", Key: "pk_a"},
		{Name: "bee", Host: "b.example.com", Addr: "10.0.0.1:443"},
	}
	if err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %+v, %v", got, err)
	}
	for text, want := range map[string]string{
		"":                                     "lists no tenants",
		"tenants: []":                          "lists no tenants",
		"tenants: [{name: a}]":                 "host is missing",
		"tenants: [{host: a.b, hots: c}]":      "hots",
		"tenants: [{host: a.b, address: x}]":   "not host:port",
		"tenants: [{host: a.b}, {host: a.c}]":  "twice",
		"tenants: [{host: a.b, key_env: NO}]":  "NO is empty",
		"tenants: [{host: a.b, key_file: no}]": "key_file",
		"tenants: [{host: a.b, key_file: no, key_env: A_KEY}]": "alternatives",
	} {
		if _, err := ParseTarget("x.yaml", []byte(text), env); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	f.Add([]byte("address: a:1\ntenants: [{host: a.b, canary: c}]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseTarget("x.yaml", b, func(string) string { return "" })
		if err != nil {
			return
		}
		for _, tn := range got {
			if _, _, err := net.SplitHostPort(tn.Addr); err != nil || tn.Host == "" {
				t.Errorf("%+v is no target", tn)
			}
		}
	})
}
