package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// Bounds of what people provide.
const (
	maxPEM      = 64 << 10 // bytes, of chain and key each
	maxKeyPEM   = 16 << 10 // of these, of a key: RSA of 8192 bits takes 6.4 KiB, and the library checks a key for longer the larger it is
	maxChainLen = 10       // certificates
	minRSABits  = 2048
	maxRSABits  = 8192 // a signature costs 40 times that of 2048 bits
)

// pair is a chain with its key.
type pair struct {
	chain []*x509.Certificate // leaf first
	key   crypto.Signer
}

// parsePair reads and checks what somebody provided, but for the hosts that it is good for. Each error is a fault.Invalid
// that says what is wrong and where; none holds a part of the key.
func parsePair(chainPEM, keyPEM []byte, now time.Time) (*pair, error) {
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	chain, err := parseChain(chainPEM)
	if err != nil {
		return nil, err
	}
	if err := checkPublic("the leaf's key", chain[0].PublicKey); err != nil {
		return nil, err
	}
	if !samePublic(key.Public(), chain[0].PublicKey) {
		return nil, misplaced(chain, key)
	}
	if err := checkLeaf(chain[0], now); err != nil {
		return nil, err
	}
	if err := checkLinks(chain, now); err != nil {
		return nil, err
	}
	return &pair{chain, key}, nil
}

// blocks splits PEM text, of which nothing may be left over but white space and comments between blocks.
func blocks(what string, text []byte) ([]*pem.Block, error) {
	if len(text) > maxPEM {
		return nil, fault.New(fault.Invalid, "%s is %d bytes long: at most %d are allowed", what, len(text), maxPEM)
	}
	var list []*pem.Block
	for {
		b, rest := pem.Decode(text)
		if b == nil {
			break
		}
		list, text = append(list, b), rest
	}
	if bytes.Contains(text, []byte("-----BEGIN")) {
		return nil, fault.New(fault.Invalid, "%s: PEM block %d is cut off or garbled", what, len(list)+1)
	}
	if len(list) == 0 {
		return nil, fault.New(fault.Invalid, "%s is not PEM: it must hold -----BEGIN …----- blocks", what)
	}
	return list, nil
}

// parseChain reads certificates, and nothing else.
func parseChain(text []byte) ([]*x509.Certificate, error) {
	list, err := blocks("the chain", text)
	if err != nil {
		return nil, err
	}
	if len(list) > maxChainLen {
		return nil, fault.New(fault.Invalid, "the chain has %d certificates: at most %d are allowed", len(list), maxChainLen)
	}
	chain := make([]*x509.Certificate, len(list))
	for i, b := range list {
		if strings.Contains(b.Type, "PRIVATE KEY") {
			return nil, fault.New(fault.Invalid, "the chain's PEM block %d is a private key: only certificates belong there", i+1)
		}
		if b.Type != "CERTIFICATE" {
			return nil, fault.New(fault.Invalid, "the chain's PEM block %d is %q: only certificates belong there", i+1, b.Type)
		}
		if chain[i], err = x509.ParseCertificate(b.Bytes); err != nil {
			return nil, fault.New(fault.Invalid, "the chain's certificate %d cannot be read: %v", i+1, err)
		}
	}
	return chain, nil
}

// parseKey reads one private key. OpenSSL writes the parameters of an EC key in a block of their own before it.
func parseKey(text []byte) (crypto.Signer, error) {
	if len(text) > maxKeyPEM {
		return nil, fault.New(fault.Invalid, "the key is %d bytes long: at most %d are allowed", len(text), maxKeyPEM)
	}
	list, err := blocks("the key", text)
	if err != nil {
		return nil, err
	}
	if len(list) > 1 && list[0].Type == "EC PARAMETERS" {
		list = list[1:]
	}
	if len(list) > 1 {
		return nil, fault.New(fault.Invalid, "the key holds %d PEM blocks: exactly one private key belongs there", len(list))
	}
	b := list[0]
	if b.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(b.Headers["Proc-Type"], "ENCRYPTED") {
		return nil, fault.New(fault.Invalid, "the key is encrypted with a passphrase: decrypt it first (openssl pkey -in key.pem)")
	}
	key, err := decodeKey(b)
	if err != nil {
		return nil, err
	}
	return key, checkPublic("the key", key.Public())
}

