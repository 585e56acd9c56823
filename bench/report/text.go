package report

import (
	"bufio"
	"io"
	"strings"
	"unicode/utf8"
)

// textWidth is where the paragraphs of a text are broken. Tables may be wider: a broken row cannot be read.
const textWidth = 100

// text lays a document out for a terminal.
type text struct{ b strings.Builder }

func (t *text) document(d document) {
	t.line(d.title)
	for _, f := range d.facts {
		t.paragraph("  "+f.name+": "+f.value, "    ")
	}
	for _, w := range d.warnings {
		t.paragraph("! "+w, "  ")
	}
	for _, s := range d.sections {
		t.section(s)
	}
	t.line("")
	t.paragraph("±: "+meansSpread, "   ")
}

func (t *text) section(s section) {
	t.line("")
	t.line(strings.ToUpper(s.title))
	if s.about != "" {
		t.paragraph(s.about, "")
	}
	for _, p := range s.parts {
		t.line("")
		if p.title != "" {
			t.line(p.title)
		}
		t.table(p.table)
		for _, n := range p.notes {
			t.paragraph("  "+n, "    ")
		}
	}
	for _, n := range s.notes {
		t.paragraph("  "+n, "    ")
	}
}

// table aligns figures at their right ends, and behind them how sure they are.
func (t *text) table(tab table) {
	main, aside := widths(tab)
	head := make([]string, len(tab.columns))
	for i, c := range tab.columns {
		head[i] = pad(c.title, main[i]+aside[i], c.words)
	}
	t.line("  " + strings.Join(head, "  "))
	for _, row := range tab.rows {
		cells := make([]string, len(row))
		for i, c := range row {
			cells[i] = pad(c.main, main[i], tab.columns[i].words) + pad(gap(c.aside), aside[i], true)
		}
		t.line("  " + strings.Join(cells, "  "))
	}
}

// gap puts a space before what stands behind a figure.
func gap(aside string) string {
	if aside == "" {
		return ""
	}
	return " " + aside
}

// widths returns for each column the runes that its figures need, and what stands behind them.
func widths(tab table) (main, aside []int) {
	main, aside = make([]int, len(tab.columns)), make([]int, len(tab.columns))
	for i, c := range tab.columns {
		for _, row := range tab.rows {
			main[i] = max(main[i], utf8.RuneCountInString(row[i].main))
			aside[i] = max(aside[i], utf8.RuneCountInString(gap(row[i].aside)))
		}
		main[i] = max(main[i], utf8.RuneCountInString(c.title)-aside[i])
	}
	return main, aside
}

func pad(s string, width int, left bool) string {
	space := strings.Repeat(" ", max(width-utf8.RuneCountInString(s), 0))
	if left {
		return s + space
	}
	return space + s
}

func (t *text) line(s string) { t.b.WriteString(strings.TrimRight(s, " ") + "\n") }

// paragraph breaks s between words; the lines after the first begin with indent.
func (t *text) paragraph(s, indent string) {
	room := strings.TrimLeft(s, " ")
	line := s[:len(s)-len(room)]
	for i, w := range strings.Fields(room) {
		if i > 0 && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(w) > textWidth {
			t.line(line)
			line = indent + w
			continue
		}
		if i > 0 {
			line += " "
		}
		line += w
	}
	t.line(line)
}

func write(w io.Writer, s string) error {
	b := bufio.NewWriter(w)
	if _, err := b.WriteString(s); err != nil {
		return err
	}
	return b.Flush()
}
