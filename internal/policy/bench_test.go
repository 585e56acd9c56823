package policy

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/polygate/polygate/internal/tenant"
)

func example(b *testing.B) *Bundle {
	b.Helper()
	bu, _, err := ReadDir("testdata/example", Limits{})
	if err != nil {
		b.Fatal(err)
	}
	return bu
}

func BenchmarkDecideSimple(b *testing.B) {
	e := open(b, NewLibrary(patient()), "a", `allow if input.role == "editor"`, "")
	benchDecide(b, e)
}

func BenchmarkDecideSimpleDeny(b *testing.B) {
	benchDecide(b, open(b, NewLibrary(patient()), "a", "allow if input.role == \"editor\"\ndeny contains \"x\" if input.action == \"no\"", ""))
}

func BenchmarkDecideExample(b *testing.B) {
	e, err := NewLibrary(patient()).Open(context.Background(), scope("a"), example(b))
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	benchDecide(b, e)
}

// BenchmarkDecideSeven has seven modules of the sort that the source systems ship.
func BenchmarkDecideSeven(b *testing.B) {
	bu := example(b)
	for i := range 5 {
		bu.Modules[fmt.Sprintf("m%d.rego", i)] = fmt.Sprintf(`package polygate.m%d
blocked contains x if { some x in input.groups; startswith(x, "blocked") }
limit := object.get({"editor": 10, "admin": 100}, input.role, 0)
ok if { count(blocked) == 0; limit > %d }
`, i, i)
	}
	bu.Modules["x.rego"] = "package polygate.authz\ndeny contains \"limits\" if { not data.polygate.m0.ok }\ndeny contains \"limits\" if { not data.polygate.m4.ok }"
	e, err := NewLibrary(patient()).Open(context.Background(), scope("a"), bu)
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	benchDecide(b, e)
}

func benchDecide(b *testing.B, e *Engine) {
	in := caller()
	b.ReportAllocs()
	for b.Loop() {
		if d := e.Decide(context.Background(), in); d.Failure != Decided && d.Failure != FailUndef {
			b.Fatal(d)
		}
	}
}

func BenchmarkInput(b *testing.B) {
	in := caller()
	b.ReportAllocs()
	for b.Loop() {
		_ = in.value("a")
	}
}

func BenchmarkOpenNew(b *testing.B) {
	bu := example(b)
	b.ReportAllocs()
	for b.Loop() {
		e, err := NewLibrary(patient()).Open(context.Background(), scope("a"), bu)
		if err != nil {
			b.Fatal(err)
		}
		e.Close()
	}
}

// BenchmarkOpenShared reports what one more tenant with the example's modules keeps in memory.
func BenchmarkOpenShared(b *testing.B) {
	bu := example(b)
	l := NewLibrary(patient())
	first, err := l.Open(context.Background(), scope("first"), bu)
	if err != nil {
		b.Fatal(err)
	}
	defer first.Close()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	engines := make([]*Engine, 0, 1000)
	n := 0
	for b.Loop() {
		n++
		e, err := l.Open(context.Background(), scope(tenant.ID(fmt.Sprintf("t%d", n))), bu)
		if err != nil {
			b.Fatal(err)
		}
		engines = append(engines, e)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "heap-B/tenant")
	for _, e := range engines {
		e.Close()
	}
}
