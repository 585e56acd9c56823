package proxy

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/polygate/polygate/internal/tenant"
)

// A replica takes a key that the owner has yet to hear of, and so does the owner: it waits for what the other knew.
func TestForwardKnowsWhatTheOtherKnew(t *testing.T) {
	const fresh = "key-made-a-moment-ago"
	grant := func(r *tenant.Record) { r.Keys = append(r.Keys, key("fresh", fresh, tenant.Viewer)) }
	var c *cluster
	var asked atomic.Int64
	c = newCluster(t, 2, func(cfg *Config) {
		if cfg.Replica == "r0" {
			cfg.Peers.AwaitRecords = func(_ context.Context, revision int64) {
				if asked.Swap(revision) == 0 {
					c.r[0].change("team-a", grant) // the watch delivers
				}
			}
		}
	})
	c.r[1].change("team-a", grant)
	got := c.r[1].do(c.r[1].client(), "GET", "https://"+hostA+"/servers", nil, bearer(fresh))
	check(t, "with a key that the owner hears of late", got.status, 200)
	e, _ := c.r[1].dir.ByID("team-a")
	if got := asked.Load(); got != e.Record.Revision {
		t.Errorf("the owner waited for revision %d, want %d", got, e.Record.Revision)
	}
	got = c.r[1].do(c.r[1].client(), "GET", "https://"+hostA+"/servers", nil, bearer(keyA), recordHeader+": 999999")
	check(t, "with a revision of the client's own", got.status, 200)
	if got := asked.Load(); got != e.Record.Revision {
		t.Errorf("the owner waited for revision %d, which a client named", got)
	}
}
