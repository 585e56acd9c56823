package guard

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

type discard struct{}

func (discard) Record(audit.Entry) {}

func benchRequest() Request {
	return Request{ID: "req-1", Method: "POST", Path: "/servers/a/mcp", Host: "team-a.example.com", Remote: netip.MustParseAddr("192.0.2.7")}
}

func benchLimits() Limits {
	many := quota.Limit{PerSecond: 1e6, Burst: 1e6}
	return Limits{Rate: many, MaxConcurrent: 1000, MaxStreams: 100, Bytes: quota.Limit{PerSecond: 1e12},
		PerPrincipal: Share{many, 100}, PerKey: Share{many, 100}}
}

// BenchmarkRequest is what the guard adds to a request: find the guard, enter, admit, record, leave.
func BenchmarkRequest(b *testing.B) {
	for _, c := range []struct {
		name   string
		done   bool
		policy bool
	}{{"admit", false, false}, {"admit and record", true, false}, {"policy that costs nothing", false, true}} {
		b.Run(c.name, func(b *testing.B) {
			s := NewSet(Config{Recorder: discard{}, Defaults: benchLimits(), Replica: "r1"})
			e := tenantEntry("team-a", "u", 1, tenant.Quotas{})
			if c.policy {
				e.Record.Policy = &tenant.PolicyRef{Digest: "sha256:1"}
				s.open = func(context.Context, tenant.Scope, string) (engine, error) {
					return &fakeEngine{decide: func(*policy.Input) policy.Decision { return policy.Decision{Allow: true} }}, nil
				}
			}
			p := member("team-a", tenant.Editor)
			p.KeyID = "k1"
			b.ReportAllocs()
			for b.Loop() {
				v, err := s.For(e).Enter(p, benchRequest())
				if err != nil {
					b.Fatal(err)
				}
				permit, err := v.Admit(Effect{Action: authz.MCPCall, Resource: "server/a/tool/echo"})
				if err != nil {
					b.Fatal(err)
				}
				if c.done {
					permit.Done(nil)
				}
				v.Leave()
			}
		})
	}
}

// BenchmarkTable is a request of one among many known callers.
func BenchmarkTable(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			g := NewSet(Config{Recorder: discard{}}).For(tenantEntry("team-a", "u", 1, tenant.Quotas{}))
			l, who := benchLimits(), make([]tenant.Principal, n)
			for i := range who {
				who[i] = tenant.Principal{Tenant: "team-a", Kind: tenant.KindUser, ID: fmt.Sprintf("corp/user-%d", i)}
			}
			now, i := time.Now().UnixNano(), 0
			b.ReportAllocs()
			for b.Loop() {
				var k ticket
				if no, _ := g.callers.enter(&k, now, &who[i%n], netip.Addr{}, &l); no.refused {
					b.Fatal(no)
				}
				g.callers.leave(&k)
				i, now = i+1, now+1000
			}
		})
	}
}

// BenchmarkRefused is what a request costs that is over a quota: a flood of them is the case that matters.
func BenchmarkRefused(b *testing.B) {
	s := NewSet(Config{Recorder: discard{}})
	e := tenantEntry("team-a", "u", 1, tenant.Quotas{RequestsPerSecond: 0.001, Burst: 1})
	p := member("team-a", tenant.Editor)
	b.ReportAllocs()
	for b.Loop() {
		if v, err := s.For(e).Enter(p, benchRequest()); err == nil {
			v.Leave()
		}
	}
}

// BenchmarkParallel is many tenants at once.
func BenchmarkParallel(b *testing.B) {
	s := NewSet(Config{Recorder: discard{}, Defaults: benchLimits()})
	b.RunParallel(func(pb *testing.PB) {
		id := tenant.ID(fmt.Sprintf("team-%d", time.Now().UnixNano()))
		e, p := tenantEntry(id, "u", 1, tenant.Quotas{}), member(id, tenant.Editor)
		for pb.Next() {
			v, err := s.For(e).Enter(p, benchRequest())
			if err != nil {
				b.Error(err)
				return
			}
			v.Leave()
		}
	})
}
