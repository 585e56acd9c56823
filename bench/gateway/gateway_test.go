package gateway

import (
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/peer"
)

func TestPolygateServesEveryTenant(t *testing.T) {
	s := layTest(t, 3)
	r := startTest(t, Polygate{Binary: testBinary()}, s)
	for i := range s.Tenants {
		serves(t, r, s, i, s.Tenants[i].Key)
		v := visitor{site: s, addr: r.Addr(i)}
		for what, key := range map[string]string{"another tenant's key": s.Tenants[(i+1)%3].Key, "no key": ""} {
			if status, _, err := v.do(t.Context(), i, "/", key); err != nil || status != http.StatusUnauthorized {
				t.Errorf("tenant %d with %s: status %d, %v; want 401", i, what, status, err)
			}
		}
	}
	if got := len(r.PIDs()); got != 1 {
		t.Errorf("%d processes, want 1", got)
	}
}

// TestStarts counts how often the gateway is started: twice as a rule, once where the start itself is measured, as the peers are.
func TestStarts(t *testing.T) {
	for _, c := range []struct {
		name string
		peer peer.Peer
		want int
	}{
		{"as a rule", Polygate{Binary: testBinary()}, 2},
		{"once", Polygate{Binary: testBinary(), Options: Options{Once: true}}, 1},
		{"one for each", Each{Binary: testBinary()}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := layTest(t, 1)
			r := startTest(t, c.peer, s)
			serves(t, r, s, 0, s.Tenants[0].Key)
			one, _ := r.(*Running)
			if each, ok := r.(*EachRunning); ok {
				one = each.gateways[0]
			}
			b, err := os.ReadFile(one.replicas[0].log)
			if got := len(regexp.MustCompile(`msg"?[:=]"?ready\b`).FindAll(b, -1)); err != nil || got != c.want {
				t.Errorf("ready %d times, want %d (%v); its log:\n%s", got, c.want, err, b)
			}
		})
	}
}

// TestGreetEnds: a certificate that never comes is told, with what the gateway said.
func TestGreetEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	one := &replica{child: child{what: "it", log: filepath.Join(t.TempDir(), "log"), args: []string{"/bin/sh", "-c", "exec sleep 600"}}}
	one.public = ln.Addr().String()
	if err := one.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(one.kill)
	r := &Running{site: &peer.Site{Tenants: []peer.Tenant{{Host: "a.bench.test"}}}, replicas: []*replica{one}}
	if err := r.greet(t.Context(), 50*time.Millisecond); err == nil || !strings.Contains(err.Error(), "was not served within 50ms") || !strings.Contains(err.Error(), "a.bench.test") {
		t.Errorf("got %v, want the host, and that its certificate did not come in time", err)
	}
}

func TestPolygateWithoutAuthentication(t *testing.T) {
	s := layTest(t, 2)
	s.Auth = peer.NoAuth
	r := startTest(t, Polygate{Binary: testBinary()}, s)
	for i := range s.Tenants {
		serves(t, r, s, i, "")
	}
}

// TestPolygateVirtual has the tenants' MCP server in a catalog; the gateway knows it under its own path.
func TestPolygateVirtual(t *testing.T) {
	s := layTest(t, 2)
	r := startTest(t, Polygate{Binary: testBinary(), Options: Options{Virtual: true}}, s)
	for i := range s.Tenants {
		v := visitor{site: s, addr: r.Addr(i)}
		status, body, err := v.call(t.Context(), i, s.Tenants[i].Key)
		if err != nil || status != http.StatusOK || !strings.Contains(body, s.Tenants[i].Canary) || strings.Count(body, "canary=") != 1 {
			t.Errorf("tenant %d: status %d, %v: %.300s", i, status, err, body)
		}
		if status, _, err := v.call(t.Context(), i, s.Tenants[1-i].Key); err != nil || status != http.StatusUnauthorized {
			t.Errorf("tenant %d with another tenant's key: status %d, %v; want 401", i, status, err)
		}
	}
}

// TestPolygateRelaysByTLS reaches the upstream's TLS listener, where HTTP/2 is.
func TestPolygateRelaysByTLS(t *testing.T) {
	dir := t.TempDir()
	ports := startUpstream(t, filepath.Join(dir, "certs"))
	s, err := peer.Lay(dir, "bench.test", 2, ports.Plain, "seed")
	if err != nil {
		t.Fatal(err)
	}
	s.Auth, s.Upstream.H2C = peer.KeyAuth, true
	r := startTest(t, Polygate{Binary: testBinary(), Options: Options{TLSPort: ports.TLS}}, s)
	for i := range s.Tenants {
		serves(t, r, s, i, s.Tenants[i].Key)
	}
}

