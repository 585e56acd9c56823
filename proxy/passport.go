package proxy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// The fields in which replicas speak to each other about a request. They are read on the peer listener alone; anywhere else
// they are a client's words, which nobody looks at and which go no further (see reserved).
const (
	ownPrefix       = "Polygate-"
	passportHeader  = "Polygate-Passport" //nolint:gosec // a header's name
	requestIDHeader = "Polygate-Request-Id"
	expectHeader    = "Polygate-Expect"  // Expect is the forwarding replica's, not the client's
	recordHeader    = "Polygate-Record"  // the revision of the tenant's record by which the forwarding replica judged
	refusalHeader   = "Polygate-Refusal" // in an answer: nothing of the request was done, and why
)

// The values of refusalHeader.
const (
	refusedOwner    = "owner"    // the tenant is another replica's
	refusedPassport = "passport" // what the forwarding replica said of the client is not believed
)

// Times of a passport. Clocks of replicas may differ by passportSkew.
const (
	passportLife = 60 * time.Second
	passportUse  = 30 * time.Second // a client's connection gets a new one after that
	passportSkew = 20 * time.Second
)

// Bounds of a passport, in bytes: what a client's certificates may have together, and the whole text.
const (
	maxChain    = 32 << 10
	maxPassport = 64 << 10
)

// passportVersion is written; the one after it is read too.
const passportVersion = 1

// passport is what a client's connection knows and a forwarded request does not show: who is at the other end, and how it was
// let in. The replica that has the connection signs it with the key of its certificate, for one other replica. No header
// that anybody else can write has a say in it (X22, X24).
type passport struct {
	V       int      `json:"v"`
	From    string   `json:"from"`
	To      string   `json:"to"`
	Expires int64    `json:"exp"`    // Unix seconds
	Remote  string   `json:"remote"` // address and port
	SNI     string   `json:"sni"`
	TLS     uint16   `json:"tls"`             // version
	Chain   [][]byte `json:"chain,omitempty"` // the client's certificates, DER
	// Admitted is whose client CA let the connection in, where there is one.
	Admitted *passportAdmission `json:"admitted,omitempty"`
	// Host is whose the server name was at the handshake: TLS ended here, so that the tenant was none of passthrough.
	Host *passportTenant `json:"host,omitempty"`
}

type passportTenant struct {
	ID  tenant.ID `json:"id"`
	UID string    `json:"uid"`
}

type passportAdmission struct {
	passportTenant
	CA []byte `json:"ca"` // SHA-256 of the PEM
}

// passportContext separates a signature of a passport from everything else that the key signs.
const passportContext = "polygate passport v1\x00" //nolint:gosec // no secret

// sign writes p with the key of cert.
func (p *passport) sign(cert *tls.Certificate) (string, error) {
	payload, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("passport: %w", err)
	}
	sig, err := signature(payload, cert)
	if err != nil {
		return "", fmt.Errorf("passport: %w", err)
	}
	e := base64.RawURLEncoding
	return e.EncodeToString(payload) + "." + e.EncodeToString(sig), nil
}

// signature signs the payload of a passport.
func signature(payload []byte, cert *tls.Certificate) ([]byte, error) {
	key, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key of the replica's certificate cannot sign")
	}
	signed := append([]byte(passportContext), payload...)
	if _, ok := key.Public().(ed25519.PublicKey); ok {
		return key.Sign(rand.Reader, signed, crypto.Hash(0))
	}
	sum := sha256.Sum256(signed)
	return key.Sign(rand.Reader, sum[:], crypto.SHA256)
}

// visitor is a passport that was found good, as a request needs it. It is immutable.
type visitor struct {
	passport
	state *tls.ConnectionState // the client's connection
}

// readPassport reads what the replica from says of a client's connection to the replica to, of which by is the certificate on
// the very connection that it came on: a passport is of no use to a replica that it was not given to, nor to anybody who
// saw it. The time is judged by current, each time that it is used.
func readPassport(text string, by *x509.Certificate, from, to string) (*visitor, error) {
	payload, err := openPassport(text, by)
	if err != nil {
		return nil, err
	}
	v := &visitor{}
	if err := json.Unmarshal(payload, &v.passport); err != nil {
		return nil, fmt.Errorf("passport: %w", err)
	}
	p := &v.passport
	switch {
	case p.V != passportVersion && p.V != passportVersion+1:
		return nil, fmt.Errorf("passport: version %d: this build reads %d and %d", p.V, passportVersion, passportVersion+1)
	case p.From != from || from == to:
		return nil, fmt.Errorf("passport: from replica %q, on a connection of %q", p.From, from)
	case p.To != to:
		return nil, fmt.Errorf("passport: for replica %q, shown to %q", p.To, to)
	}
	v.state, err = p.connection()
	return v, err
}

// openPassport checks the signature and returns what is signed.
func openPassport(text string, by *x509.Certificate) ([]byte, error) {
	if len(text) > maxPassport {
		return nil, fmt.Errorf("passport: longer than %d bytes", maxPassport)
	}
	body, mark, ok := strings.Cut(text, ".")
	payload, perr := base64.RawURLEncoding.Strict().DecodeString(body)
	sig, serr := base64.RawURLEncoding.Strict().DecodeString(mark)
	if !ok || perr != nil || serr != nil {
		return nil, errors.New("passport: not two parts of base64")
	}
	var alg x509.SignatureAlgorithm
	switch by.PublicKey.(type) {
	case *ecdsa.PublicKey:
		alg = x509.ECDSAWithSHA256
	case ed25519.PublicKey:
		alg = x509.PureEd25519
	default:
		return nil, errors.New("passport: the replica's certificate has a key of another kind than ECDSA and Ed25519")
	}
	if err := by.CheckSignature(alg, append([]byte(passportContext), payload...), sig); err != nil {
		return nil, fmt.Errorf("passport: the signature is not by the replica's certificate: %w", err)
	}
	return payload, nil
}

// connection makes of a passport what net/http would know of the client's connection.
func (p *passport) connection() (*tls.ConnectionState, error) {
	if _, err := netip.ParseAddrPort(p.Remote); err != nil {
		return nil, fmt.Errorf("passport: the client's address: %w", err)
	}
	if !validName(p.SNI) || p.TLS < tls.VersionTLS12 || p.TLS > tls.VersionTLS13 {
		return nil, errors.New("passport: no server name, or no version of TLS")
	}
	cs := &tls.ConnectionState{ServerName: p.SNI, Version: p.TLS, HandshakeComplete: true}
	for _, der := range p.Chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("passport: a certificate of the client's: %w", err)
		}
		cs.PeerCertificates = append(cs.PeerCertificates, cert)
	}
	return cs, nil
}

// current says whether p may be used now. One that is to last longer than passports do is none of ours.
func (p *passport) current(now time.Time) error {
	left := time.Unix(p.Expires, 0).Sub(now)
	if left < -passportSkew || left > passportLife+passportSkew {
		return fmt.Errorf("passport: it is good until %s, and now is %s: do the replicas' clocks agree?",
			time.Unix(p.Expires, 0).UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// admission returns how the client's connection was let in; nil if it had nothing to show. One by a tenant that is not there
// any more holds for nobody.
func (v *visitor) admission(d Directory) *admission {
	a := v.Admitted
	if a == nil {
		return nil
	}
	by := &admission{digest: a.CA}
	if e, ok := d.ByID(a.ID); ok && e.Scope.UID() == a.UID {
		by.scope = e.Scope
	}
	return by
}
