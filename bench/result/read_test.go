package result

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

// whole is a report with everything in it.
func whole() *Report {
	l := LatencyOf(histogram([]int64{100, 200, 300, 4000}))
	r := &Report{V: Version, Command: "polybench compare", Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Seconds: 3, Reason: "the disk is full",
		Machine: Machine{OS: "Linux", CPU: "x", Cores: 2, Memory: 1 << 33, Load: 0.5}, Versions: map[string]string{"nginx": "1"},
		Ceilings: []Ceiling{{"http1", 40000, 20}}, Skipped: []Skipped{{"caddy", "not on this machine"}},
		Scenarios: []Scenario{{Name: "throughput", About: "a", Notes: []string{"n"}, Runs: []Run{{Subject: "nginx", Variant: "http1", Turn: 1, Phase: "p", Load: "l",
			Protocol: "http1", Asked: 5, Figures: Figures{Seconds: 1, Requests: 4, Errors: map[string]int64{"timeout": 1}, Rate: 4, Late: 1, Latency: l, Handshake: &l, CPUMicros: 20, RSS: 5, PSS: 4, BytesIn: 6, Generator: 7}}}}},
		Tenants: []TenantsPoint{{Subject: "polygate", Tenants: 10, Processes: 1, StartSecs: 1, RSS: 1, PSS: 1, CPUMicros: 1, IdleCPU: 0.1, Errors: 9}}}
	p := CapacityPoint{Subject: "polygate", Registered: 1, PerActive: -3}
	p.RSS.Start, p.Heap.Active = 7, 8
	r.Capacity = []CapacityPoint{p}
	return r
}

func written(t testing.TB, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestReadBack(t *testing.T) {
	got, err := Read(strings.NewReader(written(t, whole())))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, whole()) {
		t.Errorf("got %+v, want %+v", got, whole())
	}
}

func TestReadRefuses(t *testing.T) {
	good := written(t, whole())
	swap := func(old, by string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the report has no %s", old)
		}
		return strings.Replace(good, old, by, 1)
	}
	for _, c := range []struct{ name, in, want string }{
		{"nothing", "", "empty"},
		{"not JSON", "polybench\n", "line 1"},
		{"not a report", "{}", "no version"},
		{"a list", "[]", "is this a file that polybench"},
		{"a later form", `{"v":2,"news":true}`, "version 2, known is 1"},
		{"cut off", good[:len(good)/2], "is this a file"},
		{"something behind", good + "{}", "something follows"},
		{"an unknown field", swap(`"command"`, `"comand"`), `"comand"`},
		{"another kind", swap(`"seconds":3`, `"seconds":"3"`), "seconds"},
		{"a later line", strings.Replace(swap(`"seconds":3`, `"seconds":"3"`), ",", ",\n", 3), "line 4"},
		{"a turn 0", swap(`"turn":1`, `"turn":0`), `scenario "throughput", run 1 of "nginx": turn 0`},
		{"no subject", swap(`"subject":"nginx"`, `"subject":""`), "no subject"},
		{"a negative figure", swap(`"late":1`, `"late":-1`), "below 0"},
		{"a figure that cannot be", swap(`"rate":4,`, `"rate":1e300,`), "higher than any"},
		{"a negative count", swap(`"timeout":1`, `"timeout":-1`), `errors "timeout"`},
		{"a negative latency", swap(`"p99":`, `"p99":-`), "latency is below 0"},
		{"a spectrum that falls", swap(`{"q":0,"us":100}`, `{"q":0,"us":9999999}`), "spectrum, point 2"},
		{"a quantile above 1", swap(`{"q":1,`, `{"q":1.5,`), "quantiles ascend"},
		{"a handshake's", swap(`"handshake":{"count":4`, `"handshake":{"count":-4`), "handshake: a latency"},
		{"a negative tenant", swap(`"tenants":10`, `"tenants":-10`), `tenants, "polygate"`},
		{"a negative memory", swap(`"start":7`, `"start":-7`), `capacity, "polygate"`},
		{"a negative heap", swap(`"active":8`, `"active":-8`), `capacity, "polygate"`},
		{"a tenant's negative errors", swap(`"errors":9`, `"errors":-9`), `tenants, "polygate"`},
		{"a negative ceiling", swap(`"rate":40000`, `"rate":-40000`), `ceiling of "http1"`},
	} {
		_, err := Read(strings.NewReader(c.in))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", c.name, err, c.want)
		}
	}
	if _, err := Read(strings.NewReader(`{"v":2}`)); !errors.Is(err, ErrVersion) {
		t.Errorf("another version: got %v, want ErrVersion", err)
	}
}

func TestReadIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("reads 256 MiB")
	}
	_, err := Read(endless{})
	if err == nil || !strings.Contains(err.Error(), "over 256 MiB") {
		t.Errorf("got %v", err)
	}
}

// endless is a stream of spaces.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

func TestWriteRefuses(t *testing.T) {
	for _, v := range []float64{math.NaN(), math.Inf(1), -1} {
		r := whole()
		r.Scenarios[0].Runs[0].Figures.Rate = v
		if err := Write(&bytes.Buffer{}, r); err == nil {
			t.Errorf("a rate of %v was written", v)
		}
	}
	if err := Write(&bytes.Buffer{}, &Report{}); !errors.Is(err, ErrVersion) {
		t.Errorf("no version: got %v", err)
	}
}

// FuzzRead holds that whatever is read is written so that it is read again as the same.
func FuzzRead(f *testing.F) {
	f.Add([]byte(written(f, whole())))
	f.Add([]byte(`{"v":1}`))
	f.Add([]byte(`{"v":1,"scenarios":[{"runs":[{"subject":"a","turn":1}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := Read(strings.NewReader(written(t, r)))
		if err != nil {
			t.Fatal(err)
		}
		if written(t, again) != written(t, r) {
			t.Fatal("it is another report after it was written and read")
		}
	})
}
