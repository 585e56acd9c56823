package guard

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

func TestEffectiveLimits(t *testing.T) {
	rate := func(n float64, burst int) quota.Limit { return quota.Limit{PerSecond: n, Burst: burst} }
	for _, c := range []struct {
		name              string
		own, def, ceil    quota.Limit
		want              quota.Limit
		from              Origin
		ownN, defN, ceilN int
		wantN             int
		fromN             Origin
	}{
		{"nothing", rate(0, 0), rate(0, 0), rate(0, 0), rate(0, 0), OriginNone, 0, 0, 0, 0, OriginNone},
		{"the platform's", rate(0, 0), rate(5, 9), rate(0, 0), rate(5, 9), OriginPlatform, 0, 5, 0, 5, OriginPlatform},
		{"its own", rate(7, 8), rate(5, 9), rate(0, 0), rate(7, 8), OriginTenant, 7, 5, 0, 7, OriginTenant},
		{"its own, within the ceiling", rate(7, 8), rate(5, 9), rate(10, 10), rate(7, 8), OriginTenant, 7, 5, 7, 7, OriginTenant},
		{"its own, capped", rate(70, 80), rate(5, 9), rate(10, 20), rate(10, 20), OriginCeiling, 70, 5, 10, 10, OriginCeiling},
		{"a slow rate with a great burst, capped", rate(1, 80), rate(0, 0), rate(10, 20), rate(1, 20), OriginCeiling, 0, 50, 10, 10, OriginCeiling},
		{"no burst is one second's worth", rate(15, 0), rate(0, 0), rate(20, 10), rate(15, 10), OriginCeiling, -3, 0, 0, 0, OriginNone},
		{"nothing but a ceiling", rate(0, 0), rate(0, 0), rate(10, 0), rate(10, 0), OriginCeiling, 0, 0, 10, 10, OriginCeiling},
	} {
		q := tenant.Quotas{RequestsPerSecond: c.own.PerSecond, Burst: c.own.Burst, MaxStreams: c.ownN, MaxServers: c.ownN, MaxConcurrentRequests: c.ownN, MaxStoredBytes: int64(c.ownN),
			BytesPerSecond: int64(c.own.PerSecond), BytesBurst: int64(c.own.Burst),
			PerKey:       tenant.Share{RequestsPerSecond: c.own.PerSecond, Burst: c.own.Burst, MaxConcurrentRequests: c.ownN},
			PerPrincipal: tenant.Share{RequestsPerSecond: c.own.PerSecond, Burst: c.own.Burst, MaxConcurrentRequests: c.ownN}}
		all := func(l quota.Limit, n int) Limits {
			return Limits{Rate: l, MaxConcurrent: n, MaxStreams: n, Bytes: l, MaxServers: n, MaxStored: int64(n), PerPrincipal: Share{l, n}, PerKey: Share{l, n}}
		}
		got, from := Effective(q, all(c.def, c.defN), all(c.ceil, c.ceilN))
		if want := all(c.want, c.wantN); got != want {
			t.Errorf("%s:\n got %+v\nwant %+v", c.name, got, want)
		}
		if want := (Origins{c.from, c.fromN, c.fromN, c.from, c.fromN, c.fromN, c.from, c.fromN, c.from, c.fromN}); from != want {
			t.Errorf("%s:\n got %+v\nwant %+v", c.name, from, want)
		}
	}
}

// TestBytesAreOwed: bodies pass; while the tenant owes for them, its new requests are refused and a relay is asked to pause.
func TestBytesAreOwed(t *testing.T) {
	w := newWorld(Limits{})
	e := tenantEntry("team-a", "u", 1, tenant.Quotas{BytesPerSecond: 1000, BytesBurst: 1000})
	v := w.visit(t, e, user(1))
	if d := v.Bytes(400, 600); d != 0 {
		t.Errorf("within the burst: wait %v", d)
	}
	if got := w.refusedBy(e, user(2)); got != "" {
		t.Errorf("nothing is owed: refused by %q", got)
	}
	if d := v.Bytes(0, 250); d != 250*time.Millisecond {
		t.Errorf("250 bytes over: wait %v", d)
	}
	if d := v.Bytes(5000, 0); d != MaxPause {
		t.Errorf("far over: wait %v, want %v", d, MaxPause)
	}
	_, err := w.For(e).Enter(user(2), Request{})
	if f := fault.From(err); f == nil || f.Kind != fault.RateLimited || f.RetryAfter != 5250*time.Millisecond {
		t.Errorf("Enter = %v, %v; want rate-limited for 5.25s", err, f.RetryAfter)
	}
	u := w.For(e).Usage()
	if u.BytesIn != 5400 || u.BytesOut != 850 || u.BytesOwed != 5250*time.Millisecond || u.InFlight != 1 || u.Refused[quota.TenantBytes] != 1 {
		t.Errorf("usage %+v", u)
	}
	if got := w.refusedBy(tenantEntry("team-b", "u", 1, tenant.Quotas{}), tenant.Principal{Tenant: "team-b", Kind: tenant.KindKey, ID: "k"}); got != "" {
		t.Errorf("another tenant: refused by %q", got)
	}
	w.now = w.now.Add(5250 * time.Millisecond)
	if got := w.refusedBy(e, user(2)); got != "" {
		t.Errorf("all is paid: refused by %q", got)
	}
	if v.Bytes(-1, 0) != 0 || v.Bytes(0, -1) != 0 || w.For(e).Usage().BytesIn != 5400 {
		t.Error("a negative number counts")
	}
}

