package guard

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/tenant"
)

// rego makes a set whose policies are Rego modules, by digest.
func rego(modules map[string]string, limits policy.Limits) *Set {
	library := policy.NewLibrary(limits)
	return NewSet(Config{Recorder: discard{}, OpenPolicy: func(ctx context.Context, s tenant.Scope, digest string) (*policy.Engine, error) {
		src, ok := modules[digest]
		if !ok {
			return nil, fault.New(fault.NotFound, "no bundle %s", digest)
		}
		return library.Open(ctx, s, &policy.Bundle{Modules: map[string]string{"a.rego": "package polygate.authz\n" + src}})
	}})
}

// TestRealPolicy: the guard and the engine mean the same by their words.
func TestRealPolicy(t *testing.T) {
	s := rego(map[string]string{
		"v1": `
allow if input.role in {"editor", "admin"}
deny contains sprintf("%s is off limits", [input.resource.name]) if {
	input.resource.type == "tool"
	input.resource.labels.server == "prod"
	not "sre" in input.groups
}
reason := concat("; ", deny)`,
		"broken": `allow if {`,
	}, policy.Limits{EvalTime: 5 * time.Second, CompileTime: time.Minute})
	ann := user(1)
	ann.Claims = &tenant.Claims{Groups: []string{"dev"}}
	sue := user(2)
	sue.Claims = &tenant.Claims{Groups: []string{"sre"}}
	call := Effect{Action: authz.MCPCall, Resource: "server/prod/tool/drop"}
	for _, c := range []struct {
		name   string
		digest string
		who    tenant.Principal
		effect Effect
		want   fault.Kind
		reason string
	}{
		{"allowed", "v1", sue, call, 0, ""},
		{"denied", "v1", ann, call, fault.Forbidden, "drop is off limits"},
		{"another server", "v1", ann, Effect{Action: authz.MCPCall, Resource: "server/test/tool/drop"}, 0, ""},
		{"broken", "broken", sue, call, fault.Unavailable, ""},
		{"unknown", "none", sue, call, fault.Unavailable, ""},
	} {
		e := withPolicy("team-a", 1, c.digest)
		e.Scope = tenant.Confine("team-a", "u-"+c.name)
		v, err := s.For(e).Enter(c.who, benchRequest())
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.Admit(c.effect)
		if c.want == 0 {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if e := fault.From(err); e == nil || e.Kind != c.want || !strings.Contains(e.Reason, c.reason) || (c.reason == "") != (e.Reason == "") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	s.Forget("team-a")
}

// TestC1EndlessPolicyStaysWithItsTenant: while a tenant's policy never ends, and a crowd asks it, another's requests are all
// admitted.
func TestC1EndlessPolicyStaysWithItsTenant(t *testing.T) {
	s := rego(map[string]string{
		"endless": "allow if { some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); i * j == -1 }",
		"good":    `allow if input.role == "admin"`,
	}, policy.Limits{EvalTime: 500 * time.Millisecond}) // ten times the default: this machine may be busy with other tests
	good := withPolicy("team-b", 1, "good")
	admitted := func(e *tenant.Entry) error {
		v, err := s.For(e).Enter(member(e.Scope.ID(), tenant.Admin), Request{})
		if err != nil {
			return err
		}
		defer v.Leave()
		_, err = v.Admit(Effect{Action: authz.MCPCall})
		return err
	}
	if err := admitted(good); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for !stop.Load() {
				if err := admitted(withPolicy("team-a", 1, "endless")); !fault.Is(err, fault.Unavailable) {
					t.Errorf("the endless policy said %v", err)
					return
				}
			}
		})
	}
	failed, slowest := 0, time.Duration(0)
	for range 100 {
		began := time.Now()
		if err := admitted(good); err != nil {
			failed++
			t.Log(err)
		}
		slowest = max(slowest, time.Since(began))
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("of 100 requests %d failed, the slowest took %v", failed, slowest)
	if failed > 0 {
		t.Errorf("%d of 100 requests of another tenant failed", failed)
	}
	s.Forget("team-a")
	s.Forget("team-b")
}

// BenchmarkPolicy is a request whose tenant has a small policy.
func BenchmarkPolicy(b *testing.B) {
	s := rego(map[string]string{"v1": `allow if input.role in {"editor", "admin"}`}, policy.Limits{EvalTime: 5 * time.Second})
	for _, digest := range []string{"", "v1"} {
		b.Run(fmt.Sprintf("%q", digest), func(b *testing.B) {
			e := withPolicy("team-a", int64(1+len(digest)), digest)
			b.ReportAllocs()
			for b.Loop() {
				v, err := s.For(e).Enter(member("team-a", tenant.Editor), benchRequest())
				if err != nil {
					b.Fatal(err)
				}
				if _, err := v.Admit(Effect{Action: authz.MCPCall, Resource: "server/a/tool/b"}); err != nil {
					b.Fatal(err)
				}
				v.Leave()
			}
		})
	}
}