func TestPolygateReload(t *testing.T) {
	s := layTest(t, 2)
	run, ok := startTest(t, Polygate{Binary: testBinary()}, s).(*Running)
	if !ok {
		t.Fatal("it has no actions")
	}
	for range 3 {
		if err := run.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := run.replicas[0].shows(t.Context(), "t0", "changed 3 times"); err != nil {
		t.Error(err)
	}
	if err := run.replicas[0].shows(t.Context(), "t0", "changed 2 times"); err == nil {
		t.Error("a change that was overtaken is said to be in force")
	}
}

// TestPolygateCrash kills a gateway alone and finds it serving again with the same store.
func TestPolygateCrash(t *testing.T) {
	s := layTest(t, 2)
	run, ok := startTest(t, Polygate{Binary: testBinary()}, s).(*Running)
	if !ok {
		t.Fatal("it has no actions")
	}
	before := run.PIDs()
	if err := run.Crash(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if after := run.PIDs(); len(after) != 1 || after[0] == before[0] {
		t.Errorf("processes %v before, %v after", before, after)
	}
	serves(t, run, s, 1, s.Tenants[1].Key)
}

// TestReplicas has three replicas on an etcd of their own: each tenant is the same through each, after a crash and a drain too.
func TestReplicas(t *testing.T) {
	s := layTest(t, 3)
	run, ok := startTest(t, Polygate{Binary: testBinary(), Replicas: 3}, s).(*Running)
	if !ok {
		t.Fatal("it has no actions")
	}
	all := func() {
		t.Helper()
		for range 3 { // the balancer goes round
			for i := range s.Tenants {
				serves(t, run, s, i, s.Tenants[i].Key)
			}
		}
	}
	if got := len(run.PIDs()); got != 3 {
		t.Fatalf("%d processes, want 3", got)
	}
	all()
	if err := run.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	before := run.PIDs()
	if err := run.Crash(t.Context(), []int{0, 1, 2}); err != nil {
		t.Fatal(err)
	}
	all()
	if err := run.Drain(t.Context(), []int{1}); err != nil {
		t.Fatal(err)
	}
	all()
	after := run.PIDs()
	if len(after) != 3 || slices.Equal(before, after) {
		t.Errorf("processes %v before, %v after", before, after)
	}
}

// TestReplicasWhileOneIsAway kills a replica behind the harness's back: new connections go to the others.
func TestReplicasWhileOneIsAway(t *testing.T) {
	s := layTest(t, 2)
	run, ok := startTest(t, Polygate{Binary: testBinary(), Replicas: 2}, s).(*Running)
	if !ok {
		t.Fatal("it has no actions")
	}
	run.setAway(run.replicas[0], true)
	run.replicas[0].kill()
	for range 4 {
		for i := range s.Tenants {
			serves(t, run, s, i, s.Tenants[i].Key)
		}
	}
}

func TestEach(t *testing.T) {
	s := layTest(t, 3)
	r := startTest(t, Each{Binary: testBinary()}, s)
	if got := len(r.PIDs()); got != 3 {
		t.Errorf("%d processes, want 3", got)
	}
	seen := map[string]bool{}
	for i := range s.Tenants {
		serves(t, r, s, i, s.Tenants[i].Key)
		seen[r.Addr(i)] = true
	}
	if len(seen) != 3 {
		t.Errorf("3 tenants have %d addresses", len(seen))
	}
	// A tenant is at its own process alone.
	if _, _, err := (visitor{site: s, addr: r.Addr(1)}).do(t.Context(), 0, "/", s.Tenants[0].Key); err == nil {
		t.Error("tenant 0 is served by tenant 1's process")
	}
}

// TestEndedByItself: figures of a gateway that was not there are worth nothing, and Stop says so.
func TestEndedByItself(t *testing.T) {
	s := layTest(t, 1)
	r, err := Polygate{Binary: testBinary()}.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	run, _ := r.(*Running)
	p, ended := run.replicas[0].running()
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-ended
	if err := run.Stop(); !errors.Is(err, errEnded) || !strings.Contains(err.Error(), "polygate.log") {
		t.Errorf("stop = %v, want that it ended and where its log is", err)
	}
}

// TestRefusedPart gives one tenant a certificate of another: the start says it, rather than a load that fails.
func TestRefusedPart(t *testing.T) {
	s := layTest(t, 3)
	if err := os.WriteFile(s.Tenants[1].CertFile, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Polygate{Binary: testBinary()}.Start(t.Context(), s)
	if err == nil {
		_ = r.Stop()
		t.Fatal("it started without a tenant's certificate")
	}
	if !strings.Contains(err.Error(), "refused a part") {
		t.Errorf("error = %v, want what was refused", err)
	}
}

func TestMissing(t *testing.T) {
	_, err := Polygate{Binary: filepath.Join(t.TempDir(), "polygate")}.Version(t.Context())
	if !errors.Is(err, peer.ErrMissing) {
		t.Errorf("error = %v, want ErrMissing", err)
	}
	if v, err := (Each{Binary: testBinary()}).Version(t.Context()); err != nil || v == "" {
		t.Errorf("version = %q, %v", v, err)
	}
}

func TestCannot(t *testing.T) {
	site := func(a peer.Auth, h2c bool) *peer.Site {
		return &peer.Site{Tenants: make([]peer.Tenant, 1), Auth: a, Upstream: peer.Upstream{H2C: h2c}}
	}
	for name, test := range map[string]struct {
		opt  Options
		site *peer.Site
		want bool
	}{
		"virtual without keys":  {Options{Virtual: true}, site(peer.NoAuth, false), true},
		"virtual with keys":     {Options{Virtual: true}, site(peer.KeyAuth, false), false},
		"gRPC without TLS":      {Options{}, site(peer.KeyAuth, true), true},
		"gRPC with TLS":         {Options{TLSPort: 1}, site(peer.KeyAuth, true), false},
		"dedicated, by nothing": {Options{}, site(peer.NoAuth, false), false},
	} {
		if err := test.opt.refuse(test.site); errors.Is(err, peer.ErrCannot) != test.want {
			t.Errorf("%s: %v, want ErrCannot %t", name, err, test.want)
		}
	}
}

func TestBusiest(t *testing.T) {
	names := []string{"a", "b", "c"}
	for _, test := range []struct {
		owners []string
		want   int
	}{{nil, 0}, {[]string{"b"}, 1}, {[]string{"a", "c", "c", ""}, 2}, {[]string{"", "", "gone"}, 0}, {[]string{"b", "c"}, 1}} {
		if got := busiest(test.owners, names); got != test.want {
			t.Errorf("busiest(%q) = %d, want %d", test.owners, got, test.want)
		}
	}
}
