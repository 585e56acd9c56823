package egress

import (
	"errors"
	"fmt"
	"net/netip"
)

// ErrRefused is the cause of every refusal of the guard.
var ErrRefused = errors.New("address refused by the dial guard")

// rule is one range that no tenant may reach.
type rule struct {
	prefix string
	why    string
}

// rules4 are the IPv4 ranges that are not the public internet (IANA special-purpose registry), and addresses within it
// that belong to a cloud's own machinery.
func rules4() []rule {
	return []rule{
		{"0.0.0.0/8", "this network; Linux takes 0.0.0.0 for loopback"},
		{"10.0.0.0/8", "private"},
		{"100.64.0.0/10", "carrier-grade NAT"},
		{"127.0.0.0/8", "loopback"},
		{"168.63.129.16/32", "cloud platform"},
		{"169.254.0.0/16", "link-local, where clouds serve instance credentials"},
		{"172.16.0.0/12", "private"},
		{"192.0.0.0/24", "protocol assignments"},
		{"192.0.2.0/24", "documentation"},
		{"192.88.99.0/24", "6to4 relays"},
		{"192.168.0.0/16", "private"},
		{"198.18.0.0/15", "benchmarking"},
		{"198.51.100.0/24", "documentation"},
		{"203.0.113.0/24", "documentation"},
		{"224.0.0.0/4", "multicast"},
		{"240.0.0.0/4", "reserved or broadcast"},
	}
}

// rules6 are the IPv6 ranges; whatever lies outside 2000::/3 is refused besides.
func rules6() []rule {
	return []rule{
		{"::/128", "unspecified"},
		{"::1/128", "loopback"},
		{"64:ff9b:1::/48", "local-use NAT64"},
		{"100::/64", "discard"},
		{"2001::/32", "Teredo"},
		{"2001::/23", "protocol assignments"},
		{"2001:db8::/32", "documentation"},
		{"3fff::/20", "documentation"},
		{"fc00::/7", "unique local"},
		{"fe80::/10", "link-local"},
		{"fec0::/10", "site-local"},
		{"ff00::/8", "multicast"},
	}
}

// Judge decides whether a tenant's upstream may be at addr. The prefixes in allow are exceptions; they open IPv4
// addresses and their IPv4-mapped form, which the kernel takes for the same. Other IPv6 forms that embed an IPv4 address
// are judged by the embedded one, without exceptions. A refusal wraps ErrRefused.
func Judge(addr netip.Addr, allow []netip.Prefix) error {
	if !addr.IsValid() {
		return fmt.Errorf("%w: not an address", ErrRefused)
	}
	addr = addr.Unmap().WithZone("")
	for _, p := range allow {
		if p.Contains(addr) {
			return nil
		}
	}
	if why := refusal(addr); why != "" {
		return fmt.Errorf("%w: %s is %s", ErrRefused, addr, why)
	}
	return nil
}

// refusal returns why addr is refused, or "". addr is unmapped.
func refusal(addr netip.Addr) string {
	if addr.Is4() {
		return match(addr, rules4())
	}
	if why := match(addr, rules6()); why != "" {
		return why
	}
	if v4, how := embedded(addr); how != "" {
		if why := match(v4, rules4()); why != "" {
			return how + " of " + v4.String() + ", which is " + why
		}
		if how == "NAT64" { // outside 2000::/3 but a way to the public internet
			return ""
		}
	}
	if !netip.MustParsePrefix("2000::/3").Contains(addr) {
		return "not global unicast"
	}
	return ""
}

func match(addr netip.Addr, rules []rule) string {
	for _, r := range rules {
		if netip.MustParsePrefix(r.prefix).Contains(addr) {
			return r.why
		}
	}
	return ""
}

// embedded returns the IPv4 address that a translation mechanism would reach through addr, and the mechanism's name.
func embedded(addr netip.Addr) (netip.Addr, string) {
	b := addr.As16()
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte(b[i : i+4])) }
	switch {
	case netip.MustParsePrefix("::/96").Contains(addr):
		return at(12), "the IPv4-compatible form" // RFC 4291 §2.5.5.1
	case netip.MustParsePrefix("2002::/16").Contains(addr):
		return at(2), "6to4" // RFC 3056
	case netip.MustParsePrefix("64:ff9b::/96").Contains(addr):
		return at(12), "NAT64" // RFC 6052
	case b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe:
		return at(12), "ISATAP" // RFC 5214 §6.1
	}
	return netip.Addr{}, ""
}
