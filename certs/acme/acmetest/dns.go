package acmetest

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// resolver forwards queries to the challenge test server, but for those about zones, which that one does not know.
type resolver struct {
	addr     string
	upstream string
	servers  []*dns.Server
}

func startResolver(t testing.TB, upstream string) *resolver {
	t.Helper()
	r := &resolver{upstream: upstream}
	r.addr, r.servers = ServeDNS(t, r, nil)
	return r
}

// ServeDNS serves DNS over UDP and TCP at one free port of 127.0.0.1, with the TSIG keys given (see dns.Server), until the
// test ends.
func ServeDNS(t testing.TB, h dns.Handler, keys map[string]string) (addr string, servers []*dns.Server) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		_ = l.Close()
		t.Fatal(err)
	}
	var ready sync.WaitGroup
	// The library's default lets queries through only: updates (RFC 2136) are wanted too.
	accept := func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }
	servers = []*dns.Server{{Listener: l}, {PacketConn: pc}}
	for _, s := range servers {
		s.Handler, s.TsigSecret, s.MsgAcceptFunc = h, keys, accept
		ready.Add(1)
		s.NotifyStartedFunc = ready.Done
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = s.ActivateAndServe()
		}()
		t.Cleanup(func() { _ = s.Shutdown(); <-done })
	}
	ready.Wait()
	return addr, servers
}

func (r *resolver) stop() {
	for _, s := range r.servers {
		_ = s.Shutdown() // an error says that it is down
	}
}

// ServeDNS answers one query.
func (r *resolver) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	if len(q.Question) == 1 {
		switch qu := q.Question[0]; qu.Qtype {
		case dns.TypeSOA, dns.TypeNS:
			m := new(dns.Msg)
			m.SetReply(q)
			if dns.CountLabel(qu.Name) == 2 {
				m.Answer = []dns.RR{zoneRecord(qu.Name, qu.Qtype)}
			}
			_ = w.WriteMsg(m)
			return
		}
	}
	c := &dns.Client{Timeout: 5 * time.Second}
	in, _, err := c.Exchange(q, r.upstream)
	if err != nil {
		in = new(dns.Msg)
		in.SetRcode(q, dns.RcodeServerFailure)
	}
	in.RecursionAvailable = true // as resolvers say: without it, an empty answer is no answer
	_ = w.WriteMsg(in)
}

func zoneRecord(zone string, kind uint16) dns.RR {
	h := dns.RR_Header{Name: zone, Rrtype: kind, Class: dns.ClassINET, Ttl: 1}
	if kind == dns.TypeNS {
		return &dns.NS{Hdr: h, Ns: "localhost."}
	}
	return &dns.SOA{Hdr: h, Ns: "localhost.", Mbox: "hostmaster." + zone, Serial: 1, Refresh: 1, Retry: 1, Expire: 1, Minttl: 1}
}

// webhook sets TXT records at the challenge test server for whoever posts as lego's httpreq does.
type webhook struct {
	s     *Server
	token string
	srv   *httptest.Server

	mu      sync.Mutex // guards records, and that they and the server's go together
	records map[string][]string
	fail    int // answer with this status; 0 = work
}

func (h *webhook) start(t testing.TB) string {
	t.Helper()
	h.records = map[string][]string{}
	h.srv = httptest.NewServer(h)
	return h.srv.URL
}

func (h *webhook) stop() { h.srv.Close() }

// TXT returns the TXT records that were set through the webhook and not cleaned up.
func (s *Server) TXT(fqdn string) []string {
	s.hook.mu.Lock()
	defer s.hook.mu.Unlock()
	return slices.Clone(s.hook.records[fqdn])
}

// FailWebhook makes the webhook answer with a status; 0 = it works again.
func (s *Server) FailWebhook(status int) {
	s.hook.mu.Lock()
	defer s.hook.mu.Unlock()
	s.hook.fail = status
}

// ServeHTTP takes POST /present and POST /cleanup.
func (h *webhook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct{ FQDN, Value string }
	if h.token != "" && r.Header.Get("Authorization") != "Bearer "+h.token {
		http.Error(w, "the token is wrong", http.StatusUnauthorized)
		return
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.Method != http.MethodPost || in.FQDN == "" || in.Value == "" {
		http.Error(w, "want POST {fqdn, value}", http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != 0 {
		http.Error(w, "staged", h.fail)
		return
	}
	var err error
	switch r.URL.Path {
	case "/present":
		h.records[in.FQDN] = append(h.records[in.FQDN], in.Value)
		err = h.s.tryAdmin("set-txt", map[string]any{"host": in.FQDN, "value": in.Value})
	case "/cleanup":
		err = h.cleanUp(in.FQDN, in.Value)
	default:
		http.NotFound(w, r)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
	}
}

// cleanUp removes one value. The challenge test server only clears all of a name, so the others are set again.
func (h *webhook) cleanUp(fqdn, value string) error {
	rest := slices.DeleteFunc(h.records[fqdn], func(v string) bool { return v == value })
	h.records[fqdn] = rest
	if err := h.s.tryAdmin("clear-txt", map[string]any{"host": fqdn}); err != nil {
		return err
	}
	for _, v := range rest {
		if err := h.s.tryAdmin("set-txt", map[string]any{"host": fqdn, "value": v}); err != nil {
			return err
		}
	}
	return nil
}
