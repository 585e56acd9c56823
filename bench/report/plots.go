package report

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/polygate/polygate/bench/result"
)

// nines is where a quantile lies on an axis on which each further nine takes the same room.
func nines(q float64) float64 { return -math.Log10(1 - q) }

const latencyHeight = 330.0

// latencyPlots draws, for each phase, the latency of every subject by percentile: the median over its turns.
func latencyPlots(g group) []plot {
	var out []plot
	for _, phase := range g.phases() {
		var all []series
		t := table{columns: []column{{title: "subject", words: true}, {title: "p50"}, {title: "p90"}, {title: "p99"}, {title: "p99.9"}, {title: "highest"}}}
		for _, subject := range g.subjects() {
			runs := g.of(subject, phase)
			if s := spectrum(subject, runs); len(s.points) > 1 {
				all = append(all, s)
				t.rows = append(t.rows, quantileRow(subject, runs))
			}
		}
		if len(all) == 0 {
			continue
		}
		title := strings.Join(notEmpty("Latency by percentile", phaseName(g, phase)), ": ")
		out = append(out, plot{title: clean(title), height: latencyHeight, table: t, desc: "A curve for each subject, on a logarithmic scale; the median over the turns. Lower is better.",
			draw: func(m *markup) { curves(m, latencyFrame(all), all) }})
	}
	return out
}

// spectrum returns a subject's curve. The highest latency, whose quantile is 1, is drawn where one request of all is left above.
func spectrum(subject string, runs []result.Run) series {
	s := series{name: clean(subject), class: colour(subject)}
	for _, p := range result.MedianSpectrum(latenciesOf(runs)) {
		x := nines(p.Quantile)
		if p.Quantile == 1 {
			x = highestAt(s.points)
		}
		s.points = append(s.points, point{x: x, y: max(p.Micros, 1)})
	}
	return s
}

func highestAt(before []point) float64 {
	if len(before) == 0 {
		return 1
	}
	return before[len(before)-1].x + 0.1
}

func latenciesOf(runs []result.Run) []result.Latency {
	out := make([]result.Latency, len(runs))
	for i, r := range runs {
		out[i] = r.Figures.Latency
	}
	return out
}

func quantileRow(subject string, runs []result.Run) []cell {
	row := []cell{word(subject)}
	for _, of := range []func(result.Latency) float64{p50, func(l result.Latency) float64 { return l.P90 }, p99, p999, func(l result.Latency) float64 { return l.Max }} {
		row = append(row, spread(result.Over(runs, result.Percentile(of)), micros))
	}
	return row
}

func latencyFrame(all []series) frame {
	most := 1.0
	for _, s := range all {
		most = max(most, s.points[len(s.points)-1].x)
	}
	f := frame{xName: "percent of the requests", yName: "latency",
		x: axis{lo: 0, hi: most, from: left, to: right}, y: logAxis(ys(all), latencyHeight-below, top+14)}
	f.yTicks = labelled(f.y.ticks(), micros)
	for n := 0; float64(n) <= most; n++ {
		f.xTicks = append(f.xTicks, tick{float64(n), ninesText(n)})
	}
	return f
}

// ninesText returns 0%, 90%, 99%, 99.9% and so on.
func ninesText(n int) string {
	switch n {
	case 0:
		return "0%"
	case 1:
		return "90%"
	case 2:
		return "99%"
	}
	return "99." + strings.Repeat("9", n-2) + "%"
}

func ys(all []series) []float64 {
	var out []float64
	for _, s := range all {
		for _, p := range s.points {
			out = append(out, p.y)
		}
	}
	return out
}

func xs(all []series) []float64 {
	var out []float64
	for _, s := range all {
		for _, p := range s.points {
			out = append(out, p.x)
		}
	}
	return out
}

func labelled(at []float64, text func(float64) string) []tick {
	out := make([]tick, len(at))
	for i, v := range at {
		out[i] = tick{v, plain(text(v))}
	}
	return out
}

