package peerca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/peer"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/vault"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/etcd"
	"github.com/polygate/polygate/registry/memory"
	"github.com/polygate/polygate/registry/registrytest"
)

// clock is a time that tests set.
type clock struct {
	mu sync.Mutex // guards at
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// world is a store with replicas on it.
type world struct {
	backend registrytest.Backend
	kek     *seal.KEK
	clock   *clock
	stores  map[string]*registrytest.Replica
}

func newWorld(t *testing.T, b registrytest.Backend) *world {
	kek, err := seal.CreateKEK(filepath.Join(t.TempDir(), "kek"))
	if err != nil {
		t.Fatal(err)
	}
	return &world{backend: b, kek: kek, clock: &clock{at: time.Now()}, stores: make(map[string]*registrytest.Replica)}
}

func inMemory(t *testing.T) *world {
	b := memory.New()
	t.Cleanup(func() { _ = b.Close() })
	return newWorld(t, b)
}

// replica starts a replica that has not opened the authority yet.
func (w *world) replica(t *testing.T, name string) *Authority {
	w.stores[name] = registrytest.Start(t, w.backend, name)
	return New(w.stores[name].Vault(), w.kek, name, w.clock.now, nil)
}

func (w *world) open(t *testing.T, name string) *Authority {
	a := w.replica(t, name)
	if err := a.Open(t.Context()); err != nil {
		t.Fatalf("Open of %s: %v", name, err)
	}
	return a
}

// run runs a replica's authority until the test ends.
func run(t *testing.T, a *Authority) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// talk has from call to over mutual TLS, as the replica that from wants to reach.
func (w *world) talk(from, to *Authority, want string) error {
	client, err := from.Certificate()
	if err != nil {
		return err
	}
	server, err := to.Certificate()
	if err != nil {
		return err
	}
	left, right := net.Pipe()
	defer left.Close()
	done := make(chan error, 1)
	go func() {
		s := tls.Server(right, &tls.Config{
			Certificates: []tls.Certificate{*server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: to.Roots(),
			MinVersion: tls.VersionTLS13, Time: w.clock.now,
		})
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte("hello"))
		}
		done <- errors.Join(err, right.Close())
	}()
	c := tls.Client(left, &tls.Config{
		Certificates: []tls.Certificate{*client}, RootCAs: from.Roots(), ServerName: peer.ServerName(want),
		MinVersion: tls.VersionTLS13, Time: w.clock.now,
	})
	b, err := io.ReadAll(c)
	if err == nil && string(b) != "hello" {
		err = fmt.Errorf("read %q", b)
	}
	if err == nil {
		err = named(c.ConnectionState().PeerCertificates[0], want)
	}
	_ = left.Close()
	return errors.Join(err, <-done)
}

// named says whether a certificate is of a replica.
func named(cert *x509.Certificate, want string) error {
	if len(cert.URIs) != 1 {
		return fmt.Errorf("%d URIs", len(cert.URIs))
	}
	if got, ok := peer.FromURI(cert.URIs[0]); !ok || got != want {
		return fmt.Errorf("the certificate is of %q, want %q", got, want)
	}
	return nil
}

// TestOneAuthority: replicas that start at once on an empty store agree on one authority, and speak with each other.
func TestOneAuthority(t *testing.T) {
	t.Run("memory", func(t *testing.T) { oneAuthority(t, inMemory(t)) })
	t.Run("etcd", func(t *testing.T) {
		e, err := etcd.StartEmbedded(t.Context(), etcd.EmbeddedConfig{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = e.Close() })
		b, err := e.Backend("p/")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close() })
		oneAuthority(t, newWorld(t, b))
	})
}

func oneAuthority(t *testing.T, w *world) {
	var all []*Authority
	for _, name := range []string{"a", "node-2", "gw.example.org", "Node_4"} {
		all = append(all, w.replica(t, name))
	}
	var wg sync.WaitGroup
	for _, a := range all {
		wg.Go(func() {
			if err := a.Open(t.Context()); err != nil {
				t.Errorf("Open of %s: %v", a.replica, err)
			}
		})
	}
	wg.Wait()
	for _, from := range all {
		for _, to := range all {
			if err := w.talk(from, to, to.replica); err != nil {
				t.Errorf("%s to %s: %v", from.replica, to.replica, err)
			}
		}
	}
	if err := w.talk(all[0], all[1], "a"); err == nil {
		t.Error("node-2 passed for a")
	}
	if got, want := all[0].Status().Roots, all[1].Status().Roots; len(got) != 1 || len(want) != 1 || got[0].Fingerprint != want[0].Fingerprint {
		t.Errorf("roots %v and %v, want one and the same", got, want)
	}
}

