package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/tenant"
)

var bothVersions = []uint16{tls.VersionTLS12, tls.VersionTLS13}

// authority returns an issuer's root as PEM.
func (i *issuer) rootPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.cert.Raw}))
}

// client returns a certificate for a client.
func (i *issuer) client(t testing.TB) tls.Certificate {
	t.Helper()
	c, err := i.issue("client")
	if err != nil {
		t.Fatal(err)
	}
	return *c
}

// demand sets what a tenant demands of handshakes.
func (f *front) demand(id tenant.ID, d *tenant.TLS) {
	f.t.Helper()
	f.change(id, func(r *tenant.Record) { r.TLS = d })
}

// visit is how one connection with one request went.
type visit struct {
	status  int // 0 = refused
	resumed bool
	version uint16
	err     error
}

// visit connects as cfg says and asks for /x with a key.
func (f *front) visit(host, key string, cfg *tls.Config) visit {
	f.t.Helper()
	c, err := f.connect(host, cfg)
	if err != nil {
		return visit{err: err}
	}
	defer c.Close()
	status, err := c.ask(host, key)
	st := c.ConnectionState()
	return visit{status, st.DidResume, st.Version, err}
}

// line is a connection on which requests can fail.
type line struct {
	*tls.Conn
	r *bufio.Reader
}

func (f *front) connect(host string, cfg *tls.Config) (*line, error) {
	f.t.Helper()
	cfg = cfg.Clone()
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	cfg.RootCAs = f.issuer.pool()
	if cfg.NextProtos == nil {
		cfg.NextProtos = []string{"http/1.1"}
	}
	c, err := tls.Dial("tcp", f.addr, cfg)
	if err != nil {
		return nil, err
	}
	f.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return &line{c, bufio.NewReader(c)}, nil
}