const (
	barHeight = 26.0
	barLeft   = 132.0
	barRight  = plotWidth - 180
	leastCost = 0.001 // µs: an axis needs a length
)

// bar is a subject's cost.
type bar struct {
	name, subject string
	cost, ratio   result.Spread
}

// costPlots draws what a request costs in every subject, with the lowest and highest turn. A single bar compares nothing.
func costPlots(s result.Scenario, g group) []plot {
	var out []plot
	by := yardstick(g.subjects())
	for _, phase := range g.phases() {
		var bars []bar
		for _, subject := range g.subjects() {
			runs := g.of(subject, phase)
			if cost := result.Over(runs, result.Figures.CPU); cost.Known() && tellsCost(s, g, phase) {
				bars = append(bars, bar{clean(subject), subject, cost, result.Ratio(runs, g.of(by, phase), result.Figures.CPU)})
			}
		}
		if len(bars) < 2 {
			continue
		}
		title := strings.Join(notEmpty("CPU time of a request", phaseName(g, phase)), ": ")
		out = append(out, plot{title: clean(title), height: top + barHeight*float64(len(bars)) + below, draw: func(m *markup) { drawBars(m, bars, by) },
			desc: "A bar for each subject: the median over the turns, with a line from the lowest to the highest turn. Shorter is better."})
	}
	return out
}

func drawBars(m *markup, bars []bar, by string) {
	highest := slices.MaxFunc(bars, func(a, b bar) int { return cmp.Compare(a.cost.High, b.cost.High) }).cost.High
	x := axis{hi: max(highest, leastCost), from: barLeft, to: barRight}
	bottom := top + barHeight*float64(len(bars))
	for _, t := range x.ticks() {
		m.line("grid", x.at(t), top, x.at(t), bottom)
		m.label("tick", "middle", x.at(t), bottom+18, plain(number(t)))
	}
	for i, b := range bars {
		b.draw(m, x, top+barHeight*float64(i), by)
	}
	m.line("axis", barLeft, top, barLeft, bottom)
	m.label("name", "middle", (barLeft+barRight)/2, bottom+40, "µs of CPU time a request")
}

func (b bar) draw(m *markup, x axis, y float64, by string) {
	middle := y + barHeight/2
	m.label("series "+colour(b.subject), "end", barLeft-8, middle+4, shorten(b.name, 17))
	m.open("rect", "class", "bar "+colour(b.subject), "x", px(barLeft), "y", px(y+4), "width", px(x.at(b.cost.Median)-barLeft), "height", px(barHeight-8))
	m.leaf("title", b.name+": "+number(b.cost.Low)+" to "+number(b.cost.High)+" µs in "+plural(b.cost.N, "turn"))
	m.close("rect")
	if b.cost.N > 1 {
		m.line("whisker", x.at(b.cost.Low), middle, x.at(b.cost.High), middle)
		m.line("whisker", x.at(b.cost.Low), middle-5, x.at(b.cost.Low), middle+5)
		m.line("whisker", x.at(b.cost.High), middle-5, x.at(b.cost.High), middle+5)
	}
	m.label("figure", "start", x.at(max(b.cost.High, b.cost.Median))+8, middle+4, b.text(by))
}

// text is what stands behind a bar: the figure, and how many times the yardstick's it is.
func (b bar) text(by string) string {
	s := number(b.cost.Median) + " µs"
	if b.ratio.Known() && b.subject != by {
		s += " = " + times(b.ratio.Median) + " " + shorten(clean(by), 10)
	}
	return s
}

const memoryHeight = 340.0

// memoryPlots draws the memory of all processes by the number of tenants.
func memoryPlots(points []result.TenantsPoint) []plot {
	rss := curvesBy(points, func(p result.TenantsPoint) (string, float64, float64) {
		return p.Subject, float64(p.Tenants), float64(p.RSS)
	})
	if len(rss) == 0 {
		return nil
	}
	return []plot{{title: "Memory by the number of tenants", height: memoryHeight,
		desc: "A curve for each subject, both scales logarithmic: resident memory of all its processes. Lower is better; a flat curve costs nothing for one more tenant.",
		draw: func(m *markup) { curves(m, memoryFrame(rss, "tenants"), rss) }}}
}

