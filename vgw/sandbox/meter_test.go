package sandbox

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// noon is when the stories begin.
func noon() time.Time { return time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC) }

func runningSince(start time.Time) *Sandbox {
	return &Sandbox{
		ID: "a", Owner: "user:corp/ada", Spec: Spec{Resources: Resources{CPU: 500, Memory: 512 << 20, Storage: 1 << 30, GPUs: map[string]int64{"x/gpu": 2}}},
		Run: Run{Nonce: "n1", UID: "u1", Started: start},
	}
}

func newMeter(t *testing.T, c MeterConfig, stored ...tenant.Object) *Meter {
	t.Helper()
	m, err := NewMeter(c, stored)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// keep bills sandboxes and settles the bill as committed.
func keep(t *testing.T, m *Meter, now time.Time, all ...*Sandbox) []*Sandbox {
	t.Helper()
	b := m.Bill(now, all...)
	if b == nil {
		t.Fatal("no bill: another is open")
	}
	if len(b.Writes) > MaxBillWrites {
		t.Fatalf("a bill of %d writes, at most %d are wanted", len(b.Writes), MaxBillWrites)
	}
	b.Kept()
	return b.Sandboxes
}

func report(t *testing.T, m *Meter, q Query) []Line {
	t.Helper()
	if q.To.IsZero() {
		q.From, q.To = noon().AddDate(-3, 0, 0), noon().AddDate(3, 0, 0)
	}
	r, err := m.Report(q)
	if err != nil {
		t.Fatal(err)
	}
	return r.Lines
}

func total(t *testing.T, m *Meter) Amounts {
	t.Helper()
	lines := report(t, m, Query{})
	if len(lines) == 0 {
		return Amounts{}
	}
	return lines[0].Amounts
}

func TestRunIsSplitAtHours(t *testing.T) {
	m := newMeter(t, MeterConfig{})
	s := runningSince(noon().Add(50 * time.Minute))
	s.Run.Ended = noon().Add(2*time.Hour + 15*time.Minute)
	s = keep(t, m, s.Run.Ended, s)[0]

	lines := report(t, m, Query{By: "hour"})
	var got []float64
	for _, l := range lines {
		got = append(got, l.Seconds())
	}
	if want := []float64{600, 3600, 900}; !slices.Equal(got, want) {
		t.Fatalf("seconds by hour are %v, want %v", got, want)
	}
	sum := total(t, m)
	cpu, cpuUsed := sum.CoreSeconds()
	memory, memoryUsed := sum.MemoryGiBSeconds()
	values := []float64{cpu, cpuUsed, memory, memoryUsed, sum.GPUSeconds(), sum.StorageGiBSeconds(), sum.MeasuredSeconds()}
	if want := []float64{2550, 2550, 2550, 2550, 10200, 5100, 0}; !slices.Equal(values, want) {
		t.Errorf("amounts are %v, want %v", values, want)
	}
	if at, due := m.Due(s); due {
		t.Errorf("a run that is accounted for is due at %v", at)
	}
	if again := keep(t, m, s.Run.Ended.Add(time.Hour), s)[0]; again != s || total(t, m) != sum {
		t.Error("a run that is accounted for was added up again")
	}
}

func TestNewRunBeginsAtItsOwnStart(t *testing.T) {
	m := newMeter(t, MeterConfig{})
	s := runningSince(noon())
	s.Run.Ended = noon().Add(time.Minute)
	next := *keep(t, m, noon().Add(time.Minute), s)[0]
	next.Run = Run{Nonce: "n2", UID: "u2", Started: noon().Add(59 * time.Second)} // by the clock of another node
	keep(t, m, noon().Add(2*time.Minute), &next)
	if got := total(t, m).Seconds(); got != 121 {
		t.Errorf("two runs of 60 and 61 s are %g s", got)
	}
}

func TestWhatIsNotStoredIsInTheNextBill(t *testing.T) {
	m := newMeter(t, MeterConfig{})
	s := runningSince(noon())
	m.Opened(s)
	m.Moved(s, 10)
	b := m.Bill(noon().Add(time.Minute), s)
	if m.Bill(noon(), s) != nil {
		t.Error("a second bill while one is open")
	}
	m.Moved(s, 5)
	b.Dropped()
	b.Kept() // it is settled already
	if got := total(t, m); got != (Amounts{}) {
		t.Fatalf("a dropped bill left %+v", got)
	}
	keep(t, m, noon().Add(2*time.Minute), s)
	if got := total(t, m); got.Millis != 120_000 || got.Sessions != 1 || got.Bytes != 15 || m.Waiting() {
		t.Errorf("got %+v, want 120 s, 1 session and 15 bytes", got)
	}
}

func TestOutcomeUnknown(t *testing.T) {
	for _, applied := range []bool{true, false} {
		counted := Amounts{}
		m := newMeter(t, MeterConfig{Count: func(_ string, a Amounts) { counted.add(a) }})
		s := runningSince(noon())
		m.Opened(s)
		b := m.Bill(noon().Add(time.Minute), s)
		var stored []tenant.Object
		if applied {
			stored, s = objects(b.Writes), b.Sandboxes[0]
		}
		if err := m.Reload(stored); err != nil {
			t.Fatal(err)
		}
		keep(t, m, noon().Add(2*time.Minute), s)
		if got := total(t, m); got.Millis != 120_000 || got.Sessions != 1 {
			t.Errorf("applied %v: got %+v, want 120 s and 1 session", applied, got)
		}
		if counted != total(t, m) {
			t.Errorf("applied %v: metrics were told %+v, stored is %+v", applied, counted, total(t, m))
		}
	}
}

func objects(all []tenant.Write) (out []tenant.Object) {
	for _, w := range all {
		out = append(out, tenant.Object{Kind: w.Kind, ID: w.ID, Value: w.Value})
	}
	return out
}

func TestClockThatWasAheadIsPutRight(t *testing.T) {
	m := newMeter(t, MeterConfig{})
	s := runningSince(noon())
	s = keep(t, m, noon().Add(5*time.Hour), s)[0] // the clock is hours ahead
	s = keep(t, m, noon().Add(10*time.Minute), s)[0]
	next := *s
	next.Run.Ended = noon().Add(90 * time.Minute)
	if at, due := m.Due(&next); !due || at.After(next.Run.Ended) {
		t.Fatalf("due %v at %v, want at once", due, at)
	}
	s = keep(t, m, noon().Add(91*time.Minute), &next)[0]
	if got := total(t, m); got != setAside(s.Spec.Resources, 90*60_000) {
		t.Errorf("got %+v, want that of 90 minutes", got)
	}
	if _, due := m.Due(s); due {
		t.Error("it is due still")
	}
}

func TestClockFarAheadCountsNoMoreThanTheLifetime(t *testing.T) {
	m := newMeter(t, MeterConfig{})
	s := runningSince(noon())
	s.Spec.Lifetime = time.Hour
	keep(t, m, noon().AddDate(20, 0, 0), s)
	if got, want := total2(t, m), (time.Hour + overtime).Milliseconds(); got != want {
		t.Errorf("counted %d ms, want %d", got, want)
	}
}

// A clock that is hours behind does not believe the end of a run that knows no lifetime, and takes nothing back that was not counted.
func TestClockThatIsBehind(t *testing.T) {
	m := newMeter(t, MeterConfig{})
	s := runningSince(noon())
	s.Run.Ended = noon().Add(time.Minute)
	s = keep(t, m, noon().Add(-3*time.Hour), s)[0]
	s = keep(t, m, noon().Add(time.Hour), s)[0]
	if got := total(t, m).Seconds(); got != 60 {
		t.Errorf("a run of a minute is %g s", got)
	}
	if _, due := m.Due(s); due {
		t.Error("it is due still")
	}
}

// total2 is the time in the books, of all times.
func total2(t *testing.T, m *Meter) (millis int64) {
	t.Helper()
	for _, l := range report(t, m, Query{From: time.Unix(0, 0), To: time.Unix(1<<36, 0)}) {
		millis += l.Millis
	}
	return millis
}

func TestLongGap(t *testing.T) {
	for _, gap := range []time.Duration{23 * time.Hour, 20 * 24 * time.Hour, 390 * 24 * time.Hour, 3 * 365 * 24 * time.Hour} {
		m := newMeter(t, MeterConfig{})
		keep(t, m, noon().Add(gap), runningSince(noon()))
		if got := total2(t, m); got != gap.Milliseconds() {
			t.Errorf("after %v without a gateway %d ms are counted, want %d", gap, got, gap.Milliseconds())
		}
	}
}

func TestUseOfPayersOfOneNameIsApart(t *testing.T) {
	m := newMeter(t, MeterConfig{})
	old, heir := runningSince(noon()), runningSince(noon())
	old.Epoch, heir.Epoch = time.Unix(1000, 0), time.Unix(2000, 0)
	keep(t, m, noon().Add(time.Minute), old, heir)
	if got := report(t, m, Query{ByOwner: true}); len(got) != 2 {
		t.Fatalf("%d lines, want 2: %+v", len(got), got)
	}
	mine := report(t, m, Query{Only: &Payer{"user:corp/ada", 2000}})
	if len(mine) != 1 || mine[0].Millis != 60_000 {
		t.Errorf("of the second alone there is %+v", mine)
	}
}

func TestQueriesOfAdjoiningTimesHaveEachPeriodOnce(t *testing.T) {
	m := newMeter(t, MeterConfig{})
	s := runningSince(noon().Add(-70 * 24 * time.Hour))
	for h := range 70 * 24 {
		s = keep(t, m, s.Run.Started.Add(time.Duration(h+1)*time.Hour), s)[0]
	}
	var sum int64
	for at := s.Run.Started.AddDate(0, -2, 0); at.Before(noon()); at = at.Add(31 * time.Hour) {
		for _, l := range report(t, m, Query{From: at, To: at.Add(31 * time.Hour), By: "hour"}) {
			sum += l.Millis
		}
	}
	if want := (70 * 24 * time.Hour).Milliseconds(); sum != want {
		t.Errorf("the parts are %d ms, want %d", sum, want)
	}
	r, err := m.Report(Query{From: s.Run.Started, To: noon(), By: "day"})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Lines) < 69 || len(r.Lines) > 71 || noon().Sub(r.HourlyFrom) > 9*24*time.Hour+13*time.Hour {
		t.Errorf("%d days, hours since %v", len(r.Lines), r.HourlyFrom)
	}
	if _, err := m.Report(Query{From: s.Run.Started, To: noon(), By: "hour", Max: 10}); err == nil {
		t.Error("more lines than the bound were answered")
	}
}