// ask sends one request and reads the status.
func (l *line) ask(host, key string) (int, error) {
	if _, err := io.WriteString(l, "GET /x HTTP/1.1\r\nHost: "+host+"\r\n"+bearer(key)+"\r\n\r\n"); err != nil {
		return 0, err
	}
	res, err := http.ReadResponse(l.r, nil)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

// ended says whether the server closes the connection within d.
func (l *line) ended(d time.Duration) bool {
	_ = l.SetReadDeadline(time.Now().Add(d))
	_, err := l.r.ReadByte()
	ne, ok := err.(net.Error) //nolint:errorlint // as net returns it
	return err != nil && !(ok && ne.Timeout())
}

func only(v uint16) *tls.Config { return &tls.Config{MinVersion: v, MaxVersion: v} }

func with(v uint16, certs ...tls.Certificate) *tls.Config {
	return &tls.Config{MinVersion: v, MaxVersion: v, Certificates: certs}
}

// A tenant's client CA is demanded on its hosts, in whatever spelling (case X06), and nowhere else.
func TestX06ClientCAIsDemanded(t *testing.T) {
	f := newFront(t)
	f.issuer.also = []string{"*." + base} // a wildcard, as the platform may have
	ca, other := newIssuer(t), newIssuer(t)
	f.demand("team-a", &tenant.TLS{ClientCA: ca.rootPEM()})
	for _, v := range bothVersions {
		for _, sni := range []string{hostA, "TEAM-A." + base, "tEam-a.GW.test"} {
			refused := func(what string, cfg *tls.Config) {
				t.Helper()
				cfg.ServerName = sni
				if got := f.visit(hostA, keyA, cfg); got.status != 0 {
					t.Errorf("%x %s: %s is let in: %d", v, sni, what, got.status)
				}
			}
			refused("nobody", only(v))
			refused("a certificate of another authority", &tls.Config{MinVersion: v, MaxVersion: v,
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { c := other.client(t); return &c, nil }})
			cfg := with(v, ca.client(t))
			cfg.ServerName = sni
			if got := f.visit(hostA, keyA, cfg); got.status != 200 {
				t.Errorf("%x %s: a good certificate: %+v", v, sni, got)
			}
		}
		if got := f.visit(hostB, keyB, only(v)); got.status != 200 {
			t.Errorf("%x: the other tenant: %+v", v, got)
		}
		if got := f.visit(hostA, "no key", with(v, ca.client(t))); got.status != 401 {
			t.Errorf("%x: a certificate alone: %+v", v, got)
		}
	}
	if _, err := f.connect("*."+base, &tls.Config{InsecureSkipVerify: true}); err == nil {
		t.Error("a wildcard as server name is served")
	}
}

// Authenticators that look at certificates and a client CA go together: what is demanded is stricter.
func TestClientCABesideAuthenticator(t *testing.T) {
	service, _ := withAuthn(t, "127.0.0.0/8")
	f := newFront(t, service)
	ca, users := newIssuer(t), newIssuer(t)
	f.change("team-a", func(r *tenant.Record) {
		r.Authenticators = []tenant.Authenticator{{Name: "certs", Type: tenant.AuthnMTLS, DefaultRole: tenant.Editor, Generation: "1",
			MTLS: &tenant.MTLS{CA: users.rootPEM(), Identity: "san-dns"}}}
	})
	if got := f.visit(hostA, keyA, &tls.Config{}); got.status != 200 {
		t.Errorf("where a certificate is asked for and a key is there: %+v", got)
	}
	f.demand("team-a", &tenant.TLS{ClientCA: ca.rootPEM()})
	if got := f.visit(hostA, keyA, &tls.Config{}); got.status != 0 {
		t.Errorf("where one is demanded too: %+v", got)
	}
	if got := f.visit(hostA, keyA, with(tls.VersionTLS13, ca.client(t))); got.status != 200 {
		t.Errorf("with one: %+v", got)
	}
}

// X07: what was verified in a handshake on one tenant's host is worth nothing on another's, though both trust one authority.
func TestX07TicketWithClientCA(t *testing.T) {
	for _, v := range bothVersions {
		f := newFront(t)
		ca := newIssuer(t)
		f.demand("team-a", &tenant.TLS{ClientCA: ca.rootPEM()})
		f.demand("team-b", &tenant.TLS{ClientCA: ca.rootPEM()})
		cache := &oneTicket{}
		ask := func(host, key string, certs ...tls.Certificate) visit {
			cfg := with(v, certs...)
			cfg.ClientSessionCache, cfg.InsecureSkipVerify = cache, true
			return f.visit(host, key, cfg)
		}
		if got := ask(hostA, keyA, ca.client(t)); got.status != 200 || got.resumed {
			t.Fatalf("%x: first: %+v", v, got)
		}
		cache.keep = true
		if got := ask(hostA, keyA); got.status != 200 || !got.resumed {
			t.Errorf("%x: on its own host the ticket does not resume: %+v", v, got)
		}
		if got := ask(hostB, keyB); got.status != 0 || got.resumed {
			t.Errorf("%x: a ticket of team-a, without a certificate, at team-b: %+v", v, got)
		}
		f.demand("team-a", &tenant.TLS{ClientCA: ca.rootPEM() + newIssuer(t).rootPEM()})
		if got := ask(hostA, keyA); got.status != 0 {
			t.Errorf("%x: a ticket of before a change of the client CA: %+v", v, got)
		}
		f.demand("team-a", nil)
		if got := ask(hostA, keyA); got.status != 200 || got.resumed {
			t.Errorf("%x: a ticket of before the client CA went: %+v", v, got)
		}
	}
}

// A ticket without a certificate does not get by a demand that came after it, nor a version that is too low now.
func TestX07TicketOfBeforeADemand(t *testing.T) {
	f := newFront(t)
	for _, v := range bothVersions {
		f.demand("team-a", nil)
		cache := &oneTicket{}
		cfg := only(v)
		cfg.ClientSessionCache = cache
		if got := f.visit(hostA, keyA, cfg); got.status != 200 {
			t.Fatalf("first: %+v", got)
		}
		f.demand("team-a", &tenant.TLS{ClientCA: newIssuer(t).rootPEM()})
		if got := f.visit(hostA, keyA, cfg); got.status != 0 {
			t.Errorf("%x: a ticket of before the demand: %+v", v, got)
		}
		f.demand("team-a", &tenant.TLS{MinVersion: "1.3"})
		if got := f.visit(hostA, keyA, cfg); got.resumed || v == tls.VersionTLS12 && got.status != 0 {
			t.Errorf("%x: a ticket of before the higher version: %+v", v, got)
		}
	}
}

// A session that resumes is verified again, whatever its ticket says.
func TestX07ResumedSessionIsVerified(t *testing.T) {
	f := newFront(t)
	ca, next := newIssuer(t), newIssuer(t)
	for _, v := range bothVersions {
		c, err := f.handshakes.config(demand{ca: ca.rootPEM()})
		if err != nil {
			t.Fatal(err)
		}
		d, err := f.handshakes.config(demand{ca: next.rootPEM()})
		if err != nil {
			t.Fatal(err)
		}
		d.UnwrapSession = c.UnwrapSession // as if the binding did not hold the client CA
		client := with(v, ca.client(t))
		client.ServerName, client.RootCAs, client.ClientSessionCache = hostA, f.issuer.pool(), &oneTicket{}
		if err := pipeHandshake(t, c, client); err != nil {
			t.Fatal(err)
		}
		if err := pipeHandshake(t, c, client); err != nil {
			t.Fatalf("%x: resumed under the same roots: %v", v, err)
		}
		if err := pipeHandshake(t, d, client); err == nil {
			t.Errorf("%x: resumed under other roots", v)
		}
	}
}

// pipeHandshake runs one handshake in memory, reads what follows it, and returns the server's error.
func pipeHandshake(t testing.TB, server, client *tls.Config) error {
	t.Helper()
	a, b := socketPair(t)
	defer a.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c := tls.Client(b, client)
		_, _ = c.Read(make([]byte, 1))
		_ = c.Close()
	}()
	s := tls.Server(a, server)
	_ = a.SetDeadline(time.Now().Add(10 * time.Second))
	err := s.Handshake()
	if err == nil {
		_, _ = s.Write([]byte{1})
	}
	_ = a.Close()
	<-done
	return err
}

