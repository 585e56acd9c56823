package sandbox

import (
	"strconv"

	"github.com/polygate/polygate/internal/fault"
)

// holding says whether a sandbox takes part of the tenant's resources.
func (s *Sandbox) holding() bool { return s.Run.Live() || s.State == Pending }

// room says whether another run fits beside those that live, and if not, what is in the way. The caller holds mu.
func (m *Manager) room(add *Sandbox) error {
	var used Resources
	gpus := int64(0)
	for id, it := range m.items {
		if id == add.ID || !it.s.holding() {
			continue
		}
		r := it.s.Spec.Resources
		used.CPU, used.Memory, used.Storage = used.CPU+r.CPU, used.Memory+r.Memory, used.Storage+r.Storage
		gpus += countGPUs(r)
	}
	q, r := m.tenant.Quotas, add.Spec.Resources
	count := func(n int64) string { return strconv.FormatInt(n, 10) }
	for _, l := range []struct {
		quota             string
		used, asked, most int64
		none              bool // 0 is a limit
		format            func(int64) string
	}{
		{"sandbox_cpu", used.CPU, r.CPU, q.SandboxCPU, false, FormatCPU},
		{"sandbox_memory", used.Memory, r.Memory, q.SandboxMemory, false, FormatBytes},
		{"sandbox_storage", used.Storage, r.Storage, q.SandboxStorage, false, FormatBytes},
		{"sandbox_gpus", gpus, countGPUs(r), int64(q.SandboxGPUs), true, count},
	} {
		if l.asked == 0 || l.most == 0 && !l.none || l.used+l.asked <= l.most {
			continue
		}
		advice := "stop a sandbox or ask for less"
		if l.asked > l.most {
			advice = "ask for less, or have the operator raise the quota"
		}
		if l.most == 0 {
			advice = "have the operator raise the quota"
		}
		return fault.New(fault.Conflict, "quota %s: %s are in use and %s asked for, of %s: %s",
			l.quota, l.format(l.used), l.format(l.asked), l.format(l.most), advice)
	}
	return nil
}

func countGPUs(r Resources) (n int64) {
	for _, c := range r.GPUs {
		n += c
	}
	return n
}
