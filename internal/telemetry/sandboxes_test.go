package telemetry

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/tenant"
)

func someUse() SandboxUse {
	return SandboxUse{
		Seconds: 10, CPU: 5, CPUUsed: 2, MemoryBytes: 1000, MemoryBytesUsed: 400, GPUSeconds: 20, StorageByteSeconds: 3000, Sessions: 1, SessionBytes: 7,
	}
}

func TestSandboxMetrics(t *testing.T) {
	m, reg := newMetrics(t, 1)
	a, b, c := m.Tenant("team-a"), m.Tenant("team-b"), m.Tenant("team-c")
	a.SandboxUsed("user:corp/ada", someUse())
	a.SandboxUsed("user:corp/ada", someUse())
	a.SandboxUsed("bot:ci\xff", someUse())
	stop := a.SandboxStates(func() map[string]int { return map[string]int{"Running": 2, "Failed": 1} })
	b.SandboxUsed("user:corp/bob", someUse())
	c.SandboxUsed("user:corp/eve", someUse())
	want := map[string]string{
		`polygate_sandboxes{state="Running",tenant="team-a"}`:                                                      "2",
		`polygate_sandboxes{state="Failed",tenant="team-a"}`:                                                       "1",
		`polygate_sandbox_seconds_total{tenant="team-a"}`:                                                          "30",
		`polygate_sandbox_cpu_core_seconds_total{kind="requested",tenant="team-a"}`:                                "15",
		`polygate_sandbox_cpu_core_seconds_total{kind="used",tenant="team-a"}`:                                     "6",
		`polygate_sandbox_memory_byte_seconds_total{kind="requested",tenant="team-a"}`:                             "3000",
		`polygate_sandbox_memory_byte_seconds_total{kind="used",tenant="team-a"}`:                                  "1200",
		`polygate_sandbox_gpu_seconds_total{tenant="team-a"}`:                                                      "60",
		`polygate_sandbox_storage_byte_seconds_total{tenant="team-a"}`:                                             "9000",
		`polygate_sandbox_sessions_total{tenant="team-a"}`:                                                         "3",
		`polygate_sandbox_session_bytes_total{tenant="team-a"}`:                                                    "21",
		`polygate_sandbox_owner_seconds_total{owner="user:corp/ada",tenant="team-a"}`:                              "20",
		`polygate_sandbox_owner_cpu_core_seconds_total{kind="used",owner="bot:ci?",tenant="team-a"}`:               "2",
		`polygate_sandbox_owner_memory_byte_seconds_total{kind="requested",owner="user:corp/ada",tenant="team-a"}`: "2000",
	}
	expect(t, samples(string(m.TenantText("team-a"))), want)
	want[`polygate_sandbox_seconds_total{tenant="_other"}`] = "20"
	got := scrape(t, reg)
	expect(t, got, want)
	m.Forget("team-c")
	stop()
	got = scrape(t, reg)
	expect(t, got, map[string]string{`polygate_sandbox_seconds_total{tenant="_other"}`: "20", `polygate_sandboxes{state="Running",tenant="team-a"}`: ""})
	for name := range got {
		if strings.Contains(name, "bob") || strings.Contains(name, "eve") {
			t.Errorf("an owner of a tenant beyond the bound has the series %s", name)
		}
	}
	if text := string(m.TenantText("team-d")); strings.Contains(text, "sandbox") {
		t.Error("a tenant without sandboxes has series of them")
	}
}

func TestSandboxOwnersAreBounded(t *testing.T) {
	m, reg := newMetrics(t, 1)
	for i := range 100 {
		m.Tenant("team-a").SandboxUsed(fmt.Sprint("user:corp/", i), someUse())
	}
	owners := 0
	for name := range scrape(t, reg) {
		if strings.HasPrefix(name, OwnerPrefix+"seconds_total") {
			owners++
		}
	}
	if owners != maxOwners+1 {
		t.Errorf("%d owners have series, want %d and the others", owners, maxOwners)
	}
	expect(t, scrape(t, reg), map[string]string{OwnerPrefix + `seconds_total{owner="_other",tenant="team-a"}`: "800", `polygate_sandbox_seconds_total{tenant="team-a"}`: "1000"})
}

// A tenant that moved is counted by both owners, and its sandboxes by the one that has it.
func TestSandboxesOfAllReplicas(t *testing.T) {
	c := newClusters(t, "r1", "r2")
	for name, m := range c.metrics {
		m.Tenant("team-a").SandboxUsed("user:corp/ada", someUse())
		stop := m.Tenant("team-a").SandboxStates(func() map[string]int { return map[string]int{"Running": 1} })
		if name == "r1" {
			stop()
		}
	}
	want := map[string]string{
		`polygate_sandboxes{state="Running",tenant="team-a"}`:                         "1",
		`polygate_sandbox_seconds_total{tenant="team-a"}`:                             "20",
		`polygate_sandbox_owner_seconds_total{owner="user:corp/ada",tenant="team-a"}`: "20",
	}
	text, _ := c.of["r1"].TenantText(t.Context(), tenant.ID("team-a"))
	expect(t, samples(string(text)), want)
	w := httptest.NewRecorder()
	c.of["r2"].ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics/cluster", nil))
	expect(t, samples(w.Body.String()), want)
}
