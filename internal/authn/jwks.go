package authn

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json/jsontext"
)

// Bounds of a key set.
const (
	maxKeys    = 64 // an issuer has two or three; a tenant's could have us hold any number
	minRSABits = 2048
	maxRSABits = 8192 // a check with more costs milliseconds
	maxKid     = 255  // bytes of a kid, and of an alg: they are kept with the key
)

// keySet is an issuer's keys, less those that no signature may be checked with. It is immutable.
type keySet struct {
	keys   []key
	digest [sha256.Size]byte // of the document
}

// key is one public key of an issuer.
type key struct {
	id    string            // kid: a name to find the key by, and nothing else
	alg   string            // the algorithm that it is for; "" = any that fits
	pub   crypto.PublicKey  // *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
	thumb [sha256.Size]byte // RFC 7638
}

// parseKeys reads a JWK set (RFC 7517 §5). Keys that cannot be used are left out, as that section asks: one odd key of an
// issuer must not lock its users out.
func parseKeys(b []byte) (*keySet, error) {
	var doc struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := strictJSON(b, &doc); err != nil {
		return nil, fmt.Errorf("the issuer's keys are no JWK set: %w", err)
	}
	if doc.Keys == nil || len(doc.Keys) > maxKeys {
		return nil, fmt.Errorf("the issuer's JWK set has %d keys: 1 to %d are allowed", len(doc.Keys), maxKeys)
	}
	s := &keySet{digest: sha256.Sum256(b)}
	for _, raw := range doc.Keys {
		if k, err := parseKey(raw); err == nil {
			s.keys = append(s.keys, k)
		}
	}
	return s, nil
}

// jwk holds the members of a JWK that are looked at. Certificates in it are not: the issuer's TLS vouches for its keys.
type jwk struct {
	Kty string `json:"kty"`
	Crv string `json:"crv,omitempty"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
	N   string `json:"n,omitempty"`
	E   string `json:"e,omitempty"`
}

func parseKey(raw []byte) (key, error) {
	var about struct {
		Kid    string         `json:"kid"`
		Alg    string         `json:"alg"`
		Use    string         `json:"use"`
		KeyOps []string       `json:"key_ops"`
		D      jsontext.Value `json:"d"`
		K      jsontext.Value `json:"k"`
	}
	var material jwk
	if err := errors.Join(strictJSON(raw, &about), strictJSON(raw, &material)); err != nil {
		return key{}, err
	}
	switch {
	case len(about.D) > 0 || len(about.K) > 0:
		return key{}, errors.New("a secret key: whoever can read it can sign")
	case len(about.Kid) > maxKid || len(about.Alg) > maxKid:
		return key{}, errors.New("a key with too long a name")
	case about.Use != "" && about.Use != "sig":
		return key{}, errors.New("a key that is not for signatures")
	case about.KeyOps != nil && !slices.Contains(about.KeyOps, "verify"):
		return key{}, errors.New("a key that is not for verifying")
	}
	k := key{id: about.Kid, alg: about.Alg}
	return k, k.setMaterial(material)
}

func (k *key) setMaterial(m jwk) error {
	for _, s := range []string{m.X, m.Y, m.N, m.E} {
		if _, err := segment(s); err != nil {
			return err
		}
	}
	clean, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var parsed jose.JSONWebKey
	if err := parsed.UnmarshalJSON(clean); err != nil {
		return err
	}
	k.pub = parsed.Key
	if err := checkMaterial(k.pub); err != nil {
		return err
	}
	thumb, err := parsed.Thumbprint(crypto.SHA256)
	copy(k.thumb[:], thumb)
	return err
}

func checkMaterial(pub crypto.PublicKey) error {
	switch p := pub.(type) {
	case *rsa.PublicKey:
		if bits := p.N.BitLen(); bits < minRSABits || bits > maxRSABits || p.E < 3 || p.E%2 == 0 || roca(p.N) {
			return fmt.Errorf("an RSA key of %d bits with the exponent %d that is too weak or too slow", bits, p.E)
		}
		return nil
	case *ecdsa.PublicKey, ed25519.PublicKey: // go-jose holds that the point is on the curve, and the length
		return nil
	}
	return errors.New("a key of a type that is not used")
}

// roca says whether a modulus has the mark of the smart cards whose keys can be factored (CVE-2017-15361): modulo each of
// these primes it is a power of 65537, which one in 2^27 others is by chance.
func roca(n *big.Int) bool {
	for _, p := range []int64{11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157} {
		r, power := new(big.Int).Mod(n, big.NewInt(p)).Int64(), int64(1)
		for range p {
			if power == r {
				break
			}
			power = power * 65537 % p
		}
		if power != r {
			return false
		}
	}
	return true
}

// fits says whether the key may check signatures of an algorithm: the key decides, never the token alone (RFC 8725 §3.1).
func (k *key) fits(alg string) bool {
	if k.alg != "" && k.alg != alg {
		return false
	}
	switch p := k.pub.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")
	case *ecdsa.PublicKey:
		return alg == "ES256" && p.Curve == elliptic.P256() || alg == "ES384" && p.Curve == elliptic.P384() || alg == "ES512" && p.Curve == elliptic.P521()
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}

// find returns the one key that a header can mean. A header without kid means the only key that fits (OpenID Connect Core
// §10.1); two keys of one kid that both fit mean none. known says that the set knows the kid, so that a newer one would not
// help.
func (s *keySet) find(h *joseHeader) (k *key, known bool) {
	for i := range s.keys {
		c := &s.keys[i]
		if h.Kid != "" && c.id != h.Kid {
			continue
		}
		known = known || h.Kid != ""
		if !c.fits(h.Alg) {
			continue
		}
		if k != nil {
			return nil, true
		}
		k = c
	}
	return k, known || k != nil
}

// has says whether a key is in the set.
func (s *keySet) has(thumb [sha256.Size]byte) bool {
	return slices.ContainsFunc(s.keys, func(k key) bool { return k.thumb == thumb })
}

// verify checks the token's signature. The algorithm must be allowed and fit the key: both were asked before, and are again.
func (k *key) verify(c *compact, algorithms []string) error {
	alg := jose.SignatureAlgorithm(c.header.Alg)
	if !slices.Contains(algorithms, c.header.Alg) || !k.fits(c.header.Alg) {
		return errors.New("an algorithm that is not allowed")
	}
	parsed, err := jose.ParseSignedCompact(c.raw, []jose.SignatureAlgorithm{alg})
	if err != nil {
		return err
	}
	if _, err := parsed.Verify(k.pub); err != nil {
		return err
	}
	if strings.HasPrefix(c.header.Alg, "PS") {
		return k.checkSalt(c, parsed.Signatures[0].Signature)
	}
	return nil
}

// checkSalt holds the length of a PSS salt to the hash's (RFC 7518 §3.5), where go-jose takes any.
func (k *key) checkSalt(c *compact, sig []byte) error {
	pub, ok := k.pub.(*rsa.PublicKey)
	hash, known := map[string]crypto.Hash{"PS256": crypto.SHA256, "PS384": crypto.SHA384, "PS512": crypto.SHA512}[c.header.Alg]
	if !ok || !known {
		return errors.New("an algorithm that does not fit the key")
	}
	h := hash.New()
	h.Write([]byte(c.raw[:strings.LastIndexByte(c.raw, '.')])) // never fails (package hash)
	return rsa.VerifyPSS(pub, hash, h.Sum(nil), sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
}
