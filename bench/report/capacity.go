package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/polygate/polygate/bench/result"
)

// What a tenant shall cost at most in memory; a figure above is marked.
const (
	aimRegistered = 2 << 10
	aimActive     = 16 << 10
)

const (
	meansRegister = "Tenants in the registry as it starts; the other columns are of that start."
	meansReady    = "From the start of the process to ready."
	meansPoint    = "RSS when it is ready and nothing was asked; after a request to each active tenant; with so many connections open and idle; with the event streams open too."
	meansAlive    = "At the same steps, what is alive of it after a collection."
	meansPer      = "What one more costs in memory: against the step before, divided by the number. A registered one: against the point with the fewest. RSS is what the " +
		"process takes from the machine; heap is what is alive of it after a collection. RSS holds what Go's collector leaves for later too, up to as much again. " +
		"The aims are 2 KiB for a registered tenant and 16 KiB for an active one that is idle; ✗ is over the aim."
	meansStore = "The registry's database in use."
)

// capacitySection says what tenants cost that are registered, active and connected.
func capacitySection(points []result.CapacityPoint) section {
	out := section{title: "Capacity"}
	if len(points) == 0 {
		return out
	}
	parts := []part{
		{title: "Memory and start", table: sizesTable(points), plots: capacityPlots(points)},
		{title: "Heap alive after a collection", table: aliveTable(points)},
		{title: "What one more costs", table: eachTable(points), notes: overAims(points)},
	}
	out.parts = slices.DeleteFunc(parts, func(p part) bool { return len(p.table.columns) <= len(pointColumns()) })
	return out
}

// pointColumns name a point.
func pointColumns() []column {
	return []column{{title: "subject", words: true}, {title: "registered", meaning: meansRegister}}
}

func pointCells(p result.CapacityPoint) []cell {
	return []cell{word(p.Subject), {main: count(int64(p.Registered))}}
}

func sizesTable(points []result.CapacityPoint) table {
	t := table{columns: append(pointColumns(), column{title: "ready after", meaning: meansReady}, column{title: "RSS ready", meaning: meansPoint},
		column{title: "RSS active", meaning: meansPoint}, column{title: "RSS connected", meaning: meansPoint}, column{title: "RSS streams", meaning: meansPoint},
		column{title: "store", meaning: meansStore})}
	for _, p := range points {
		t.rows = append(t.rows, append(pointCells(p), knownCell(p.StartSecs, seconds), knownCell(float64(p.RSS.Start), size),
			with(p.RSS.Active, p.Active), with(p.RSS.Connected, p.Connected), with(p.RSS.Streams, p.Streams), knownCell(float64(p.StoreBytes), size)))
	}
	return t.compact()
}

func aliveTable(points []result.CapacityPoint) table {
	t := table{columns: append(pointColumns(), column{title: "heap ready", meaning: meansAlive}, column{title: "heap active", meaning: meansAlive},
		column{title: "heap connected", meaning: meansAlive}, column{title: "heap streams", meaning: meansAlive})}
	for _, p := range points {
		t.rows = append(t.rows, append(pointCells(p), knownCell(float64(p.Heap.Start), size), with(p.Heap.Active, p.Active),
			with(p.Heap.Connected, p.Connected), with(p.Heap.Streams, p.Streams)))
	}
	return t.compact()
}

// with returns a size with how many it was measured with.
func with(bytes int64, n int) cell {
	if bytes == 0 || n == 0 {
		return cell{main: unknown}
	}
	return cell{main: size(float64(bytes)), aside: "with " + count(int64(n))}
}

// oneMore is what one more of a kind costs.
type oneMore struct {
	what, a   string
	aim       float64 // bytes; 0 = none
	rss, heap func(result.CapacityPoint) float64
}

func oneMores() []oneMore {
	return []oneMore{
		{"registered", "a registered tenant", aimRegistered, func(p result.CapacityPoint) float64 { return p.PerRegistered },
			func(p result.CapacityPoint) float64 { return p.HeapPerRegistered }},
		{"active", "an active one", aimActive, func(p result.CapacityPoint) float64 { return p.PerActive },
			func(p result.CapacityPoint) float64 { return p.HeapPerActive }},
		{"connection", "a connection", 0, func(p result.CapacityPoint) float64 { return p.PerConnected },
			func(p result.CapacityPoint) float64 { return p.HeapPerConnected }},
		{"stream", "a stream", 0, func(p result.CapacityPoint) float64 { return p.PerStream },
			func(p result.CapacityPoint) float64 { return p.HeapPerStream }},
	}
}

// eachTable has the cost of one more, in the unit of the aims. Points that nothing was added at are left out.
func eachTable(points []result.CapacityPoint) table {
	t := table{columns: pointColumns()}
	for _, m := range oneMores() {
		t.columns = append(t.columns, column{title: "RSS per " + m.what, meaning: meansPer}, column{title: "heap per " + m.what, meaning: meansPer})
	}
	for _, p := range points {
		row, some := pointCells(p), false
		for _, m := range oneMores() {
			some = some || m.rss(p) != 0 || m.heap(p) != 0
			row = append(row, m.cell(m.rss(p)), m.cell(m.heap(p)))
		}
		if some {
			t.rows = append(t.rows, row)
		}
	}
	if len(t.rows) == 0 {
		return table{}
	}
	return t.compact()
}

func (m oneMore) cell(v float64) cell {
	c := knownCell(v, kibibytes)
	if m.over(v) {
		c.main += " ✗"
	}
	return c
}

func (m oneMore) over(v float64) bool { return m.aim > 0 && v > m.aim }

// overAims says, for each aim, at which numbers of tenants it was missed, and by which of the two figures.
func overAims(points []result.CapacityPoint) []string {
	var out []string
	for _, m := range oneMores() {
		var over []string
		for _, p := range points {
			switch rss, heap := m.over(m.rss(p)), m.over(m.heap(p)); {
			case rss && heap:
				over = append(over, overAt(p, "RSS and heap"))
			case rss:
				over = append(over, overAt(p, "RSS"))
			case heap:
				over = append(over, overAt(p, "heap"))
			}
		}
		if len(over) > 0 {
			out = append(out, fmt.Sprintf("✗ over the aim of %s for %s: %s.", plain(size(m.aim)), m.a, strings.Join(over, ", ")))
		}
	}
	return out
}

func overAt(p result.CapacityPoint, which string) string {
	return clean(p.Subject) + " with " + count(int64(p.Registered)) + " registered (" + which + ")"
}