type meter struct {
	streams, evicted, policies atomic.Int64
	refused                    [quota.NumReasons]atomic.Int64
}

func (m *meter) Refused(r quota.Reason)           { m.refused[r].Add(1) }
func (m *meter) Streams(n int)                    { m.streams.Add(int64(n)) }
func (m *meter) Policy(time.Duration, bool, bool) { m.policies.Add(1) }
func (m *meter) Evicted(n int)                    { m.evicted.Add(int64(n)) }

// TestStreams: a stream counts once, till it ends or the visit does.
func TestStreams(t *testing.T) {
	w, m := newWorld(Limits{MaxStreams: 2}), new(meter)
	w.cfg.Meter = func(tenant.Scope) Meter { return m }
	e := tenantEntry("team-a", "u", 1, tenant.Quotas{})
	open := func() (*Visit, error) {
		v := w.visit(t, e, user(1))
		return v, v.Stream()
	}
	a, err := open()
	if err != nil || a.Stream() != nil {
		t.Fatal("the first is refused", err)
	}
	b, err := open()
	if err != nil {
		t.Fatal(err)
	}
	c, err := open()
	if f := fault.From(err); f == nil || f.Kind != fault.RateLimited || f.RetryAfter <= 0 {
		t.Fatalf("the third: %v", err)
	}
	a.EndStream()
	a.EndStream()
	if err := c.Stream(); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
	if a.Stream() != nil {
		t.Error("a stream that ended does not come back")
	}
	if u := w.For(e).Usage(); u.Streams != 2 || u.InFlight != 3 || m.streams.Load() != 2 || m.refused[quota.TenantStreams].Load() != 1 {
		t.Errorf("usage %+v, metrics %d", u, m.streams.Load())
	}
	for _, v := range []*Visit{a, b, c} {
		v.Leave()
	}
	if u, s := w.For(e).Usage(), w.Stats(); u.Streams != 0 || u.InFlight != 0 || s.ActiveRequests != 0 || s.ActiveStreams != 0 || s.LentRequests != 0 || m.streams.Load() != 0 {
		t.Errorf("at the end: %+v, %+v", u, s)
	}
	system, _ := w.Platform().Enter(tenant.System("x"), Request{})
	if system.Stream() != nil || system.Bytes(1<<40, 0) != 0 {
		t.Error("the system has a quota")
	}
	system.Leave()
}

// TestX42HundredTimesTheShare: tenant A asks for a hundred times what the replica can give it, and holds all that it gets; B, C
// and D come and go, and are never refused. A is refused, and told when to come back.
func TestX42HundredTimesTheShare(t *testing.T) {
	for _, streams := range []bool{false, true} {
		w := newWorld(Limits{})
		cfg := w.cfg
		cfg.MaxInFlight, cfg.MaxStreams = 1000, 1000
		w.Set = NewSet(cfg)
		enter := func(id tenant.ID) (*Visit, error) {
			v, err := w.For(tenantEntry(id, "u", 1, tenant.Quotas{})).Enter(member(id, tenant.Editor), Request{})
			if err != nil || !streams {
				return v, err
			}
			if err := v.Stream(); err != nil {
				v.Leave()
				return nil, err
			}
			return v, nil
		}
		held, refused := 0, 0
		for range 100 * 1000 {
			if _, err := enter("team-a"); err == nil {
				held++
			} else if refused++; fault.From(err).RetryAfter < time.Second {
				t.Fatalf("A is told to come back after %v", fault.From(err).RetryAfter)
			}
		}
		if held > 1000*9/16 || refused == 0 {
			t.Errorf("A holds %d of 1000, was refused %d times", held, refused)
		}
		for round := range 100 {
			var all []*Visit
			for _, id := range []tenant.ID{"team-b", "team-c", "team-d"} {
				for i := range 15 { // a share of a sixteenth of 1000 among four
					v, err := enter(id)
					if err != nil {
						t.Fatalf("round %d, %s, request %d: %v", round, id, i, err)
					}
					all = append(all, v)
				}
			}
			for _, v := range all {
				v.Leave()
			}
		}
		if u := w.For(tenantEntry("team-b", "u", 1, tenant.Quotas{})).Usage(); u.Guaranteed < 31 {
			t.Errorf("B is guaranteed %d", u.Guaranteed)
		}
	}
}

