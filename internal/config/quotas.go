package config

import (
	"strings"

	"github.com/polygate/polygate/internal/tenant"
)

// Quotas bound one tenant. In polygate.yaml 0 means "no limit"; in tenants.yaml it means "as in polygate.yaml".
type Quotas struct {
	MaxServers            int     `yaml:"max_servers"`             // MCP servers in the catalog; default 50
	MaxConcurrentRequests int     `yaml:"max_concurrent_requests"` // requests and streams in flight; default 200
	RequestsPerSecond     float64 `yaml:"requests_per_second"`     // sustained; default 100
	Burst                 int     `yaml:"burst"`                   // requests at once above the rate; default 200
	MaxStreams            int     `yaml:"max_streams"`             // event streams and WebSockets open; default 100
	BytesPerSecond        Size    `yaml:"bytes_per_second"`        // of bodies, both ways together, sustained; default 0 = no limit
	BytesBurst            Size    `yaml:"bytes_burst"`             // bytes at once above that rate; default 0 = one second's worth
	PerPrincipal          Share   `yaml:"per_principal"`           // of each user, bot or key among the tenant's
	PerKey                Share   `yaml:"per_key"`                 // of each key
}

// Share bounds one of a tenant's callers, within what the tenant has as a whole.
type Share struct {
	MaxConcurrentRequests int     `yaml:"max_concurrent_requests"` // requests and streams in flight; default 0 = no limit of its own
	RequestsPerSecond     float64 `yaml:"requests_per_second"`     // sustained; default 0 = no limit of its own
	Burst                 int     `yaml:"burst"`                   // requests at once above the rate; default 0 = one second's worth
}

// TenantQuotas are the quotas of tenants that declare none of their own, and what none may declare more than.
type TenantQuotas struct {
	Quotas   `yaml:",inline"`
	Ceilings Quotas `yaml:"ceilings"` // of quotas that tenants declare; each defaults to 0 = no ceiling
}

// Tenant returns the quotas in the form of a routing record.
func (q Quotas) Tenant() tenant.Quotas {
	return tenant.Quotas{
		MaxServers:            q.MaxServers,
		MaxConcurrentRequests: q.MaxConcurrentRequests,
		RequestsPerSecond:     q.RequestsPerSecond,
		Burst:                 q.Burst,
		MaxStreams:            q.MaxStreams,
		BytesPerSecond:        int64(q.BytesPerSecond),
		BytesBurst:            int64(q.BytesBurst),
		PerPrincipal:          tenant.Share(q.PerPrincipal),
		PerKey:                tenant.Share(q.PerKey),
	}
}

// check applies the rules of a routing record, whose messages begin with the field.
func (q Quotas) check(cs *checks) {
	r := tenant.Record{ID: "x", State: tenant.StateActive, Mode: tenant.ModeVirtual, Quotas: q.Tenant()}
	if err := r.Validate(""); err != nil {
		field, msg, _ := strings.Cut(reason(err), " ")
		cs.fail(field, "%s", strings.ReplaceAll(msg, "0 (the platform's default)", "0 (no limit)"))
	}
}
