package plan

import (
	"errors"
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

// testCosts are a copy of costs that do not change when new ones are measured.
func testCosts(t testing.TB) *Costs {
	t.Helper()
	b, err := os.ReadFile("testdata/costs.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseCosts("testdata/costs.yaml", b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// demand returns a small demand, changed.
func demand(change func(*Demand)) Demand {
	d := defaults()
	d.Tenants, d.ActiveShare, d.Requests.PerSecond, d.Connections.Open = 1000, 0.1, 500, 200
	d.fill()
	if change != nil {
		change(&d)
	}
	return d
}

// TestBinds gives each limit a demand that it decides.
func TestBinds(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*Demand)
		binds   string
		serving int
		refused string // part of the error; "" = none
	}{
		{name: "one is enough", change: func(*Demand) {}, binds: limitCPU, serving: 1},
		{name: "requests", change: func(d *Demand) { d.Requests.PerSecond = 50_000 }, binds: limitCPU, serving: 19},
		{name: "a gigabyte of connections", change: func(d *Demand) {
			d.Connections.Open, d.Connections.HandshakesPerSecond, d.Limits.MaxConnections = 200_000, 1, 1_000_000
		}, binds: limitMemory, serving: 3},
		{name: "connections as they are set", change: func(d *Demand) { d.Connections.Open, d.Connections.HandshakesPerSecond = 35_000, 1 }, binds: limitConnections, serving: 4},
		{name: "streams as they are set", change: func(d *Demand) { d.Streams, d.Machine.Memory = 35_000, 64<<30 }, binds: limitStreams, serving: 4},
		{name: "claims", change: func(d *Demand) {
			d.Tenants, d.ActiveShare, d.Machine.Memory, d.Machine.Cores, d.Etcd.QuotaBytes = 250_000, 1, 1<<40, 64, 8<<30
			d.Etcd.CompactAfter = 60e9
		}, binds: limitClaims, serving: 3},
		{name: "too many tenants for any machine", change: func(d *Demand) { d.Tenants, d.Etcd.QuotaBytes = 5_000_000, 1<<40 }, binds: limitMemory, serving: 5, refused: "memory: 10"},
		{name: "etcd's size", change: func(d *Demand) { d.Tenants, d.Machine.Memory = 500_000, 64<<30 }, binds: limitSize, serving: 1, refused: "raise the quota"},
		{name: "heads of all chains", change: func(d *Demand) {
			d.Tenants, d.ActiveShare, d.Requests.PerSecond, d.Etcd.QuotaBytes = 100_000, 1, 50_000, 64<<30
		}, binds: limitPuts, serving: 20, refused: "etcd puts"},
		{name: "changes", change: func(d *Demand) { d.ChangesPerDay, d.Etcd.QuotaBytes = 2000*8640, 1<<40 }, binds: limitTransactions, serving: 1, refused: "etcd transactions"},
		{name: "orders", change: func(d *Demand) { d.Certificates.Number, d.Etcd.QuotaBytes = 10_000_000, 1<<40 }, binds: limitOrders, serving: 1, refused: "orders_per_minute"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Compute(demand(c.change), testCosts(t), Machine{})
			switch {
			case c.refused == "" && err != nil:
				t.Fatalf("got %v", err)
			case c.refused != "" && (!errors.Is(err, ErrNone) || !strings.Contains(err.Error(), c.refused)):
				t.Errorf("got %v, want ErrNone with %q", err, c.refused)
			}
			if p.Replicas.Binds != c.binds || p.Replicas.Serving != c.serving {
				t.Errorf("got %d, bound by %s, want %d by %s", p.Replicas.Serving, p.Replicas.Binds, c.serving, c.binds)
			}
		})
	}
}

// TestStore says where etcd is put.
func TestStore(t *testing.T) {
	for _, c := range []struct {
		name    string
		spare   int
		kind    StoreKind
		rate    float64
		total   int
		mapped  bool
		refused string
	}{
		{"nothing said, one is enough", 0, "", 100, 1, true, ""},
		{"nothing said, one spare", 1, "", 100, 2, false, ""},
		{"nothing said, one is not enough", 0, "", 20_000, 8, false, ""},
		{"embedded, with a spare", 1, Embedded, 100, 2, true, "an embedded etcd serves one replica"},
		{"cluster of the least", 1, Cluster, 100, 3, true, ""},
		{"cluster of five", 1, Cluster, 10_000, 5, true, ""},
		{"cluster of too many", 1, Cluster, 20_000, 9, true, "5 is the most"},
		{"external", 0, External, 100, 1, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := demand(func(d *Demand) { d.SpareReplicas, d.Etcd.Kind, d.Requests.PerSecond = c.spare, c.kind, c.rate })
			p, err := Compute(d, testCosts(t), Machine{})
			if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
				t.Errorf("got error %v, want %q", err, c.refused)
			}
			if p.Replicas.Total != c.total || p.Replicas.Serving+p.Replicas.Spare != c.total {
				t.Errorf("got %+v, want %d in all", p.Replicas, c.total)
			}
			if got := term(p.Memory, "etcd's database, mapped") > 0; got != c.mapped {
				t.Errorf("etcd in the replica: got %v, want %v", got, c.mapped)
			}
			if got := term(p.Memory, "etcd's member itself"); got > 0 != c.mapped {
				t.Errorf("its member takes %v bytes, in the replica: %v", got, c.mapped)
			}
		})
	}
}

