package telemetry

import (
	"maps"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/polygate/polygate/internal/tenant"
)

// maxOwners bounds the owners with series of their own, of a tenant on one replica; the others are summed as "_other".
const maxOwners = 20

// SandboxUse is what sandboxes used, as it is counted.
type SandboxUse struct {
	Seconds                        float64 // of runs
	CPU, CPUUsed                   float64 // core seconds: set aside, and used
	MemoryBytes, MemoryBytesUsed   float64 // times seconds
	GPUSeconds, StorageByteSeconds float64 // set aside
	Sessions, SessionBytes         float64
}

func (u *SandboxUse) add(v SandboxUse) {
	u.Seconds += v.Seconds
	u.CPU += v.CPU
	u.CPUUsed += v.CPUUsed
	u.MemoryBytes += v.MemoryBytes
	u.MemoryBytesUsed += v.MemoryBytesUsed
	u.GPUSeconds += v.GPUSeconds
	u.StorageByteSeconds += v.StorageByteSeconds
	u.Sessions += v.Sessions
	u.SessionBytes += v.SessionBytes
}

// sandboxCounts are those of one tenant, on the replica that owns it. A tenant without sandboxes has none.
type sandboxCounts struct {
	mu     sync.Mutex
	sum    SandboxUse            // guarded by mu
	owners map[string]SandboxUse // guarded by mu: at most maxOwners, and the others
	states *func() map[string]int
}

// sandboxTotals is a reading of sandboxCounts, or the sum of several, then without owners.
type sandboxTotals struct {
	any    bool
	sum    SandboxUse
	owners map[string]SandboxUse
	states map[string]int
}

func (t *TenantMetrics) sandboxCounts() *sandboxCounts {
	if c := t.sandboxes.Load(); c != nil {
		return c
	}
	t.sandboxes.CompareAndSwap(nil, &sandboxCounts{owners: map[string]SandboxUse{}})
	return t.sandboxes.Load()
}

// SandboxUsed counts what an owner's sandboxes used, once it is stored.
func (t *TenantMetrics) SandboxUsed(owner string, u SandboxUse) {
	owner = strings.ToValidUTF8(owner, "?")
	c := t.sandboxCounts()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum.add(u)
	if _, known := c.owners[owner]; !known && len(c.owners) >= maxOwners {
		owner = labelOther
	}
	sum := c.owners[owner]
	sum.add(u)
	c.owners[owner] = sum
}

// SandboxStates has the tenant's sandboxes, by state, be read from count at each scrape, until the function that it returns is
// called: by who owns the tenant no more, or two replicas would tell of the same sandboxes. count must not block.
func (t *TenantMetrics) SandboxStates(count func() map[string]int) (stop func()) {
	c := t.sandboxCounts()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.states = &count
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.states == &count {
			c.states = nil
		}
	}
}

func (t *TenantMetrics) readSandboxes() (s sandboxTotals) {
	c := t.sandboxes.Load()
	if c == nil {
		return s
	}
	c.mu.Lock()
	s.any, s.sum, s.owners = true, c.sum, maps.Clone(c.owners)
	count := c.states
	c.mu.Unlock()
	if count != nil { // unlocked: what it reads has a lock of its own
		s.states = (*count)()
	}
	return s
}

// fold adds another tenant's.
func (s *sandboxTotals) fold(o sandboxTotals) {
	s.any = s.any || o.any
	s.sum.add(o.sum)
	for state, n := range o.states {
		if s.states == nil {
			s.states = map[string]int{}
		}
		s.states[state] += n
	}
}

// sandboxDescs are the names of the series of sandboxes, by tenant, and by tenant and owner.
type sandboxDescs struct {
	states          *prometheus.Desc
	tenants, owners useDescs
}

type useDescs struct{ seconds, cpu, memory, gpu, storage, sessions, bytes *prometheus.Desc }