// socketPair returns the two ends of a connection on loopback.
func socketPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l := listen(t)
	defer l.Close()
	b, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if a, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// X08: a client CA that changes or goes ends the connections that were let in by it, idle ones and requests in flight.
func TestX08ClientCAChanges(t *testing.T) {
	ca, next := newIssuer(t), newIssuer(t)
	for name, change := range map[string]func(f *front){
		"changed":      func(f *front) { f.demand("team-a", &tenant.TLS{ClientCA: next.rootPEM()}) },
		"removed":      func(f *front) { f.demand("team-a", nil) },
		"unreadable":   func(f *front) { f.demand("team-a", &tenant.TLS{ClientCA: "not PEM"}) },
		"deleted":      func(f *front) { f.drop("team-a") },
		"made anew":    func(f *front) { f.change("team-a", func(r *tenant.Record) { r.UID = "another" }) },
		"nobody tells": func(f *front) { f.silently("team-a", &tenant.TLS{ClientCA: next.rootPEM()}); f.checkAdmissions() },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFront(t)
			f.demand("team-a", &tenant.TLS{ClientCA: ca.rootPEM()})
			began, ended := f.block("team-a")
			cfg := with(tls.VersionTLS13, ca.client(t))
			idle, busy, fresh := f.mustConnect(hostA, cfg), f.mustConnect(hostA, cfg), f.mustConnect(hostA, cfg)
			bystander := f.mustConnect(hostB, &tls.Config{})
			if status, err := idle.ask(hostA, "no key"); status != 401 {
				t.Fatalf("%d %v", status, err)
			}
			go func() { _, _ = busy.ask(hostA, keyA) }()
			<-began
			change(f)
			select {
			case <-ended:
			case <-time.After(5 * time.Second):
				t.Error("the request in flight goes on")
			}
			for what, l := range map[string]*line{"idle": idle, "without a request yet": fresh} {
				if !l.ended(5 * time.Second) {
					t.Errorf("the connection that was %s stays", what)
				}
			}
			if status, err := bystander.ask(hostB, keyB); status != 200 {
				t.Errorf("another tenant's connection: %d %v", status, err)
			}
			want := 0
			if name == "removed" {
				want = 200
			}
			f.gateways.decide = describe
			if got := f.visit(hostA, keyA, only(tls.VersionTLS13)); got.status != want {
				t.Errorf("without a certificate: %+v, want %d", got, want)
			}
			if name == "changed" {
				if got := f.visit(hostA, keyA, with(tls.VersionTLS13, next.client(t))); got.status != 200 {
					t.Errorf("with a certificate of the new authority: %+v", got)
				}
			}
		})
	}
}

