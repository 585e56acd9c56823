package keep

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
)

// Bounds of a record.
const (
	MaxChain  = 128 << 10 // bytes of a chain
	MaxKey    = 16 << 10  // bytes of a private key
	MaxStaple = 32 << 10  // bytes of an OCSP response
	maxRecord = 256 << 10 // bytes of a whole record
)

// Host is what is kept of the certificate of one host. It is one value, so that chain, key and the state of the order never
// disagree, and a cold handshake costs one read.
type Host struct {
	V        int                      `json:"v"`    // version of the record; 0 = this one's
	Host     string                   `json:"host"` // DNS name in lower case; "*.<base>" for a wildcard
	Source   tenant.CertificateSource `json:"source"`
	Chain    []byte                   `json:"-"`                // PEM, leaf first; nil = no certificate yet
	Key      []byte                   `json:"-"`                // PKCS #8, in the clear here; List leaves it out
	Revision int64                    `json:"-"`                // of the stored record, set by Load, List and Save
	Modified time.Time                `json:"-"`                // of the stored record, set by Load and List
	Issuer   string                   `json:"issuer,omitempty"` // common name, for people

	NotBefore   time.Time `json:"not_before,omitzero"`
	NotAfter    time.Time `json:"not_after,omitzero"`
	RenewAt     time.Time `json:"renew_at,omitzero"` // when a new one is ordered; zero = not by us
	Revoked     time.Time `json:"revoked,omitzero"`  // since when it is not served any more
	Serial      string    `json:"serial,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"` // SHA-256 of the leaf, hexadecimal
	KeyType     string    `json:"key_type,omitempty"`    // such as ECDSA P-256
	Names       []string  `json:"names,omitempty"`       // that the leaf is good for

	Directory string    `json:"directory,omitempty"` // of the ACME server that issued it, which is asked to revoke it
	InfoAt    time.Time `json:"info_at,omitzero"`    // when that server is asked again for the window of renewal (RFC 9773)
	OCSP      []byte    `json:"ocsp,omitempty"`      // DER response, to be stapled
	OCSPAt    time.Time `json:"ocsp_at,omitzero"`    // when another one is asked for
	OCSPUntil time.Time `json:"ocsp_until,omitzero"` // when the one there is ends
	Order     Order     `json:"order,omitzero"`

	unknown      map[string]json.RawMessage // what a newer version wrote and this one does not know
	unknownOrder map[string]json.RawMessage // the same within Order
}

// Order is how far the efforts to get a certificate are.
type Order struct {
	Attempts int       `json:"attempts,omitempty"` // that failed since the last success
	Code     string    `json:"code,omitempty"`     // the last failure in one word
	Error    string    `json:"error,omitempty"`    // the same in words that say what to do
	Last     time.Time `json:"last,omitzero"`      // when the last attempt was made
	Next     time.Time `json:"next,omitzero"`      // not before then
	Forced   bool      `json:"forced,omitempty"`   // somebody asked for a new one
	Under    string    `json:"under,omitempty"`    // digest of the settings under which the last attempt failed
}

// CodeDamaged is the Order.Code under which List shows a record that it cannot read.
const CodeDamaged = "damaged"

// record is a Host as it is stored.
type record struct {
	*Host
	Chain string `json:"chain,omitempty"` // PEM is text
	Key   []byte `json:"key,omitempty"`   // sealed
}

// check refuses what must not be stored.
func (h *Host) check() error {
	if err := checkHost(h.Host); err != nil {
		return err
	}
	switch {
	case len(h.Chain) > MaxChain || len(h.Key) > MaxKey || len(h.OCSP) > MaxStaple:
		return fault.New(fault.TooLarge, "the certificate of %s is too large: a chain may have %d bytes, a key %d, an OCSP response %d",
			h.Host, MaxChain, MaxKey, MaxStaple)
	case len(h.Chain) > 0 && len(h.Key) == 0 && h.Revoked.IsZero(): // such as one from List, which would lose the stored key
		return fault.New(fault.Invalid, "the certificate of %s would be stored without its key: load it before it is saved", h.Host)
	}
	return checkVersion(max(h.V, version))
}

// checkHost judges whether a host can be a part of a key. Whether it is a good DNS name is for those who own it.
func checkHost(host string) error {
	if err := tenant.CheckSegment(host); err != nil || host != strings.ToLower(host) || strings.ContainsRune(host, '\\') {
		return fault.Wrap(fault.Invalid, err, "%q cannot be the host of a certificate: give a DNS name in lower case", host)
	}
	return nil
}

// encode makes the stored form. sealed is the key.
func (h *Host) encode(sealed []byte) ([]byte, error) {
	c := *h
	c.V = max(h.V, version)
	r := record{Host: &c, Chain: string(h.Chain), Key: sealed}
	b, err := json.Marshal(r)
	if err == nil && h.V > version {
		b, err = r.encodeNewer()
	}
	if err != nil {
		return nil, fmt.Errorf("encode the certificate of %s: %w", h.Host, err)
	}
	if len(b) > maxRecord {
		return nil, fault.New(fault.TooLarge, "the record of the certificate of %s has %d bytes: at most %d are kept", h.Host, len(b), maxRecord)
	}
	return b, nil
}

// decodeHost reads the stored form of the record of host, and returns the key as it is sealed.
func decodeHost(host string, b []byte) (h *Host, sealed []byte, err error) {
	r := record{Host: new(Host)}
	if err := json.Unmarshal(b, &r); err != nil || r.Host == nil {
		return nil, nil, fmt.Errorf("%w (%w)", vault.ErrDamaged, err)
	}
	if err := checkVersion(r.V); err != nil {
		return nil, nil, err
	}
	if r.Host.Host != host {
		return nil, nil, fmt.Errorf("it is of another host: %w", vault.ErrDamaged)
	}
	h = r.Host
	h.Chain = []byte(r.Chain)
	if h.V > version {
		h.decodeNewer(b)
	}
	return h, r.Key, nil
}

// newerRecord is a record of the next version, whose order may hold more than this version knows.
type newerRecord struct {
	record
	Order json.RawMessage `json:"order,omitempty"`
}

// decodeNewer notes what this version does not know.
func (h *Host) decodeNewer(b []byte) {
	var r newerRecord
	if json.Unmarshal(b, &r) != nil {
		return // b has been read already
	}
	h.unknown = unknown(b, reflect.TypeFor[Host](), "chain", "key")
	h.unknownOrder = unknown(r.Order, reflect.TypeFor[Order]())
}

// encodeNewer adds what this version does not know again.
func (r record) encodeNewer() ([]byte, error) {
	order, err := json.Marshal(r.Host.Order)
	if err != nil {
		return nil, err
	}
	if order, err = merge(order, r.unknownOrder); err != nil {
		return nil, err
	}
	b, err := json.Marshal(newerRecord{r, order})
	if err != nil {
		return nil, err
	}
	return merge(b, r.unknown)
}
