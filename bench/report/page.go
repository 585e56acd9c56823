package report

import (
	_ "embed" // the style sheet
	"strconv"
)

//go:embed page.css
var styleSheet string

// page lays a document out as HTML.
type page struct {
	m     markup
	plots int // drawn so far: their titles need names of their own
}

// policy forbids the page whatever it does not need: even if something slipped through the escaping, it would load and run nothing.
const policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

func (p *page) document(d document) {
	m := &p.m
	m.b.WriteString("<!doctype html>\n")
	m.open("html", "lang", "en")
	m.open("head")
	m.open("meta", "charset", "utf-8")
	m.open("meta", "http-equiv", "Content-Security-Policy", "content", policy)
	m.open("meta", "name", "viewport", "content", "width=device-width, initial-scale=1")
	m.open("meta", "name", "color-scheme", "content", "light dark")
	m.leaf("title", d.title)
	m.open("style")
	m.b.WriteString(styleSheet)
	m.close("style")
	m.close("head")
	m.newline()
	m.open("body")
	m.open("main")
	p.head(d)
	for i, s := range d.sections {
		p.section(s, "s"+strconv.Itoa(i+1))
	}
	p.meanings(d.meanings())
	m.close("main")
	m.close("body")
	m.close("html")
	m.newline()
}

func (p *page) head(d document) {
	p.m.leaf("h1", d.title)
	for _, w := range d.warnings {
		p.m.leaf("p", w, "class", "warning")
	}
	p.facts(d.facts)
	p.m.open("nav", "aria-label", "sections")
	for i, s := range d.sections {
		p.m.leaf("a", s.title, "href", "#s"+strconv.Itoa(i+1))
		p.m.text(" ")
	}
	p.m.close("nav")
	p.m.newline()
}

func (p *page) facts(facts []fact) {
	p.m.open("dl", "class", "facts")
	for _, f := range facts {
		p.m.leaf("dt", f.name)
		p.m.leaf("dd", f.value)
	}
	p.m.close("dl")
}

func (p *page) section(s section, id string) {
	p.m.open("section", "id", id, "aria-labelledby", id+"h")
	p.m.leaf("h2", s.title, "id", id+"h")
	if s.about != "" {
		p.m.leaf("p", s.about)
	}
	for _, one := range s.parts {
		p.part(one)
	}
	p.notes(s.notes)
	p.m.close("section")
	p.m.newline()
}

func (p *page) part(one part) {
	if one.title != "" {
		p.m.leaf("h3", one.title)
	}
	p.table(one.table, one.title)
	p.notes(one.notes)
	if len(one.plots) > 0 {
		p.m.open("div", "class", "plots")
		for _, pl := range one.plots {
			p.plot(pl)
		}
		p.m.close("div")
	}
}

func (p *page) notes(notes []string) {
	if len(notes) == 0 {
		return
	}
	p.m.open("ul", "class", "notes")
	for _, n := range notes {
		p.m.leaf("li", n)
	}
	p.m.close("ul")
}

// table can be scrolled by itself, with the keyboard too, where the page is narrow.
func (p *page) table(t table, name string) {
	p.m.open("div", "class", "scroll", "tabindex", "0", "role", "region", "aria-label", "table: "+name)
	p.m.open("table")
	p.m.open("thead")
	p.m.open("tr")
	for _, c := range t.columns {
		p.m.leaf("th", c.title, "scope", "col", "class", class(c))
	}
	p.m.close("tr")
	p.m.close("thead")
	p.m.open("tbody")
	for _, row := range t.rows {
		p.row(t.columns, row)
	}
	p.m.close("tbody")
	p.m.close("table")
	p.m.close("div")
	p.m.newline()
}

func (p *page) row(columns []column, row []cell) {
	p.m.open("tr")
	for i, c := range row {
		name := "td"
		if i == 0 {
			name = "th"
		}
		p.m.open(name, "class", class(columns[i]))
		p.m.text(c.main)
		if c.aside != "" {
			p.m.text(" ")
			p.m.leaf("small", c.aside)
		}
		p.m.close(name)
	}
	p.m.close("tr")
	p.m.newline()
}

func class(c column) string {
	if c.words {
		return "words"
	}
	return "figure"
}

// plot is a drawing with its title and description for those who do not see it, and the same in figures below.
func (p *page) plot(pl plot) {
	p.plots++
	id := "p" + strconv.Itoa(p.plots)
	p.m.open("figure")
	p.m.leaf("figcaption", pl.title)
	p.m.open("svg", "viewBox", "0 0 "+px(plotWidth)+" "+px(pl.height), "role", "img", "aria-labelledby", id+"t "+id+"d")
	p.m.leaf("title", pl.title, "id", id+"t")
	p.m.leaf("desc", pl.desc, "id", id+"d")
	pl.draw(&p.m)
	p.m.close("svg")
	p.m.leaf("p", pl.desc, "class", "desc")
	if len(pl.table.rows) > 0 {
		p.table(pl.table, pl.title)
	}
	p.m.close("figure")
	p.m.newline()
}

func (p *page) meanings(facts []fact) {
	p.m.leaf("h2", "What the figures mean", "id", "meanings")
	p.m.open("dl", "class", "meanings")
	for _, f := range facts {
		p.m.leaf("dt", f.name)
		p.m.leaf("dd", f.value)
	}
	p.m.close("dl")
}
