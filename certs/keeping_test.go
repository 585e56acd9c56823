package certs_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/polygate/polygate/certs"
	"github.com/polygate/polygate/certs/acme"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
)

// localPlatform has the local authority as its source.
func localPlatform(c *certs.Config) { c.Default = tenant.Certificates{} }

// TestX41SameIDNeverGetsTheOldCertificate: a tenant is deleted and made again.
func TestX41SameIDNeverGetsTheOldCertificate(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(nil)
	old := r.tenant("a", nil)
	first := r.served("a."+base, "")
	if err := r.store.DeleteTenant(t.Context(), "a", 0, entryOf(nil, "tenant.delete", "tenant/a", "ok")); err != nil {
		t.Fatal(err)
	}
	until(t, "the tenant is gone", func() bool { _, ok := r.store.Index().ByID("a"); return !ok })
	// No handshake comes meanwhile, which would drop it from memory.
	s.issuer.fails(func(context.Context, acme.Order) error { return &acme.Error{Code: acme.CodeServer, Detail: "down"} })
	e := r.tenant("a", nil)
	for range 20 {
		if got := r.serial("a." + base); got == first {
			t.Fatal("the next tenant of the id is served with the former one's certificate")
		}
	}
	if _, err := r.Get(t.Context(), old, "a."+base); !fault.Is(err, fault.NotFound) {
		t.Errorf("Get by the former one: %v", err)
	}
	if c, err := r.Get(t.Context(), e, "a."+base); err != nil || c.Serial != "" || c.Chain != "" {
		t.Errorf("Get by the next one: %+v, %v", c, err)
	}
}

// TestHostTakenFromTenantEndsAtOnce: it is in memory and stored, and refused with the first handshake after the index knows.
func TestHostTakenFromTenantEndsAtOnce(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(localPlatform)
	e := r.tenant("a", func(rec *tenant.Record) { rec.Hosts = []string{"shop.example"} })
	chain, key, serial := s.issuer.provided(t, 24*time.Hour, "shop.example")
	if _, err := r.Import(t.Context(), e, "shop.example", chain, key, 0, entry(e)); err != nil {
		t.Fatal(err)
	}
	if first, again := r.serial("shop.example"), r.serial("shop.example"); first != serial || again != serial {
		t.Fatal("not served")
	}
	r.update("a", func(rec *tenant.Record) { rec.Hosts = nil })
	if _, err := r.GetCertificate(hello("shop.example")); !errors.Is(err, certs.ErrUnknownHost) {
		t.Errorf("got %v, want ErrUnknownHost", err)
	}
	r.tenant("b", func(rec *tenant.Record) { rec.Hosts = []string{"shop.example"} })
	if got := r.serial("shop.example"); got == "" || got == serial {
		t.Errorf("the next tenant of the host gets %q", got)
	}
	if _, err := r.Get(t.Context(), e, "shop.example"); !fault.Is(err, fault.NotFound) {
		t.Errorf("Get by the former tenant: %v", err)
	}
}

// TestOldCertificateIsServedThroughTrouble as long as it is valid: the store is away, or its record damaged.
func TestOldCertificateIsServedThroughTrouble(t *testing.T) {
	for name, begin := range map[string]func(r *replica, e *tenant.Entry){
		"store away": func(r *replica, _ *tenant.Entry) { r.vault.away(true); r.Changed("", "") },
		"damaged": func(r *replica, e *tenant.Entry) {
			_, err := r.store.Vault().Commit(context.Background(), vault.Of(e.Scope), vault.Batch{Puts: []vault.Put{{Key: "h/a." + base, Value: []byte("{rubbish")}}})
			if err != nil {
				t.Fatal(err)
			}
			r.Changed("a", "h/a."+base)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			r := s.newReplica(nil)
			e := r.tenant("a", nil)
			first := r.served("a."+base, "")
			r.stop() // nothing is healed in the background
			begin(r, e)
			for i := range 5 {
				if got := r.serial("a." + base); got != first {
					t.Fatalf("handshake %d: got %q, want the old certificate", i, got)
				}
				s.pass(10 * time.Second)
			}
			s.pass(s.issuer.life)
			if got := r.serial("a." + base); got != "" {
				t.Error("it is served after its end")
			}
		})
	}
}

