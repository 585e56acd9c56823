package tenant

import (
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// Bounds of what a routing record says of TLS.
const (
	MaxCertificateFiles = 16       // pairs of files that a tenants file names
	MaxPendingHosts     = 16       // hosts whose ownership is not proven yet
	MaxCAPEM            = 16 << 10 // bytes of PEM roots
)

// Passthrough says where the gateway of a tenant is whose connections are not terminated here.
type Passthrough struct {
	Upstream      string `json:"upstream"`                 // host:port that speaks TLS
	ProxyProtocol bool   `json:"proxy_protocol,omitempty"` // send a PROXY protocol v2 header, with the client's address, before the first byte
}

// TLS is what a tenant wants of handshakes on its hosts, beside what the platform demands.
type TLS struct {
	MinVersion string `json:"min_version,omitempty"` // "1.2" or "1.3"; "" = the platform's
	// ClientCA are the PEM roots under which every client must show a certificate in the handshake; "" = none is demanded. It
	// lets nobody in by itself: who asks is still judged with each request.
	ClientCA string `json:"client_ca,omitempty"`
}

// CertificateSource says where the certificates of hosts come from.
type CertificateSource string

// The sources.
const (
	SourceLocalCA  CertificateSource = "local"    // the platform's own authority
	SourceACME     CertificateSource = "acme"     // an ACME server (RFC 8555)
	SourceProvided CertificateSource = "provided" // PEM that somebody brings: through the API, or from watched files
)

// Certificates says where a tenant's certificates come from. The zero value is the platform's choice. A certificate that was
// provided for a host is served there as long as it is valid, whatever the source.
type Certificates struct {
	Source CertificateSource `json:"source,omitempty"` // "" = the platform's
	ACME   *ACME             `json:"acme,omitempty"`   // an ACME server and account of its own, with Source acme; nil = the platform's
	Digest string            `json:"digest,omitempty"` // of the certificate files that were imported last
}

// ACME is an account at an ACME server.
type ACME struct {
	Directory string `json:"directory"`         // https URL of the directory
	Email     string `json:"email,omitempty"`   // contact of the account
	CA        string `json:"ca,omitempty"`      // PEM roots for the directory; "" = the system's
	Profile   string `json:"profile,omitempty"` // a profile that the server offers
	EABKeyID  string `json:"eab_key_id,omitempty"`
	EABKey    string `json:"eab_key,omitempty"` // the MAC key of the external account, sealed
}

// PendingHost is a host that a tenant's admin asked for and whose ownership is not proven yet. It is served to nobody and
// reserves nothing: another tenant may ask for it too, and have it by proving that it is theirs.
type PendingHost struct {
	Host      string    `json:"host"`
	Token     string    `json:"token"`                // what the TXT record at _polygate-challenge.<host> must hold; random, this tenant's alone
	Created   time.Time `json:"created"`              //
	LastCheck time.Time `json:"last_check,omitzero"`  // when it was looked for last
	LastError string    `json:"last_error,omitempty"` // what was found then
}

// HostChallenge is the label under which the proof of a host's ownership lies, as a TXT record.
const HostChallenge = "_polygate-challenge"

// CertificateState is what a host's certificate is doing.
type CertificateState string

// The states.
const (
	CertificateReady   CertificateState = "ready"   // one is served
	CertificatePending CertificateState = "pending" // none yet: it is being ordered, or will be with the first handshake
	CertificateFailing CertificateState = "failing" // the last attempt failed; Error says why, and the next one is at NextAttempt
	CertificateExpired CertificateState = "expired" // the one there was is over
	CertificateRevoked CertificateState = "revoked" // the one there was is not served any more
)

// Certificate is what people may know of the certificate of a host: everything but the key.
type Certificate struct {
	Host        string            `json:"host"`
	Source      CertificateSource `json:"source"`
	State       CertificateState  `json:"state"`
	Warning     string            `json:"warning,omitempty"` // a third of its life is left, or less, and no other has come; or a file of it is not taken in
	Names       []string          `json:"names,omitempty"`   // that the certificate is good for
	Issuer      string            `json:"issuer,omitempty"`
	Serial      string            `json:"serial,omitempty"`      // hexadecimal
	Fingerprint string            `json:"fingerprint,omitempty"` // SHA-256 of the leaf, hexadecimal
	KeyType     string            `json:"key_type,omitempty"`    // such as ECDSA P-256
	NotBefore   time.Time         `json:"not_before,omitzero"`
	NotAfter    time.Time         `json:"not_after,omitzero"`
	RenewAt     time.Time         `json:"renew_at,omitzero"`     // when a new one is ordered; zero = not by us
	Error       string            `json:"error,omitempty"`       // of the last attempt, in words that say what to do
	Code        string            `json:"code,omitempty"`        // the error in one word, such as rate_limited
	Attempts    int               `json:"attempts,omitempty"`    // that failed since the last success
	NextAttempt time.Time         `json:"next_attempt,omitzero"` //
	Chain       string            `json:"chain,omitempty"`       // PEM, leaf first; only where one certificate is shown
	Revision    int64             `json:"-"`                     // of the stored certificate: ETag; 0 = none is stored
}

// Settle forgets what an edit has made moot: hosts that are asked for and the tenant's now, by an operator's word, and proofs of
// hosts that it has no more. Otherwise to ask for a host would be to keep operators from giving it.
func (r *Record) Settle() {
	if len(r.PendingHosts) == 0 && len(r.ProvenHosts) == 0 {
		return
	}
	r.PendingHosts = slices.DeleteFunc(r.PendingHosts, func(p PendingHost) bool { return slices.Contains(r.Hosts, p.Host) })
	r.ProvenHosts = slices.DeleteFunc(r.ProvenHosts, func(h string) bool { return !slices.Contains(r.Hosts, h) })
}

func (r *Record) checkTLS() error {
	if t := r.TLS; t != nil {
		if t.MinVersion != "" && t.MinVersion != "1.2" && t.MinVersion != "1.3" {
			return fault.New(fault.Invalid, "tls.min_version %q is unknown: use \"1.2\" or \"1.3\"", t.MinVersion)
		}
		if err := checkRoots("tls.client_ca", t.ClientCA); err != nil {
			return err
		}
	}
	if c := r.Certificates; c != nil {
		if err := c.validate(); err != nil {
			return err
		}
	}
	return r.checkPending()
}

func (c *Certificates) validate() error {
	switch c.Source {
	case "", SourceLocalCA, SourceACME, SourceProvided:
	default:
		return fault.New(fault.Invalid, "certificates.source %q is unknown: use local, acme or provided", c.Source)
	}
	if c.ACME == nil {
		return nil
	}
	if c.Source != SourceACME {
		return fault.New(fault.Invalid, "certificates.acme is set but source is %q: set source: acme", c.Source)
	}
	return c.ACME.Validate("certificates.acme")
}

// Validate checks the settings. Errors name the field below the name that is given.
func (a *ACME) Validate(name string) error {
	u, err := url.Parse(a.Directory)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return fault.New(fault.Invalid, "%s.directory %q is not an https URL", name, a.Directory)
	}
	if len(a.Directory) > 1024 || len(a.Email) > 254 || len(a.Profile) > 64 || len(a.EABKeyID) > 256 || len(a.EABKey) > 2048 {
		return fault.New(fault.Invalid, "%s holds a value that is too long", name)
	}
	if a.Email != "" && (strings.Count(a.Email, "@") != 1 || strings.ContainsFunc(a.Email, func(r rune) bool { return r <= ' ' || r >= 0x7f })) {
		return fault.New(fault.Invalid, "%s.email %q is not an address", name, a.Email)
	}
	if (a.EABKeyID == "") != (a.EABKey == "") {
		return fault.New(fault.Invalid, "%s: eab_key_id and the key belong together: set both or neither", name)
	}
	return checkRoots(name+".ca", a.CA)
}

