package plan

import "time"

// Demand is what an installation has to carry at its peak. Shares are from 0 to 1.
type Demand struct {
	About        string  `yaml:"about"`         // a sentence for people
	Tenants      int     `yaml:"tenants"`       // registered, 1 to 10000000; required
	ActiveShare  float64 `yaml:"active_share"`  // of them, that have a request in any 10 minutes (limits.idle_gateway_after) of the peak; default 1
	VirtualShare float64 `yaml:"virtual_share"` // of them, in mode virtual; the others are dedicated: relayed to a gateway of their own; default 1
	Hosts        int     `yaml:"hosts"`         // of a tenant, beside its own under the base domain; default 0
	Keys         int     `yaml:"keys"`          // API keys of a tenant; default 2
	Servers      int     `yaml:"servers"`       // MCP servers, model routes and other objects that a virtual tenant has declared; default 2
	PolicyBytes  Size    `yaml:"policy_bytes"`  // of a virtual tenant's policy bundle; default 0

	Requests     Requests     `yaml:"requests"`
	Connections  Connections  `yaml:"connections"`
	Streams      int          `yaml:"streams"` // event streams and WebSockets open at the peak; those that have a connection of their own are counted there, too; default 0
	Certificates Certificates `yaml:"certificates"`
	Sandboxes    Sandboxes    `yaml:"sandboxes"`

	ChangesPerDay float64 `yaml:"changes_per_day"` // creations, changes and deletions of tenants, keys, servers, hosts and policies, by API or file; default 0
	SpareReplicas int     `yaml:"spare_replicas"`  // that may be gone at the peak, 0 to 100; default 1
	Etcd          Store   `yaml:"etcd"`
	Limits        Bounds  `yaml:"limits"`
	Machine       Machine `yaml:"machine"` // of each replica, where the caller of Compute does not say
}

// Requests come at the peak, all tenants together.
type Requests struct {
	PerSecond   float64            `yaml:"per_second"`   // requests, calls, and messages on WebSockets and event streams; default 0
	Protocols   map[string]float64 `yaml:"protocols"`    // shares by http1, http2, websocket, sse, mcp, grpc; they add up to 1; default http2 alone
	Credentials map[string]float64 `yaml:"credentials"`  // shares by none, key, jwt; they add up to 1; default key alone
	AnswerBytes Size               `yaml:"answer_bytes"` // of an answer; default 520
}

// Connections are of clients.
type Connections struct {
	Open                int           `yaml:"open"`                  // at the peak; default 0
	Life                time.Duration `yaml:"life"`                  // of a connection, from which the handshakes follow; default 5m
	HandshakesPerSecond float64       `yaml:"handshakes_per_second"` // where it is known; default open / life
	ResumedShare        float64       `yaml:"resumed_share"`         // of the handshakes; default 0
}

// Certificates are those that are stored: ordered of an ACME server, or brought.
type Certificates struct {
	Number int           `yaml:"number"` // default 0, as with the local authority or one wildcard
	Life   time.Duration `yaml:"life"`   // of one, 24h or more; renewed when a third is left; default 2160h (90 days)
}

// Sandboxes run beside the gateway: their own CPU and memory are not in the plan.
type Sandboxes struct {
	Open         int     `yaml:"open"`           // at the peak; default 0
	StartsPerDay float64 `yaml:"starts_per_day"` // default 0
}

// Store is the etcd of the registry.
type Store struct {
	Kind         StoreKind     `yaml:"kind"`          // default embedded where one replica is enough, else external
	QuotaBytes   Size          `yaml:"quota_bytes"`   // etcd.embedded.quota_bytes, or --quota-backend-bytes of your own; default 2GiB
	Reserve      int           `yaml:"reserve"`       // etcd.reserve, percent of the quota; 0 to 90; default 20
	CompactAfter time.Duration `yaml:"compact_after"` // etcd.embedded.compact_after, or --auto-compaction-retention of your own; default 5m
}

// StoreKind is where the registry's etcd runs.
type StoreKind string

// The kinds of store: inside the one replica, as a member in 3 or 5 of the replicas, or apart.
const (
	Embedded StoreKind = "embedded"
	Cluster  StoreKind = "cluster"
	External StoreKind = "external"
)

// Bounds are settings of polygate.yaml that a plan meets.
type Bounds struct {
	MaxConnections  int `yaml:"max_connections"`   // limits.max_connections of a replica; default 10000
	MaxStreams      int `yaml:"max_streams"`       // limits.max_streams of a replica; default 10000
	OrdersPerMinute int `yaml:"orders_per_minute"` // certificates.acme.orders_per_minute of all replicas; default 60
}

// Machine is one replica's.
type Machine struct {
	Cores    float64 `yaml:"cores" json:"cores"`       // that Polygate may use; default 2
	Memory   Size    `yaml:"memory" json:"memory"`     // that it may use; default 4GiB
	Headroom float64 `yaml:"headroom" json:"headroom"` // the share of cores, memory and etcd's writes that the peak may take; default 0.6
}

// Or returns m with what it does not say taken from other.
func (m Machine) Or(other Machine) Machine {
	if m.Cores == 0 {
		m.Cores = other.Cores
	}
	if m.Memory == 0 {
		m.Memory = other.Memory
	}
	if m.Headroom == 0 {
		m.Headroom = other.Headroom
	}
	return m
}

// defaults returns a demand with every default that is not zero. Those of maps are filled in after reading.
func defaults() Demand {
	return Demand{
		ActiveShare: 1, VirtualShare: 1, Keys: 2, Servers: 2, SpareReplicas: 1,
		Requests:     Requests{AnswerBytes: 520},
		Connections:  Connections{Life: 5 * time.Minute},
		Certificates: Certificates{Life: 90 * 24 * time.Hour},
		Etcd:         Store{QuotaBytes: 2 << 30, Reserve: 20, CompactAfter: 5 * time.Minute},
		Limits:       Bounds{MaxConnections: 10_000, MaxStreams: 10_000, OrdersPerMinute: 60},
		Machine:      defaultMachine(),
	}
}

func defaultMachine() Machine { return Machine{Cores: 2, Memory: 4 << 30, Headroom: 0.6} }

// fill sets the defaults that a decoder cannot merge.
func (d *Demand) fill() {
	if len(d.Requests.Protocols) == 0 {
		d.Requests.Protocols = map[string]float64{"http2": 1}
	}
	if len(d.Requests.Credentials) == 0 {
		d.Requests.Credentials = map[string]float64{"key": 1}
	}
	d.Machine = d.Machine.Or(defaultMachine())
}
