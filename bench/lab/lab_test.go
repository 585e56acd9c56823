package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/peer"
	"github.com/polygate/polygate/bench/result"
	"github.com/polygate/polygate/bench/scenario"
)

func parse(t *testing.T, text string) *scenario.Scenario {
	t.Helper()
	sc, err := scenario.Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return sc
}

const short = `
name: short
about: A test.
site: {tenants: 3}
loads:
  - {name: all, concurrency: 4}
phases:
  - {name: all, warmup: 100ms, duration: 400ms}
`

// TestCompare measures two subjects in turns, and finds figures of each.
func TestCompare(t *testing.T) {
	l, self := newLab(t)
	sc := parse(t, short)
	found, skipped, err := l.Compare(t.Context(), Job{
		Scenario: sc, Turns: 2, Subjects: []peer.Peer{Direct(), peer.ReverseProxy([]string{self, "reverseproxy"})},
		Variants: []Variant{{Name: "http1", Protocol: scenario.HTTP1}, {Name: "http2", Protocol: scenario.HTTP2}},
	})
	if err != nil || len(skipped) > 0 {
		t.Fatalf("Compare: %v, skipped %v", err, skipped)
	}
	var got []string
	for _, r := range found.Runs {
		got = append(got, fmt.Sprintf("%s %s %d", r.Variant, r.Subject, r.Turn))
		f := r.Figures
		if f.Requests == 0 || f.ErrorCount() != 0 || f.CPUMicros <= 0 || f.RSS <= 0 || f.Latency.P50 <= 0 || f.BytesIn < 520*f.Requests || f.Generator <= 0 {
			t.Errorf("%s %s: %+v", r.Variant, r.Subject, f)
		}
	}
	want := []string{
		"http1 direct 1", "http1 httputil 1", "http1 httputil 2", "http1 direct 2",
		"http2 direct 1", "http2 httputil 1", "http2 httputil 2", "http2 direct 2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("runs %q, want %q", got, want)
	}
	if err := Judge(sc, found, 0); err != nil {
		t.Error(err)
	}
}

// misroute is a subject that sends every tenant's requests to the next one's upstream.
type misroute struct {
	peer.Running
	n int
}

func (m misroute) Addr(tenant int) string { return m.Running.Addr((tenant + 1) % m.n) }

// TestForeignAnswerStopsTheRun: an answer that is another tenant's is no figure. It ends the measurement at once.
func TestForeignAnswerStopsTheRun(t *testing.T) {
	l, _ := newLab(t)
	sc := parse(t, short)
	l.split = split{}
	st, err := l.layOut(t.Context(), sc)
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	run, err := peer.Direct(st.upstream.Ports.TLS).Start(t.Context(), &st.Site)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		run     peer.Running
		foreign bool
	}{"right": {run, false}, "misrouted": {misroute{run, 3}, true}} {
		s := &session{lab: l, sc: sc, subject: "x", turn: 1, tenants: st.targets(c.run.Addr), roots: st.CA, pids: run.PIDs}
		_, err = s.run(t.Context())
		var stop load.Stop
		if got := errors.As(err, &stop) && stop.StopsRun(); got != c.foreign {
			t.Errorf("%s: %v, want an error that stops the run: %v", name, err, c.foreign)
		}
	}
}

// cannot is a subject that has no means for any site.
type cannot struct{ peer.Peer }

func (cannot) Start(context.Context, *peer.Site) (peer.Running, error) {
	return nil, fmt.Errorf("no such thing: %w", peer.ErrCannot)
}

// TestSkipped: what a subject cannot do is noted once, and the others are measured.
func TestSkipped(t *testing.T) {
	l, _ := newLab(t)
	found, skipped, err := l.Compare(t.Context(), Job{Scenario: parse(t, short), Turns: 2, Subjects: []peer.Peer{cannot{peer.Nginx()}, Direct()}})
	if err != nil {
		t.Fatal(err)
	}
	if len(skipped) != 1 || skipped[0].Subject != "nginx" || !strings.Contains(skipped[0].Why, "no such thing") {
		t.Errorf("skipped %v", skipped)
	}
	if len(found.Runs) != 2 {
		t.Errorf("%d runs of the other subject, want 2", len(found.Runs))
	}
}

