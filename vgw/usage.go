package vgw

import (
	"context"
	"time"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// usageView is what the tenant uses, against its limits. What is counted in requests and bytes is of all replicas together, of
// each since its guard began.
type usageView struct {
	Incomplete []string `json:"incomplete,omitempty"` // replicas that did not answer: what they count is missing

	Since    time.Time         `json:"since"`
	InFlight int64             `json:"in_flight"`
	Streams  int64             `json:"streams"`
	Requests uint64            `json:"requests"`
	Refused  map[string]uint64 `json:"refused"` // by the bound that refused them
	BytesIn  uint64            `json:"bytes_in"`
	BytesOut uint64            `json:"bytes_out"`
	RateLeft float64           `json:"rate_left"` // requests that may come at once now; -1 = no limit
	Limits   limitsView        `json:"limits"`
	Callers  []callerView      `json:"callers"` // those with the most requests; one's own alone but for admins

	Servers        countView `json:"servers"`
	Keys           countView `json:"keys"`
	Bots           countView `json:"bots"`
	Members        countView `json:"members"`
	Authenticators countView `json:"authenticators"`
	Grants         countView `json:"grants"`
}

// limitsView is the limits in force; 0 = none.
type limitsView struct {
	RequestsPerSecond     float64 `json:"requests_per_second"`
	Burst                 int     `json:"burst"`
	MaxConcurrentRequests int     `json:"max_concurrent_requests"`
	MaxStreams            int     `json:"max_streams"`
	MaxStoredBytes        int64   `json:"max_stored_bytes"`
	BytesPerSecond        float64 `json:"bytes_per_second"`
}

// countView is a count of objects against its limit; 0 = no limit.
type countView struct {
	Used  int `json:"used"`
	Limit int `json:"limit"`
}

type callerView struct {
	Principal string `json:"principal"`
	InFlight  int    `json:"in_flight"`
	Requests  uint64 `json:"requests"`
	Refused   uint64 `json:"refused"`
}

func usage(ctx context.Context, c *call) (exchange.Decision, error) {
	if c.asksForReport() {
		return accounting(c)
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.UsageRead, Resource: "usage"})
	if err != nil {
		return nil, err
	}
	servers, err := c.gw.catalog(ctx)
	if permit.Done(err); err != nil {
		return nil, err
	}
	used := c.cfg.Guards.For(c.e).Usage()
	var missing []string
	if c.cfg.Numbers != nil {
		used, missing = c.cfg.Numbers.Usage(ctx, c.e, used)
	}
	v := c.viewUsage(used)
	v.Incomplete = missing
	r := c.e.Record
	v.Servers = countView{len(servers.servers), c.r.Visit.MaxServers()}
	v.Keys = countView{len(r.Keys), tenant.MaxKeys}
	v.Bots = countView{len(r.Bots), tenant.MaxBots}
	v.Members = countView{len(r.Members), tenant.MaxMembers}
	v.Authenticators = countView{len(r.Authenticators), tenant.MaxAuthenticators}
	v.Grants = countView{len(c.gw.grants.Load().all), maxGrants}
	return decision(reply(200, v))
}

func (c *call) viewUsage(u guard.Usage) usageView {
	v := usageView{
		Since: u.Since.UTC(), InFlight: u.InFlight, Streams: u.Streams, Requests: u.Requests, Refused: map[string]uint64{}, BytesIn: u.BytesIn,
		BytesOut: u.BytesOut, RateLeft: u.RateLeft, Callers: []callerView{},
		Limits: limitsView{
			RequestsPerSecond: u.Limits.Rate.PerSecond, Burst: u.Limits.Rate.Burst, MaxConcurrentRequests: u.Limits.MaxConcurrent,
			MaxStreams: u.Limits.MaxStreams, MaxStoredBytes: u.Limits.MaxStored, BytesPerSecond: u.Limits.Bytes.PerSecond,
		},
	}
	for i, n := range u.Refused {
		if n > 0 {
			v.Refused[quota.Reason(i).String()] = n
		}
	}
	me, all := c.r.Visit.Principal().Ref(), c.r.Visit.MayDo(guard.Effect{Action: authz.AuditListAll, Resource: "audit"})
	for _, k := range u.Callers { // who else comes, and how often, is for those who may read the audit
		if all || k.Ref == me {
			v.Callers = append(v.Callers, callerView{k.Ref, k.InFlight, k.Requests, k.Refused})
		}
	}
	return v
}