// TestWarnings looks for what somebody has to be told.
func TestWarnings(t *testing.T) {
	for _, c := range []struct {
		want   string
		change func(*Demand)
	}{
		{"the peak takes 8", func(d *Demand) { d.Requests.PerSecond = 5300 }},
		{"limits.max_connections decides", func(d *Demand) { d.Connections.Open, d.Connections.HandshakesPerSecond = 35_000, 1 }},
		{"there is no spare replica", func(d *Demand) { d.SpareReplicas = 0 }},
		{"of etcd's size is history", func(d *Demand) { d.Tenants, d.ActiveShare, d.Requests.PerSecond = 5000, 1, 3000 }},
		{"not measured, and more than a tenth of a sum here: cpu.request.grpc", func(d *Demand) { d.Requests.Protocols = map[string]float64{"grpc": 1} }},
	} {
		p, err := Compute(demand(c.change), testCosts(t), Machine{})
		if err != nil {
			t.Errorf("%s: %v", c.want, err)
			continue
		}
		if all := strings.Join(p.Warnings, "\n"); !strings.Contains(all, c.want) {
			t.Errorf("got warnings %q, want %q", all, c.want)
		}
	}
}

// TestHeads holds the arithmetic of what writes most against counting by hand.
func TestHeads(t *testing.T) {
	c := testCosts(t)
	c.Costs[costSettle] = Cost{Value: 1}
	at := func(n int, change func(*Demand)) float64 {
		s := &shape{d: demand(change), c: c, n: n, kind: External} // its settlements are a second apart
		return s.heads(float64(n))
	}
	few := func(d *Demand) { d.Tenants, d.ActiveShare, d.Requests.PerSecond = 10, 1, 10_000 }
	for _, c := range []struct {
		name      string
		got, want float64
	}{
		{"ten busy virtual tenants, each at its owner", at(4, few), 10},
		{"ten busy dedicated tenants, each on every replica", at(4, func(d *Demand) { few(d); d.VirtualShare = 0 }), 40},
		{"a million tenants, each asked once", at(1, func(d *Demand) { d.Tenants, d.ActiveShare, d.Requests.PerSecond = 1_000_000, 1, 100 }), 100},
		{"as many requests as tenants hit 1-1/e of them", at(1, func(d *Demand) { d.Tenants, d.ActiveShare, d.Requests.PerSecond = 1000, 1, 1000 }), 1000 * (1 - 1/math.E)},
		{"nobody asks", at(1, func(d *Demand) { d.Requests.PerSecond = 0 }), 0},
	} {
		if math.Abs(c.got-c.want) > 0.01*c.want+0.01 {
			t.Errorf("%s: got %.2f heads a second, want %.2f", c.name, c.got, c.want)
		}
	}
}

// TestForwarded says that what arrives at the wrong replica costs a hop.
func TestForwarded(t *testing.T) {
	s := &shape{d: demand(nil), c: testCosts(t), n: 4, kind: External}
	got, want := term(s.cpu(), "requests passed to the owner, and taken from others"), 500.0/4*3/4*260e-6
	if math.Abs(got-want) > 1e-9 {
		t.Errorf("got %v cores, want %v", got, want)
	}
}

func TestMachines(t *testing.T) {
	d := demand(func(d *Demand) { d.Machine = Machine{Cores: 8, Memory: 16 << 30} })
	p, err := Compute(d, testCosts(t), Machine{Cores: 3})
	if err != nil {
		t.Fatal(err)
	}
	if want := (Machine{Cores: 3, Memory: 16 << 30, Headroom: 0.6}); p.Machine != want {
		t.Errorf("got %+v, want %+v: the caller's, then the demand's, then the default", p.Machine, want)
	}
	if _, err := Compute(d, testCosts(t), Machine{Cores: -1}); err == nil || !strings.Contains(err.Error(), "machine.cores") {
		t.Errorf("got %v for -1 cores", err)
	}
}

// TestHistory follows etcd's periodic compaction: each span, an hour at most, up to a span before.
func TestHistory(t *testing.T) {
	for after, want := range map[time.Duration]float64{5 * time.Minute: 600, time.Hour: 7200, 10 * time.Hour: 11 * 3600} {
		s := &shape{d: demand(func(d *Demand) { d.Etcd.CompactAfter = after }), c: testCosts(t), n: 1}
		if got := s.historySeconds(); got != want {
			t.Errorf("compact after %s: got history of %v s, want %v", after, got, want)
		}
	}
}

// TestSpareReplicasWrite: those that stand by are asked like the others, and each has chains of its own for dedicated tenants.
func TestSpareReplicasWrite(t *testing.T) {
	at := func(spare int) float64 {
		d := demand(func(d *Demand) {
			d.VirtualShare, d.ActiveShare, d.Requests.PerSecond, d.SpareReplicas, d.Etcd.Kind = 0, 0.01, 1000, spare, External
		})
		p, err := Compute(d, testCosts(t), Machine{})
		if err != nil {
			t.Fatal(err)
		}
		return term(p.Etcd.Puts, "audit heads of tenants that were asked something")
	}
	if got, want := at(1), 2*at(0); math.Abs(got-want) > 0.01*want {
		t.Errorf("got %.3g heads a second with a spare, want %.3g", got, want)
	}
}

// TestReserve: what etcd.reserve keeps free is not there for the plan.
func TestReserve(t *testing.T) {
	d := demand(func(d *Demand) { d.Etcd.QuotaBytes, d.Etcd.Reserve = 1000<<20, 30 })
	p, err := Compute(d, testCosts(t), Machine{})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range p.Limits {
		if l.Name == limitSize && l.Have != 700<<20 {
			t.Errorf("got %s there, want 700 MiB", bytesText(l.Have))
		}
	}
}
