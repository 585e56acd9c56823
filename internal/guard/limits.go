package guard

import (
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// Limits bound one tenant on this replica. A zero field is no limit.
type Limits struct {
	Rate          quota.Limit // requests
	MaxConcurrent int         // requests and streams in flight
	MaxStreams    int         // event streams and WebSockets open
	Bytes         quota.Limit // bytes of bodies, both ways together; a burst of 0 is one second's worth
	MaxServers    int         // MCP servers in the catalog
	MaxStored     int64       // bytes that the registry keeps of the tenant
	PerPrincipal  Share       // of each user, bot and key among the tenant's
	PerKey        Share       // of each key
}

// Defaults are the platform's limits for a tenant that has none of its own.
type Defaults = Limits

// Share bounds one of a tenant's callers. A zero field is no limit.
type Share struct {
	Rate          quota.Limit
	MaxConcurrent int
}

// Origin says where an effective limit comes from.
type Origin string

// The origins.
const (
	OriginNone     Origin = ""         // there is no limit
	OriginTenant   Origin = "tenant"   // the tenant's own
	OriginPlatform Origin = "platform" // the platform's default
	OriginCeiling  Origin = "ceiling"  // the platform's ceiling, which is lower than the tenant's own or its default
)

// Origins says where each of a tenant's limits comes from.
type Origins struct {
	Rate, MaxConcurrent, MaxStreams, Bytes, MaxServers Origin
	MaxStored                                          Origin
	PrincipalRate, PrincipalConcurrent                 Origin
	KeyRate, KeyConcurrent                             Origin
}

// Effective returns what bounds a tenant with the quotas q: its own setting, else the default, and never more than the
// ceiling. Without a setting and a default, the ceiling is the limit.
func Effective(q tenant.Quotas, defaults, ceilings Limits) (Limits, Origins) {
	var l Limits
	var o Origins
	d, c := &defaults, &ceilings
	l.Rate, o.Rate = narrowRate(ownRate(q.RequestsPerSecond, q.Burst), d.Rate, c.Rate)
	l.MaxConcurrent, o.MaxConcurrent = narrow(q.MaxConcurrentRequests, d.MaxConcurrent, c.MaxConcurrent)
	l.MaxStreams, o.MaxStreams = narrow(q.MaxStreams, d.MaxStreams, c.MaxStreams)
	l.Bytes, o.Bytes = narrowRate(ownRate(float64(q.BytesPerSecond), int(q.BytesBurst)), d.Bytes, c.Bytes)
	l.MaxServers, o.MaxServers = narrow(q.MaxServers, d.MaxServers, c.MaxServers)
	l.MaxStored, o.MaxStored = narrow(q.MaxStoredBytes, d.MaxStored, c.MaxStored)
	l.PerPrincipal, o.PrincipalRate, o.PrincipalConcurrent = narrowShare(q.PerPrincipal, d.PerPrincipal, c.PerPrincipal)
	l.PerKey, o.KeyRate, o.KeyConcurrent = narrowShare(q.PerKey, d.PerKey, c.PerKey)
	return l, o
}

func ownRate(perSecond float64, burst int) quota.Limit {
	return quota.Limit{PerSecond: perSecond, Burst: burst}
}

func narrowShare(own tenant.Share, d, c Share) (s Share, rate, concurrent Origin) {
	s.Rate, rate = narrowRate(ownRate(own.RequestsPerSecond, own.Burst), d.Rate, c.Rate)
	s.MaxConcurrent, concurrent = narrow(own.MaxConcurrentRequests, d.MaxConcurrent, c.MaxConcurrent)
	return s, rate, concurrent
}

// narrow chooses a count.
func narrow[N int | int64](own, def, ceiling N) (N, Origin) {
	n, from := own, OriginTenant
	if n <= 0 {
		n, from = def, OriginPlatform
	}
	if ceiling > 0 && (n <= 0 || n > ceiling) {
		return ceiling, OriginCeiling
	}
	if n <= 0 {
		return 0, OriginNone
	}
	return n, from
}

// narrowRate chooses a rate. A ceiling caps the sustained rate and the burst each: a slow rate with an endless burst would
// be no bound of what comes at once.
func narrowRate(own, def, ceiling quota.Limit) (quota.Limit, Origin) {
	l, from := own, OriginTenant
	if l.PerSecond <= 0 {
		l, from = def, OriginPlatform
	}
	switch {
	case ceiling.PerSecond > 0 && l.PerSecond <= 0:
		return ceiling, OriginCeiling
	case l.PerSecond <= 0:
		return quota.Limit{}, OriginNone
	}
	l.Burst = l.Most()
	if ceiling.PerSecond <= 0 {
		return l, from
	}
	if l.PerSecond > ceiling.PerSecond {
		l.PerSecond, from = ceiling.PerSecond, OriginCeiling
	}
	if most := ceiling.Most(); l.Burst > most {
		l.Burst, from = most, OriginCeiling
	}
	return l, from
}
