package certs_test

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/certs"
	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
)

// fill stores a certificate for each of n tenants and returns their hosts. Keys and leaves are their own, as they would be.
func (r *replica) fill(n int) []*tls.ClientHelloInfo {
	s := r.site
	list := make([]*tls.ClientHelloInfo, n)
	for i := range n {
		id := tenant.ID("t" + strconv.Itoa(i))
		record := &tenant.Record{ID: id, Mode: tenant.ModeVirtual, State: tenant.StateActive, Source: tenant.SourceAPI}
		e, err := r.store.CreateTenant(s.t.Context(), record, entryOf(nil, "tenant.create", "tenant/"+string(id), "ok"))
		if err != nil {
			s.t.Fatal(err)
		}
		host := fmt.Sprintf("%s.%s", id, base)
		r.keep(e, host)
		list[i] = hello(host)
	}
	until(s.t, "the index follows", func() bool { return r.store.Index().Len() >= n })
	return list
}

func (r *replica) keep(e *tenant.Entry, host string) {
	s := r.site
	k := newKey(s.t)
	leaf := s.issuer.leaf(s.t, k.Public(), s.issuer.life, host)
	der := pkcs8(s.t, k)
	h := &keep.Host{
		Host: host, Source: tenant.SourceACME, Chain: pemOf(leaf, s.issuer.ca), Key: der, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
		RenewAt: leaf.NotAfter.Add(-s.issuer.life / 3), Directory: platform,
	}
	h.Order.Next = h.RenewAt
	if err := r.keeper.Save(s.t.Context(), vault.Of(e.Scope), h, keep.SaveOptions{Due: h.Order.Next}); err != nil {
		s.t.Fatal(err)
	}
}

func quiet(c *certs.Config) { c.Logger = slog.New(slog.DiscardHandler) }

// BenchmarkHot is what a handshake costs whose certificate is in memory, with the real index.
func BenchmarkHot(b *testing.B) {
	r := newSite(b).stopped(quiet)
	list := r.fill(100)
	for _, h := range list {
		if _, err := r.GetCertificate(h); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := r.GetCertificate(list[i%len(list)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// BenchmarkCold is what it costs if the certificate is stored only.
func BenchmarkCold(b *testing.B) {
	r := newSite(b).stopped(func(c *certs.Config) { quiet(c); c.Resident = 2 })
	list := r.fill(200)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := r.GetCertificate(list[i%len(list)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// TestResidentMemory says what a certificate in memory costs, and what a cold name takes from a store in memory. Set
// POLYGATE_NAMES to 10000 for the figures of DESIGN.md.
func TestResidentMemory(t *testing.T) {
	n := 300
	if v, err := strconv.Atoi(os.Getenv("POLYGATE_NAMES")); err == nil {
		n = v
	}
	s := newSite(t)
	r := s.stopped(quiet)
	list := r.fill(n)
	if _, err := r.GetCertificate(list[0]); err != nil {
		t.Fatal(err)
	}
	heap, rss := inUse()
	took := make([]time.Duration, 0, n)
	for _, h := range list {
		begin := time.Now()
		c, err := r.GetCertificate(h)
		if err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(begin))
		if _, err := c.PrivateKey.(crypto.Signer).Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err != nil { // a key that was used costs more
			t.Fatal(err)
		}
	}
	slices.Sort(took)
	after, rssAfter := inUse()
	each := (after - heap) / n
	t.Logf("%d names: %d bytes of heap each, resident set %+d KiB; cold from memory: median %s, p99 %s", n, each, (rssAfter-rss)>>10, took[n/2], took[n*99/100])
	if each > 6<<10 {
		t.Errorf("a resident certificate costs %d bytes, want at most 6 KiB", each)
	}
	leaves := make([]*x509.Certificate, 0, n)
	for _, h := range list {
		c, err := r.GetCertificate(h)
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, leafOf(t, c))
	}
	parsed, _ := inUse()
	t.Logf("the parsed leaf, which is not kept, would cost %d bytes more each", (parsed-after)/n)
	runtime.KeepAlive(leaves)
	runtime.KeepAlive(r)
}

// inUse returns the live heap and the resident set, in bytes.
func inUse() (heap, rss int) {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b, _ := os.ReadFile("/proc/self/statm")
	if f := strings.Fields(string(b)); len(f) > 1 {
		pages, _ := strconv.Atoi(f[1])
		rss = pages * os.Getpagesize()
	}
	return int(m.HeapAlloc), rss
}
