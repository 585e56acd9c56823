package plan

import "time"

// Demand is what an installation has to carry at its peak. Shares are from 0 to 1.
type Demand struct {
	About        string  `yaml:"about"`         // a sentence for people
	Tenants      int     `yaml:"tenants"`       // registered; required
	ActiveShare  float64 `yaml:"active_share"`  // of them, that have a request in any idle_gateway_after (10 minutes); default 1
	VirtualShare float64 `yaml:"virtual_share"` // of them, in mode virtual; the others are dedicated: relayed to a gateway of their own; default 1
	Hosts        int     `yaml:"hosts"`         // of a tenant, beside its own under the base domain; default 0
	Keys         int     `yaml:"keys"`          // API keys of a tenant; default 2
	Servers      int     `yaml:"servers"`       // MCP servers, model routes and backends that a virtual tenant has declared; default 2
	PolicyBytes  Size    `yaml:"policy_bytes"`  // of a tenant's policy bundle; default 0

	Requests     Requests     `yaml:"requests"`
	Connections  Connections  `yaml:"connections"`
	Streams      Streams      `yaml:"streams"`
	Certificates Certificates `yaml:"certificates"`
	Sandboxes    Sandboxes    `yaml:"sandboxes"`

	ChangesPerDay float64 `yaml:"changes_per_day"` // creations, changes and deletions of tenants, keys, servers and policies, by API or file; default 0
	SpareReplicas int     `yaml:"spare_replicas"`  // that may be gone at the peak; default 1
	Etcd          Store   `yaml:"etcd"`
	Machine       Machine `yaml:"machine"` // of each replica, where the caller of Compute does not say
}

// Requests come at the peak, all tenants together.
type Requests struct {
	PerSecond   float64            `yaml:"per_second"`   // requests, calls, and messages on WebSockets
	Protocols   map[string]float64 `yaml:"protocols"`    // shares by http1, http2, websocket, sse, mcp, grpc; they add up to 1; default http2 alone
	Credentials map[string]float64 `yaml:"credentials"`  // shares by none, key, jwt; they add up to 1; default key alone
	AnswerBytes Size               `yaml:"answer_bytes"` // of an answer; default 520
}

// Connections are of clients.
type Connections struct {
	Open                int           `yaml:"open"`                  // at the peak
	Life                time.Duration `yaml:"life"`                  // of a connection, from which the handshakes follow; default 5m
	HandshakesPerSecond float64       `yaml:"handshakes_per_second"` // where it is known; default open / life
	ResumedShare        float64       `yaml:"resumed_share"`         // of the handshakes; default 0
}

// Streams are event streams and WebSockets; they are counted among the open connections only where they have one of their own.
type Streams struct {
	Open int `yaml:"open"` // at the peak
}

// Certificates are of the tenants' hosts.
type Certificates struct {
	Number int           `yaml:"number"` // kept in the registry; default one for each tenant and each of its hosts; -1 for none, as with one wildcard
	Life   time.Duration `yaml:"life"`   // renewed when a third is left; default 2160h (90 days)
}

// Sandboxes run beside the gateway: their own CPU and memory are not in the plan.
type Sandboxes struct {
	Open   int     `yaml:"open"`           // at the peak
	Starts float64 `yaml:"starts_per_day"` // default 0
}

// Store is the etcd of the registry.
type Store struct {
	Kind         string        `yaml:"kind"`          // embedded, cluster (a member in each of 3 or 5 replicas) or external; default embedded where one replica is enough, else external
	QuotaBytes   Size          `yaml:"quota_bytes"`   // default 2GiB
	CompactAfter time.Duration `yaml:"compact_after"` // default 5m
}

// Machine is one replica's.
type Machine struct {
	Cores    float64 `yaml:"cores" json:"cores"`       // that Polygate may use; default 2
	Memory   Size    `yaml:"memory" json:"memory"`     // that it may use; default 4GiB
	Headroom float64 `yaml:"headroom" json:"headroom"` // the share of both that the peak may take; default 0.6
}
