package certs_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/polygate/polygate/certs"
	"github.com/polygate/polygate/certs/acme"
	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/memory"
)

const (
	base     = "gate.test"
	platform = "https://platform.acme.test/dir"
)

// site is a platform in memory: a store for all replicas, an issuer, a clock.
type site struct {
	t       testing.TB
	backend *memory.Backend
	kek     *seal.KEK
	issuer  *stagedIssuer
	skew    atomic.Int64 // of the clock, before the real one
	n       int
}

func newSite(t testing.TB) *site {
	s := &site{t: t, backend: memory.New(), kek: newKEK(t)}
	t.Cleanup(func() { _ = s.backend.Close() })
	s.issuer = newIssuer(t, s.now)
	return s
}

func (s *site) now() time.Time       { return time.Now().Add(time.Duration(s.skew.Load())) }
func (s *site) pass(d time.Duration) { s.skew.Add(int64(d)) }

// replica is one process of a site.
type replica struct {
	*certs.Manager
	site   *site
	store  *registry.Store
	vault  *faultyVault
	keeper *keep.Keeper
	counts counts
	stop   func() // Run of the manager; may be called again
}

// newReplica starts a store and a manager of the platform's ACME source, and runs them.
func (s *site) newReplica(edit func(*certs.Config)) *replica {
	r := s.stopped(edit)
	r.run()
	return r
}

// stopped starts a store alone.
func (s *site) stopped(edit func(*certs.Config)) *replica {
	t := s.t
	t.Helper()
	s.n++
	store, err := registry.New(registry.Config{Backend: s.backend, Replica: fmt.Sprintf("r%d", s.n), BaseDomain: base})
	if err != nil {
		t.Fatal(err)
	}
	background(t, store.Run)
	r := &replica{site: s, store: store, vault: &faultyVault{Vault: store.Vault()}}
	until(t, "the registry is ready", func() bool {
		_, ok, err := store.Vault().TryLock(t.Context(), "ready/"+fmt.Sprint(s.n))
		return err == nil && ok
	})
	r.keeper = keep.New(r.vault, s.kek)
	cfg := certs.Config{
		Store: store.Platform(), Wrapper: s.kek, Lookup: store.Index().ByHost, BaseDomain: base, Keeper: r.keeper, Vault: r.vault, ACME: s.issuer,
		Default: tenant.Certificates{Source: tenant.SourceACME, ACME: &tenant.ACME{Directory: platform}},
		Entry: func(e *tenant.Entry, a authz.Action, resource, outcome string) (audit.Entry, error) {
			return entryOf(e, a, resource, outcome), nil
		},
		Limits: certs.Limits{OrdersPerMinute: 100_000}, Observer: &r.counts, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: s.now,
	}
	if edit != nil {
		edit(&cfg)
	}
	if r.Manager, err = certs.New(cfg); err != nil {
		t.Fatal(err)
	}
	if err := r.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Vault().Subscribe(r.Changed))
	t.Cleanup(store.Index().Subscribe(r.TenantChanged))
	return r
}

func (r *replica) run() { r.stop = background(r.site.t, r.Run) }