// decodeKey reads the three forms of a key in PEM. The library's errors are left out, lest they show a part of it.
func decodeKey(b *pem.Block) (crypto.Signer, error) {
	var key any
	var err error
	switch b.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(b.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
	case "CERTIFICATE":
		return nil, fault.New(fault.Invalid, "the key is a certificate: are chain and key interchanged?")
	default:
		return nil, fault.New(fault.Invalid, "the key's PEM block is %.40q: use PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY", b.Type)
	}
	if err != nil {
		return nil, fault.New(fault.Invalid, "the key cannot be read: it is damaged, or of a kind that is not known here")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fault.New(fault.Invalid, "the key cannot sign: use ECDSA P-256 or P-384, RSA from 2048 bits on, or Ed25519")
	}
	return signer, nil
}

// checkPublic refuses keys that clients refuse, or that can be broken.
func checkPublic(what string, public crypto.PublicKey) error {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
		return fault.New(fault.Invalid, "%s is weak or unusual: ECDSA on %s; use P-256 or P-384", what, k.Curve.Params().Name)
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSABits || n > maxRSABits {
			return fault.New(fault.Invalid, "%s is RSA of %d bits: use %d to %d", what, n, minRSABits, maxRSABits)
		}
		return nil
	case ed25519.PublicKey:
		return nil
	}
	return fault.New(fault.Invalid, "%s is of a kind that TLS does not use: use ECDSA P-256 or P-384, RSA from 2048 bits on, or Ed25519", what)
}

func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// misplaced says why the key is not the first certificate's: often the chain is in the wrong order.
func misplaced(chain []*x509.Certificate, key crypto.Signer) error {
	for i, c := range chain {
		if samePublic(key.Public(), c.PublicKey) {
			return fault.New(fault.Invalid, "the chain is in the wrong order: the key belongs to certificate %d, which must come first", i+1)
		}
	}
	return fault.New(fault.Invalid, "the key does not belong to the leaf, the chain's first certificate (%s)", subject(chain[0]))
}

func checkLeaf(leaf *x509.Certificate, now time.Time) error {
	switch {
	case leaf.IsCA:
		return fault.New(fault.Invalid, "the chain's first certificate (%s) is an authority's: the first must be the host's own", subject(leaf))
	case now.Before(leaf.NotBefore):
		return fault.New(fault.Invalid, "the certificate is not valid before %s, and it is %s here: wait, or check the clock", day(leaf.NotBefore), day(now))
	case !now.Before(leaf.NotAfter):
		return fault.New(fault.Invalid, "the certificate expired on %s, and it is %s here: provide a newer one", day(leaf.NotAfter), day(now))
	case !serves(leaf):
		return fault.New(fault.Invalid, "the certificate is not for servers: its extended key usage lacks serverAuth")
	case len(leaf.DNSNames) == 0:
		return fault.New(fault.Invalid, "the certificate has no DNS name among its subject alternative names, and clients look at nothing else")
	}
	return nil
}

func serves(leaf *x509.Certificate) bool {
	if len(leaf.ExtKeyUsage) == 0 && len(leaf.UnknownExtKeyUsage) == 0 {
		return true
	}
	for _, u := range leaf.ExtKeyUsage {
		if u == x509.ExtKeyUsageServerAuth || u == x509.ExtKeyUsageAny {
			return true
		}
	}
	return false
}

