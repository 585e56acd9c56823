package tenant

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/polygate/polygate/internal/fault"
)

// EgressRule is one place that a tenant's sandboxes may reach.
type EgressRule struct {
	Internet bool         // all public addresses; Prefix is not set then
	Prefix   netip.Prefix // masked
	Port     uint16       // TCP; 0 = all ports, TCP and UDP
}

// EgressInternet allows all public addresses.
const EgressInternet = "internet"

// ParseEgress reads "internet", "internet:443", "10.20.0.0/16" or "10.20.0.7/32:5432"; an IPv6 prefix with a port is written
// "[2001:db8::/32]:443". What no tenant may be given is refused: link-local addresses, where clouds keep metadata, and loopback.
func ParseEgress(s string) (EgressRule, error) {
	text, port, err := cutPort(s)
	if err != nil {
		return EgressRule{}, err
	}
	if text == EgressInternet {
		return EgressRule{Internet: true, Port: port}, nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return EgressRule{}, fault.New(fault.Invalid, "%q is neither internet nor a prefix such as 10.20.0.0/16 or 10.20.0.7/32:5432", s)
	}
	if p.Masked() != p {
		return EgressRule{}, fault.New(fault.Invalid, "%q has bits beside its prefix: write %s", s, p.Masked())
	}
	for _, never := range []string{"169.254.0.0/16", "127.0.0.0/8", "fe80::/10", "::1/128"} {
		if n := netip.MustParsePrefix(never); n.Overlaps(p) && p.Bits() >= n.Bits() {
			return EgressRule{}, fault.New(fault.Invalid, "%q is within %s, which no sandbox may reach", s, never)
		}
	}
	return EgressRule{Prefix: p, Port: port}, nil
}

// cutPort splits a port off.
func cutPort(s string) (text string, port uint16, err error) {
	var digits string
	if inner, ok := strings.CutPrefix(s, "["); ok {
		var rest string
		if text, rest, ok = strings.Cut(inner, "]"); !ok {
			return "", 0, fault.New(fault.Invalid, "%q has no ]", s)
		}
		if digits, ok = strings.CutPrefix(rest, ":"); !ok {
			return "", 0, fault.New(fault.Invalid, "%q: write the port after ]:", s)
		}
	} else if strings.Count(s, ":") == 1 {
		text, digits, _ = strings.Cut(s, ":")
	} else {
		return s, 0, nil
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fault.New(fault.Invalid, "%q: a port is 1 to 65535", s)
	}
	return text, uint16(n), nil
}