func newSandboxDescs() sandboxDescs {
	return sandboxDescs{
		states:  prometheus.NewDesc("polygate_sandboxes", "Sandboxes, by state.", []string{"tenant", "state"}, nil),
		tenants: newUseDescs("polygate_sandbox_", "", "tenant"),
		owners:  newUseDescs(OwnerPrefix, ", by owner; the others of many as _other", "tenant", "owner"),
	}
}

// OwnerPrefix begins the names of the series that have an owner.
const OwnerPrefix = "polygate_sandbox_owner_"

func newUseDescs(prefix, by string, labels ...string) useDescs {
	d := func(name, help string, more ...string) *prometheus.Desc {
		return prometheus.NewDesc(prefix+name, help+by+".", append(append([]string{}, labels...), more...), nil)
	}
	return useDescs{
		seconds:  d("seconds_total", "Time of runs of sandboxes"),
		cpu:      d("cpu_core_seconds_total", "CPU of sandboxes: requested, and used where that is measured (else as requested)", "kind"),
		memory:   d("memory_byte_seconds_total", "Memory of sandboxes: requested, and used where that is measured (else as requested)", "kind"),
		gpu:      d("gpu_seconds_total", "GPUs that sandboxes requested, times seconds"),
		storage:  d("storage_byte_seconds_total", "Storage that sandboxes requested, times seconds"),
		sessions: d("sessions_total", "Exec and log streams of sandboxes"),
		bytes:    d("session_bytes_total", "Bytes that went through exec and log streams of sandboxes"),
	}
}

func (n *sandboxDescs) describe(ch chan<- *prometheus.Desc) {
	ch <- n.states
	for _, d := range []useDescs{n.tenants, n.owners} {
		for _, one := range []*prometheus.Desc{d.seconds, d.cpu, d.memory, d.gpu, d.storage, d.sessions, d.bytes} {
			ch <- one
		}
	}
}

func (d *useDescs) emit(ch chan<- prometheus.Metric, u SandboxUse, labels ...string) {
	count := func(d *prometheus.Desc, v float64, more ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, append(append([]string{}, labels...), more...)...)
	}
	count(d.seconds, u.Seconds)
	count(d.cpu, u.CPU, "requested")
	count(d.cpu, u.CPUUsed, "used")
	count(d.memory, u.MemoryBytes, "requested")
	count(d.memory, u.MemoryBytesUsed, "used")
	count(d.gpu, u.GPUSeconds)
	count(d.storage, u.StorageByteSeconds)
	count(d.sessions, u.Sessions)
	count(d.bytes, u.SessionBytes)
}

// emit emits the series of one tenant's sandboxes: 9, one for each state, and 9 for each owner.
func (n *sandboxDescs) emit(ch chan<- prometheus.Metric, name string, s sandboxTotals) {
	if !s.any {
		return
	}
	for state, count := range s.states {
		ch <- prometheus.MustNewConstMetric(n.states, prometheus.GaugeValue, float64(count), name, state)
	}
	n.tenants.emit(ch, s.sum, name)
	for owner, u := range s.owners {
		n.owners.emit(ch, u, name, owner)
	}
}

// collectSandboxes emits the series of all tenants' sandboxes.
func (m *Metrics) collectSandboxes(ch chan<- prometheus.Metric) {
	var other sandboxTotals
	named := map[tenant.ID]*TenantMetrics{}
	m.mu.Lock()
	other.fold(m.goneSandboxes)
	var unnamed []*TenantMetrics
	m.of.Range(func(id, v any) bool {
		if t := v.(*member); t.named {
			named[id.(tenant.ID)] = &t.metrics
		} else {
			unnamed = append(unnamed, &t.metrics)
		}
		return true
	})
	m.mu.Unlock()
	for id, t := range named {
		m.names.sandboxes.emit(ch, string(id), t.readSandboxes())
	}
	for _, t := range unnamed {
		other.fold(t.readSandboxes())
	}
	m.names.sandboxes.emit(ch, labelOther, other)
}
