package tenant

import "github.com/polygate/polygate/internal/fault"

// Quotas bound a tenant. A zero field means that the platform's default applies.
type Quotas struct {
	MaxServers            int     `json:"max_servers,omitempty"`              // MCP servers in the catalog
	MaxConcurrentRequests int     `json:"max_concurrent_requests,omitempty"`  // requests and streams in flight
	RequestsPerSecond     float64 `json:"requests_per_second,omitempty"`      // sustained rate
	Burst                 int     `json:"burst,omitempty"`                    // requests at once above the rate; 0 = one second's worth
	MaxStreams            int     `json:"max_streams,omitempty"`              // event streams and WebSockets open
	BytesPerSecond        int64   `json:"bytes_per_second,omitempty"`         // of bodies, both ways together, sustained
	BytesBurst            int64   `json:"bytes_burst,omitempty"`              // bytes at once above that rate; 0 = one second's worth
	MaxStoredBytes        int64   `json:"max_stored_bytes,omitempty"`         // of what the registry keeps of the tenant
	MaxSandboxes          int     `json:"max_sandboxes,omitempty"`            // that exist, stopped ones included
	SandboxCPU            int64   `json:"sandbox_cpu_millis,omitempty"`       // thousandths of a core, of all that are live together
	SandboxMemory         int64   `json:"sandbox_memory_bytes,omitempty"`     // likewise
	SandboxStorage        int64   `json:"sandbox_storage_bytes,omitempty"`    // likewise
	SandboxGPUs           int     `json:"sandbox_gpus,omitempty"`             // likewise
	SandboxLifetime       int64   `json:"sandbox_lifetime_seconds,omitempty"` // of one start
	PerPrincipal          Share   `json:"per_principal,omitzero"`             // of each user, bot or key among the tenant's
	PerKey                Share   `json:"per_key,omitzero"`                   // of each key
}

// Share bounds one of a tenant's callers. A zero field means that the platform's default applies.
type Share struct {
	MaxConcurrentRequests int     `json:"max_concurrent_requests,omitempty"` // requests and streams in flight
	RequestsPerSecond     float64 `json:"requests_per_second,omitempty"`     // sustained rate
	Burst                 int     `json:"burst,omitempty"`                   // requests at once above the rate; 0 = one second's worth
}

func (q Quotas) validate() error {
	for _, f := range []struct {
		name string
		v    float64
		max  float64
	}{
		{"max_servers", float64(q.MaxServers), MaxServerCap},
		{"max_streams", float64(q.MaxStreams), 1e6},
		{"bytes_per_second", float64(q.BytesPerSecond), 1e12},
		{"bytes_burst", float64(q.BytesBurst), 1e12},
		{"max_stored_bytes", float64(q.MaxStoredBytes), 1e12},
		{"max_sandboxes", float64(q.MaxSandboxes), 1e4},
		{"sandbox_cpu_millis", float64(q.SandboxCPU), 1e9},
		{"sandbox_memory_bytes", float64(q.SandboxMemory), 1e15},
		{"sandbox_storage_bytes", float64(q.SandboxStorage), 1e15},
		{"sandbox_gpus", float64(q.SandboxGPUs), 1e5},
		{"sandbox_lifetime_seconds", float64(q.SandboxLifetime), 1e9},
	} {
		if err := inRange(f.name, f.v, f.max); err != nil {
			return err
		}
	}
	if q.BytesBurst > 0 && q.BytesPerSecond == 0 {
		return fault.New(fault.Invalid, "quotas.bytes_burst is set but bytes_per_second is not")
	}
	if err := (Share{q.MaxConcurrentRequests, q.RequestsPerSecond, q.Burst}).validate(""); err != nil {
		return err
	}
	if err := q.PerPrincipal.validate("per_principal."); err != nil {
		return err
	}
	return q.PerKey.validate("per_key.")
}

func (s Share) validate(prefix string) error {
	for _, f := range []struct {
		name string
		v    float64
	}{
		{"max_concurrent_requests", float64(s.MaxConcurrentRequests)},
		{"requests_per_second", s.RequestsPerSecond},
		{"burst", float64(s.Burst)},
	} {
		if err := inRange(prefix+f.name, f.v, 1e6); err != nil {
			return err
		}
	}
	if s.RequestsPerSecond > 0 && s.RequestsPerSecond < 0.001 {
		return fault.New(fault.Invalid, "quotas.%srequests_per_second is %v: at least 0.001, or 0 for the platform's default", prefix, s.RequestsPerSecond)
	}
	if s.Burst > 0 && s.RequestsPerSecond == 0 {
		return fault.New(fault.Invalid, "quotas.%sburst is set but requests_per_second is not", prefix)
	}
	return nil
}

func inRange(name string, v, limit float64) error {
	if !(v >= 0 && v <= limit) { // also catches NaN
		return fault.New(fault.Invalid, "quotas.%s is %v: 0 (the platform's default) to %v are allowed", name, v, limit)
	}
	return nil
}