// TestEventIsOfPolygateAlone: a peer is no gateway that can be told to reload: it is skipped.
func TestEventIsOfPolygateAlone(t *testing.T) {
	l, _ := newLab(t)
	sc := parse(t, short)
	sc.Phases[0].Events = []scenario.Event{{Do: scenario.Reload}}
	_, skipped, err := l.Compare(t.Context(), Job{Scenario: sc, Turns: 1, Subjects: []peer.Peer{Direct()}})
	if err != nil || len(skipped) != 1 {
		t.Errorf("got %v and %v, want one that is skipped", skipped, err)
	}
}

// TestStall: what the upstream does in the measured part is in the figures of an open loop.
func TestStall(t *testing.T) {
	l, _ := newLab(t)
	sc := parse(t, `
name: stall
about: A test.
loads: [{name: all, loop: open, rate: 200}]
phases: [{name: all, duration: 2s, events: [{at: 500ms, do: stall, for: 1s}]}]
`)
	found, _, err := l.Compare(t.Context(), Job{Scenario: sc, Turns: 1, Subjects: []peer.Peer{Direct()}})
	if err != nil {
		t.Fatal(err)
	}
	f := found.Runs[0].Figures
	if f.Latency.P90 < 500_000 || f.Latency.Max > 3_000_000 {
		t.Errorf("p90 %v µs, max %v µs: half of the requests were due while the upstream stood still for 1 s", f.Latency.P90, f.Latency.Max)
	}
}

// TestInterrupted: what was measured until then is there.
func TestInterrupted(t *testing.T) {
	l, _ := newLab(t)
	sc := parse(t, short)
	sc.Phases[0].Duration = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l.cfg.Watcher = &onLive{do: cancel}
	found, _, err := l.Compare(ctx, Job{Scenario: sc, Turns: 1, Subjects: []peer.Peer{Direct()}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Compare: %v", err)
	}
	if len(found.Runs) != 1 || found.Runs[0].Figures.Requests == 0 {
		t.Errorf("found %+v", found.Runs)
	}
}

// onLive does something when there is something to see.
type onLive struct {
	silent
	do   func()
	once sync.Once
}

func (o *onLive) Live(string, load.Live) { o.once.Do(o.do) }

func TestDivide(t *testing.T) {
	for _, c := range []struct {
		cores, wanted   int
		subject, others []int
	}{
		{1, 1, nil, nil}, {2, 1, []int{0}, []int{1}}, {4, 1, []int{0}, []int{1, 2, 3}}, {4, 4, nil, nil}, {2, 3, nil, nil},
	} {
		if s := divide(c.cores, c.wanted); !slices.Equal(s.subject, c.subject) || !slices.Equal(s.others, c.others) {
			t.Errorf("divide(%d, %d) = %v", c.cores, c.wanted, s)
		}
	}
}

func TestAuthOf(t *testing.T) {
	load := func(c ...scenario.Credential) *scenario.Scenario {
		sc := &scenario.Scenario{Name: "x"}
		for _, c := range c {
			sc.Loads = append(sc.Loads, scenario.Load{Credential: c})
		}
		return sc
	}
	for _, c := range []struct {
		sc   *scenario.Scenario
		want peer.Auth
		bad  bool
	}{
		{load(scenario.NoCredential), peer.NoAuth, false},
		{load(scenario.Key, scenario.Key), peer.KeyAuth, false},
		{load(scenario.JWT, scenario.OIDC), peer.JWTAuth, false},
		{load(scenario.Key, scenario.NoCredential), "", true},
	} {
		if got, err := authOf(c.sc); got != c.want || (err != nil) != c.bad {
			t.Errorf("authOf(%v) = %q, %v", c.sc.Loads, got, err)
		}
	}
}

func TestJudge(t *testing.T) {
	sc := &scenario.Scenario{Name: "x", Phases: []scenario.Phase{{Name: "calm"}, {Name: "storm", Events: []scenario.Event{{Do: scenario.Crash}}}}}
	found := func(phase string, wrong int64) result.Scenario {
		return result.Scenario{Runs: []result.Run{{Phase: phase, Load: "all", Figures: result.Figures{Requests: 100 - wrong, Errors: map[string]int64{"timeout": wrong}}}}}
	}
	for _, c := range []struct {
		phase string
		wrong int64
		want  string
	}{{"calm", 1, ""}, {"calm", 2, "2 of 100 requests went wrong (timeout: 2)"}, {"storm", 50, ""}} {
		err := Judge(sc, found(c.phase, c.wrong), 0.01)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s, %d wrong: %v, want %q", c.phase, c.wrong, err, c.want)
		}
	}
}