// TestDamagedRecordIsOrderedAnew, and an imported one says what to do.
func TestDamagedRecordIsOrderedAnew(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(nil)
	e := r.tenant("a", nil)
	first := r.served("a."+base, "")
	damage := func() {
		if _, err := r.store.Vault().Commit(t.Context(), vault.Of(e.Scope), vault.Batch{Puts: []vault.Put{{Key: "h/a." + base, Value: []byte("{")}}}); err != nil {
			t.Fatal(err)
		}
	}
	damage()
	fresh := s.newReplica(nil) // has nothing in memory
	fresh.knows(e.Record)
	fresh.served("a."+base, first)
	damage()
	chain, key, serial := s.issuer.provided(t, 24*time.Hour, "a."+base)
	if _, err := r.Import(t.Context(), e, "a."+base, chain, key, 0, entry(e)); err != nil {
		t.Fatalf("import over a damaged record: %v", err)
	}
	if got := r.serial("a." + base); got != serial {
		t.Errorf("serves %q, want what was imported", got)
	}
}

// TestColdHandshakesShareALoad and a store that is away fails them, but for the local authority.
func TestColdHandshakesShareALoad(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(nil)
	r.tenant("a", nil)
	r.served("a."+base, "")
	cold := s.newReplica(nil)
	cold.knows(&tenant.Record{ID: "a", UID: func() string { e, _ := r.store.Index().ByID("a"); return e.Record.UID }()})
	_, _ = cold.keeper.Load(t.Context(), vault.Owner{}, "warms.up")
	before := cold.vault.reads.Load()
	gate := make(chan struct{})
	cold.vault.gate.Store(&gate)
	var wg sync.WaitGroup
	var begun atomic.Int64
	for range 50 {
		wg.Go(func() {
			begun.Add(1)
			if cold.serial("a."+base) == "" {
				t.Error("refused")
			}
		})
	}
	until(t, "all handshakes have begun", func() bool { return begun.Load() == 50 && cold.vault.reads.Load() > before })
	close(gate)
	wg.Wait()
	if n := cold.vault.reads.Load() - before; n > 10 {
		t.Errorf("%d reads for 50 handshakes", n)
	}
	away := s.newReplica(nil)
	away.knows(&tenant.Record{ID: "a", UID: func() string { e, _ := r.store.Index().ByID("a"); return e.Record.UID }()})
	away.vault.away(true)
	if _, err := away.GetCertificate(hello("a." + base)); !fault.Is(err, fault.Unavailable) {
		t.Errorf("store away: %v", err)
	}
	local := s.newReplica(localPlatform)
	local.tenant("l", nil)
	local.vault.away(true)
	if local.serial("l."+base) == "" {
		t.Error("the local authority needs no store to sign")
	}
}