// TestRefusedClientsDoNotComeBackAtOnce: those who are refused one after another are told different times, none too early.
func TestRefusedClientsDoNotComeBackAtOnce(t *testing.T) {
	s := NewSet(Config{Recorder: new(recorder), Now: func() time.Time { return time.Unix(1_800_000_000, 0) }})
	g := s.For(tenantEntry("team-a", "u", 1, tenant.Quotas{RequestsPerSecond: 0.1, Burst: 1}))
	if _, err := g.Enter(user(1), Request{}); err != nil {
		t.Fatal(err)
	}
	at := make(map[time.Duration]int)
	for range 40 {
		_, err := g.Enter(user(1), Request{})
		d := fault.From(err).RetryAfter
		if d < 10*time.Second {
			t.Fatalf("told %v, before there is one", d)
		}
		at[d.Truncate(time.Second)]++
	}
	for d, n := range at {
		if n > 12 {
			t.Errorf("%d of 40 are told %v: %v", n, d, at)
		}
	}
}

// TestEntryNamesTheCredential: whoever reads the record knows by what, from where and under which policy it was done.
func TestEntryNamesTheCredential(t *testing.T) {
	w, _ := policyWorld()
	p := user(7)
	p.KeyID, p.Claims = "cert-1", &tenant.Claims{Issuer: "https://issuer.example", Subject: "user-7"}
	for range 2 { // the second time from what the table remembers
		v, err := w.For(withPolicy("team-a", 1, "allow")).Enter(p, Request{ID: "req-1", Remote: netip.MustParseAddr("::ffff:192.0.2.7")})
		if err != nil {
			t.Fatal(err)
		}
		permit, err := v.Admit(Effect{Action: authz.MCPCall, Resource: "server/a/tool/b"})
		if err != nil {
			t.Fatal(err)
		}
		got := permit.Entry(audit.OutcomeOK)
		want := audit.Entry{ID: got.ID, Time: w.now, Tenant: "team-a", TenantUID: "u", Replica: "r1", Principal: "user:corp/user-7", Role: "editor",
			Action: "mcp.call", Resource: "server/a/tool/b", Decision: audit.Allow, Rule: "role editor", Outcome: audit.OutcomeOK, RequestID: "req-1",
			Issuer: "https://issuer.example", KeyID: "cert-1", Via: "oidc", Bundle: "allow", Remote: "192.0.2.7"}
		if got != want {
			t.Errorf("entry\n got %+v\nwant %+v", got, want)
		}
		v.Leave()
	}
}

// TestVisitsAdmitSeveralEffects: permits of one visit are apart, also when they are made at once.
func TestVisitsAdmitSeveralEffects(t *testing.T) {
	w := newWorld(Limits{})
	v := w.visit(t, tenantEntry("team-a", "u", 1, tenant.Quotas{}), member("team-a", tenant.Admin))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			resource := fmt.Sprintf("server/s%d", i)
			p, err := v.Admit(Effect{Action: authz.ServerRead, Resource: resource})
			if err != nil {
				t.Error(err)
			} else if e := p.Entry(audit.OutcomeOK); e.Resource != resource {
				t.Errorf("the permit for %s is for %s", resource, e.Resource)
			}
		})
	}
	wg.Wait()
}

func TestUsage(t *testing.T) {
	w := newWorld(Limits{Rate: quota.Limit{PerSecond: 10, Burst: 100}, MaxConcurrent: 50, PerPrincipal: Share{Rate: quota.Limit{PerSecond: 1, Burst: 30}}})
	e := tenantEntry("team-a", "u", 1, tenant.Quotas{MaxConcurrentRequests: 40})
	for i := range 30 {
		for range i % 25 {
			if got := w.refusedBy(e, user(i)); got != "" && got != "rate" {
				t.Fatal(got)
			}
		}
		w.now = w.now.Add(10 * time.Second)
	}
	w.visit(t, e, user(24))
	u := w.For(e).Usage()
	if u.InFlight != 1 || u.RateLeft != 99 || u.Limits.MaxConcurrent != 40 || u.Origins.MaxConcurrent != OriginTenant || u.Origins.Rate != OriginPlatform || u.Known != 28 {
		t.Errorf("usage %+v", u)
	}
	if len(u.Callers) != MaxCallers || u.Callers[0] != (CallerUsage{Ref: "user:corp/user-24", InFlight: 1, Requests: 25, RateLeft: 29}) {
		t.Errorf("%d callers, first %+v", len(u.Callers), u.Callers[0])
	}
	if !slices.IsSortedFunc(u.Callers, func(a, b CallerUsage) int { return int(b.Requests) - int(a.Requests) }) {
		t.Errorf("callers are not in order: %+v", u.Callers)
	}
	if s := w.Stats(); s.Guards != 1 || s.ActiveRequests != 1 {
		t.Errorf("stats %+v", s)
	}
	if empty := w.Platform().Usage(); empty.InFlight != 0 {
		t.Errorf("platform %+v", empty)
	}
}
