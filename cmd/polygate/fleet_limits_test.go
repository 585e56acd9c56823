package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestFleetLimits: tenants at half their rate are refused nothing, right after the start, after a move and when a replica is
// killed, whichever replica their requests reach.
func TestFleetLimits(t *testing.T) {
	_, etcd := fleetEtcd(t, 1)
	var tenants strings.Builder
	tenants.WriteString("tenants:\n")
	for i := range 3 {
		fmt.Fprintf(&tenants, "  - {id: t%d, display_name: T%d, quotas: {requests_per_second: 20}}\n", i, i)
	}
	f := newFleet(t, 3, etcd, tenants.String(), "")
	for i := range 3 {
		f.adminKey(fmt.Sprintf("t%d", i))
	}
	f.unrefused("start", 2*time.Second, 0, 0, 1, 2)
	for i := range 3 {
		f.move(fmt.Sprintf("t%d", i), (max(f.owner(fmt.Sprintf("t%d", i)), 0)+1)%3)
	}
	f.unrefused("moved", 2*time.Second, 0, 0, 1, 2)
	f.gs[2].kill()
	// What a dead replica may still spend is nobody's for some seconds: what comes in bunches may be over what is left.
	f.unrefused("killed", fleetTTL+2*time.Second, 10, 0, 1)
}

// unrefused sends each tenant 10 requests a second through some replicas in turn, and fails if a limit refuses more
// than so many percent.
func (f *fleet) unrefused(what string, d time.Duration, percent int64, through ...int) {
	f.t.Helper()
	clients := []*http.Client{f.to(0), f.to(1), f.to(2)}
	stops := make([]func() (int64, []string, time.Duration), 3)
	for i := range stops {
		id, tick := fmt.Sprintf("t%d", i), time.NewTicker(100*time.Millisecond)
		defer tick.Stop()
		stops[i] = f.load(6, func(n int) answer { // what one waits for holds up no other
			<-tick.C
			got := f.ask(clients[through[n%len(through)]], id, "GET", "/api/v1/servers", nil)
			if got.Status != 429 {
				got = answer{Status: 200} // a killed owner's tenants are away until its lease is over
			}
			return got
		})
	}
	time.Sleep(d)
	for i, stop := range stops {
		done, refused, slowest := stop()
		f.t.Logf("%s: t%d: %d requests, the slowest took %v", what, i, done, slowest)
		if int64(len(refused))*100 > done*percent {
			f.t.Errorf("%s: %d of %d requests of t%d were refused: %s", what, len(refused), done, i, refused[0])
		}
	}
}
