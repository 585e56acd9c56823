package egress_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/egress"
)

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		addr string
		want string // in the reason; "" = allowed
	}{
		{"1.1.1.1", ""}, {"9.255.255.255", ""}, {"11.0.0.0", ""}, {"172.15.255.255", ""}, {"172.32.0.0", ""},
		{"100.63.255.255", ""}, {"100.128.0.0", ""}, {"169.253.255.255", ""}, {"169.255.0.0", ""}, {"192.0.1.0", ""},
		{"198.17.255.255", ""}, {"198.20.0.0", ""}, {"223.255.255.255", ""},
		{"2606:4700::1111", ""}, {"2a00:1450::1", ""}, {"2001:4860:4860::8888", ""},

		{"0.0.0.0", "this network"}, {"0.1.2.3", "this network"},
		{"10.0.0.1", "private"}, {"10.255.255.255", "private"}, {"172.16.0.1", "private"}, {"172.31.255.255", "private"}, {"192.168.1.1", "private"},
		{"100.64.0.1", "carrier-grade"}, {"100.127.255.255", "carrier-grade"}, {"100.100.100.200", "carrier-grade"},
		{"127.0.0.1", "loopback"}, {"127.255.255.254", "loopback"},
		{"169.254.169.254", "link-local"}, {"169.254.170.2", "link-local"}, {"168.63.129.16", "cloud platform"},
		{"192.0.0.192", "protocol"}, {"192.0.2.1", "documentation"}, {"198.51.100.1", "documentation"}, {"203.0.113.9", "documentation"},
		{"192.88.99.1", "6to4"}, {"198.18.0.1", "benchmarking"}, {"198.19.255.255", "benchmarking"},
		{"224.0.0.1", "multicast"}, {"239.255.255.250", "multicast"}, {"240.0.0.1", "reserved"}, {"255.255.255.255", "broadcast"},

		{"::", "unspecified"}, {"::1", "loopback"}, {"fe80::1", "link-local"}, {"fe80::1%eth0", "link-local"}, {"febf::1", "link-local"},
		{"fc00::1", "unique local"}, {"fd00:ec2::254", "unique local"}, {"fec0::1", "site-local"}, {"ff02::1", "multicast"},
		{"100::1", "discard"}, {"2001:db8::1", "documentation"}, {"3fff::1", "documentation"}, {"5f00::1", "not global"}, {"4000::1", "not global"},
		{"2001::1", "Teredo"}, {"2001:0:7f00:1::", "Teredo"}, {"2001:2::1", "protocol"}, {"64:ff9b:1::1", "local-use NAT64"},

		{"::ffff:127.0.0.1", "loopback"}, {"::ffff:169.254.169.254", "link-local"}, {"::ffff:10.0.0.1", "private"}, {"::ffff:1.1.1.1", ""},
		{"::127.0.0.1", "IPv4-compatible"}, {"::1.1.1.1", "not global"},
		{"2002:7f00:1::", "6to4 of 127.0.0.1"}, {"2002:a9fe:a9fe::1", "6to4 of 169.254.169.254"}, {"2002:a00:1::", "6to4"}, {"2002:101:101::", ""},
		{"64:ff9b::7f00:1", "NAT64 of 127.0.0.1"}, {"64:ff9b::169.254.169.254", "NAT64"}, {"64:ff9b::10.0.0.1", "NAT64"}, {"64:ff9b::1.1.1.1", ""},
		{"2606::5efe:127.0.0.1", "ISATAP"}, {"2606::200:5efe:10.0.0.1", "ISATAP"}, {"2606::5efe:1.1.1.1", ""},
	} {
		err := egress.Judge(netip.MustParseAddr(c.addr), nil)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: got %v, want it allowed", c.addr, err)
		case c.want != "" && (!errors.Is(err, egress.ErrRefused) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want it refused as %q", c.addr, err, c.want)
		}
	}
	if err := egress.Judge(netip.Addr{}, nil); !errors.Is(err, egress.ErrRefused) {
		t.Errorf("the zero address: got %v", err)
	}
}

func TestJudgeExceptions(t *testing.T) {
	allow := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("fd00::/64"), netip.MustParsePrefix("10.1.0.0/16")}
	for _, c := range []struct {
		addr string
		ok   bool
	}{
		{"127.0.0.1", true}, {"::ffff:127.0.0.1", true}, {"fd00::5", true}, {"10.1.2.3", true}, {"1.1.1.1", true},
		{"10.2.0.1", false}, {"fd00:0:0:1::5", false}, {"169.254.169.254", false}, {"::1", false},
		{"64:ff9b::7f00:1", false}, {"2002:7f00:1::", false}, {"::127.0.0.1", false}, // an exception does not reach through a tunnel
	} {
		if err := egress.Judge(netip.MustParseAddr(c.addr), allow); (err == nil) != c.ok {
			t.Errorf("%s: got %v, want allowed = %v", c.addr, err, c.ok)
		}
	}
}

// FuzzJudge holds that no spelling of a refused address passes: the address and its IPv4-mapped form fare alike.
func FuzzJudge(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1})
	f.Add([]byte{1, 1, 1, 1})
	f.Add(netip.MustParseAddr("64:ff9b::1.1.1.1").AsSlice())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		err := egress.Judge(a, nil)
		if mapped := egress.Judge(netip.AddrFrom16(a.As16()), nil); (mapped == nil) != (err == nil) {
			t.Errorf("%s: %v, its mapped form: %v", a, err, mapped)
		}
		a = a.Unmap()
		if err == nil && (a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified()) {
			t.Errorf("%s is allowed", a)
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	a := netip.MustParseAddr("2606:4700::1111")
	b.ReportAllocs()
	for b.Loop() {
		if err := egress.Judge(a, nil); err != nil {
			b.Fatal(err)
		}
	}
}