// capacityPlots draws what each step of a capacity run needs, by the tenants that are registered.
func capacityPlots(points []result.CapacityPoint) []plot {
	var out []plot
	for _, subject := range subjectsOf(points) {
		var all []series
		for i, step := range capacitySteps() {
			for _, s := range curvesBy(points, func(p result.CapacityPoint) (string, float64, float64) {
				if p.Subject != subject {
					return "", 0, 0
				}
				return step.name, float64(p.Registered), float64(step.of(p))
			}) {
				s.class = "c" + strconv.Itoa(i)
				all = append(all, s)
			}
		}
		if len(all) == 0 {
			continue
		}
		out = append(out, plot{title: clean(subject) + ": memory by registered tenants", height: memoryHeight,
			desc: "A curve for each step of the measurement, both scales logarithmic: resident memory when ready, with active tenants, with connections and with streams. No tenants at all are drawn where one would be.",
			draw: func(m *markup) { curves(m, memoryFrame(all, "registered tenants"), all) }})
	}
	return out
}

type capacityStep struct {
	name string
	of   func(result.CapacityPoint) int64
}

func capacitySteps() []capacityStep {
	return []capacityStep{
		{"ready", func(p result.CapacityPoint) int64 { return p.RSS.Start }},
		{"active", func(p result.CapacityPoint) int64 { return p.RSS.Active }},
		{"connected", func(p result.CapacityPoint) int64 { return p.RSS.Connected }},
		{"streams", func(p result.CapacityPoint) int64 { return p.RSS.Streams }},
	}
}

func subjectsOf(points []result.CapacityPoint) []string {
	var out []string
	for _, p := range points {
		if !slices.Contains(out, p.Subject) {
			out = append(out, p.Subject)
		}
	}
	return out
}

// curvesBy sorts points into curves by name. What has no figure is left out; no tenants at all are drawn where one would be, as a
// logarithmic axis has no 0.
func curvesBy[P any](points []P, of func(P) (name string, x, y float64)) []series {
	var out []series
	for _, p := range points {
		name, x, y := of(p)
		if name == "" || y <= 0 {
			continue
		}
		i := slices.IndexFunc(out, func(s series) bool { return s.name == clean(name) })
		if i < 0 {
			i = len(out)
			out = append(out, series{name: clean(name), class: colour(name), marks: true})
		}
		out[i].points = append(out[i].points, point{x: max(x, 1), y: y, tip: count(int64(x)) + " tenants, " + size(y)})
	}
	for _, s := range out {
		slices.SortStableFunc(s.points, func(a, b point) int { return cmp.Compare(a.x, b.x) })
	}
	return out
}

func memoryFrame(all []series, what string) frame {
	f := frame{xName: what, yName: "resident memory", x: logAxis(xs(all), left, right), y: powersOfTwo(ys(all), memoryHeight-below, top+14)}
	f.yTicks = labelled(doubled(f.y), size)
	f.xTicks = labelled(f.x.ticks(), func(v float64) string { return count(int64(math.Round(v))) })
	return f
}

// powersOfTwo returns an axis of bytes between powers of two, which are round there.
func powersOfTwo(values []float64, from, to float64) axis {
	lo, hi := slices.Min(values), slices.Max(values)
	a := axis{lo: math.Exp2(math.Floor(math.Log2(lo))), hi: math.Exp2(math.Ceil(math.Log2(hi))), from: from, to: to, log: true}
	if a.hi == a.lo {
		a.hi *= 2
	}
	return a
}

// mostDoubled is how many ticks such an axis has at most.
const mostDoubled = 7

func doubled(a axis) []float64 {
	step := 2.0
	for math.Log(a.hi/a.lo)/math.Log(step) > mostDoubled {
		step *= 2
	}
	var out []float64
	for v := a.lo; v <= a.hi*(1+1e-9); v *= step {
		out = append(out, v)
	}
	return out
}
