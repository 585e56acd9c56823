package acme

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

const (
	maxCertificates = 10   // in a chain
	maxChains       = 8    // that are looked at, of those that a server offers
	maxRSA          = 8192 // bits, as in TLS: a signature by one of 400,000, which a chain has room for, takes 15 s to verify
)

// choose returns the first chain whose leaf an ECDSA key has signed, since that costs clients and us less, else the first.
// What is not a chain for our key and names is refused: it would be found out in handshakes only.
func (c *call) choose(chains []acme.Certificate, o Order) ([]byte, error) {
	var first []byte
	var bad error
	for i := range chains[:min(len(chains), maxChains)] {
		list, err := c.checkChain(chains[i].ChainPEM, o)
		if err != nil {
			if bad == nil {
				bad = err
			}
			continue
		}
		if isECDSA(list[0].SignatureAlgorithm) {
			return encodeChain(list), nil
		}
		if first == nil {
			first = encodeChain(list)
		}
	}
	switch {
	case first != nil:
		return first, nil
	case bad != nil:
		return nil, bad
	}
	return nil, &Error{Code: CodeServer, Detail: c.where() + " issued no chain: it is tried again"}
}

func isECDSA(a x509.SignatureAlgorithm) bool {
	return a == x509.ECDSAWithSHA256 || a == x509.ECDSAWithSHA384 || a == x509.ECDSAWithSHA512
}

func (c *call) checkChain(data []byte, o Order) ([]*x509.Certificate, error) {
	list, err := parseChain(data)
	if err == nil {
		err = checkLeaf(list[0], o)
	}
	for i := 0; err == nil && i+1 < len(list); i++ {
		err = checkSigned(list[i], list[i+1])
	}
	if err != nil {
		return nil, &Error{Code: CodeServer, Detail: c.where() + " issued a certificate that cannot be used: see the cause, and tell its operators", Err: err}
	}
	now := c.e.cfg.Now()
	if leaf := list[0]; leaf.NotBefore.After(now.Add(maxSkew)) || !leaf.NotAfter.After(now) {
		return nil, &Error{Code: CodeClock, Detail: "the new certificate is good from " + stamp(leaf.NotBefore) + " to " + stamp(leaf.NotAfter) + ", and the clock of this machine says " + stamp(now) + ": set the clock (NTP)"}
	}
	return list, nil
}

// checkSigned checks that by has signed cert.
func checkSigned(cert, by *x509.Certificate) error {
	if k, ok := by.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() > maxRSA {
		return errors.New("the chain has an RSA key of more than 8192 bits")
	}
	return cert.CheckSignatureFrom(by)
}

// parseChain reads PEM certificates. A chain is nothing but these.
func parseChain(data []byte) ([]*x509.Certificate, error) {
	if len(data) > maxChain {
		return nil, errors.New("the chain is larger than 64 KiB")
	}
	var list []*x509.Certificate
	for rest := data; len(bytes.TrimSpace(rest)) > 0; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil || b.Type != "CERTIFICATE" {
			return nil, errors.New("the chain is not PEM certificates alone")
		}
		cert, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, err
		}
		if list = append(list, cert); len(list) > maxCertificates {
			return nil, errors.New("the chain has more than 10 certificates")
		}
	}
	if len(list) == 0 {
		return nil, errors.New("the chain is empty")
	}
	return list, nil
}

func checkLeaf(leaf *x509.Certificate, o Order) error {
	pub, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(o.Key.Public()) {
		return errors.New("the certificate is not for our key")
	}
	for _, name := range o.Names {
		// A wildcard stands for any name of its level.
		if err := leaf.VerifyHostname(strings.Replace(name, "*", "any", 1)); err != nil {
			return err
		}
	}
	return nil
}

func encodeChain(list []*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range list {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a buffer takes everything
	}
	return out.Bytes()
}

// clampPoll is when to ask again, between a minute and a day from now: what RFC 9773 §4.3.2 and good sense allow.
func clampPoll(at *time.Time, now time.Time) time.Time {
	next := now.Add(6 * time.Hour)
	if at != nil {
		next = *at
	}
	if earliest := now.Add(time.Minute); next.Before(earliest) {
		return earliest
	}
	if latest := now.Add(24 * time.Hour); next.After(latest) {
		return latest
	}
	return next
}
