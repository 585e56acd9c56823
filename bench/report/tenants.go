package report

import (
	"fmt"
	"strings"

	"github.com/polygate/polygate/bench/result"
)

// What a tenant shall cost at most in memory; a figure above is marked.
const (
	aimRegistered = 2 << 10
	aimActive     = 16 << 10
)

const (
	meansProcesses = "Processes that the subject needs for so many tenants."
	meansStart     = "From the start of the first process until all tenants are served."
	meansAllRSS    = "Memory resident in all its processes after a request to each tenant; PSS is the same with shared pages divided among those that share them, " +
		"so it is the fairer one where there are many processes."
	meansEach     = "RSS divided by the number of tenants, the process itself included."
	meansIdle     = "Share of one core that all processes burn while nothing is asked of them."
	meansAllCPU   = "CPU µs of a request, spread over all tenants."
	meansRegister = "Tenants in the registry as it starts; the other columns are of that start."
	meansReady    = "From the start of the process to ready."
	meansPoint    = "RSS when it is ready and nothing was asked; after a request to each active tenant; with so many connections open and idle; with the event streams open too."
	meansPer      = "What one more costs in memory: RSS against the step before, divided by the number. A registered one: against the point with the fewest. " +
		"The aims are 2 KiB for a registered tenant and 16 KiB for an active one that is idle; ✗ is over the aim."
	meansStore = "The registry's database in use."
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
		{title: "CPU µs/request", meaning: meansAllCPU}, {title: "idle CPU", meaning: meansIdle},
	}}
	for _, p := range points {
		t.rows = append(t.rows, []cell{
			word(p.Subject), {main: count(int64(p.Tenants))}, {main: count(int64(p.Processes))}, knownCell(p.StartSecs, seconds),
			knownCell(float64(p.RSS), size), knownCell(float64(p.PSS), size), knownCell(float64(p.RSS)/float64(max(p.Tenants, 1)), size),
			knownCell(p.CPUMicros, number), {main: percent(p.IdleCPU)},
		})
	}
	out.parts = []part{{title: "One gateway for all, or one for each", table: t.compact(), plots: memoryPlots(points)}}
	return out
}

// capacitySection says what tenants cost that are registered, active and connected.
func capacitySection(points []result.CapacityPoint) section {
	out := section{title: "Capacity"}
	if len(points) == 0 {
		return out
	}
	sizes := table{columns: []column{{title: "subject", words: true}, {title: "registered", meaning: meansRegister}, {title: "ready after", meaning: meansReady},
		{title: "RSS ready", meaning: meansPoint}, {title: "RSS active", meaning: meansPoint}, {title: "RSS connected", meaning: meansPoint},
		{title: "RSS streams", meaning: meansPoint}, {title: "store", meaning: meansStore}}}
	each := table{columns: []column{{title: "subject", words: true}, {title: "registered", meaning: meansRegister},
		{title: "a registered tenant", meaning: meansPer}, {title: "an active one", meaning: meansPer}, {title: "a connection", meaning: meansPer}, {title: "a stream", meaning: meansPer}}}
	for _, p := range points {
		sizes.rows = append(sizes.rows, sizesRow(p))
		each.rows = append(each.rows, eachRow(p))
	}
	out.parts = []part{
		{title: "Memory and start", table: sizes.compact(), plots: capacityPlots(points)},
		{title: "What one more costs", table: each.compact(), notes: overAims(points)},
	}
	return out
}

func sizesRow(p result.CapacityPoint) []cell {
	return []cell{word(p.Subject), {main: count(int64(p.Registered))}, knownCell(p.StartSecs, seconds), knownCell(float64(p.RSS.Start), size),
		of(p.RSS.Active, p.Active), of(p.RSS.Connected, p.Connected), of(p.RSS.Streams, p.Streams), knownCell(float64(p.StoreBytes), size)}
}

// of returns a size with how many it was measured with.
func of(bytes int64, n int) cell {
	if bytes == 0 || n == 0 {
		return cell{main: unknown}
	}
	return cell{main: size(float64(bytes)), aside: "of " + count(int64(n))}
}

func eachRow(p result.CapacityPoint) []cell {
	return []cell{word(p.Subject), {main: count(int64(p.Registered))}, aimed(p.PerRegistered, aimRegistered), aimed(p.PerActive, aimActive),
		knownCell(p.PerConnected, size), knownCell(p.PerStream, size)}
}

func aimed(v, aim float64) cell {
	c := knownCell(v, size)
	if v > aim {
		c.main += " ✗"
	}
	return c
}

// overAims says, for each aim, at which numbers of tenants it was missed.
func overAims(points []result.CapacityPoint) []string {
	var out []string
	for _, aim := range []struct {
		what string
		most float64
		of   func(result.CapacityPoint) float64
	}{
		{"a registered tenant", aimRegistered, func(p result.CapacityPoint) float64 { return p.PerRegistered }},
		{"an active one", aimActive, func(p result.CapacityPoint) float64 { return p.PerActive }},
	} {
		var over []string
		for _, p := range points {
			if aim.of(p) > aim.most {
				over = append(over, clean(p.Subject)+" with "+count(int64(p.Registered)))
			}
		}
		if len(over) > 0 {
			out = append(out, fmt.Sprintf("✗ over %s for %s: %s.", plain(size(aim.most)), aim.what, strings.Join(over, ", ")))
		}
	}
	return out
}
