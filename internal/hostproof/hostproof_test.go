package hostproof

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/polygate/polygate/internal/fault"
)

// zone answers TXT questions from a map: a missing name does not exist, an empty list has other records, and "servfail" fails.
type zone map[string][]string

func (z zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	m.Authoritative = true
	texts, ok := z[strings.ToLower(q.Question[0].Name)]
	switch {
	case !ok:
		m.Rcode = dns.RcodeNameError
	case len(texts) == 1 && texts[0] == "servfail":
		m.Rcode = dns.RcodeServerFailure
	default:
		for _, t := range texts {
			h := dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 1}
			m.Answer = append(m.Answer, &dns.TXT{Hdr: h, Txt: []string{t}})
		}
	}
	_ = w.WriteMsg(m)
}

// serve runs a DNS server for the zone on loopback.
func (z zone) serve(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	up := make(chan struct{})
	srv := &dns.Server{PacketConn: c, Handler: z, NotifyStartedFunc: func() { close(up) }}
	go func() { _ = srv.ActivateAndServe() }()
	<-up
	t.Cleanup(func() { _ = srv.Shutdown() })
	return c.LocalAddr().String()
}

func TestCheck(t *testing.T) {
	d := New([]string{zone{
		"_polygate-challenge.mcp.example.org.":    {"tenant-a-token", "tenant-b-token"},
		"_polygate-challenge.other.example.org.":  {"x\x1b[31m" + strings.Repeat("y", 100)},
		"_polygate-challenge.empty.example.org.":  {},
		"_polygate-challenge.broken.example.org.": {"servfail"},
	}.serve(t)})
	for _, c := range []struct {
		name, host, token string
		want              fault.Kind // 0 = proven
		says              string
	}{
		{"the record is there", "mcp.example.org", "tenant-a-token", 0, ""},
		{"beside another's", "mcp.example.org", "tenant-b-token", 0, ""},
		{"another token", "mcp.example.org", "tenant-c-token", fault.Conflict, `it is "tenant-a-token"`},
		{"a part of the token", "mcp.example.org", "tenant-a", fault.Conflict, "it is"},
		{"a longer token", "mcp.example.org", "tenant-a-token2", fault.Conflict, "it is"},
		{"another host's record", "sub.mcp.example.org", "tenant-a-token", fault.Conflict, "there is none"},
		{"nothing there", "none.example.org", "x", fault.Conflict, "there is none"},
		{"no TXT there", "empty.example.org", "x", fault.Conflict, "there is none"},
		{"no terminal codes", "other.example.org", "x", fault.Conflict, `"x?[31m`},
		{"the DNS fails", "broken.example.org", "x", fault.Unavailable, "did not say"},
	} {
		err := d.Check(t.Context(), c.host, c.token)
		if c.says == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if !fault.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %v that says %q", c.name, err, c.want, c.says)
		}
	}
}

func TestNoServer(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0") // takes queries and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d := New([]string{c.LocalAddr().String()})
	d.look = 100 * time.Millisecond
	if err := d.Check(t.Context(), "a.example.org", "x"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want it to be unavailable", err)
	}
}
