package peerca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/peer"
	"github.com/polygate/polygate/internal/vault"
)

// version is that of the stored authorities. Readers take the next one too.
const version = 1

// maxAuthorities bounds what a handshake has to look through, and the secret.
const maxAuthorities = 8

// stored is the secret: all authorities that are believed or were lately, in the order in which they were made.
type stored struct {
	V           int         `json:"v"`
	Authorities []authority `json:"authorities"`
}

// authority is one authority. It is immutable.
type authority struct {
	Cert []byte    `json:"cert"` // DER
	Key  []byte    `json:"key"`  // PKCS #8; the whole is sealed
	From time.Time `json:"from"` // when certificates come from it, until those come from the next one

	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	print string // SHA-256 of Cert, hexadecimal
}

// errNewer refuses to rewrite what this build does not know the whole of.
var errNewer = errors.New("a newer version of this program keeps it: rotate it by a replica that is upgraded")

func (s stored) encode() ([]byte, error) {
	if s.V > version {
		return nil, errNewer
	}
	return json.Marshal(s)
}

func decode(b []byte) (stored, error) {
	var s stored
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("%w: restore the registry from a backup (%w)", vault.ErrDamaged, err)
	}
	switch {
	case s.V > version+1:
		return s, fmt.Errorf("it has version %d, and this build reads up to %d: %w", s.V, version+1, vault.ErrNewer)
	case s.V < 1 || len(s.Authorities) == 0:
		return s, fmt.Errorf("%w: restore the registry from a backup", vault.ErrDamaged)
	}
	for i := range s.Authorities {
		if err := s.Authorities[i].parse(); err != nil {
			return s, fmt.Errorf("%w: restore the registry from a backup (%w)", vault.ErrDamaged, err)
		}
	}
	return s, nil
}

func (r *authority) parse() (err error) {
	if r.cert, err = x509.ParseCertificate(r.Cert); err != nil {
		return err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(r.Key)
	if err != nil {
		return errors.New("a key cannot be read") // an error of the parser could quote it
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(r.cert.PublicKey) {
		return errors.New("a key and its certificate do not belong together")
	}
	sum := sha256.Sum256(r.Cert)
	r.key, r.print = key, hex.EncodeToString(sum[:])
	return nil
}

// newAuthority makes an authority from which certificates come from a time on. It can sign replicas and nothing else: no further
// authorities, and no other names.
func newAuthority(now, from time.Time) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	template := &x509.Certificate{ // without a serial number: a random one is drawn (RFC 5280 §4.1.2.2)
		Subject:   pkix.Name{Organization: []string{"Polygate"}, CommonName: "Polygate replicas " + now.UTC().Format(time.RFC3339)},
		NotBefore: now.Add(-2 * backdate), NotAfter: now.Add(rootLife), // begins earlier than the first leaf
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: []string{peer.Domain[1:]}, PermittedURIDomains: []string{peer.URI("x").Host},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return authority{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return authority{}, err
	}
	r := authority{Cert: cert, Key: der, From: from.UTC()}
	return r, r.parse()
}

// issue makes the certificate of a replica, with a key of its own that is never stored.
func (r *authority) issue(replica string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	end := now.Add(leafLife)
	if end.After(r.cert.NotAfter) {
		end = r.cert.NotAfter
	}
	template := &x509.Certificate{
		NotBefore: now.Add(-backdate), NotAfter: end, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{peer.ServerName(replica)}, URIs: []*url.URL{peer.URI(replica)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, r.cert, key.Public(), r.key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of replica %s: %w: its name must be letters, digits, dashes and dots", replica, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// signer returns the authority from which certificates come at a time: the last one whose time has come; the first where none
// has, by a clock that is slow.
func (s stored) signer(now time.Time) *authority {
	best := &s.Authorities[0]
	for i := range s.Authorities {
		if r := &s.Authorities[i]; !r.From.After(now) {
			best = r
		}
	}
	return best
}

// believed returns the authorities whose certificates may still be in use, those to come included.
func (s stored) believed(now time.Time) (out []authority) {
	for i, r := range s.Authorities {
		if now.Before(r.cert.NotAfter) && !s.retired(i, now) {
			out = append(out, r)
		}
	}
	return out
}

// retired says whether every certificate of an authority has ended: the next one has signed for longer than any lives, and
// an hour more, for clocks that differ.
func (s stored) retired(i int, now time.Time) bool {
	return i+1 < len(s.Authorities) && now.After(s.Authorities[i+1].From.Add(leafLife+backdate))
}

// rotated adds an authority, unless the last one is not in use yet.
func (s stored) rotated(now time.Time) (stored, bool, error) {
	last := s.Authorities[len(s.Authorities)-1]
	if last.From.After(now) && last.From.Before(now.Add(2*Overlap)) { // one from a clock far ahead is not waited for
		return s, false, nil
	}
	s, _ = s.pruned(now)
	if len(s.Authorities) >= maxAuthorities {
		return s, false, fault.New(fault.Conflict, "%d authorities are believed already: wait until the first of them has ended, a day after the one that followed it", len(s.Authorities))
	}
	next, err := newAuthority(now, now.Add(Overlap))
	s.Authorities = append(slices.Clone(s.Authorities), next)
	return s, true, err
}

func (s stored) pruned(now time.Time) (stored, bool) {
	n := len(s.Authorities)
	first := 0
	for s.retired(first, now) {
		first++
	}
	s.Authorities = s.Authorities[first:]
	return s, len(s.Authorities) < n
}

// ending says whether the last authority comes to its end.
func (s stored) ending(now time.Time) bool {
	return now.Add(lastYear).After(s.Authorities[len(s.Authorities)-1].cert.NotAfter)
}

// upkeep says whether what is stored is to be changed.
func (s stored) upkeep(now time.Time) bool {
	return s.V <= version && (s.retired(0, now) || s.ending(now))
}

// next returns how long it is until another authority signs; an hour where none waits.
func (s stored) next(now time.Time) time.Duration {
	wait := time.Hour
	for i := range s.Authorities {
		if d := s.Authorities[i].From.Sub(now); d > 0 {
			wait = min(wait, d)
		}
	}
	return wait
}

// renew makes the certificate anew at half of its life, or when another authority signs, and the roots when others are
// believed. It is called with a.mu held.
func (a *Authority) renew() error {
	now := a.now()
	if len(a.stored.Authorities) == 0 {
		return errors.New("the replicas' authority is not open")
	}
	changed := a.believe(now)
	r := a.stored.signer(now)
	if a.leaf == nil || a.signer != r.print || now.After(halfOf(a.leaf.Leaf)) {
		leaf, err := r.issue(a.replica, now)
		if err != nil {
			return err
		}
		a.leaf, a.signer, changed = leaf, r.print, true
	}
	if changed {
		close(a.changed)
		a.changed = make(chan struct{})
	}
	return nil
}

// believe makes the roots of what is believed now, and says whether that is something else than before.
func (a *Authority) believe(now time.Time) bool {
	roots := a.stored.believed(now)
	prints := make([]string, 0, len(roots))
	for _, r := range roots {
		prints = append(prints, r.print)
	}
	if a.roots != nil && slices.Equal(prints, a.trusted) {
		return false
	}
	pool := x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r.cert)
	}
	a.roots, a.trusted = pool, prints
	return true
}

// halfOf returns when half of a certificate's life after its making is over.
func halfOf(leaf *x509.Certificate) time.Time {
	made := leaf.NotBefore.Add(backdate)
	return made.Add(leaf.NotAfter.Sub(made) / 2)
}