// TestProvidedEnds: it is warned of at a third of its life, and the source takes over: the local authority when it is over,
// ACME a little earlier, so that there is no gap.
func TestProvidedEnds(t *testing.T) {
	const life = 30 * 24 * time.Hour
	for _, source := range []tenant.CertificateSource{tenant.SourceLocalCA, tenant.SourceACME, tenant.SourceProvided} {
		t.Run(string(source), func(t *testing.T) {
			s := newSite(t)
			r := s.newReplica(func(c *certs.Config) { c.Default.Source = source })
			e, host := r.tenant("a", nil), "a."+base
			chain, key, serial := s.issuer.provided(t, life, host)
			c, err := r.Import(t.Context(), e, host, chain, key, 0, entry(e))
			if err != nil || c.State != tenant.CertificateReady || c.Source != tenant.SourceProvided || c.Warning != "" || c.Serial != serial {
				t.Fatalf("Import: %+v, %v", c, err)
			}
			s.pass(life * 3 / 4)
			if c, err = r.Get(t.Context(), e, host); err != nil || !strings.Contains(c.Warning, "provide a newer one") {
				t.Errorf("with a quarter of its life left: %+v, %v", c, err)
			}
			if r.serial(host) != serial {
				t.Error("another one is served before its time")
			}
			if source == tenant.SourceACME {
				s.pass(life/4 - 23*time.Hour)
				until(t, "ACME takes over", func() bool {
					got := r.serial(host)
					if got == "" {
						t.Fatal("a gap")
					}
					return got != serial
				})
			}
			s.pass(life / 4)
			got := r.serial(host)
			if (got != "") != (source != tenant.SourceProvided) || got == serial {
				t.Errorf("after its end: served %q", got)
			}
			if c, err = r.Get(t.Context(), e, host); err != nil || (c.State == tenant.CertificateExpired) != (source == tenant.SourceProvided) {
				t.Errorf("after its end: %+v, %v", c, err)
			}
		})
	}
}

// TestRemoveRenewRevoke by their revisions, and what follows each.
func TestRemoveRenewRevoke(t *testing.T) {
	s := newSite(t)
	a, b := s.newReplica(nil), s.newReplica(nil)
	e, host := a.tenant("a", nil), "a."+base
	other := a.tenant("b", nil)
	b.knows(other.Record)
	first := a.served(host, "")
	if _, err := a.Renew(t.Context(), e, host, entry(e)); err != nil {
		t.Fatal(err)
	}
	second := a.served(host, first)
	b.served(host, first)
	if err := a.Remove(t.Context(), e, host, 0, entry(e)); !fault.Is(err, fault.Conflict) {
		t.Errorf("Remove of an ordered one: %v", err)
	}
	chain, key, serial := s.issuer.provided(t, 24*time.Hour, host)
	c, err := a.Get(t.Context(), e, host)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Import(t.Context(), e, host, chain, key, c.Revision-1, entry(e)); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("Import on an old revision: %v", err)
	}
	if c, err = a.Import(t.Context(), e, host, chain, key, c.Revision, entry(e)); err != nil || a.serial(host) != serial {
		t.Fatalf("Import: %v, serves another", err)
	}
	if _, err := a.Renew(t.Context(), e, host, entry(e)); !fault.Is(err, fault.Conflict) {
		t.Errorf("Renew of a provided one: %v", err)
	}
	b.served(host, second)
	if err := a.Remove(t.Context(), e, host, c.Revision-1, entry(e)); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("Remove on an old revision: %v", err)
	}
	if err := a.Remove(t.Context(), e, host, c.Revision, entry(e)); err != nil {
		t.Fatal(err)
	}
	third := a.served(host, serial)
	s.issuer.note(func() { s.issuer.revokeFail = errors.New("down") })
	if _, err := a.Revoke(t.Context(), e, host, 1, entry(e)); !fault.Is(err, fault.BadUpstream) {
		t.Errorf("Revoke while the issuer is down: %v", err)
	}
	if got := a.serial(host); got == third {
		t.Error("a certificate that somebody revoked is served")
	}
	s.issuer.note(func() { s.issuer.revokeFail = nil })
	if _, err := a.Revoke(t.Context(), e, host, 1, entry(e)); err != nil {
		t.Errorf("Revoke repeated: %v", err)
	}
	a.served(host, third)
	for name, call := range map[string]func() error{
		"get":    func() error { _, err := a.Get(t.Context(), other, host); return err },
		"import": func() error { _, err := a.Import(t.Context(), other, host, chain, key, 0, entry(other)); return err },
		"renew":  func() error { _, err := a.Renew(t.Context(), other, host, entry(other)); return err },
		"revoke": func() error { _, err := a.Revoke(t.Context(), other, host, 0, entry(other)); return err },
		"remove": func() error { return a.Remove(t.Context(), other, host, 0, entry(other)) },
		"absent": func() error { _, err := a.Get(t.Context(), e, "nobody."+base); return err },
	} {
		if err := call(); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s of another tenant's host: %v", name, err)
		}
	}
}

