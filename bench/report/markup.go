package report

import (
	"html"
	"strconv"
	"strings"
)

// markup writes HTML and SVG. Whatever goes through it is escaped: nothing outside can be written as markup, so no name of a load
// or class of errors can become a script. Names of elements and attributes are constants of this package.
type markup struct{ b strings.Builder }

func (m *markup) String() string { return m.b.String() }

// open begins an element. attributes are names and values in turn.
func (m *markup) open(name string, attributes ...string) {
	m.b.WriteString("<" + name)
	for i := 0; i+1 < len(attributes); i += 2 {
		m.b.WriteString(" " + attributes[i] + `="` + html.EscapeString(attributes[i+1]) + `"`)
	}
	m.b.WriteString(">")
}

func (m *markup) close(name string) { m.b.WriteString("</" + name + ">") }

func (m *markup) text(s string) { m.b.WriteString(html.EscapeString(s)) }

// leaf is an element with text alone.
func (m *markup) leaf(name, text string, attributes ...string) {
	m.open(name, attributes...)
	m.text(text)
	m.close(name)
}

func (m *markup) newline() { m.b.WriteString("\n") }

// line draws a straight line.
func (m *markup) line(class string, x1, y1, x2, y2 float64) {
	m.leaf("line", "", "class", class, "x1", px(x1), "y1", px(y1), "x2", px(x2), "y2", px(y2))
}

// label writes text into a drawing. anchor is start, middle or end.
func (m *markup) label(class, anchor string, x, y float64, s string) {
	m.leaf("text", s, "class", class, "text-anchor", anchor, "x", px(x), "y", px(y))
}

// px is a coordinate.
func px(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }
