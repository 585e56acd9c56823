package proxy

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
)

// behind makes 127.0.0.1 a load balancer; 127.0.0.2 is none.
func behind(c *Config) {
	c.ProxyProtocolFrom = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	c.Limits.HeaderTime = time.Second
}

// v2 is a header of version 2 for a client.
func v2(t testing.TB, client string) string {
	t.Helper()
	b, err := proxyproto.HeaderProxyFromAddrs(2, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(client)), net.TCPAddrFromAddrPort(netip.MustParseAddrPort("203.0.113.9:443"))).Format()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// dialFrom connects from a loopback address, and writes.
func (f *front) dialFrom(addr, from, first string) net.Conn {
	f.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, first)
	return c
}

// served says whether a request over TLS is answered on c.
func (f *front) served(c net.Conn) bool {
	t := tls.Client(c, &tls.Config{RootCAs: f.issuer.pool(), ServerName: hostA, NextProtos: []string{"http/1.1"}})
	_, err := io.WriteString(t, "GET /x HTTP/1.1\r\nHost: "+hostA+"\r\n"+bearer(keyA)+"\r\nConnection: close\r\n\r\n")
	if err != nil {
		return false
	}
	b, _ := io.ReadAll(t)
	return strings.HasPrefix(string(b), "HTTP/1.1 200")
}

// Load balancers are believed, and have to speak; nobody else is.
func TestProxyProtocol(t *testing.T) {
	f := newFront(t, behind)
	local := string(proxyproto.SIGV2) + "\x20\x00\x00\x00"
	long := string(proxyproto.SIGV2) + "\x21\x11\xff\xff" + strings.Repeat("x", 1<<16)
	for _, tc := range []struct {
		name, from, header, client string // client "" = not served
	}{
		{"v1", "127.0.0.1", "PROXY TCP4 198.51.100.7 203.0.113.9 51000 443\r\n", "198.51.100.7"},
		{"v1, IPv6", "127.0.0.1", "PROXY TCP6 2001:db8::7 2001:db8::9 51000 443\r\n", "2001:db8::7"},
		{"v2", "127.0.0.1", v2(t, "198.51.100.8:51000"), "198.51.100.8"},
		{"v2 LOCAL: its own check", "127.0.0.1", local, "127.0.0.1"},
		{"v1 UNKNOWN", "127.0.0.1", "PROXY UNKNOWN\r\n", "127.0.0.1"},
		{"no header", "127.0.0.1", "", ""},
		{"two headers", "127.0.0.1", v2(t, "198.51.100.8:51000") + v2(t, "198.51.100.9:51000"), ""},
		{"v1 too long", "127.0.0.1", "PROXY TCP4 " + strings.Repeat("1", 200) + "\r\n", ""},
		{"v2 too long", "127.0.0.1", long, ""},
		{"v2 over UDP", "127.0.0.1", string(proxyproto.SIGV2) + "\x21\x12\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01\x00\x02", ""},
		{"a client that is none", "127.0.0.1", "PROXY TCP4 0.0.0.0 203.0.113.9 51000 443\r\n", ""},
		{"a stranger", "127.0.0.2", "", "127.0.0.2"},
		{"a stranger with a header", "127.0.0.2", v2(t, "198.51.100.8:51000"), ""},
		{"a stranger with a header of v1", "127.0.0.2", "PROXY TCP4 198.51.100.7 203.0.113.9 51000 443\r\n", ""},
	} {
		before := len(f.log.String())
		ok := f.served(f.dialFrom(f.addr, tc.from, tc.header))
		if ok != (tc.client != "") {
			t.Errorf("%s: served: %v", tc.name, ok)
		}
		if ok {
			eventually(t, tc.name, func() bool { return strings.Contains(f.log.String()[before:], `"remote":"`+tc.client+`"`) })
		}
	}
	if !strings.Contains(f.log.String(), "proxy_protocol_from") {
		t.Error("nothing in the log says what a load balancer without a header is to do")
	}
}

// The plain listener is behind the same load balancers.
func TestProxyProtocolPlain(t *testing.T) {
	f := newFront(t, behind)
	for name, tc := range map[string]struct {
		from, header string
		want         string
	}{
		"announced": {"127.0.0.1", v2(t, "198.51.100.8:1"), "HTTP/1.1 308"},
		"no header": {"127.0.0.1", "", "HTTP/1.1 400"},
		"stranger":  {"127.0.0.2", "PROXY TCP4 198.51.100.7 203.0.113.9 51000 80\r\n", "HTTP/1.1 400"},
	} {
		c := f.dialFrom(f.plain, tc.from, tc.header+"GET /x HTTP/1.1\r\nHost: "+hostA+"\r\nConnection: close\r\n\r\n")
		b, _ := io.ReadAll(c)
		if !strings.HasPrefix(string(b), tc.want) {
			t.Errorf("%s: %q", name, b)
		}
	}
}

