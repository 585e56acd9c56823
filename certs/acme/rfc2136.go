package acme

import (
	"context"
	"encoding/base64"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/polygate/polygate/internal/fault"
)

// tsigFudge is how far clocks may be apart for a signed update, in seconds: what RFC 8945 §10 recommends.
const tsigFudge = 300

// RFC2136 is a DNS server that takes dynamic updates (RFC 2136), signed by a shared key (TSIG, RFC 8945).
type RFC2136 struct {
	Server    string // host:port
	KeyName   string // "" = updates are not signed
	Algorithm string // hmac-sha256, which "" is too, or hmac-sha1, -sha224, -sha384, -sha512
	Key       string // base64
	TCP       bool   // updates go over TCP at once, not only when UDP fails
}

type updater struct {
	RFC2136
	now func() time.Time
}

func newRFC2136(c RFC2136, now func() time.Time) (*updater, error) {
	if host, port, err := net.SplitHostPort(c.Server); err != nil || host == "" || port == "" {
		return nil, fault.New(fault.Invalid, "acme: dns.rfc2136.server %q is not host:port", c.Server)
	}
	if (c.KeyName == "") != (c.Key == "") {
		return nil, fault.New(fault.Invalid, "acme: dns.rfc2136.key_name and the key belong together: set both or neither")
	}
	if c.KeyName == "" {
		return &updater{c, now}, nil
	}
	alg := dns.CanonicalName(c.Algorithm)
	switch alg {
	case ".":
		alg = dns.HmacSHA256
	case dns.HmacSHA1, dns.HmacSHA224, dns.HmacSHA256, dns.HmacSHA384, dns.HmacSHA512:
	default:
		return nil, fault.New(fault.Invalid, "acme: dns.rfc2136.key_algorithm %q is unknown: use hmac-sha256 or its like", c.Algorithm)
	}
	if raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(c.Key)); err != nil || len(raw) == 0 {
		return nil, fault.New(fault.Invalid, "acme: the key of dns.rfc2136 is not base64")
	}
	if _, ok := dns.IsDomainName(c.KeyName); !ok {
		return nil, fault.New(fault.Invalid, "acme: dns.rfc2136.key_name %q is not a name", c.KeyName)
	}
	c.Algorithm, c.KeyName, c.Key = alg, dns.CanonicalName(c.KeyName), strings.TrimSpace(c.Key)
	return &updater{c, now}, nil
}

func (u *updater) add(ctx context.Context, zone, fqdn, value string) error {
	m := new(dns.Msg).SetUpdate(dns.Fqdn(zone))
	m.Insert([]dns.RR{textRecord(fqdn, value)})
	return u.send(ctx, m)
}

func (u *updater) remove(ctx context.Context, zone, fqdn, value string) error {
	m := new(dns.Msg).SetUpdate(dns.Fqdn(zone))
	m.Remove([]dns.RR{textRecord(fqdn, value)})
	return u.send(ctx, m)
}

func textRecord(fqdn, value string) dns.RR {
	return &dns.TXT{
		Hdr: dns.RR_Header{Name: dns.Fqdn(fqdn), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: uint32(recordTTL / time.Second)},
		Txt: []string{value},
	}
}

// send makes one update. Only an answer that the same key has signed counts (RFC 8945 §5.3): others may send an answer too.
func (u *updater) send(ctx context.Context, m *dns.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, dnsTime)
	defer cancel()
	networks := []string{"udp", "tcp"}
	if u.TCP {
		networks = networks[1:]
	}
	var err error
	for _, network := range networks {
		var in *dns.Msg
		if in, err = u.exchange(ctx, network, m); err == nil {
			return u.judge(in)
		}
		if errors.Is(err, dns.ErrAuth) && in != nil {
			return u.refusedKey(in) // nobody vouches for it, but it is bad news in any case
		}
		if errors.Is(err, dns.ErrSig) || errors.Is(err, dns.ErrTime) || ctx.Err() != nil {
			break
		}
	}
	return u.failed(err)
}

func (u *updater) exchange(ctx context.Context, network string, m *dns.Msg) (*dns.Msg, error) {
	c := &dns.Client{Net: network, Timeout: dnsTime / 4}
	m = m.Copy() // signing changes it
	if u.KeyName != "" {
		c.TsigSecret = map[string]string{u.KeyName: u.Key}
		m.SetTsig(u.KeyName, u.Algorithm, tsigFudge, u.now().Unix())
	}
	in, _, err := c.ExchangeContext(ctx, m, u.Server)
	return in, err
}

func (u *updater) judge(in *dns.Msg) error {
	switch in.Rcode {
	case dns.RcodeSuccess:
		if u.KeyName != "" && in.IsTsig() == nil {
			return &Error{Code: CodeDNS, Detail: "the DNS server " + u.Server + " answered an update without a signature: check that it knows the key " + quote(u.KeyName)}
		}
		return nil
	case dns.RcodeNotAuth:
		return u.refusedKey(in)
	case dns.RcodeRefused:
		return &Error{Code: CodeDNS, Permanent: true, Detail: "the DNS server " + u.Server + " refuses the update: allow it to the key " + quote(u.KeyName) + " for TXT records of the zone"}
	case dns.RcodeNotZone, dns.RcodeNameError:
		return &Error{Code: CodeDNS, Permanent: true, Detail: "the DNS server " + u.Server + " does not have the zone: check dns.rfc2136.server"}
	}
	return &Error{Code: CodeDNS, Detail: "the DNS server " + u.Server + " answers an update with " + dns.RcodeToString[in.Rcode]}
}

// refusedKey says why a server does not take the signature (RFC 8945 §5.2).
func (u *updater) refusedKey(in *dns.Msg) error {
	if t := in.IsTsig(); t != nil && t.Error == dns.RcodeBadTime {
		return &Error{Code: CodeClock, Detail: "the DNS server " + u.Server + " refuses the time of an update, " + stamp(u.now()) + ": set the clock (NTP), here or there"}
	}
	return &Error{Code: CodeDNS, Permanent: true, Detail: "the DNS server " + u.Server + " does not take the signature: check dns.rfc2136.key_name, key_algorithm and the key"}
}

func (u *updater) failed(err error) error {
	switch {
	case errors.Is(err, dns.ErrTime):
		return &Error{Code: CodeClock, Detail: "the DNS server " + u.Server + " signs for another time than " + stamp(u.now()) + ": set the clock (NTP), here or there", Err: err}
	case errors.Is(err, dns.ErrSig), errors.Is(err, dns.ErrSecret), errors.Is(err, dns.ErrNoSig):
		return &Error{Code: CodeDNS, Permanent: true, Detail: "the signature of the DNS server " + u.Server + " is wrong: check dns.rfc2136.key_name and the key", Err: err}
	}
	return &Error{Code: CodeDNS, Detail: "the DNS server " + u.Server + " does not answer updates: check that it is up and reachable from here", Err: err}
}
