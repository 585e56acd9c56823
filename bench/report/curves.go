package report

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// plot is a drawing with what it says in words, for those who cannot see it.
type plot struct {
	title  string
	desc   string
	height float64
	draw   func(*markup)
	table  table // the same in figures, unless they stand in the table that the plot belongs to
}

// The sizes of a drawing. It is scaled to the page.
const (
	plotWidth = 720.0
	left      = 76.0
	right     = plotWidth - 132 // names of curves are written beyond it
	top       = 14.0
	below     = 52.0 // for the lower axis
)

// series is a curve.
type series struct {
	name   string
	class  string // its colour
	points []point
	marks  bool // points are few: each is marked
}

type point struct {
	x, y float64
	tip  string // shown where the pointer rests
}

// tick is a figure that is written at an axis.
type tick struct {
	at   float64
	text string
}

// frame is what curves are drawn into.
type frame struct {
	x, y           axis
	xTicks, yTicks []tick
	xName, yName   string
}

// colour is the class of a subject's colour: the same in all plots of all reports.
func colour(subject string) string {
	known := []string{ours, "nginx", "haproxy", "caddy", "httputil", ours + "-each", "caddy-each"}
	if subject == direct {
		return "floor"
	}
	if i := slices.Index(known, subject); i >= 0 {
		return "c" + strconv.Itoa(i)
	}
	return "c" + strconv.Itoa(len(known))
}

// curves draws a frame with series in it.
func curves(m *markup, f frame, all []series) {
	f.draw(m)
	for _, s := range all {
		f.curve(m, s)
	}
	f.names(m, all)
}

func (f frame) draw(m *markup) {
	for _, t := range f.yTicks {
		y := f.y.at(t.at)
		m.line("grid", left, y, right, y)
		m.label("tick", "end", left-8, y+4, t.text)
	}
	for _, t := range f.xTicks {
		x := f.x.at(t.at)
		m.line("grid", x, f.y.to, x, f.y.from)
		m.label("tick", "middle", x, f.y.from+18, t.text)
	}
	m.line("axis", left, f.y.from, right, f.y.from)
	m.label("name", "middle", (left+right)/2, f.y.from+40, f.xName)
	m.label("name", "start", 4, top, f.yName)
}

func (f frame) curve(m *markup, s series) {
	var d strings.Builder
	for i, p := range s.points {
		d.WriteString(map[bool]string{true: "M", false: "L"}[i == 0] + px(f.x.at(p.x)) + " " + px(f.y.at(p.y)))
	}
	m.open("path", "class", "curve "+s.class, "d", d.String())
	m.leaf("title", s.name)
	m.close("path")
	if !s.marks {
		return
	}
	for _, p := range s.points {
		m.open("circle", "class", "mark "+s.class, "cx", px(f.x.at(p.x)), "cy", px(f.y.at(p.y)), "r", "4")
		m.leaf("title", s.name+": "+p.tip)
		m.close("circle")
	}
}

// nameHeight is the least distance of two names beside the curves.
const nameHeight = 15

// names writes each curve's name beside its end, so that no reader has to tell colours apart.
func (f frame) names(m *markup, all []series) {
	ends := make([]float64, len(all))
	for i, s := range all {
		ends[i] = f.y.at(s.points[len(s.points)-1].y)
	}
	for i, y := range apart(ends, nameHeight, f.y.to, f.y.from) {
		end := all[i].points[len(all[i].points)-1]
		m.line("leader "+all[i].class, f.x.at(end.x)+3, ends[i], right+10, y)
		m.label("series "+all[i].class, "start", right+13, y+4, shorten(all[i].name, 17))
	}
}

// apart moves places apart until they are gap from each other, keeping their order, and between lo and hi while there is room.
func apart(at []float64, gap, lo, hi float64) []float64 {
	order := make([]int, len(at))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(at[a], at[b]) })
	out := slices.Clone(at)
	for i, k := range order {
		if i > 0 {
			out[k] = max(out[k], out[order[i-1]]+gap)
		}
	}
	limit := max(hi, lo+gap*float64(len(at)-1))
	for i := len(order) - 1; i >= 0; i-- {
		out[order[i]] = min(out[order[i]], limit)
		limit = out[order[i]] - gap
	}
	return out
}
