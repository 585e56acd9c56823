package scenario_test

import (
	"slices"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/scenario"
)

func TestBuiltinScenariosAreThoseThatAreTold(t *testing.T) {
	want := []string{"capacity", "cold-tenants", "failover", "handshakes", "latency-at-rate", "mixed-day", "noisy-neighbour", "reload", "throughput"}
	var got []string
	for _, s := range scenario.Builtin() {
		got = append(got, s.Name)
		if s.About == "" {
			t.Errorf("%s says nothing about itself", s.Name)
		}
		if err := s.Validate(); err != nil {
			t.Errorf("%s, as it was parsed: %v", s.Name, err)
		}
		if _, ok := scenario.BuiltinFiles()[s.Name+".yaml"]; !ok {
			t.Errorf("%s is in a file of another name", s.Name)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the scenarios that come along are %v, want %v", got, want)
	}
}

func TestBuiltinRunsLastAMinuteAtMost(t *testing.T) {
	for _, s := range scenario.Builtin() {
		var lasts time.Duration
		for _, p := range s.Phases {
			lasts += p.Ramp + p.Warmup + p.Duration
		}
		if lasts > time.Minute {
			t.Errorf("%s lasts %v", s.Name, lasts)
		}
	}
}

func TestMixedDaySpeaksAllThatATenantCanRelay(t *testing.T) {
	s, err := scenario.Read("mixed-day")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []scenario.Protocol{scenario.HTTP1, scenario.HTTP2, scenario.WebSocket, scenario.SSE, scenario.MCP} {
		if !slices.ContainsFunc(s.Loads, func(l scenario.Load) bool { return l.Protocol == p }) {
			t.Errorf("no load speaks %s", p)
		}
	}
	if !slices.ContainsFunc(s.Loads, func(l scenario.Load) bool { return l.Connections == scenario.New }) {
		t.Error("no load makes new connections")
	}
}