// background runs f until the test ends or stop is called, which waits.
func background(t testing.TB, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = f(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// until waits for something that happens in the background.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func entryOf(e *tenant.Entry, a authz.Action, resource, outcome string) audit.Entry {
	entry := audit.Entry{ID: audit.NewID(), Time: time.Now(), Principal: "platform:test", Action: string(a), Resource: resource, Decision: audit.Allow, Outcome: outcome}
	if e != nil {
		entry.Tenant, entry.TenantUID = e.Scope.ID(), e.Scope.UID()
	}
	return entry
}

func entry(e *tenant.Entry) audit.Entry {
	return entryOf(e, authz.CertificateUpdate, "certificate/x", audit.OutcomeOK)
}

// tenant makes a tenant and waits until this replica knows it.
func (r *replica) tenant(id tenant.ID, edit func(*tenant.Record)) *tenant.Entry {
	t := r.site.t
	t.Helper()
	record := &tenant.Record{ID: id, Mode: tenant.ModeVirtual, State: tenant.StateActive, Source: tenant.SourceAPI}
	if edit != nil {
		edit(record)
	}
	e, err := r.store.CreateTenant(t.Context(), record, entryOf(nil, authz.TenantCreate, "tenant/"+string(id), audit.OutcomeOK))
	if err != nil {
		t.Fatal(err)
	}
	return r.knows(e.Record)
}

func (r *replica) knows(record *tenant.Record) (e *tenant.Entry) {
	r.site.t.Helper()
	until(r.site.t, "the index follows", func() bool {
		var ok bool
		e, ok = r.store.Index().ByID(record.ID)
		return ok && e.Record.UID == record.UID && e.Record.Revision >= record.Revision
	})
	return e
}

func (r *replica) update(id tenant.ID, edit func(*tenant.Record)) *tenant.Entry {
	t := r.site.t
	t.Helper()
	e, err := r.store.UpdateTenant(t.Context(), id, 0, func(rec *tenant.Record) error { edit(rec); return nil }, entryOf(nil, authz.TenantUpdate, "tenant/"+string(id), audit.OutcomeOK))
	if err != nil {
		t.Fatal(err)
	}
	return r.knows(e.Record)
}

// serial returns the serial number that a handshake is served with; "" if it is refused.
func (r *replica) serial(host string) string {
	c, err := r.GetCertificate(hello(host))
	if err != nil {
		return ""
	}
	return leafOf(r.site.t, c).SerialNumber.Text(16)
}

// served waits until a host is served with another certificate than not, and returns its serial number.
func (r *replica) served(host, not string) (serial string) {
	r.site.t.Helper()
	until(r.site.t, host+" is served", func() bool { serial = r.serial(host); return serial != "" && serial != not })
	return serial
}

// counts is a certs.Observer.
type counts struct {
	mu sync.Mutex
	of map[string]int // guarded by mu: by code
}

func (c *counts) CertificateOrdered(_ tenant.CertificateSource, code string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = make(map[string]int)
	}
	c.of[code]++
}

// faultyVault fails as a test says.
type faultyVault struct {
	*registry.Vault
	reads   atomic.Int64
	fail    atomic.Pointer[error] // of reads and changes
	refuse  atomic.Pointer[error] // of changes alone
	refused atomic.Int64
	gate    atomic.Pointer[chan struct{}] // reads wait until it is closed; nil = they do not
}

func (v *faultyVault) away(on bool) {
	set(&v.fail, on, fault.New(fault.Unavailable, "the store is away"))
}
func (v *faultyVault) full(on bool) {
	set(&v.refuse, on, fault.Wrap(fault.Unavailable, fmt.Errorf("%w: no space", registry.ErrRejected), "the store is full: compact it")) // as etcd's
}

func set(p *atomic.Pointer[error], on bool, err error) {
	p.Store(nil)
	if on {
		p.Store(&err)
	}
}

func (v *faultyVault) Get(ctx context.Context, o vault.Owner, key string) (vault.Item, error) {
	v.reads.Add(1)
	if g := v.gate.Load(); g != nil {
		<-*g
	}
	if err := v.fail.Load(); err != nil {
		return vault.Item{}, *err
	}
	return v.Vault.Get(ctx, o, key)
}

func (v *faultyVault) GetWith(ctx context.Context, o vault.Owner, key, also string) (it, other vault.Item, err error) {
	v.reads.Add(1)
	if g := v.gate.Load(); g != nil {
		<-*g
	}
	if err := v.fail.Load(); err != nil {
		return it, other, *err
	}
	return v.Vault.GetWith(ctx, o, key, also)
}

func (v *faultyVault) Commit(ctx context.Context, o vault.Owner, b vault.Batch) (int64, error) {
	for _, p := range []*atomic.Pointer[error]{&v.fail, &v.refuse} {
		if err := p.Load(); err != nil {
			v.refused.Add(1)
			return 0, *err
		}
	}
	return v.Vault.Commit(ctx, o, b)
}

func (v *faultyVault) TryLock(ctx context.Context, name string) (vault.Lock, bool, error) {
	for _, p := range []*atomic.Pointer[error]{&v.fail, &v.refuse} {
		if err := p.Load(); err != nil {
			return vault.Lock{}, false, *err
		}
	}
	return v.Vault.TryLock(ctx, name)
}

func (v *faultyVault) Due(ctx context.Context, end time.Time, after string, limit int) ([]vault.Due, string, error) {
	if err := v.fail.Load(); err != nil {
		return nil, "", *err
	}
	return v.Vault.Due(ctx, end, after, limit)
}

// stagedIssuer is a certs.Issuer with a CA of its own, of one root and one intermediate.
type stagedIssuer struct {
	now        func() time.Time
	root, ca   *x509.Certificate
	caKey      *ecdsa.PrivateKey
	life       time.Duration
	begin      atomic.Pointer[func(ctx context.Context, o acme.Order) error]
	window     atomic.Pointer[[2]time.Time]
	infos      atomic.Int64
	infoPanics atomic.Bool
	mu         sync.Mutex
	responder  string         // guarded by mu: OCSP
	orders     map[string]int // guarded by mu: issued, by name
	tried      map[string]int // guarded by mu
	replaced   int            // guarded by mu
	revoked    []int          // guarded by mu: reasons
	revokeFail error          // guarded by mu
}