// checkLinks checks that each certificate is signed by the next, with nothing that can be forged. A root at the end may be
// there; its own signature says nothing. The last certificate's issuer is not asked for: it may be any that clients trust.
func checkLinks(chain []*x509.Certificate, now time.Time) error {
	for i, c := range chain {
		self := i > 0 && bytes.Equal(c.RawSubject, c.RawIssuer)
		if err := checkSignatureKind(i, c); err != nil && !self {
			return err
		}
		if i == 0 {
			continue
		}
		if err := checkAbove(chain, i, now); err != nil {
			return err
		}
	}
	return nil
}

// checkAbove checks certificate i of a chain, from 1 on: it signed the one before. Its key is judged before a signature is
// verified by it: one of 400,000 bits, which a chain has room for, would keep a core busy for 15 s.
func checkAbove(chain []*x509.Certificate, i int, now time.Time) error {
	below, c := chain[i-1], chain[i]
	if err := checkPublic(fmt.Sprintf("the key of the chain's certificate %d", i+1), c.PublicKey); err != nil {
		return err
	}
	switch {
	case !bytes.Equal(below.RawIssuer, c.RawSubject):
		return fault.New(fault.Invalid, "the chain does not link: certificate %d is issued by %q, but certificate %d is %q: put the leaf first, then each one's issuer",
			i, below.Issuer, i+1, c.Subject)
	case below.CheckSignatureFrom(c) != nil:
		return fault.New(fault.Invalid, "the chain does not link: certificate %d (%s) has not signed certificate %d", i+1, subject(c), i)
	case now.Before(c.NotBefore) || now.After(c.NotAfter):
		return fault.New(fault.Invalid, "the chain's certificate %d (%s) is valid from %s to %s, and it is %s here: fetch the issuer's present chain",
			i+1, subject(c), day(c.NotBefore), day(c.NotAfter), day(now))
	}
	return nil
}

// checkSignatureKind refuses hashes of which collisions are known: a certificate signed so can be forged.
func checkSignatureKind(i int, c *x509.Certificate) error {
	switch c.SignatureAlgorithm {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519:
		return nil
	}
	return fault.New(fault.Invalid, "the chain's certificate %d is signed with %s, which is weak: have it issued anew with SHA-256", i+1, c.SignatureAlgorithm)
}

// checkHost says whether a leaf is good for a host, which may be a wildcard itself.
func checkHost(leaf *x509.Certificate, host string) error {
	if covers(leaf, host) {
		return nil
	}
	return fault.New(fault.Invalid, "the certificate is for %s, not for %s", names(leaf), host)
}

func covers(leaf *x509.Certificate, host string) bool {
	if strings.HasPrefix(host, "*.") {
		for _, n := range leaf.DNSNames {
			if strings.EqualFold(n, host) {
				return true
			}
		}
		return false
	}
	return leaf.VerifyHostname(host) == nil
}

// names returns what a leaf is for, for people.
func names(leaf *x509.Certificate) string {
	const most = 5
	list := leaf.DNSNames
	more := ""
	if len(list) > most {
		list, more = list[:most], fmt.Sprintf(" and %d more", len(leaf.DNSNames)-most)
	}
	return strings.Join(list, ", ") + more
}

func subject(c *x509.Certificate) string {
	s := c.Subject.String()
	if s == "" {
		s = names(c)
	}
	if most := 128; len(s) > most {
		return cutAt(s, most) + "…"
	}
	return s
}

func day(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// fingerprint is the SHA-256 of a certificate, in hexadecimal.
func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// keyType names a public key for people.
func keyType(public crypto.PublicKey) string {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return "unknown"
}

// chainPEM returns a chain of DER as PEM.
func chainPEM(chain [][]byte) string {
	var b strings.Builder
	for _, der := range chain {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // a builder takes everything
	}
	return b.String()
}

// encodeChain returns the chain as PEM.
func encodeChain(chain []*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range chain {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a buffer takes everything
	}
	return b.Bytes()
}
