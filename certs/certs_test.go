package certs_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polygate/polygate/certs"
	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is a certs.Store in memory.
type store struct {
	mu   sync.Mutex
	data map[string][]byte
	gate func() // called before each Create; may be nil
}

func (s *store) Get(_ context.Context, key string) ([]byte, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.data[key]; ok {
		return v, 1, nil
	}
	return nil, 0, fault.New(fault.NotFound, "no %s", key)
}

func (s *store) Create(_ context.Context, key string, value []byte) error {
	if s.gate != nil {
		s.gate()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.data[key]; ok {
		return fault.New(fault.Conflict, "%s is there", key)
	}
	s.data[key] = value
	return nil
}

func newStore() *store { return &store{data: make(map[string][]byte)} }

func newKEK(t testing.TB) *seal.KEK {
	t.Helper()
	k, err := seal.CreateKEK(filepath.Join(t.TempDir(), "kek"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// world is a manager with the things around it that tests turn.
type world struct {
	*certs.Manager
	store *store
	kek   *seal.KEK
	known sync.Map // host -> anything
	now   atomic.Pointer[time.Time]
}

func newWorld(t testing.TB, edit func(*certs.Config)) *world {
	t.Helper()
	w := &world{store: newStore(), kek: newKEK(t)}
	start := time.Now()
	w.now.Store(&start)
	cfg := certs.Config{
		Store: w.store, Wrapper: w.kek, ExtraHosts: []string{"localhost"}, AdminHosts: []string{"Admin.example.com", "10.1.2.3"},
		Lookup: func(h string) (*tenant.Entry, bool) { _, ok := w.known.Load(h); return nil, ok },
		Now:    func() time.Time { return *w.now.Load() },
	}
	if edit != nil {
		edit(&cfg)
	}
	m, err := certs.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Manager = m
	w.known.Store("team-a.localhost", true)
	return w
}

func (w *world) pass(d time.Duration) {
	now := w.now.Load().Add(d)
	w.now.Store(&now)
}

func (w *world) roots(t testing.TB) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(w.RootPEM()) {
		t.Fatal("RootPEM is no certificate")
	}
	return pool
}

// anyHost is a Lookup by which every host is the platform's.
func anyHost(string) (*tenant.Entry, bool) { return nil, true }

// leafOf parses a certificate's leaf: the manager keeps none.
func leafOf(t testing.TB, c *tls.Certificate) *x509.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func hello(name string) *tls.ClientHelloInfo { return &tls.ClientHelloInfo{ServerName: name} }

func TestLeafVerifies(t *testing.T) {
	w := newWorld(t, nil)
	for _, sni := range []string{"team-a.localhost", "TEAM-A.localhost", "localhost"} {
		cert, err := w.GetCertificate(hello(sni))
		if err != nil {
			t.Errorf("%s: %v", sni, err)
			continue
		}
		host := strings.ToLower(sni)
		if _, err := leafOf(t, cert).Verify(x509.VerifyOptions{Roots: w.roots(t), DNSName: host}); err != nil {
			t.Errorf("%s: %v", sni, err)
		}
		if got := fmt.Sprint(leafOf(t, cert).DNSNames, leafOf(t, cert).IPAddresses, leafOf(t, cert).EmailAddresses, leafOf(t, cert).URIs); got != fmt.Sprintf("[%s] [] [] []", host) {
			t.Errorf("%s: the certificate is for %s", sni, got)
		}
		if leafOf(t, cert).IsCA || leafOf(t, cert).SerialNumber.BitLen() < 64 {
			t.Errorf("%s: CA %v, serial number of %d bits", sni, leafOf(t, cert).IsCA, leafOf(t, cert).SerialNumber.BitLen())
		}
		if early := w.now.Load().Sub(leafOf(t, cert).NotBefore); early < time.Hour || early > time.Hour+time.Second {
			t.Errorf("%s: valid since %s, want 1 h", sni, early)
		}
	}
}

func TestRefusesWithoutIssuing(t *testing.T) {
	w := newWorld(t, nil)
	w.known.Store("127.0.0.1", true) // even if the index erred
	for sni, want := range map[string]error{
		"": certs.ErrNoName, "127.0.0.1": certs.ErrNoName, "::1": certs.ErrNoName, "10.1": certs.ErrNoName, "2130706433": certs.ErrNoName,
		strings.Repeat("a", 254): certs.ErrNoName,
		"team-b.localhost":       certs.ErrUnknownHost, "x.team-a.localhost": certs.ErrUnknownHost, "team-a.localhost.": certs.ErrNoName,
		"*.localhost": certs.ErrUnknownHost, "team-a.localhost\x00": certs.ErrUnknownHost, "admin.example.com": certs.ErrUnknownHost,
	} {
		cert, err := w.GetCertificate(hello(sni))
		if cert != nil || !errors.Is(err, want) {
			t.Errorf("%q: got %v, %v; want %v", sni, cert, err, want)
		}
	}
	if n := w.Len(); n != 0 {
		t.Errorf("%d certificates were made for hosts that nobody has", n)
	}
}

// TestRemovedHostStopsAtOnce: a certificate in memory must not outlive the tenant's right to the host.
func TestRemovedHostStopsAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	first, err := w.GetCertificate(hello("team-a.localhost"))
	if err != nil {
		t.Fatal(err)
	}
	w.known.Delete("team-a.localhost")
	if _, err := w.GetCertificate(hello("team-a.localhost")); !errors.Is(err, certs.ErrUnknownHost) {
		t.Errorf("got %v, want ErrUnknownHost", err)
	}
	w.known.Store("team-a.localhost", true)
	again, err := w.GetCertificate(hello("team-a.localhost"))
	if err != nil || again == first {
		t.Errorf("the next owner of the host gets the former one's key (%v)", err)
	}
}

func TestRenewal(t *testing.T) {
	w := newWorld(t, func(c *certs.Config) { c.LeafLife = 9 * time.Hour })
	get := func() *tls.Certificate {
		t.Helper()
		c, err := w.GetCertificate(hello("team-a.localhost"))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := get()
	w.pass(5 * time.Hour)
	if get() != first {
		t.Error("renewed with more than a third of its life left")
	}
	w.pass(time.Hour)
	second := get()
	if second == first {
		t.Error("not renewed with less than a third of its life left")
	}
	if get() != second {
		t.Error("renewed twice")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	w := newWorld(t, func(c *certs.Config) { c.Resident = 2 })
	first := make(map[string]*tls.Certificate)
	for _, h := range []string{"a.example.com", "b.example.com", "c.example.com"} {
		w.known.Store(h, true)
		first[h], _ = w.GetCertificate(hello(h))
	}
	if c, _ := w.GetCertificate(hello("c.example.com")); c != first["c.example.com"] {
		t.Error("the latest is not in memory")
	}
	if c, _ := w.GetCertificate(hello("a.example.com")); c == nil || c == first["a.example.com"] {
		t.Error("the oldest of three is still in memory, which is for two")
	}
}

func TestRestartKeepsTheAuthority(t *testing.T) {
	w := newWorld(t, nil)
	m, err := certs.New(certs.Config{Store: w.store, Wrapper: w.kek, Lookup: anyHost})
	if err != nil {
		t.Fatal(err)
	}
	if m.RootPEM() != nil {
		t.Error("a root before Open")
	}
	if _, err := m.GetCertificate(hello("team-a.localhost")); !errors.Is(err, certs.ErrNotOpen) {
		t.Errorf("before Open: got %v", err)
	}
	if err := m.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.RootPEM(), w.RootPEM()) {
		t.Error("another root after a restart")
	}
}

// TestReplicasAgree makes two replicas find no authority at once: both have made one before either is stored.
func TestReplicasAgree(t *testing.T) {
	s, kek := newStore(), newKEK(t)
	var both sync.WaitGroup
	both.Add(2)
	s.gate = func() { both.Done(); both.Wait() }
	var roots [2][]byte
	var wg sync.WaitGroup
	for i := range roots {
		wg.Go(func() {
			m, err := certs.New(certs.Config{Store: s, Wrapper: kek, Lookup: anyHost})
			if err == nil {
				err = m.Open(t.Context())
			}
			if err != nil {
				t.Error(err)
				return
			}
			roots[i] = m.RootPEM()
		})
	}
	wg.Wait()
	if !bytes.Equal(roots[0], roots[1]) {
		t.Error("two replicas have two roots")
	}
}

func TestKeyIsSealed(t *testing.T) {
	w := newWorld(t, nil)
	for k, v := range w.store.data {
		if bytes.Contains(v, []byte("PRIVATE")) {
			t.Errorf("%s holds a private key", k)
		}
		t.Logf("%s: %d bytes", k, len(v))
	}
	m, _ := certs.New(certs.Config{Store: w.store, Wrapper: newKEK(t), Lookup: anyHost})
	var wrong *seal.WrongKEKError
	if err := m.Open(t.Context()); !errors.As(err, &wrong) {
		t.Errorf("with another key-encryption key: got %v", err)
	}
	if m.RootPEM() != nil {
		t.Error("opened all the same")
	}
}

func TestDamagedAuthorityIsNotReplaced(t *testing.T) {
	w := newWorld(t, nil)
	for k, v := range w.store.data {
		for _, bad := range [][]byte{nil, []byte("{}"), []byte(`{"v":3}`), v[:len(v)/2], bytes.Replace(v, []byte(`"v":1`), []byte(`"v":9`), 1)} {
			s := newStore()
			s.data[k] = bad
			m, _ := certs.New(certs.Config{Store: s, Wrapper: w.kek, Lookup: anyHost})
			if err := m.Open(t.Context()); err == nil {
				t.Errorf("%.40q opens", bad)
			}
			if !bytes.Equal(s.data[k], bad) {
				t.Errorf("%.40q was replaced", bad)
			}
		}
	}
}

func TestExpiredAuthority(t *testing.T) {
	w := newWorld(t, nil)
	w.pass(11 * 365 * 24 * time.Hour)
	if err := w.Open(t.Context()); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("got %v", err)
	}
}

func TestAdminCertificate(t *testing.T) {
	w := newWorld(t, nil)
	for _, sni := range []string{"", "localhost", "anything.example.com"} {
		cert, err := w.AdminCertificate(hello(sni))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"localhost", "127.0.0.1", "::1", "admin.example.com", "10.1.2.3"} {
			if _, err := leafOf(t, cert).Verify(x509.VerifyOptions{Roots: w.roots(t), DNSName: name}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	first, _ := w.AdminCertificate(hello(""))
	w.pass(certs.DefaultLeafLife)
	if again, _ := w.AdminCertificate(hello("")); again == first {
		t.Error("not renewed")
	}
}

func TestNewChecks(t *testing.T) {
	good := certs.Config{Store: newStore(), Wrapper: newKEK(t), Lookup: anyHost}
	for name, edit := range map[string]func(*certs.Config){
		"no store":      func(c *certs.Config) { c.Store = nil },
		"no wrapper":    func(c *certs.Config) { c.Wrapper = nil },
		"no Lookup":     func(c *certs.Config) { c.Lookup = nil },
		"keeper alone":  func(c *certs.Config) { c.Keeper = new(keep.Keeper) },
		"negative rate": func(c *certs.Config) { c.Limits.OrdersPerMinute = -1 },
		"short life":    func(c *certs.Config) { c.LeafLife = time.Minute },
		"negative":      func(c *certs.Config) { c.Resident = -1 },
	} {
		cfg := good
		edit(&cfg)
		if _, err := certs.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
