package audit

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// benchLog writes a log of 1,000 tenants in segments of 64 MiB, of as many MiB as POLYGATE_BENCH_MIB says, else 128.
func benchLog(b *testing.B) (dir string) {
	b.Helper()
	size, _ := strconv.Atoi(cmp.Or(os.Getenv("POLYGATE_BENCH_MIB"), "128"))
	dir = b.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	tips := make(map[string]Head)
	now := time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)
	for n, i := 0, 0; n < size<<20; {
		out := &batch{tips: tips, next: make(map[string]Head)}
		for len(out.text) < min(64<<20, size<<20-n) {
			e := teamEntry(tenant.ID(fmt.Sprintf("team-%d", i*7919%1000)), "mcp.call")
			e.RequestID, e.Issuer, e.KeyID, e.Via, e.Remote = strconv.Itoa(i), "https://idp.example.com/realms/x", "k-1", ViaOIDC, "192.0.2.17"
			now = now.Add(time.Second)
			e.Time = now
			out.add(e)
			i++
		}
		n += len(out.text)
		for name, h := range out.next {
			tips[name] = h
		}
		name := path
		if n < size<<20 {
			name = filepath.Join(dir, segmentName(path, uint64(n/(64<<20)), now))
		}
		if err := os.WriteFile(name, out.text, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// BenchmarkQuery is the cost of one page of 100 records of one of 1,000 tenants.
func BenchmarkQuery(b *testing.B) {
	dir := benchLog(b)
	r, err := NewReader(ReaderConfig{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	if err := r.Warm(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Logf("all indexes made in %v", time.Since(began))
	for _, c := range []struct {
		name string
		q    Query
		want int
	}{
		{"last 100", teamQuery("team-7"), 100},
		{"nothing matches", Query{Tenant: "team-7", TenantUID: "uid-team-7", RequestID: "none"}, 0},
		{"old", Query{Tenant: "team-7", TenantUID: "uid-team-7", To: time.Date(2026, 8, 1, 20, 0, 0, 0, time.UTC)}, -1},
		{"all pages", Query{Tenant: "team-7", TenantUID: "uid-team-7", Limit: 1000}, -1},
	} {
		b.Run(c.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				q := c.q
				for {
					p, err := r.Query(b.Context(), q)
					if err != nil || c.want >= 0 && len(p.Records) != c.want {
						b.Fatal(p, err)
					}
					if q.Cursor = p.Next; p.Next == "" || c.name != "all pages" {
						break
					}
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}

// BenchmarkCheckpoint is the cost of one checkpoint over 10,000 tenants.
func BenchmarkCheckpoint(b *testing.B) {
	signer, _ := testSigner(b, 1)
	heads := make(map[string]Head)
	for i := range 10_000 {
		heads[fmt.Sprintf("team-%d", i)] = Head{Seq: uint64(i + 1)}
	}
	s := scribe{chain: CheckpointChain, signer: signer, note: func(action, _ string) Entry { return entry("", action) }}
	for b.Loop() {
		if _, err := s.checkpoint(Head{}, heads, false, ""); err != nil {
			b.Fatal(err)
		}
	}
}
