package report

import (
	"slices"

	"github.com/polygate/polygate/bench/result"
)

const (
	meansProcesses = "Processes that the subject needs for so many tenants."
	meansStart     = "From the start of the first process until all tenants are served."
	meansAllRSS    = "Memory resident in all its processes after a request to each tenant; PSS is the same with shared pages divided among those that share them, " +
		"so it is the fairer one where there are many processes."
	meansEach   = "RSS or PSS divided by the number of tenants, the process itself included."
	meansIdle   = "Share of one core that all processes burn while nothing is asked of them."
	meansAllCPU = "CPU µs of a request, spread over all tenants."
	meansFailed = "Requests without a right answer. Where there are any, the other figures are of less work than was asked for."
)

// knownCell returns a cell for a figure whose 0 means that it was not measured.
func knownCell(v float64, unit func(float64) string) cell {
	if v == 0 {
		return cell{main: unknown}
	}
	return cell{main: unit(v)}
}

// tenantsSection compares one process for all tenants with one for each.
func tenantsSection(points []result.TenantsPoint) section {
	out := section{title: "Cost by the number of tenants"}
	if len(points) == 0 {
		return out
	}
	t := table{columns: []column{
		{title: "subject", meaning: meansSubject, words: true}, {title: "tenants"}, {title: "processes", meaning: meansProcesses}, {title: "start", meaning: meansStart},
		{title: "RSS of all", meaning: meansAllRSS}, {title: "PSS of all", meaning: meansAllRSS}, {title: "RSS a tenant", meaning: meansEach},
		{title: "PSS a tenant", meaning: meansEach}, {title: "CPU µs/request", meaning: meansAllCPU}, {title: "idle CPU", meaning: meansIdle}, {title: "errors", meaning: meansFailed},
	}}
	failed := slices.ContainsFunc(points, func(p result.TenantsPoint) bool { return p.Errors > 0 })
	for _, p := range points {
		t.rows = append(t.rows, []cell{
			word(p.Subject), {main: count(int64(p.Tenants))}, {main: count(int64(p.Processes))}, knownCell(p.StartSecs, seconds),
			knownCell(float64(p.RSS), size), knownCell(float64(p.PSS), size), knownCell(float64(p.RSS)/float64(max(p.Tenants, 1)), size),
			knownCell(float64(p.PSS)/float64(max(p.Tenants, 1)), size), knownCell(p.CPUMicros, number), {main: percent(p.IdleCPU)}, failedCell(failed, p.Errors),
		})
	}
	out.parts = []part{{title: "One gateway for all, or one for each", table: t.compact(), plots: memoryPlots(points)}}
	return out
}

// failedCell is empty where no point has errors, so that the column falls away.
func failedCell(some bool, n int64) cell {
	if !some {
		return cell{}
	}
	return cell{main: count(n)}
}
