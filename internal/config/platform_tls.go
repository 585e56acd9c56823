package config

import "time"

// TLS tunes handshakes on the public listener.
type TLS struct {
	MinVersion     string        `yaml:"min_version"`     // "1.2" or "1.3"; a tenant may ask for more, never for less; default 1.2
	TicketRotation time.Duration `yaml:"ticket_rotation"` // how long one key seals session tickets, on all replicas; 10m to 168h; default 24h
}

// Passthrough bounds the connections that are spliced to tenants' own gateways.
type Passthrough struct {
	MaxConnections          int           `yaml:"max_connections"`            // spliced at a time on this replica; default 10000
	MaxConnectionsPerTenant int           `yaml:"max_connections_per_tenant"` // and for one tenant; default 1000
	MaxDrain                time.Duration `yaml:"max_drain"`                  // for which they may go on once their tenant has another mode or upstream, or lost the host, then they are cut; up to 9600h; default 0 = until they end
	DialTimeout             time.Duration `yaml:"dial_timeout"`               // to resolve and connect to the tenant's gateway, then for its first byte, and for a silent client once it has ended its side; 100ms to 5m; default 5s
	IdleTimeout             time.Duration `yaml:"idle_timeout"`               // of a connection on which no byte goes either way; 1s to 168h; default 1h
}

// Certificates says where the hosts' certificates come from. Tenants may have choices of their own.
type Certificates struct {
	LeafLife  time.Duration     `yaml:"leaf_life"` // of a certificate of the local authority, renewed when a third is left; 1h to 9600h; default 168h
	Source    string            `yaml:"source"`    // of hosts whose tenant has no choice of its own: local (our own authority) or acme; default local
	OCSP      bool              `yaml:"ocsp"`      // staple the answer of the issuer's OCSP responder, where a certificate names one; default true
	Resolvers []string          `yaml:"resolvers"` // DNS servers, host:port, that are asked for proofs of ownership and by dns-01; default none = the system's
	Files     []CertificateFile `yaml:"files"`     // of the platform's own hosts and the base domain's wildcard; watched
	ACME      ACME              `yaml:"acme"`
}

// CertificateFile is a certificate that another tool keeps in two files.
type CertificateFile struct {
	Cert string `yaml:"cert_file"` // PEM chain, leaf first; required
	Key  string `yaml:"key_file"`  // its PEM key, not encrypted; required

	at spot // where it is declared
}

// ACME is the platform's account at an ACME server, and how orders are paced.
type ACME struct {
	Directory              string   `yaml:"directory"`                  // https URL; default Let's Encrypt's
	TrustedDirectory       bool     `yaml:"trusted_directory"`          // ACME servers may have private addresses, without egress.allow; default false
	Email                  string   `yaml:"email"`                      // contact of the account; default none
	CAFile                 string   `yaml:"ca_file"`                    // PEM roots for the directory; default the system's
	Profile                string   `yaml:"profile"`                    // one that the server offers; default the server's choice
	EABKeyID               string   `yaml:"eab_key_id"`                 // of an external account that the server wants; default none
	EABKeyFile             string   `yaml:"eab_key_file"`               // holds that account's MAC key, base64url; default none
	Challenges             []string `yaml:"challenges"`                 // that may be used to prove hosts; default [tls-alpn-01, http-01]
	Wildcard               bool     `yaml:"wildcard"`                   // one certificate for *.<base_domain>, proven by DNS, spares one per tenant; default false
	OrdersPerMinute        int      `yaml:"orders_per_minute"`          // of all tenants; 1 to 100000; default 60
	OrdersPerTenantPerHour int      `yaml:"orders_per_tenant_per_hour"` // 1 to 10000; default 30
	MaxConcurrent          int      `yaml:"max_concurrent"`             // orders in flight; 1 to 1000; default 16
	DNS                    ACMEDNS  `yaml:"dns"`
}

// The challenges of ACME by which a single host is proven.
const (
	ChallengeTLSALPN = "tls-alpn-01" // on listen.public, which the ACME server must reach at port 443
	ChallengeHTTP    = "http-01"     // on listen.plain, which it must reach at port 80
)

// ACMEDNS says how TXT records are written for dns-01, which alone proves a wildcard.
type ACMEDNS struct {
	Provider           string        `yaml:"provider"`            // rfc2136 or webhook, with the settings of that name; default none
	PropagationTimeout time.Duration `yaml:"propagation_timeout"` // for a record to be seen by the resolvers; 1s to 1h; default 2m
	RFC2136            RFC2136       `yaml:"rfc2136"`
	Webhook            DNSWebhook    `yaml:"webhook"`
}

// The providers of ACMEDNS.
const (
	ProviderRFC2136 = "rfc2136"
	ProviderWebhook = "webhook"
)

// RFC2136 is a DNS server that takes dynamic updates, signed with a TSIG key.
type RFC2136 struct {
	Server       string `yaml:"server"`        // host:port; required with provider rfc2136
	KeyName      string `yaml:"key_name"`      // of the TSIG key; required with provider rfc2136
	KeyAlgorithm string `yaml:"key_algorithm"` // hmac-sha224, hmac-sha256, hmac-sha384 or hmac-sha512; default hmac-sha256
	KeyFile      string `yaml:"key_file"`      // holds the TSIG key, base64; required with provider rfc2136
	TCP          bool   `yaml:"tcp"`           // send updates over TCP; default false
}

// DNSWebhook is a service that writes the records: POST <url>/present and <url>/cleanup with {"fqdn":…,"value":…}, as lego's
// httpreq does.
type DNSWebhook struct {
	URL       string `yaml:"url"`        // http or https; required with provider webhook
	TokenFile string `yaml:"token_file"` // holds a bearer token; default none
	CAFile    string `yaml:"ca_file"`    // PEM roots of the service; default the system's
}
