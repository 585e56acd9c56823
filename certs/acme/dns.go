package acme

import "time"

// DNS is how the TXT records of dns-01 are set.
type DNS struct {
	Provider string // "rfc2136" or "webhook"
	RFC2136  RFC2136
	Webhook  Webhook
	// Propagation bounds the wait until the record is seen by the resolvers; 0 = 2 min, below 0 = it is not waited for.
	Propagation time.Duration
}

// RFC2136 is a DNS server that takes dynamic updates (RFC 2136), signed by a shared key (TSIG, RFC 8945).
type RFC2136 struct {
	Server    string // host:port
	KeyName   string // "" = updates are not signed
	Algorithm string // such as hmac-sha256, which "" is too
	Key       string // base64
	TCP       bool
}

// Webhook is an HTTP service that sets TXT records: POST <URL>/present and <URL>/cleanup with {"fqdn", "value"}, as lego's
// httpreq provider speaks.
type Webhook struct {
	URL   string // https, or http
	Token string // sent as a bearer token; "" = none
	CA    string // PEM roots for URL; "" = the system's
}

type dnsSolver struct{}

func newDNSSolver(*Config) (*dnsSolver, error) { return &dnsSolver{}, nil }