// TestSourceChangesAreFollowed: from the local authority to ACME and back, and to another directory.
func TestSourceChangesAreFollowed(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(localPlatform)
	r.tenant("a", nil)
	host := "a." + base
	local := r.served(host, "")
	r.update("a", func(rec *tenant.Record) {
		rec.Certificates = &tenant.Certificates{Source: tenant.SourceACME, ACME: &tenant.ACME{Directory: "https://one.test/"}}
	})
	first := r.served(host, local)
	r.update("a", func(rec *tenant.Record) { rec.Certificates.ACME = &tenant.ACME{Directory: "https://two.test/"} })
	second := r.served(host, first)
	r.update("a", func(rec *tenant.Record) { rec.Certificates = nil })
	if got := r.serial(host); got == second || got == "" {
		t.Errorf("back at the local authority: served %q", got)
	}
}

// TestPassthroughIsNotOrdered: its own gateway has the certificates.
func TestPassthroughIsNotOrdered(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(nil)
	r.tenant("p", func(rec *tenant.Record) {
		rec.Mode, rec.Passthrough = tenant.ModePassthrough, &tenant.Passthrough{Upstream: "gw.example:443"}
	})
	r.tenant("a", nil)
	r.served("a."+base, "")
	if n := s.issuer.attempts("p." + base); n != 0 {
		t.Errorf("%d orders", n)
	}
}

// TestChallenges are answered for hosts that the index knows, and only where one is ordered.
func TestChallenges(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(nil)
	r.tenant("a", nil)
	r.tenant("l", func(rec *tenant.Record) { rec.Certificates = &tenant.Certificates{Source: tenant.SourceLocalCA} })
	ask := func(host string) (*tls.Certificate, error) {
		return r.GetCertificate(&tls.ClientHelloInfo{ServerName: host, SupportedProtos: []string{"acme-tls/1"}})
	}
	if c, err := ask("A." + base); err != nil || string(c.Certificate[0]) != "challenge of a."+base {
		t.Errorf("got %v, %v", c, err)
	}
	if _, err := ask("nobody." + base); !errors.Is(err, certs.ErrUnknownHost) {
		t.Errorf("unknown host: %v", err)
	}
	if _, err := ask("l." + base); !errors.Is(err, certs.ErrNoChallenge) {
		t.Errorf("a host of the local authority: %v", err)
	}
	for host, want := range map[string]int{"a." + base: 200, "l." + base: 404, "nobody." + base: 404} {
		w := httptest.NewRecorder()
		req := httptest.NewRequest(http.MethodGet, "http://"+host+"/.well-known/acme-challenge/x", nil)
		if r.Challenge().ServeHTTP(w, req); w.Code != want {
			t.Errorf("%s: %d, want %d", host, w.Code, want)
		}
	}
}

// TestOCSP staples a staged responder's answer, keeps it while the responder is down, and drops it at its end.
func TestOCSP(t *testing.T) {
	s := newSite(t)
	var status, down atomic.Int64
	responder := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if down.Load() != 0 {
			http.Error(w, "down", http.StatusInternalServerError)
			return
		}
		body := new(bytes.Buffer)
		_, _ = body.ReadFrom(req.Body)
		q, err := ocsp.ParseRequest(body.Bytes())
		if err != nil {
			t.Error(err)
			return
		}
		raw, err := ocsp.CreateResponse(s.issuer.ca, s.issuer.ca, ocsp.Response{
			Status: int(status.Load()), SerialNumber: q.SerialNumber, ThisUpdate: s.now().Add(-time.Minute), NextUpdate: s.now().Add(48 * time.Hour), RevokedAt: s.now(),
		}, s.issuer.caKey)
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(raw)
	}))
	t.Cleanup(responder.Close)
	s.issuer.note(func() { s.issuer.responder = responder.URL })
	r := s.newReplica(func(c *certs.Config) { c.OCSP = true })
	e, host := r.tenant("a", nil), "a."+base
	staple := func() []byte {
		c, err := r.GetCertificate(hello(host))
		if err != nil {
			return nil
		}
		return c.OCSPStaple
	}
	until(t, "a staple", func() bool { return len(staple()) > 0 })
	down.Store(1)
	s.pass(25 * time.Hour) // time to ask again
	if len(staple()) == 0 {
		t.Error("a good answer was dropped before its end")
	}
	s.pass(24 * time.Hour)
	if len(staple()) != 0 {
		t.Error("an answer is stapled after its end")
	}
	down.Store(0)
	s.pass(2 * time.Hour)
	until(t, "a new staple", func() bool { return len(staple()) > 0 })
	before := r.serial(host)
	status.Store(ocsp.Revoked)
	s.pass(25 * time.Hour)
	r.served(host, before) // the issuer says that it revoked it: another is ordered
	_ = e
}