// TestStranger: the authority of another platform is none of ours, on either side.
func TestStranger(t *testing.T) {
	w := inMemory(t)
	a, other := w.open(t, "a"), inMemory(t).open(t, "a")
	if err := w.talk(other, a, "a"); err == nil {
		t.Error("a stranger's certificate was taken")
	}
	if err := w.talk(a, other, "a"); err == nil {
		t.Error("a stranger was taken for a peer")
	}
}

// TestSealed: neither the store nor another key-encryption key shows the authority's key, and what does not open is not made
// anew.
func TestSealed(t *testing.T) {
	w := inMemory(t)
	a := w.open(t, "a")
	for key, kv := range registrytest.Dump(t, w.backend) {
		for _, r := range a.stored.Authorities {
			secret, err := r.key.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(kv.Value, secret) || bytes.Contains(kv.Value, []byte(base64.StdEncoding.EncodeToString(r.Key)[:40])) {
				t.Errorf("%s holds the authority's key in the clear", key)
			}
		}
	}
	before := a.Status().Roots[0].Fingerprint
	foreign, err := seal.CreateKEK(filepath.Join(t.TempDir(), "other"))
	if err != nil {
		t.Fatal(err)
	}
	err = New(w.stores["a"].Vault(), foreign, "b", w.clock.now, nil).Open(t.Context())
	if wrong := new(seal.WrongKEKError); !errors.As(err, &wrong) {
		t.Errorf("Open with another key-encryption key: %v, want a WrongKEKError", err)
	}
	if got := w.open(t, "c").Status().Roots[0].Fingerprint; got != before {
		t.Error("the authority was made anew")
	}
}

// TestKeyLost: where the data key is gone, no second authority is made beside the first.
func TestKeyLost(t *testing.T) {
	w := inMemory(t)
	w.open(t, "a")
	if _, err := w.stores["a"].Vault().Commit(t.Context(), vault.Owner{}, vault.Batch{Deletes: []string{"dek"}}); err != nil {
		t.Fatal(err)
	}
	if err := w.replica(t, "b").Open(t.Context()); err == nil {
		t.Error("Open without the data key succeeded")
	}
}

// TestRotate: in a rotation, replicas speak with each other at every moment, whichever of them has read of it, and the old
// authority ends.
func TestRotate(t *testing.T) {
	w := inMemory(t)
	a, b, late := w.open(t, "a"), w.open(t, "b"), w.open(t, "late")
	both := func(when string, x, y *Authority) {
		t.Helper()
		if err := errors.Join(w.talk(x, y, y.replica), w.talk(y, x, x.replica)); err != nil {
			t.Errorf("%s: %s and %s: %v", when, x.replica, y.replica, err)
		}
	}
	old := a.Status().Roots[0].Fingerprint
	changed := b.Changed()
	run(t, b)
	if err := errors.Join(a.Rotate(t.Context()), a.Rotate(t.Context()), b.Rotate(t.Context())); err != nil {
		t.Fatalf("Rotate: %v", err)
	}
	<-changed // b heard of it
	if got := b.Status().Roots; len(got) != 2 || !got[0].Signs {
		t.Errorf("after three calls: %+v, want two, of which the old one signs", got)
	}
	both("before all know", a, late)
	w.clock.pass(Overlap - time.Second)
	both("a second before", a, late)
	late.look(t.Context())
	w.clock.pass(2 * time.Second)
	both("after the overlap", a, b)
	both("after the overlap", a, late)
	if got := a.Status().Roots; got[0].Signs || !got[1].Signs {
		t.Errorf("after the overlap: %+v, want the new one to sign", got)
	}
	w.clock.pass(leafLife + backdate - time.Minute)
	both("while old certificates may live", a, b)
	w.clock.pass(2 * time.Minute)
	for _, x := range []*Authority{a, b, late} {
		x.look(t.Context())
		if got := x.Status().Roots; len(got) != 1 || got[0].Fingerprint == old {
			t.Errorf("%s believes %+v, want the new one alone", x.replica, got)
		}
	}
	both("at the end", a, late)
	if s, _, err := a.load(t.Context()); err != nil || len(s.Authorities) != 1 {
		t.Errorf("%d authorities are stored (%v), want the old one's key to be gone", len(s.Authorities), err)
	}
}