// One that dawdles is cut, and holds nobody up meanwhile.
func TestProxyProtocolSlow(t *testing.T) {
	f := newFront(t, behind)
	slow := f.dialFrom(f.addr, "127.0.0.1", "PROXY TCP4 198.51")
	if !f.served(f.dialFrom(f.addr, "127.0.0.2", "")) {
		t.Error("another is not served meanwhile")
	}
	began := time.Now()
	if n, err := io.Copy(io.Discard, slow); n > 0 || isTimeout(err) {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

// A passthrough tenant's gateway is told who the client is, and the bytes are moved below the header.
func TestProxyProtocolPassthrough(t *testing.T) {
	g := newRawGateway(t)
	f := newFront(t, splicing(t), behind)
	r := passthrough("team-p", g.addr())
	r.Passthrough.ProxyProtocol = true
	f.put(r)
	hello := helloBytes(t, &tls.Config{ServerName: hostP})
	client := f.dialFrom(f.addr, "127.0.0.1", v2(t, "198.51.100.8:51000")+string(hello))
	up := g.next()
	want := append([]byte(v2(t, "198.51.100.8:51000")), hello...)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(up, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the gateway got %q, %v", got, err)
	}
	talk(t, client, up)
	client.Close()
	up.Close()
	f.wantEvent(`"remote":"198.51.100.8"`)
}

// X60: one client takes no more places than it may, and others are served meanwhile.
func TestX60Addresses(t *testing.T) {
	f := newFront(t, func(c *Config) { c.Limits.Connections, c.Limits.ConnectionsPerAddress = 40, 20 })
	var idle []net.Conn
	for range 20 {
		idle = append(idle, f.dialFrom(f.addr, "127.0.0.3", ""))
	}
	eventually(t, "all are accepted", func() bool { return f.door.open() == 20 })
	for range 50 {
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 3)}}).Dial("tcp", f.addr)
		if err != nil {
			continue // the reset was as fast
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || isTimeout(err) {
			t.Fatalf("one too many: %d bytes, %v", n, err)
		}
		c.Close()
	}
	if !f.served(f.dialFrom(f.addr, "127.0.0.4", "")) {
		t.Error("another client is not served")
	}
	idle[0].Close()
	eventually(t, "its place is free again", func() bool { return f.door.open() == 19 })
	if !f.served(f.dialFrom(f.addr, "127.0.0.3", "")) {
		t.Error("the client is not served in it")
	}
	for _, c := range idle {
		c.Close()
	}
	eventually(t, "nothing is left", func() bool {
		f.door.addresses.mu.Lock()
		defer f.door.addresses.mu.Unlock()
		return len(f.door.addresses.open) == 0
	})
}

// Behind a load balancer it is the clients that are counted.
func TestX60AnnouncedAddresses(t *testing.T) {
	f := newFront(t, behind, func(c *Config) { c.Limits.ConnectionsPerAddress = 1 })
	first := f.dialFrom(f.addr, "127.0.0.1", v2(t, "198.51.100.8:51000"))
	count := func() int {
		f.door.addresses.mu.Lock()
		defer f.door.addresses.mu.Unlock()
		return len(f.door.addresses.open)
	}
	eventually(t, "it is counted", func() bool { return count() == 1 })
	if f.served(f.dialFrom(f.addr, "127.0.0.1", v2(t, "198.51.100.8:51001"))) {
		t.Error("the same client is served twice")
	}
	if !f.served(f.dialFrom(f.addr, "127.0.0.1", v2(t, "198.51.100.9:51000"))) {
		t.Error("another client is not served")
	}
	first.Close()
	eventually(t, "nothing is left", func() bool { return count() == 0 })
	a := newAddresses(1)
	if got, want := a.of(netip.MustParseAddr("2001:db8::1%eth0")), netip.MustParseAddr("2001:db8::"); got != want {
		t.Errorf("IPv6: %v, want %v", got, want)
	}
}

// FuzzAnnouncement: not a byte behind the header is read, and none of a header is left.
func FuzzAnnouncement(f *testing.F) {
	f.Add([]byte("PROXY TCP4 198.51.100.7 203.0.113.9 51000 443\r\nrest"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte(v2(f, "198.51.100.8:51000") + "rest"))
	f.Add([]byte(string(proxyproto.SIGV2) + "\x20\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		h, err := readAnnouncement(r)
		read := len(b) - r.Len()
		if read > maxAnnouncementV2+16 {
			t.Fatalf("read %d bytes", read)
		}
		if err != nil {
			return
		}
		again, err := readAnnouncement(bytes.NewReader(b[:read]))
		if err != nil || !again.EqualsTo(h) {
			t.Fatalf("the header is not in the %d bytes that were read: %v", read, err)
		}
	})
}