// TestTicketKeysAreShared by replicas.
func TestTicketKeysAreShared(t *testing.T) {
	s := newSite(t)
	var got [2]atomic.Pointer[[][32]byte]
	for i := range got {
		s.newReplica(func(c *certs.Config) { c.TicketKeys = func(k [][32]byte) { got[i].Store(&k) } })
	}
	until(t, "both have keys", func() bool { return got[0].Load() != nil && got[1].Load() != nil })
	if a, b := *got[0].Load(), *got[1].Load(); len(a) == 0 || a[0] != b[0] {
		t.Error("two replicas encrypt with two keys")
	}
}

// TestClientCertificate of the local authority, and a provided pair.
func TestClientCertificate(t *testing.T) {
	s := newSite(t)
	chain, key, serial := s.issuer.provided(t, 24*time.Hour, "client")
	r := s.newReplica(func(c *certs.Config) {
		c.OpenSecret = func(id tenant.ID, name, sealed string) (string, error) {
			if id != "given" || name != "dedicated.client" || sealed != "sealed" {
				return "", fmt.Errorf("asked for %s of %s", name, id)
			}
			return string(key), nil
		}
	})
	dedicated := func(c tenant.ClientCertificate) func(*tenant.Record) {
		return func(rec *tenant.Record) {
			rec.Mode, rec.Dedicated = tenant.ModeDedicated, &tenant.Dedicated{Upstream: "https://gw.example", Auth: tenant.AuthUpstream, Client: c}
		}
	}
	local := r.tenant("local", dedicated(tenant.ClientCertificate{Local: true}))
	given := r.tenant("given", dedicated(tenant.ClientCertificate{Chain: string(chain), Key: "sealed"}))
	none := r.tenant("none", dedicated(tenant.ClientCertificate{}))
	c, err := r.ClientCertificate(t.Context(), local)
	if err != nil {
		t.Fatal(err)
	}
	leaf := leafOf(t, c)
	if fmt.Sprint(leaf.URIs) != "[polygate://tenant/local]" || len(leaf.DNSNames) != 0 || len(leaf.ExtKeyUsage) != 1 {
		t.Errorf("it is for %s %s", leaf.URIs, leaf.DNSNames)
	}
	if again, _ := r.ClientCertificate(t.Context(), local); again != c {
		t.Error("made anew for the next connection")
	}
	s.pass(certs.DefaultLeafLife)
	if again, _ := r.ClientCertificate(t.Context(), local); again == c {
		t.Error("not made anew before its end")
	}
	if c, err := r.ClientCertificate(t.Context(), given); err != nil || leafOf(t, c).SerialNumber.Text(16) != serial {
		t.Errorf("the provided one: %v", err)
	}
	if c, err := r.ClientCertificate(t.Context(), none); c != nil || err != nil {
		t.Errorf("none: %v, %v", c, err)
	}
}