// TestRotateWithoutOverlap shows what the overlap is for: a replica that has not read of the new authority does not know its
// certificates.
func TestRotateWithoutOverlap(t *testing.T) {
	w := inMemory(t)
	a, late := w.open(t, "a"), w.open(t, "late")
	if err := a.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.clock.pass(Overlap + time.Second)
	if err := w.talk(a, late, "late"); err == nil {
		t.Error("a certificate of an authority that the peer has not read was taken")
	}
}

// TestRenewal: a certificate is renewed at half of its life, with another key, and never is one shown that has ended.
func TestRenewal(t *testing.T) {
	w := inMemory(t)
	a := w.open(t, "a")
	first, err := a.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	changed := a.Changed()
	w.clock.pass(leafLife/2 - time.Second)
	if again, err := a.Certificate(); err != nil || again != first {
		t.Errorf("before half of its life: another certificate (%v)", err)
	}
	w.clock.pass(2 * time.Second)
	second, err := a.Certificate()
	if err != nil || second == first {
		t.Fatalf("after half of its life: the same certificate (%v)", err)
	}
	if second.PrivateKey.(*ecdsa.PrivateKey).Equal(first.PrivateKey) {
		t.Error("the key was used again")
	}
	select {
	case <-changed:
	default:
		t.Error("nobody was told")
	}
	w.clock.pass(5 * leafLife) // asleep
	if c, err := a.Certificate(); err != nil || w.clock.now().After(c.Leaf.NotAfter) {
		t.Errorf("after a long sleep: %v", err)
	}
}

// TestEndOfLife: an authority in its last year is replaced by whoever looks, once.
func TestEndOfLife(t *testing.T) {
	w := inMemory(t)
	a, b := w.open(t, "a"), w.open(t, "b")
	w.clock.pass(rootLife - lastYear + time.Hour)
	a.look(t.Context())
	b.look(t.Context())
	if got := b.Status().Roots; len(got) != 2 {
		t.Errorf("%+v, want one more", got)
	}
	w.clock.pass(Overlap + time.Second)
	if err := w.talk(a, b, "b"); err != nil {
		t.Error(err)
	}
}

// TestStoreAway: what is in memory goes on, and renews itself.
func TestStoreAway(t *testing.T) {
	w := inMemory(t)
	faulty := &registrytest.Faulty{Backend: w.backend}
	store := registrytest.Start(t, faulty, "a")
	a := New(store.Vault(), w.kek, "a", w.clock.now, nil)
	if err := a.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	faulty.Hang(true)
	w.clock.pass(leafLife)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	a.look(ctx)
	if c, err := a.Certificate(); err != nil || c.Leaf.NotAfter.Before(w.clock.now()) {
		t.Errorf("Certificate while the store is away: %v", err)
	}
	faulty.Hang(false)
}

func TestTooManyRotations(t *testing.T) {
	w := inMemory(t)
	a := w.open(t, "a")
	var err error
	for range maxAuthorities {
		if err = a.Rotate(t.Context()); err != nil {
			break
		}
		w.clock.pass(2 * Overlap)
	}
	registrytest.WantKind(t, "a rotation too many", err, fault.Conflict)
	if got := len(a.Status().Roots); got != maxAuthorities {
		t.Errorf("%d authorities, want %d", got, maxAuthorities)
	}
}

// TestVersions: what the next version wrote is read, and not rewritten; what is after it is refused.
func TestVersions(t *testing.T) {
	first, err := newAuthority(time.Now(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		v           int
		reads, writ bool
	}{{1, true, true}, {2, true, false}, {3, false, false}, {0, false, false}} {
		b, _ := stored{V: 1, Authorities: []authority{first}}.encode()
		b = bytes.Replace(b, []byte(`"v":1`), fmt.Appendf(nil, `"v":%d,"more":1`, c.v), 1)
		s, err := decode(b)
		if (err == nil) != c.reads {
			t.Errorf("version %d: %v, want it read: %v", c.v, err, c.reads)
		}
		if c.reads {
			if _, err := s.encode(); (err == nil) != c.writ {
				t.Errorf("version %d: written again: %v, want %v", c.v, err, c.writ)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	first, err := newAuthority(time.Now(), time.Now())
	if err != nil {
		f.Fatal(err)
	}
	b, _ := stored{V: 1, Authorities: []authority{first}}.encode()
	f.Add(b)
	f.Add([]byte(`{"v":1,"authorities":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decode(b)
		if err != nil {
			return
		}
		if s.signer(time.Now()) == nil || s.next(time.Now()) <= 0 {
			t.Error("what was decoded cannot be used")
		}
	})
}

var _ Vault = (*registry.Vault)(nil)
