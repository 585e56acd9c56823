// Package config reads the two files of an operator: polygate.yaml, which says how the platform runs (Platform), and
// tenants.yaml with its catalogs, which declares tenants (Tenants). Both are decoded strictly, each error with file, line,
// column and what to do. What a changed tenants.yaml means for the tenants that exist is a pure function (Plan); carrying it
// out is left to the daemon.
package config

import (
	"net/netip"
	"time"
)

// Platform is polygate.yaml. Secrets are never written in it, only the files that hold them. A relative path is relative to
// the working directory, but that of tenants_file to the folder of polygate.yaml.
type Platform struct {
	DataDir      string       `yaml:"data_dir"`     // folder of the embedded store, keys and logs; default .polygate
	BaseDomain   string       `yaml:"base_domain"`  // each tenant's own host is <id>.<base_domain>; required
	SharedHosts  []string     `yaml:"shared_hosts"` // hosts that serve /tenant/<id>/… for all tenants; default [base_domain]
	Listen       Listen       `yaml:"listen"`
	Etcd         Etcd         `yaml:"etcd"`
	Replica      Replica      `yaml:"replica"`
	Placement    Placement    `yaml:"placement"`
	Drain        Drain        `yaml:"drain"`
	KEKFile      string       `yaml:"kek_file"` // key-encryption key, mode 0600; default <data_dir>/kek
	Admin        Admin        `yaml:"admin"`
	TenantsFile  string       `yaml:"tenants_file"` // tenants.yaml, reloaded when it changes; default none: tenants come through the API alone
	Egress       Egress       `yaml:"egress"`
	Limits       Limits       `yaml:"limits"`
	Quotas       TenantQuotas `yaml:"quotas"` // of tenants that declare none of their own
	Sandboxes    Sandboxes    `yaml:"sandboxes"`
	Authn        Authn        `yaml:"authn"`
	Policy       Policy       `yaml:"policy"`
	TLS          TLS          `yaml:"tls"`
	Passthrough  Passthrough  `yaml:"passthrough"`
	Certificates Certificates `yaml:"certificates"`
	Metrics      Metrics      `yaml:"metrics"`
	Audit        Audit        `yaml:"audit"`
	Tracing      Tracing      `yaml:"tracing"`
	Log          Log          `yaml:"log"`
	Demo         Demo         `yaml:"demo"`

	warnings Errors // that LoadPlatform found
}

// Listen holds the addresses to listen on, as host:port or :port. Port 0 takes a free one. Empty = no such listener, which
// all but public may be.
type Listen struct {
	Public    string `yaml:"public"`    // TLS, for tenants; default :8443
	Plain     string `yaml:"plain"`     // HTTP that redirects to public; default :8080
	Admin     string `yaml:"admin"`     // TLS, for operators; default 127.0.0.1:9443
	Telemetry string `yaml:"telemetry"` // HTTP: /metrics /healthz /readyz; default 127.0.0.1:9090
	Peer      string `yaml:"peer"`      // mutual TLS, for the other replicas; default :7443, and none with an embedded etcd of one member

	ProxyProtocolFrom []netip.Prefix `yaml:"proxy_protocol_from"` // load balancers whose PROXY protocol header, v1 or v2, on public and plain says who the client is; they must send one; default none
}

// Etcd says where the registry is kept: in an etcd inside this process, or in the one at Endpoints.
type Etcd struct {
	Embedded     EtcdEmbedded `yaml:"embedded"`      // used when endpoints is empty
	Endpoints    []string     `yaml:"endpoints"`     // http(s)://host:port of the members of an etcd; default none
	TLS          EtcdTLS      `yaml:"tls"`           // for https endpoints
	User         string       `yaml:"user"`          // default none
	PasswordFile string       `yaml:"password_file"` // holds the user's password; required with user
	Prefix       string       `yaml:"prefix"`        // of every key, ends in /; default polygate/
	Reserve      int          `yaml:"reserve"`       // percent of the store's quota that tenants' changes leave free; default 20
}

// EtcdEmbedded tunes the etcd inside this process.
type EtcdEmbedded struct {
	QuotaBytes   Size          `yaml:"quota_bytes"`   // size of its database at which writes stop; default 2GiB
	CompactAfter time.Duration `yaml:"compact_after"` // how long superseded revisions are kept; default 5m
	Cluster      EtcdCluster   `yaml:"cluster"`       // with serve --cluster: this process's etcd is one member of several
}

// EtcdCluster makes the embedded etcd one member of a cluster, whose other members are in the other replicas. The members
// speak mutual TLS unless all of them are on loopback addresses.
type EtcdCluster struct {
	Members []EtcdMember `yaml:"members"` // all of them, this one included; 3 or 5; required
	Listen  string       `yaml:"listen"`  // host:port for the other members; default the port of this member's address, on all addresses
	CA      string       `yaml:"ca"`      // PEM roots of the members' certificates; required unless all are on loopback addresses
	Cert    string       `yaml:"cert"`    // this member's certificate, for server and client use; required with ca
	Key     string       `yaml:"key"`     // its key; required with ca
}

// EtcdMember is one member of the embedded cluster.
type EtcdMember struct {
	Name    string `yaml:"name"`    // that of the replica which it is in; required
	Address string `yaml:"address"` // host:port at which the others reach it; required
}

// EtcdTLS names the PEM files for an etcd behind TLS.
type EtcdTLS struct {
	CA   string `yaml:"ca"`   // roots; default the system's
	Cert string `yaml:"cert"` // client certificate, with key; default none
	Key  string `yaml:"key"`  // its key; default none
}

