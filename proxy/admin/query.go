package admin

import (
	"net/url"
	"strconv"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// maxFilter bounds a filter of the audit query, in bytes. The cursor, which names every log, may be longer.
const (
	maxFilter      = 512
	maxAuditCursor = 8 << 10
)

// auditFilter reads the query of GET /api/v1/audit. It is always about the platform's own chain: what is recorded of a
// tenant is for its members, and an operator is none.
func auditFilter(values url.Values) (audit.Query, error) {
	q := audit.Query{Platform: true}
	for name, list := range values {
		most := maxFilter
		if name == "cursor" {
			most = maxAuditCursor
		}
		if len(list) != 1 || len(list[0]) > most {
			return q, fault.New(fault.Invalid, "query parameter %.64q: use it once, with at most %d bytes", name, most)
		}
		if err := setFilter(&q, name, list[0]); err != nil {
			return q, err
		}
	}
	return q, nil
}

func setFilter(q *audit.Query, name, value string) (err error) {
	switch name {
	case "from":
		q.From, err = time.Parse(time.RFC3339, value)
	case "to":
		q.To, err = time.Parse(time.RFC3339, value)
	case "limit":
		if q.Limit, err = strconv.Atoi(value); err != nil || q.Limit < 1 || q.Limit > maxLimit {
			return fault.New(fault.Invalid, "limit %.64q is no number from 1 to %d", value, maxLimit)
		}
	case "principal":
		q.Principal = value
	case "action":
		q.Action = value
	case "outcome":
		q.Outcome = value
	case "decision":
		q.Decision = value
	case "request_id":
		q.RequestID = value
	case "cursor":
		q.Cursor = value
	default:
		return fault.New(fault.Invalid, "query parameter %.64q is unknown: use from, to, principal, action, outcome, decision, request_id, limit and cursor", name)
	}
	if err != nil {
		return fault.New(fault.Invalid, "%s %.64q is no time such as 2026-01-31T12:00:00Z", name, value)
	}
	return nil
}

// Usage is what a tenant uses on the replica that answers.
type Usage struct {
	Tenant    tenant.ID         `json:"tenant"`
	Since     time.Time         `json:"since"` // when this replica began to count
	InFlight  int64             `json:"in_flight"`
	Streams   int64             `json:"streams"`
	Requests  uint64            `json:"requests"`
	Refused   map[string]uint64 `json:"refused"` // by quota; those with none are left out
	BytesIn   uint64            `json:"bytes_in"`
	BytesOut  uint64            `json:"bytes_out"`
	BytesOwed float64           `json:"bytes_owed_seconds,omitempty"` // how long requests are refused for the bytes that passed
	Limits    UsageLimits       `json:"limits"`                       // in force
	Share     int64             `json:"guaranteed_in_flight,omitempty"`
	Callers   []UsageCaller     `json:"callers"` // those with the most requests
	Policy    string            `json:"policy,omitempty"`
}

// UsageCaller is the part of one principal.
type UsageCaller struct {
	Principal string `json:"principal"`
	InFlight  int    `json:"in_flight"`
	Requests  uint64 `json:"requests"`
	Refused   uint64 `json:"refused"`
}

// UsageLimits are the limits in force; one that is left out is none. Origins says of each, by its name, where it comes from:
// the tenant, the platform or the platform's ceiling.
type UsageLimits struct {
	tenant.Quotas
	Origins map[string]string `json:"origins"`
}

func renderUsage(id tenant.ID, u guard.Usage) Usage {
	v := Usage{
		Tenant: id, Since: u.Since.UTC(), InFlight: u.InFlight, Streams: u.Streams, Requests: u.Requests, Refused: map[string]uint64{},
		BytesIn: u.BytesIn, BytesOut: u.BytesOut, BytesOwed: u.BytesOwed.Seconds(), Share: u.Guaranteed, Policy: u.Policy,
		Limits: UsageLimits{Quotas: inForce(u.Limits), Origins: origins(u.Origins)}, Callers: make([]UsageCaller, len(u.Callers)),
	}
	for i, n := range u.Refused {
		if n > 0 {
			v.Refused[quota.Reason(i).String()] = n
		}
	}
	for i, c := range u.Callers {
		v.Callers[i] = UsageCaller{c.Ref, c.InFlight, c.Requests, c.Refused}
	}
	return v
}

// inForce writes limits as the quotas that they would be.
func inForce(l guard.Limits) tenant.Quotas {
	share := func(s guard.Share) tenant.Share {
		return tenant.Share{MaxConcurrentRequests: s.MaxConcurrent, RequestsPerSecond: s.Rate.PerSecond, Burst: s.Rate.Burst}
	}
	return tenant.Quotas{
		MaxServers: l.MaxServers, MaxConcurrentRequests: l.MaxConcurrent, RequestsPerSecond: l.Rate.PerSecond, Burst: l.Rate.Burst,
		MaxStreams: l.MaxStreams, BytesPerSecond: int64(l.Bytes.PerSecond), BytesBurst: int64(l.Bytes.Burst),
		PerPrincipal: share(l.PerPrincipal), PerKey: share(l.PerKey),
	}
}

func origins(o guard.Origins) map[string]string {
	all := map[string]string{}
	for name, from := range map[string]guard.Origin{
		"requests_per_second": o.Rate, "max_concurrent_requests": o.MaxConcurrent, "max_streams": o.MaxStreams, "bytes_per_second": o.Bytes,
		"max_servers": o.MaxServers, "per_principal.requests_per_second": o.PrincipalRate, "per_principal.max_concurrent_requests": o.PrincipalConcurrent,
		"per_key.requests_per_second": o.KeyRate, "per_key.max_concurrent_requests": o.KeyConcurrent,
	} {
		if from != guard.OriginNone {
			all[name] = string(from)
		}
	}
	return all
}

// checkCeilings refuses quotas above the platform's ceilings. What the tenant has already may stay: a ceiling that was
// lowered binds it all the same where the quota is enforced, and must not keep anything else from being changed.
func checkCeilings(want, now, ceilings tenant.Quotas) error {
	w, n, c := quotaFields(&want), quotaFields(&now), quotaFields(&ceilings)
	for i := range w {
		if c[i].value > 0 && w[i].value > c[i].value && w[i].value != n[i].value {
			return fault.New(fault.Invalid, "quotas.%s is %v: the platform's ceiling is %v", w[i].name, w[i].value, c[i].value)
		}
	}
	return nil
}

type quotaField struct {
	name  string
	value float64
}

func quotaFields(q *tenant.Quotas) []quotaField {
	all := []quotaField{
		{"max_servers", float64(q.MaxServers)}, {"max_streams", float64(q.MaxStreams)},
		{"bytes_per_second", float64(q.BytesPerSecond)}, {"bytes_burst", float64(q.BytesBurst)},
	}
	for _, s := range []struct {
		prefix string
		tenant.Share
	}{
		{"", tenant.Share{MaxConcurrentRequests: q.MaxConcurrentRequests, RequestsPerSecond: q.RequestsPerSecond, Burst: q.Burst}},
		{"per_principal.", q.PerPrincipal}, {"per_key.", q.PerKey},
	} {
		all = append(all, quotaField{s.prefix + "max_concurrent_requests", float64(s.MaxConcurrentRequests)},
			quotaField{s.prefix + "requests_per_second", s.RequestsPerSecond}, quotaField{s.prefix + "burst", float64(s.Burst)})
	}
	return all
}

// keyLife bounds how long a key with an end is good. One without an end has none.
const (
	leastKeyLife = time.Minute
	mostKeyLife  = 365 * 24 * time.Hour
)

// end returns when a key shall end, from a time or a number of seconds; zero if neither is given.
func end(at *time.Time, in *int64, now time.Time) (time.Time, error) {
	var until time.Time
	field := "expires_in_seconds"
	switch {
	case at == nil && in == nil:
		return time.Time{}, nil
	case at != nil && in != nil:
		return time.Time{}, fault.New(fault.Invalid, "expires and expires_in_seconds are both given: use one")
	case at != nil:
		until, field = at.UTC(), "expires"
	case *in >= 0 && *in <= int64(mostKeyLife/time.Second):
		until = now.Add(time.Duration(*in) * time.Second).UTC()
	}
	if life := until.Sub(now); life < leastKeyLife || life > mostKeyLife {
		return time.Time{}, fault.New(fault.Invalid, "%s: a key ends between a minute and a year from now, or never if neither is given", field)
	}
	return until.Truncate(time.Second), nil
}