func (f *front) mustConnect(host string, cfg *tls.Config) *line {
	f.t.Helper()
	l, err := f.connect(host, cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	return l
}

// silently changes a record without telling anybody.
func (f *front) silently(id tenant.ID, d *tenant.TLS) {
	f.dir.mu.Lock()
	defer f.dir.mu.Unlock()
	old := f.dir.entries[id]
	r := old.Record.Clone()
	r.TLS = d
	f.dir.entries[id] = &tenant.Entry{Record: r, Scope: old.Scope}
}

// block makes requests of a tenant last until their context ends.
func (f *front) block(id tenant.ID) (began, ended chan struct{}) {
	began, ended = make(chan struct{}), make(chan struct{})
	f.gateways.decide = func(ctx context.Context, e *tenant.Entry, r *exchange.Request) (exchange.Decision, error) {
		if e.Record.ID != id {
			return describe(ctx, e, r)
		}
		close(began)
		<-ctx.Done()
		close(ended)
		return nil, context.Cause(ctx)
	}
	return began, ended
}

// X08 from the other side: what was open before a tenant demands certificates has shown none.
func TestX08ClientCAComes(t *testing.T) {
	ca := newIssuer(t)
	for name, d := range map[string]*tenant.TLS{"client CA": {ClientCA: ca.rootPEM()}, "version": {MinVersion: "1.3"}} {
		f := newFront(t)
		began, ended := f.block("team-a")
		idle, busy := f.mustConnect(hostA, only(tls.VersionTLS12)), f.mustConnect(hostA, only(tls.VersionTLS12))
		if status, _ := idle.ask(hostA, "no key"); status != 401 {
			t.Fatal(status)
		}
		go func() { _, _ = busy.ask(hostA, keyA) }()
		<-began
		h := newH2(t, f, hostA) // TLS 1.3
		h2get := []string{":method", "GET", ":scheme", "https", ":authority", hostA, ":path", "/healthz"}
		check(t, name+": HTTP/2 before", h.request(h2get), 200)
		f.demand("team-a", d)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Errorf("%s: the request in flight goes on", name)
		}
		status, err := idle.ask(hostA, keyA)
		if status != 421 || !idle.ended(5*time.Second) {
			t.Errorf("%s: on the connection of before: %d %v", name, status, err)
		}
		if name == "client CA" {
			check(t, name+": HTTP/2 after", h.request(h2get), 421)
		}
		if n := f.gateways.entered("team-a"); n != 1 {
			t.Errorf("%s: team-a was entered %d times, want 1", name, n)
		}
	}
}

// A host that comes to another tenant brings no connection that did not show what that one demands.
func TestX08HostChangesHands(t *testing.T) {
	const host = "shop.example.com"
	f := newFront(t)
	ca := newIssuer(t)
	f.change("team-a", func(r *tenant.Record) { r.Hosts = []string{host} })
	f.demand("team-b", &tenant.TLS{ClientCA: ca.rootPEM()})
	l := f.mustConnect(host, &tls.Config{})
	if status, err := l.ask(host, keyA); status != 200 {
		t.Fatal(status, err)
	}
	f.change("team-a", func(r *tenant.Record) { r.Hosts = nil })
	f.change("team-b", func(r *tenant.Record) { r.Hosts = []string{host} })
	if status, err := l.ask(host, keyB); status != 421 {
		t.Errorf("on the connection of before: %d %v", status, err)
	}
	if n := f.gateways.entered("team-b"); n != 0 {
		t.Errorf("team-b was entered %d times", n)
	}
}

// Nothing is kept of connections that are over.
func TestAdmissionsAreForgotten(t *testing.T) {
	f := newFront(t)
	ca := newIssuer(t)
	f.demand("team-a", &tenant.TLS{ClientCA: ca.rootPEM()})
	for range 3 {
		f.visit(hostA, keyA, with(tls.VersionTLS13, ca.client(t)))
		f.visit(hostA, keyA, &tls.Config{})
	}
	f.stop()
	f.wait()
	eventually(t, "all admissions are forgotten", func() bool {
		f.admissions.mu.Lock()
		defer f.admissions.mu.Unlock()
		return len(f.admissions.conns)+len(f.admissions.of) == 0
	})
}