func (r *Record) checkPending() error {
	for _, h := range r.ProvenHosts {
		if !slices.Contains(r.Hosts, h) {
			return fault.New(fault.Invalid, "proven_hosts holds %q, which is not among hosts", h)
		}
	}
	if len(r.PendingHosts) > MaxPendingHosts {
		return fault.New(fault.Invalid, "%d hosts wait for the proof of their ownership: at most %d may", len(r.PendingHosts), MaxPendingHosts)
	}
	seen := make(map[string]bool, len(r.PendingHosts))
	for i := range r.PendingHosts {
		p := &r.PendingHosts[i]
		if err := CheckHost(p.Host); err != nil {
			return err
		}
		if seen[p.Host] || slices.Contains(r.Hosts, p.Host) { // see Settle
			return fault.New(fault.Conflict, "host %q is asked for twice, or the tenant's already", p.Host)
		}
		if p.Token == "" || len(p.Token) > 128 || len(p.LastError) > 512 {
			return fault.New(fault.Invalid, "the pending host %q has no token, or one that is too long", p.Host)
		}
		seen[p.Host] = true
	}
	return nil
}

func (p *Passthrough) validate() error {
	host, port, err := net.SplitHostPort(p.Upstream)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || host == "" || perr != nil || n == 0 || strings.ContainsAny(host, "/@ ") {
		return fault.New(fault.Invalid, "passthrough.upstream %q is not host:port", p.Upstream)
	}
	return nil
}

// validateTLS checks how the connection to the upstream is secured.
func (d *Dedicated) validateTLS(https bool) error {
	c := d.Client
	if !https && (d.CA != "" || d.ServerName != "" || c != ClientCertificate{}) {
		return fault.New(fault.Invalid, "dedicated.ca, server_name and client are for an https upstream, and upstream is %q", d.Upstream)
	}
	if d.ServerName != "" && net.ParseIP(d.ServerName) == nil {
		if err := CheckHost(d.ServerName); err != nil {
			return err
		}
	}
	if (c.Chain == "") != (c.Key == "") || c.Local && c.Chain != "" {
		return fault.New(fault.Invalid, "dedicated.client is local, or a chain together with its key, or neither")
	}
	if err := checkRoots("dedicated.client.chain", c.Chain); err != nil {
		return err
	}
	if len(c.Key) > MaxCAPEM {
		return fault.New(fault.Invalid, "dedicated.client.key is too long")
	}
	return checkRoots("dedicated.ca", d.CA)
}

// checkRoots checks PEM certificates that others are to be verified under; "" is none.
func checkRoots(field, text string) error {
	if text == "" {
		return nil
	}
	if len(text) > MaxCAPEM {
		return fault.New(fault.Invalid, "%s is %d bytes long: at most %d are allowed", field, len(text), MaxCAPEM)
	}
	rest := []byte(text)
	n := 0
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			return fault.New(fault.Invalid, "%s holds a PEM block %q: only certificates belong there", field, b.Type)
		}
		if _, err := x509.ParseCertificate(b.Bytes); err != nil {
			return fault.New(fault.Invalid, "%s: certificate %d cannot be read: %v", field, n+1, err)
		}
		n++
	}
	if n == 0 || strings.TrimSpace(string(rest)) != "" {
		return fault.New(fault.Invalid, "%s is not a list of PEM certificates", field)
	}
	return nil
}