func TestAccountedUntil(t *testing.T) {
	now := noon().Add(time.Hour)
	fresh, behind, never, rests := runningSince(noon().Add(30*time.Minute)), runningSince(noon()), runningSince(time.Time{}), runningSince(noon())
	behind.Accounted, behind.Billed = noon().Add(10*time.Minute), "n1"
	rests.Run.Ended, rests.Accounted, rests.Billed = noon(), noon(), "n1"
	for _, tt := range []struct {
		all  []*Sandbox
		want time.Time
	}{{nil, now}, {[]*Sandbox{never, rests}, now}, {[]*Sandbox{fresh, behind, rests}, noon().Add(10 * time.Minute)}} {
		if got := AccountedUntil(tt.all, now); !got.Equal(tt.want) {
			t.Errorf("accounted until %v, want %v", got, tt.want)
		}
	}
}

func TestNoMeter(t *testing.T) {
	var m *Meter
	s := runningSince(noon())
	b := m.Bill(noon(), s)
	b.Kept()
	m.Opened(s)
	m.Sample(noon(), nil)
	if _, due := m.Due(s); due || m.Waiting() || b.Sandboxes[0] != s || m.Reload(nil) != nil {
		t.Error("no meter does something")
	}
}

func TestDamagedPeriodsAreRefused(t *testing.T) {
	good := (&sheet{of: map[Payer]Amounts{{Owner: "user:a/b"}: {Millis: 5}}}).encode()
	for _, o := range []tenant.Object{
		{ID: "x2026", Value: good}, {ID: "h2026030112x", Value: good}, {ID: "d20260230", Value: good}, {ID: "m202603", Value: nil},
		{ID: "m202603", Value: []byte{9, 0}}, {ID: "m202603", Value: good[:len(good)-1]}, {ID: "m202603", Value: append(slices.Clone(good), 0)},
	} {
		o.Kind = KindPeriod
		if _, err := NewMeter(MeterConfig{}, []tenant.Object{o}); err == nil {
			t.Errorf("%s with %x was read", o.ID, o.Value)
		}
	}
}

func TestVersionAfterThisIsRead(t *testing.T) {
	value := []byte{periodVersion + 1, 1, 0, 1, 'a', 0, numAmounts + 2}
	for i := range numAmounts + 2 {
		value = append(value, byte(2*i+2))
	}
	got, err := decodeSheet(value)
	if err != nil || got.of[Payer{Owner: "a"}].Bytes != 10 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func FuzzDecodeSheet(f *testing.F) {
	t := newSheet()
	for i := range 5 {
		t.add(Payer{fmt.Sprintf("user:corp/%d", i*7), int64(i)}, Amounts{Millis: int64(i) << 40, Bytes: 3})
	}
	f.Add(t.encode())
	f.Add([]byte{1, 0})
	f.Fuzz(func(t *testing.T, value []byte) {
		a, err := decodeSheet(value)
		if err != nil {
			return
		}
		b, err := decodeSheet(a.encode())
		if err != nil || len(b.of) > len(a.of) {
			t.Fatalf("what was read does not come back: %v", err)
		}
		for p, x := range a.of {
			if b.of[p] != x {
				t.Fatalf("%v is %+v, was %+v", p, b.of[p], x)
			}
		}
	})
}
