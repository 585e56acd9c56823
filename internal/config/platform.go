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
	KEKFile      string       `yaml:"kek_file"` // key-encryption key, mode 0600; default <data_dir>/kek
	Admin        Admin        `yaml:"admin"`
	TenantsFile  string       `yaml:"tenants_file"` // tenants.yaml, reloaded when it changes; default none: tenants come through the API alone
	Egress       Egress       `yaml:"egress"`
	Limits       Limits       `yaml:"limits"`
	Quotas       TenantQuotas `yaml:"quotas"` // of tenants that declare none of their own
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
}

// Etcd says where the registry is kept: in an etcd inside this process, or in the one at Endpoints.
type Etcd struct {
	Embedded     EtcdEmbedded `yaml:"embedded"`      // used when endpoints is empty
	Endpoints    []string     `yaml:"endpoints"`     // http(s)://host:port of the members of an etcd; default none
	TLS          EtcdTLS      `yaml:"tls"`           // for https endpoints
	User         string       `yaml:"user"`          // default none
	PasswordFile string       `yaml:"password_file"` // holds the user's password; required with user
	Prefix       string       `yaml:"prefix"`        // of every key, ends in /; default polygate/
}

// EtcdEmbedded tunes the etcd inside this process.
type EtcdEmbedded struct {
	QuotaBytes   Size          `yaml:"quota_bytes"`   // size of its database at which writes stop; default 2GiB
	CompactAfter time.Duration `yaml:"compact_after"` // how long superseded revisions are kept; default 5m
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
	TTL  time.Duration `yaml:"ttl"`  // after which a silent replica's tenants go to others; 2s to 60s, whole seconds; default 5s
}

// Egress says where upstreams may be that tenants declare themselves.
type Egress struct {
	Allow []netip.Prefix `yaml:"allow"` // exceptions to "public addresses only", such as 10.20.0.0/16; default none
}

// Limits bound what comes from outside, for the whole replica or for each connection and request. No zero means "no limit".
type Limits struct {
	MaxConnections          int           `yaml:"max_connections"`            // open on the public listener; default 10000
	MaxRequests             int           `yaml:"max_requests"`               // in flight on this replica, shared fairly between the tenants that want them; default 10000
	MaxStreams              int           `yaml:"max_streams"`                // event streams and WebSockets open on this replica, shared likewise; default 10000
	MaxStreamsPerConnection int           `yaml:"max_streams_per_connection"` // concurrent requests of one HTTP/2 connection; default 250
	MaxHeaderBytes          Size          `yaml:"max_header_bytes"`           // of a request's header; default 64KiB
	MaxHeaders              int           `yaml:"max_headers"`                // fields in a request's header; default 100
	MaxURIBytes             Size          `yaml:"max_uri_bytes"`              // of path and query; default 8KiB
	MaxQueryParameters      int           `yaml:"max_query_parameters"`       // in a query; default 100
	MaxBodyBytes            Size          `yaml:"max_body_bytes"`             // of a request's body; default 64MiB
	MCPMaxBodyBytes         Size          `yaml:"mcp_max_body_bytes"`         // of one MCP message; default 4MiB
	MCPMaxTenantBytes       Size          `yaml:"mcp_max_tenant_bytes"`       // of large MCP messages held at a time for one tenant; default 64MiB
	MCPMaxTotalBytes        Size          `yaml:"mcp_max_total_bytes"`        // and for all tenants; default 1GiB
	HeaderTimeout           time.Duration `yaml:"header_timeout"`             // for a request's header to arrive; default 10s
	BodyIdleTimeout         time.Duration `yaml:"body_idle_timeout"`          // between two pieces of a request's body; default 30s
	WriteIdleTimeout        time.Duration `yaml:"write_idle_timeout"`         // for which a client may leave a part of a response unread; default 60s
	MaxCookies              int           `yaml:"max_cookies"`                // in a request; default 180
	IdleTimeout             time.Duration `yaml:"idle_timeout"`               // of a connection without a request; default 60s, at most 60s
	UpstreamHeaderTimeout   time.Duration `yaml:"upstream_header_timeout"`    // for an upstream's response header; default 5m
	DialTimeout             time.Duration `yaml:"dial_timeout"`               // to resolve and connect to an upstream; default 5s
	ShutdownGrace           time.Duration `yaml:"shutdown_grace"`             // for requests in flight when the process is told to end; default 10s
	IdleGatewayAfter        time.Duration `yaml:"idle_gateway_after"`         // after which an unused virtual gateway leaves memory; default 10m
	ResidentCertificates    int           `yaml:"resident_certificates"`      // kept decoded in memory; default 10000
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