// X02: an HTTP/2 connection is of one tenant, though its certificate covers two; also where the other demands certificates.
func TestX02WildcardCoalescing(t *testing.T) {
	f := newFront(t)
	f.issuer.also = []string{"*." + base}
	ca := newIssuer(t)
	get := func(host, key string) []string {
		return []string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "/x", "authorization", "Bearer " + key}
	}
	h := newH2(t, f, hostA)
	check(t, "A", h.request(get(hostA, keyA)), 200)
	check(t, "B", h.request(get(hostB, keyB)), 421)
	f.demand("team-b", &tenant.TLS{ClientCA: ca.rootPEM()})
	check(t, "B that demands a certificate", h.request(get(hostB, keyB)), 421)
	check(t, "the shared host", h.request(get(base, keyA)), 421)
	check(t, "A goes on", h.request(get(hostA, keyA)), 200)
	if n := f.gateways.entered("team-b"); n != 0 {
		t.Errorf("team-b was entered %d times", n)
	}
	f.demand("team-b", nil)
	check(t, "B anew", newH2(t, f, hostB).request(get(hostB, keyB)), 200)
}

// The version is the higher of the platform's and the tenant's.
func TestMinVersion(t *testing.T) {
	for _, tc := range []struct {
		platform      uint16
		tenant        string
		first, second int // with TLS 1.2, 1.3
	}{
		{0, "", 200, 200},
		{0, "1.2", 200, 200},
		{0, "1.3", 0, 200},
		{tls.VersionTLS13, "", 0, 200},
		{tls.VersionTLS13, "1.2", 0, 200},
		{tls.VersionTLS12, "1.9", 0, 200}, // of a later version of this program
	} {
		f := newFront(t, func(c *Config) { c.MinVersion = tc.platform })
		f.demand("team-a", &tenant.TLS{MinVersion: tc.tenant})
		if got := f.visit(hostA, keyA, only(tls.VersionTLS12)); got.status != tc.first {
			t.Errorf("%x %q: TLS 1.2: %+v", tc.platform, tc.tenant, got)
		}
		if got := f.visit(hostA, keyA, only(tls.VersionTLS13)); got.status != tc.second {
			t.Errorf("%x %q: TLS 1.3: %+v", tc.platform, tc.tenant, got)
		}
		if got := f.visit(hostB, keyB, only(tls.VersionTLS11)); got.status != 0 {
			t.Errorf("TLS 1.1: %+v", got)
		}
	}
	if _, err := New(Config{Public: listen(t), MinVersion: tls.VersionTLS10}); err == nil {
		t.Error("a platform of TLS 1.0 is accepted")
	}
}

// X04: nobody's name gets an alert that says so and no certificate.
func TestX04AlertUnrecognizedName(t *testing.T) {
	f := newFront(t)
	for _, v := range bothVersions {
		for _, name := range []string{"", "nobody." + base, "127.0.0.1", "example.com"} {
			shown := false
			cfg := only(v)
			cfg.ServerName, cfg.InsecureSkipVerify, cfg.NextProtos = name, true, []string{"h2"}
			cfg.VerifyConnection = func(cs tls.ConnectionState) error { shown = len(cs.PeerCertificates) > 0; return nil }
			c, err := tls.Dial("tcp", f.addr, cfg)
			if err == nil {
				c.Close()
			}
			if err == nil || !strings.Contains(err.Error(), "unrecognized name") || shown {
				t.Errorf("%x %q: %v, shown a certificate: %t", v, name, err, shown)
			}
		}
	}
	if len(f.issuer.asked) != 0 {
		t.Errorf("certificates were asked for: %q", f.issuer.asked)
	}
}