// Replica is this process among its like.
type Replica struct {
	Name string        `yaml:"name"` // unique among the replicas, the same after a restart; default the machine's host name
	TTL  time.Duration `yaml:"ttl"`  // after which a silent replica's tenants go to others; 2s to 60s, whole seconds; default 5s. Below, an etcd member that stands still can cost the replica its session

	Advertise  string        `yaml:"advertise"`   // host:port at which the other replicas reach listen.peer; default its address, or the machine's host name and its port
	Capacity   int           `yaml:"capacity"`    // the share of tenants that it takes, beside the others'; default 100
	ServeStale time.Duration `yaml:"serve_stale"` // for how long dedicated and passthrough tenants, which need no claim, are served while the registry is away, beyond the ttl: revocations do not arrive meanwhile; default 0s
}

// Placement says how tenants are spread over the replicas.
type Placement struct {
	Overload float64       `yaml:"overload"`         // a replica with more than this many times its fair share gets no more tenants and gives some up; default 1.25
	Moves    float64       `yaml:"moves_per_second"` // that a replica makes of its own accord, such as after another joined; default 5
	Interval time.Duration `yaml:"interval"`         // between two looks; default 10s
	Wait     time.Duration `yaml:"wait"`             // for which a request waits while its tenant moves; default 2s
}

// Drain says how a replica is emptied, by SIGTERM or by polygate drain.
type Drain struct {
	Delay   time.Duration `yaml:"delay"`   // from "not ready" to the first hand-off, so that load balancers see it; default 0s
	Streams time.Duration `yaml:"streams"` // for which streams may go on before they are told to come again; default 5s
	Timeout time.Duration `yaml:"timeout"` // after which a stopping replica leaves what it could not hand off; default 25s
}

// Egress says where upstreams may be that tenants declare themselves.
type Egress struct {
	Allow []netip.Prefix `yaml:"allow"` // exceptions to "public addresses only", such as 10.20.0.0/16; default none
}

// Limits bound what comes from outside, for the whole replica or for each connection and request. No zero means "no limit".
type Limits struct {
	MaxConnections           int           `yaml:"max_connections"`             // open on the public listener; default 10000
	MaxConnectionsPerAddress int           `yaml:"max_connections_per_address"` // of them from one client address, IPv6 by its /64; default 0 = nine tenths of max_connections
	MaxRequests              int           `yaml:"max_requests"`                // in flight on this replica, shared fairly between the tenants that want them; default 10000
	MaxStreams               int           `yaml:"max_streams"`                 // event streams and WebSockets open on this replica, shared likewise; default 10000
	MaxStreamsPerConnection  int           `yaml:"max_streams_per_connection"`  // concurrent requests of one HTTP/2 connection; default 250
	MaxHeaderBytes           Size          `yaml:"max_header_bytes"`            // of a request's header; default 64KiB
	MaxHeaders               int           `yaml:"max_headers"`                 // fields in a request's header; default 100
	MaxURIBytes              Size          `yaml:"max_uri_bytes"`               // of path and query; default 8KiB
	MaxQueryParameters       int           `yaml:"max_query_parameters"`        // in a query; default 100
	MaxBodyBytes             Size          `yaml:"max_body_bytes"`              // of a request's body; default 64MiB
	MCPMaxBodyBytes          Size          `yaml:"mcp_max_body_bytes"`          // of one MCP message; default 4MiB
	MCPMaxTenantBytes        Size          `yaml:"mcp_max_tenant_bytes"`        // of large MCP messages held at a time for one tenant; default 64MiB
	MCPMaxTotalBytes         Size          `yaml:"mcp_max_total_bytes"`         // and for all tenants; default 1GiB
	HeaderTimeout            time.Duration `yaml:"header_timeout"`              // for a request's header to arrive; default 10s
	BodyIdleTimeout          time.Duration `yaml:"body_idle_timeout"`           // between two pieces of a request's body; default 30s
	WriteIdleTimeout         time.Duration `yaml:"write_idle_timeout"`          // for which a client may leave a part of a response unread; default 60s
	MaxCookies               int           `yaml:"max_cookies"`                 // in a request; default 180
	IdleTimeout              time.Duration `yaml:"idle_timeout"`                // of a connection without a request; default 60s, at most 60s
	UpstreamHeaderTimeout    time.Duration `yaml:"upstream_header_timeout"`     // for an upstream's response header; default 5m
	DialTimeout              time.Duration `yaml:"dial_timeout"`                // to resolve and connect to an upstream; default 5s
	ShutdownGrace            time.Duration `yaml:"shutdown_grace"`              // for requests in flight when the process is told to end; default 10s
	IdleGatewayAfter         time.Duration `yaml:"idle_gateway_after"`          // after which an unused virtual gateway leaves memory; default 10m
	ResidentCertificates     int           `yaml:"resident_certificates"`       // kept decoded in memory; default 10000
	GarbageHeadroom          Size          `yaml:"garbage_headroom"`            // garbage that may always lie in memory before it is collected; default 32MiB; 0 = as much as is alive, as for any Go program. Nothing where GOGC is set
}

// Metrics tunes the Prometheus metrics.
type Metrics struct {
	MaxTenants int `yaml:"max_tenants"` // tenants with series of their own, the rest shares one; default 1000
}

// Log says how the log is written, to standard error.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn or error; default info
	Format string `yaml:"format"` // json or text; default json
}

// Demo makes a first start usable at once. It is for trying out: it makes keys and writes them to a file.
type Demo struct {
	EnvFile string   `yaml:"env_file"` // shell variables with the demo's URLs and keys, mode 0600; default none = no demo
	Tenants []string `yaml:"tenants"`  // ids of declared tenants that get an API key with the role admin; default none
}