// TestImportFile covers the hosts of the leaf and changes nothing the second time.
func TestImportFile(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(localPlatform)
	e := r.tenant("a", func(rec *tenant.Record) { rec.Hosts = []string{"shop.example", "www.shop.example", "other.example"} })
	chain, key, serial := s.issuer.provided(t, 24*time.Hour, "shop.example", "*.shop.example", "foreign.example")
	hosts, err := r.ImportFile(t.Context(), e, chain, key, entry(e))
	if err != nil || fmt.Sprint(hosts) != "[shop.example www.shop.example]" {
		t.Fatalf("got %v, %v", hosts, err)
	}
	if r.serial("www.shop.example") != serial || r.serial("other.example") == serial {
		t.Error("the wrong hosts are served with it")
	}
	c, _ := r.Get(t.Context(), e, "shop.example")
	if _, err := r.ImportFile(t.Context(), e, chain, key, entry(e)); err != nil {
		t.Fatal(err)
	}
	if again, _ := r.Get(t.Context(), e, "shop.example"); again.Revision != c.Revision || c.Revision == 0 {
		t.Error("the same files made a change")
	}
	if _, err := r.Revoke(t.Context(), e, "shop.example", 1, entry(e)); err != nil {
		t.Fatal(err)
	}
	hosts, err = r.ImportFile(t.Context(), e, chain, key, entry(e))
	if got := r.serial("shop.example"); err != nil || fmt.Sprint(hosts) != "[www.shop.example]" || got == serial {
		t.Errorf("files that hold a revoked certificate: %v, %v; served: %s", hosts, err, got)
	}
	if _, err := r.ImportFile(t.Context(), nil, chain, key, entry(nil)); !fault.Is(err, fault.Invalid) {
		t.Errorf("for no host of the platform: %v", err)
	}
	wild, wildKey, wildSerial := s.issuer.provided(t, 24*time.Hour, "*."+base)
	if hosts, err := r.ImportFile(t.Context(), nil, wild, wildKey, entry(nil)); err != nil || fmt.Sprint(hosts) != "[*."+base+"]" {
		t.Errorf("the platform's wildcard: %v, %v", hosts, err)
	}
	until(t, "tenants without a source of their own have it", func() bool { return r.serial("a."+base) == wildSerial })
	if c, err := r.Revoke(t.Context(), nil, "*."+base, 0, entry(nil)); err != nil || c.State != tenant.CertificateRevoked {
		t.Errorf("the wildcard is %s after it was revoked, %v", c.State, err)
	}
	r.FilesWrong(nil, "the key is another's")
	if c, err := r.Get(t.Context(), nil, "*."+base); err != nil || !strings.Contains(c.Warning, "the key is another's") {
		t.Errorf("the status says %q, %v", c.Warning, err)
	}
	r.FilesWrong(nil, "")
	if c, _ := r.Get(t.Context(), nil, "*."+base); c.Warning != "" {
		t.Errorf("with good files again the status says %q", c.Warning)
	}
}

// TestExpiriesAndStats of those in memory.
func TestExpiriesAndStats(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(func(c *certs.Config) { c.Logger = slog.New(slog.DiscardHandler) })
	for i := range 5 {
		r.tenant(tenant.ID(fmt.Sprintf("t%d", i)), nil)
		r.served(fmt.Sprintf("t%d.%s", i, base), "")
	}
	if all := r.Expiries(100); len(all) != 5 {
		t.Errorf("%d of 5 tenants", len(all))
	}
	e, _ := r.store.Index().ByID("t3")
	chain, key, _ := s.issuer.provided(t, 3*time.Hour, "t3."+base)
	if _, err := r.Import(t.Context(), e, "t3."+base, chain, key, 0, entry(e)); err != nil {
		t.Fatal(err)
	}
	r.serial("t3." + base)
	if few := r.Expiries(1); len(few) != 1 || few["t3"].Sub(s.now()) > 3*time.Hour {
		t.Errorf("the first to end: %v", few)
	}
	if st := r.Stats(); st.Resident != 6 || r.Len() != 6 { // one is what is known of the wildcard
		t.Errorf("%+v", st)
	}
}
