package config

import (
	"strings"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// Quotas bound one tenant. In polygate.yaml 0 means "no limit"; in tenants.yaml it means "as in polygate.yaml".
type Quotas struct {
	MaxServers            int           `yaml:"max_servers"`             // MCP servers in the catalog; default 50
	MaxConcurrentRequests int           `yaml:"max_concurrent_requests"` // requests and streams in flight; default 200
	RequestsPerSecond     float64       `yaml:"requests_per_second"`     // sustained; default 100
	Burst                 int           `yaml:"burst"`                   // requests at once above the rate; default 200
	MaxStreams            int           `yaml:"max_streams"`             // event streams and WebSockets open; default 100
	BytesPerSecond        Size          `yaml:"bytes_per_second"`        // of bodies, both ways together, sustained; default 0 = no limit
	BytesBurst            Size          `yaml:"bytes_burst"`             // bytes at once above that rate; default 0 = one second's worth
	MaxStoredBytes        Size          `yaml:"max_stored_bytes"`        // that the registry keeps of the tenant: objects, certificates, record; default 16MiB
	MaxSandboxes          int           `yaml:"max_sandboxes"`           // that exist, stopped ones included; default 20
	SandboxCPU            Cores         `yaml:"sandbox_cpu"`             // cores of all that are not at rest together, such as 8 or 500m; default 8
	SandboxMemory         Size          `yaml:"sandbox_memory"`          // likewise; default 16GiB
	SandboxStorage        Size          `yaml:"sandbox_storage"`         // likewise; default 50GiB
	SandboxGPUs           int           `yaml:"sandbox_gpus"`            // likewise; default 0 = none may be used
	SandboxLifetime       time.Duration `yaml:"sandbox_lifetime"`        // of one start, whole seconds; default 24h
	PerPrincipal          Share         `yaml:"per_principal"`           // of each user, bot or key among the tenant's
	PerKey                Share         `yaml:"per_key"`                 // of each key
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
		MaxStoredBytes:        int64(q.MaxStoredBytes),
		MaxSandboxes:          q.MaxSandboxes,
		SandboxCPU:            int64(q.SandboxCPU),
		SandboxMemory:         int64(q.SandboxMemory),
		SandboxStorage:        int64(q.SandboxStorage),
		SandboxGPUs:           q.SandboxGPUs,
		SandboxLifetime:       int64((q.SandboxLifetime + time.Second - 1) / time.Second),
		PerPrincipal:          tenant.Share(q.PerPrincipal),
		PerKey:                tenant.Share(q.PerKey),
	}
}

// Defaults returns the quotas of a tenant that declares none: where the default is "no limit", the ceiling.
func (t TenantQuotas) Defaults() tenant.Quotas {
	q, c := t.Tenant(), t.Ceilings.Tenant()
	fields, ceilings := quotaFields(&q), quotaFields(&c)
	for i, f := range fields {
		if f.get() == 0 {
			f.set(ceilings[i].get())
		}
	}
	return q
}

func (t TenantQuotas) check(cs *checks) {
	checkQuotas(cs, "quotas", t.Tenant(), "no limit")
	checkQuotas(cs, "quotas.ceilings", withRates(t.Ceilings.Tenant()), "no ceiling")
	for _, name := range above(t.Tenant(), t.Ceilings.Tenant()) {
		cs.fail("quotas."+name, "is above quotas.ceilings.%s: lower one or raise the other", name)
	}
}

// checkQuotas applies the rules of a routing record, whose messages begin with the field.
func checkQuotas(cs *checks, path string, q tenant.Quotas, zero string) {
	r := tenant.Record{ID: "x", State: tenant.StateActive, Mode: tenant.ModeVirtual, Quotas: q}
	if err := r.Validate(""); err != nil {
		field, msg, _ := strings.Cut(reason(err), " ")
		cs.fail(path+strings.TrimPrefix(field, "quotas"), "%s", strings.ReplaceAll(msg, "the platform's default", zero))
	}
}

// withRates sets the rates that are not set: a ceiling for a burst needs none for its rate, unlike a quota.
func withRates(q tenant.Quotas) tenant.Quotas {
	for _, rate := range []*float64{&q.RequestsPerSecond, &q.PerPrincipal.RequestsPerSecond, &q.PerKey.RequestsPerSecond} {
		if *rate == 0 {
			*rate = 1
		}
	}
	if q.BytesPerSecond == 0 {
		q.BytesPerSecond = 1
	}
	return q
}

// above returns the quotas that are greater than their ceiling, by name.
func above(q, ceilings tenant.Quotas) []string {
	var names []string
	most := quotaFields(&ceilings)
	for i, f := range quotaFields(&q) {
		if c := most[i].get(); c > 0 && f.get() > c {
			names = append(names, f.name)
		}
	}
	return names
}

// quotaField is one number of quotas.
type quotaField struct {
	name string
	i    *int
	l    *int64
	f    *float64
}

// quotaFields returns every number of q, in one order.
func quotaFields(q *tenant.Quotas) []quotaField {
	list := []quotaField{
		{name: "max_servers", i: &q.MaxServers}, {name: "max_streams", i: &q.MaxStreams},
		{name: "bytes_per_second", l: &q.BytesPerSecond}, {name: "bytes_burst", l: &q.BytesBurst},
		{name: "max_stored_bytes", l: &q.MaxStoredBytes}, {name: "max_sandboxes", i: &q.MaxSandboxes},
		{name: "sandbox_cpu", l: &q.SandboxCPU}, {name: "sandbox_memory", l: &q.SandboxMemory}, {name: "sandbox_storage", l: &q.SandboxStorage},
		{name: "sandbox_gpus", i: &q.SandboxGPUs}, {name: "sandbox_lifetime", l: &q.SandboxLifetime},
	}
	list = append(list, quotaField{name: "max_concurrent_requests", i: &q.MaxConcurrentRequests},
		quotaField{name: "requests_per_second", f: &q.RequestsPerSecond}, quotaField{name: "burst", i: &q.Burst})
	for _, s := range []struct {
		name string
		*tenant.Share
	}{{"per_principal.", &q.PerPrincipal}, {"per_key.", &q.PerKey}} {
		list = append(list, quotaField{name: s.name + "max_concurrent_requests", i: &s.MaxConcurrentRequests},
			quotaField{name: s.name + "requests_per_second", f: &s.RequestsPerSecond}, quotaField{name: s.name + "burst", i: &s.Burst})
	}
	return list
}

func (q quotaField) get() float64 {
	switch {
	case q.i != nil:
		return float64(*q.i)
	case q.l != nil:
		return float64(*q.l)
	}
	return *q.f
}

func (q quotaField) set(v float64) {
	switch {
	case q.i != nil:
		*q.i = int(v)
	case q.l != nil:
		*q.l = int64(v)
	default:
		*q.f = v
	}
}