// Ticket keys from outside hold at once, those of before still resume, and servers with the same keys resume alike.
func TestTicketKeys(t *testing.T) {
	for _, v := range bothVersions {
		f := newFront(t)
		g := newFront(t, func(c *Config) { c.Certificates = f.issuer })
		g.issuer = f.issuer
		first, second, third := [32]byte{1}, [32]byte{2}, [32]byte{3}
		cache := &oneTicket{}
		cfg := only(v)
		cfg.ClientSessionCache = cache
		resumed := func(at *front) bool {
			t.Helper()
			got := at.visit(hostA, keyA, cfg)
			if got.status != 200 {
				t.Fatalf("%x: %+v", v, got)
			}
			return got.resumed
		}
		steps := []struct {
			what string
			at   *front
			keys [][32]byte
			want bool
		}{
			{"none from outside", f, nil, false},
			{"the same", f, nil, true},
			{"another server with keys of its own", g, nil, false},
			{"new keys", f, [][32]byte{first}, false},
			{"another server with them", g, [][32]byte{first}, true},
			{"rotated, of the key before", f, [][32]byte{second, first}, true},
			{"of the present key, at a server that has it second", g, [][32]byte{first, second}, true},
			{"after all were replaced", f, [][32]byte{third}, false},
			{"no keys change nothing", f, [][32]byte{}, true},
		}
		for _, s := range steps {
			if len(s.keys) > 0 {
				s.at.SetTicketKeys(s.keys)
			}
			s.at.SetTicketKeys(nil)
			if got := resumed(s.at); got != s.want {
				t.Errorf("%x: %s: resumed %t, want %t", v, s.what, got, s.want)
			}
		}
		ca := newIssuer(t) // terms that were made before the keys have them too
		f.demand("team-b", &tenant.TLS{ClientCA: ca.rootPEM()})
		cfg = with(v, ca.client(t))
		cfg.ClientSessionCache = &oneTicket{}
		f.visit(hostB, keyB, cfg)
		f.SetTicketKeys([][32]byte{first, third})
		if got := f.visit(hostB, keyB, cfg); !got.resumed || got.status != 200 {
			t.Errorf("%x: of the key before, with a client CA: %+v", v, got)
		}
		f.SetTicketKeys([][32]byte{second})
		if got := f.visit(hostB, keyB, cfg); got.resumed {
			t.Errorf("%x: of no key: %+v", v, got)
		}
	}
}

// A validation by tls-alpn-01 gets its certificate and no HTTP; beside other protocols there is none.
func TestACMEProtocol(t *testing.T) {
	f := newFront(t)
	f.demand("team-b", &tenant.TLS{ClientCA: newIssuer(t).rootPEM(), MinVersion: "1.3"}) // validators show no certificate
	for _, v := range bothVersions {
		for _, host := range []string{hostA, "TEAM-A." + base, hostB, base} {
			cfg := only(v)
			cfg.NextProtos = []string{acmeProto}
			l, err := f.connect(host, cfg)
			if err != nil {
				t.Errorf("%x %s: %v", v, host, err)
				continue
			}
			if got := l.ConnectionState().NegotiatedProtocol; got != acmeProto {
				t.Errorf("%s: negotiated %q", host, got)
			}
			if status, err := l.ask(hostA, keyA); err == nil {
				t.Errorf("%s: HTTP is answered: %d", host, status)
			}
		}
	}
	for _, tc := range []struct {
		offered []string
		want    string
	}{
		{[]string{acmeProto, "h2"}, "h2"}, {[]string{"http/1.1", acmeProto}, "http/1.1"}, {[]string{acmeProto, acmeProto}, "-"}, {[]string{acmeProto, "x"}, "-"},
	} {
		got := "-"
		if l, err := f.connect(hostA, &tls.Config{NextProtos: tc.offered}); err == nil {
			got = l.ConnectionState().NegotiatedProtocol
		}
		if got != tc.want {
			t.Errorf("%q: negotiated %q, want %q", tc.offered, got, tc.want)
		}
	}
	if _, err := f.connect("nobody."+base, &tls.Config{NextProtos: []string{acmeProto}}); err == nil {
		t.Error("a host of nobody's is validated")
	}
	if f.gateways.entered("team-a") != 0 || slices.Contains(f.issuer.asked, "nobody."+base) {
		t.Error("HTTP was served, or a certificate asked for")
	}
}

// Configs are kept by what they demand, not by whom.
func TestTermsAreShared(t *testing.T) {
	f := newFront(t)
	ca := newIssuer(t).rootPEM()
	same, _ := f.handshakes.terms.get(demand{ca: ca})
	again, _ := f.handshakes.terms.get(demand{ca: strings.Clone(ca)})
	if same == nil || same != again {
		t.Error("two configs for one demand")
	}
	for i := range keptTerms + 10 {
		if _, err := f.handshakes.terms.get(demand{ca: ca + strings.Repeat("\n", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.handshakes.terms.lru.Len(); n != keptTerms {
		t.Errorf("%d configs are kept", n)
	}
	seen := map[string]bool{}
	for _, d := range []demand{{}, {ask: true}, {min: tls.VersionTLS13}, {ca: ca}, {ca: ca, ask: true}, {ca: ca, min: tls.VersionTLS13}, {ca: ca + ca}} {
		b := f.binding(hostA, d.tag())
		if seen[string(b)] || !bytes.HasPrefix(b, []byte(bindingLabel)) {
			t.Errorf("%+v is bound like another", d)
		}
		seen[string(b)] = true
	}
}
