// Package authn says who sent a request: by tokens of OpenID Connect issuers and of Kubernetes, browser sessions, client
// certificates and headers of trusted upstreams, each as the tenant configured it. It makes API keys and finds the credential in
// a request's header; whose API key it is, the caller asks the index by its hash. What somebody may do, it leaves to authz.
package authn

import (
	"crypto/rand"
	"hash/crc32"
	"math/big"
	"strings"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// KeyPrefix begins every key that Polygate makes, so that people and secret scanners recognise one.
const KeyPrefix = "pgk_"

// The parts of a key after its prefix, in base 62: 256 random bits, then the CRC-32 of all before it.
const (
	bodyLen  = 43 // 62^43 > 2^256
	checkLen = 6  // 62^6 > 2^32
	keyLen   = len(KeyPrefix) + bodyLen + checkLen
)

// MaxCredential is the longest credential that is looked at, in bytes.
// Tokens with many groups are long: 4 KiB cut real ones off.
const MaxCredential = 16 << 10

// NewKey returns a new API key, to be shown once, and its hash, to be stored.
func NewKey() (key string, hash tenant.Hash) {
	var b [32]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	key = KeyPrefix + base62(new(big.Int).SetBytes(b[:]), bodyLen)
	key += checksum(key)
	return key, tenant.HashKey(key)
}

func checksum(s string) string {
	return base62(new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(s)))), checkLen)
}

// base62 writes n with leading zeros to a fixed width.
func base62(n *big.Int, width int) string {
	s := n.Text(62)
	return strings.Repeat("0", width-len(s)) + s
}

// CheckKey says what is wrong with the form of a key, for better messages at a prompt or in a form: it proves nothing, and
// no decision may hang on it, since a tenant may bring keys of any form. The error never holds any of the key.
func CheckKey(s string) error {
	switch {
	case !strings.HasPrefix(s, KeyPrefix):
		return fault.New(fault.Invalid, "an API key begins with %s", KeyPrefix)
	case len(s) != keyLen:
		return fault.New(fault.Invalid, "an API key is %d characters long and this one %d: was it cut, or copied with something beside it?", keyLen, len(s))
	}
	for i := range len(s) - len(KeyPrefix) {
		if !alnum(s[len(KeyPrefix)+i]) {
			return fault.New(fault.Invalid, "an API key has only letters and digits after %s", KeyPrefix)
		}
	}
	if cut := keyLen - checkLen; checksum(s[:cut]) != s[cut:] {
		return fault.New(fault.Invalid, "the API key's checksum is wrong: a character was lost or mistyped")
	}
	return nil
}

// Credential returns the credential in a header with canonical names (net/textproto): one Authorization with the scheme
// Bearer (RFC 6750 §2.1), or one X-Api-Key, or both if they are the same. Anything else, none, two, another scheme, a bad
// character, more than MaxCredential bytes, is no credential, and never "the first that fits": a hop before us may have
// judged the other one. A credential in the query is none; URLs end up in logs.
func Credential(h map[string][]string) (string, bool) {
	auth, keys := h["Authorization"], h["X-Api-Key"]
	if len(auth) > 1 || len(keys) > 1 || len(auth)+len(keys) == 0 {
		return "", false
	}
	if len(keys) == 0 {
		return bearer(auth[0])
	}
	key := keys[0]
	if !plain(key) {
		return "", false
	}
	if len(auth) == 1 {
		if token, ok := bearer(auth[0]); !ok || token != key {
			return "", false
		}
	}
	return key, true
}

// bearer reads `Bearer <token>`; the scheme in any case (RFC 9110 §11.1).
func bearer(v string) (string, bool) {
	scheme, token, ok := strings.Cut(v, " ")
	token = strings.TrimLeft(token, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || !b64token(token) {
		return "", false
	}
	return token, true
}

// b64token says whether s is a b64token of RFC 6750 §2.1.
func b64token(s string) bool {
	if len(s) > MaxCredential {
		return false
	}
	s = strings.TrimRight(s, "=")
	for i := range len(s) {
		if !alnum(s[i]) && strings.IndexByte("-._~+/", s[i]) < 0 {
			return false
		}
	}
	return s != ""
}

// plain says whether s can be an API key: the hash of any string may be configured, so any but control bytes and a
// comma, with which hops join repeated fields.
func plain(s string) bool {
	if s == "" || len(s) > MaxCredential {
		return false
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] == 0x7f || s[i] == ',' {
			return false
		}
	}
	return s[0] != ' ' && s[len(s)-1] != ' '
}

func alnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
