package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// Numbers adds up what all replicas count of a tenant. missing names those that did not answer.
type Numbers interface {
	Usage(ctx context.Context, e *tenant.Entry, own guard.Usage) (u guard.Usage, missing []string)
}

// usage answers with what a tenant uses on all replicas together.
func (s *Server) usage(c *call) (*answer, error) {
	id, scope, e, missing, err := s.subject(c)
	if err != nil {
		return nil, err
	}
	var body Usage
	err = c.read(authz.UsageRead, "tenant/"+string(id)+"/usage", scope, func() error {
		if missing == nil {
			used := s.cfg.Guards.For(e).Usage()
			var away []string
			if s.cfg.Numbers != nil {
				used, away = s.cfg.Numbers.Usage(c.ctx, e, used)
			}
			body = renderUsage(id, used)
			body.Incomplete = away
		}
		return missing
	})
	return &answer{status: http.StatusOK, body: body}, err
}

// Usage is what a tenant uses on all replicas together.
type Usage struct {
	Tenant     tenant.ID `json:"tenant"`
	Incomplete []string  `json:"incomplete,omitempty"` // replicas that did not answer: what they count is missing

	Since     time.Time         `json:"since"` // when the first of them began to count
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
		MaxStreams: l.MaxStreams, BytesPerSecond: int64(l.Bytes.PerSecond), BytesBurst: int64(l.Bytes.Burst), MaxStoredBytes: l.MaxStored,
		PerPrincipal: share(l.PerPrincipal), PerKey: share(l.PerKey),
	}
}

func origins(o guard.Origins) map[string]string {
	all := map[string]string{}
	for name, from := range map[string]guard.Origin{
		"requests_per_second": o.Rate, "max_concurrent_requests": o.MaxConcurrent, "max_streams": o.MaxStreams, "bytes_per_second": o.Bytes,
		"max_servers": o.MaxServers, "max_stored_bytes": o.MaxStored, "per_principal.requests_per_second": o.PrincipalRate, "per_principal.max_concurrent_requests": o.PrincipalConcurrent,
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
		{"max_stored_bytes", float64(q.MaxStoredBytes)},
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
