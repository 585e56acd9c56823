package vgw

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
)

// SandboxMetrics counts what a tenant's sandboxes use.
type SandboxMetrics interface {
	// SandboxUsed counts what was added up for an owner, after it was stored.
	SandboxUsed(owner string, a sandbox.Amounts)
	// SandboxStates reads the sandboxes by state from count, until stop is called.
	SandboxStates(count func() map[string]int) (stop func())
}

func (m *Mux) sandboxMetrics(s tenant.Scope) SandboxMetrics {
	if m.cfg.SandboxMetrics == nil {
		return nil
	}
	return m.cfg.SandboxMetrics(s.ID())
}

// ownerSeries begins the names of the metrics that have an owner.
const ownerSeries = "polygate_sandbox_owner_"

// booksPart is the part of a tenant's stored bytes that the books of use may take.
const booksPart = 4

// books is what a gateway adds up of its sandboxes.
type books struct {
	made   atomic.Pointer[sandbox.Meter]
	budget atomic.Int64 // bytes; 0 = the default

	mu   sync.Mutex
	stop func() // guarded by mu: ends the reading of states; nil = nobody reads
}

// meter returns the meter, nil if there is none.
func (b *books) meter() *sandbox.Meter { return b.made.Load() }

// limit follows the tenant's quotas.
func (b *books) limit(q tenant.Quotas) { b.budget.Store(q.MaxStoredBytes / booksPart) }

// open reads what is stored.
func (b *books) open(ctx context.Context, claim Claim, count SandboxMetrics) (*sandbox.Meter, error) {
	stored, err := claim.Load(ctx, sandbox.KindPeriod)
	if err != nil {
		return nil, fmt.Errorf("load the periods of use: %w", err)
	}
	c := sandbox.MeterConfig{Budget: b.budget.Load}
	if count != nil {
		c.Count = count.SandboxUsed
	}
	m, err := sandbox.NewMeter(c, stored)
	if err != nil {
		return nil, fmt.Errorf("read the periods of use: %w", err)
	}
	b.made.Store(m)
	return m, nil
}

// show has metrics read how many sandboxes there are in each state.
func (b *books) show(m *sandbox.Manager, count SandboxMetrics) {
	if count == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stop = count.SandboxStates(func() map[string]int { return countStates(m.Snapshot()) })
}

// close ends that: another replica tells of them from now on.
func (b *books) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stop != nil {
		b.stop()
		b.stop = nil
	}
}

func countStates(all []*sandbox.Sandbox) map[string]int {
	n := map[string]int{}
	for _, s := range all {
		n[string(s.State)]++
	}
	return n
}

// ownMetrics leaves out what others' sandboxes use, for who may not read all of the audit: who else comes is not for everybody.
func (c *call) ownMetrics(text []byte) []byte {
	if !bytes.Contains(text, []byte(ownerSeries)) || c.r.Visit.MayDo(guard.Effect{Action: authz.AuditListAll, Resource: "audit"}) {
		return text
	}
	me := []byte(`owner="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(c.r.Visit.Principal().Ref()) + `"`)
	out := make([]byte, 0, len(text))
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(line, []byte(ownerSeries)) && !bytes.Contains(line, me) {
			continue
		}
		out = append(out, line...)
	}
	return out
}