func newIssuer(t testing.TB, now func() time.Time) *stagedIssuer {
	s := &stagedIssuer{now: now, life: 90 * 24 * time.Hour, orders: make(map[string]int), tried: make(map[string]int)}
	rootKey := newKey(t)
	from := now().Add(-time.Hour)
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: from.Add(10 * 365 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature}
	}
	s.caKey = newKey(t)
	s.root = sign(t, template("staged root"), nil, rootKey.Public(), rootKey)
	s.ca = sign(t, template("staged issuer"), s.root, s.caKey.Public(), rootKey)
	return s
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sign makes a certificate; parent nil = signed by itself.
func sign(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	t.Helper()
	if template.SerialNumber == nil {
		template.SerialNumber, _ = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func pemOf(list ...*x509.Certificate) []byte {
	var b []byte
	for _, c := range list {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return b
}

func keyPEM(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// leaf signs names for a key, valid from an hour ago.
func (s *stagedIssuer) leaf(t testing.TB, public crypto.PublicKey, life time.Duration, names ...string) *x509.Certificate {
	from := s.now().Add(-time.Hour).Truncate(time.Second)
	template := &x509.Certificate{DNSNames: names, NotBefore: from, NotAfter: from.Add(life), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	s.note(func() {
		if s.responder != "" {
			template.OCSPServer = []string{s.responder}
		}
	})
	return sign(t, template, s.ca, public, s.caKey)
}

// provided makes what somebody could bring for names.
func (s *stagedIssuer) provided(t testing.TB, life time.Duration, names ...string) (chain, key []byte, serial string) {
	k := newKey(t)
	leaf := s.leaf(t, k.Public(), life, names...)
	return pemOf(leaf, s.ca), keyPEM(t, k), leaf.SerialNumber.Text(16)
}

// fails makes every order begin with f; nil = none fails.
func (s *stagedIssuer) fails(f func(ctx context.Context, o acme.Order) error) {
	s.begin.Store(nil)
	if f != nil {
		s.begin.Store(&f)
	}
}

func (s *stagedIssuer) Obtain(ctx context.Context, o acme.Order) ([]byte, error) {
	s.note(func() { s.tried[o.Names[0]]++ })
	if f := s.begin.Load(); f != nil {
		if err := (*f)(ctx, o); err != nil {
			return nil, err
		}
	}
	s.note(func() {
		s.orders[o.Names[0]]++
		if o.Replaces != nil {
			s.replaced++
		}
	})
	return pemOf(s.leaf(noTest{}, o.Key.Public(), s.life, o.Names...), s.ca), nil
}

// noTest fails by panicking, where there is no test at hand.
type noTest struct{ testing.TB }

func (noTest) Helper()           {}
func (noTest) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

func (s *stagedIssuer) note(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *stagedIssuer) issued(name string) (n int) {
	s.note(func() { n = s.orders[name] })
	return n
}

func (s *stagedIssuer) attempts(name string) (n int) {
	s.note(func() { n = s.tried[name] })
	return n
}

func (s *stagedIssuer) Revoke(_ context.Context, _ tenant.ACME, _ certmagic.Storage, _ []byte, reason int) (err error) {
	s.note(func() {
		if err = s.revokeFail; err == nil {
			s.revoked = append(s.revoked, reason)
		}
	})
	return err
}

func (s *stagedIssuer) RenewalInfo(context.Context, tenant.ACME, *x509.Certificate) (start, end, again time.Time, err error) {
	s.infos.Add(1)
	if s.infoPanics.Load() {
		panic("boom")
	}
	w := s.window.Load()
	if w == nil {
		return start, end, again, errors.New("not offered")
	}
	return w[0], w[1], s.now().Add(6 * time.Hour), nil
}

func (s *stagedIssuer) ChallengeCertificate(_ context.Context, _ certmagic.Storage, host string) (*tls.Certificate, error) {
	return &tls.Certificate{Certificate: [][]byte{[]byte("challenge of " + host)}}, nil
}

func (s *stagedIssuer) HTTPChallenge(tokens func(string) (certmagic.Storage, bool), w http.ResponseWriter, r *http.Request) {
	if _, ok := tokens(r.Host); !ok {
		http.NotFound(w, r)
		return
	}
	fmt.Fprint(w, "challenge of ", r.Host)
}

func pkcs8(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
