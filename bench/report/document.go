package report

import (
	"cmp"
	"slices"
	"strings"

	"github.com/polygate/polygate/bench/result"
)

// document is a report as all three forms show it. It is made by pure functions; the forms only lay it out.
type document struct {
	title    string
	warnings []string // what a reader has to know before any figure
	facts    []fact   // machine, versions, command, date
	sections []section
}

type fact struct{ name, value string }

// section is a scenario, or another question that was asked.
type section struct {
	title string
	about string
	parts []part
	notes []string
}

// part is a table and the plots of what it holds. Only a page has plots.
type part struct {
	title string
	table table
	notes []string
	plots []plot
}

// table has a row for each subject. Its first column names it.
type table struct {
	columns []column
	rows    [][]cell
}

// column is a kind of figure. Its meaning is said once, at the end of a document.
type column struct {
	title   string
	meaning string
	entry   string // its name in the list of meanings, where the title is another in each table; "" = the title
	words   bool   // its cells are words: they begin at the left
}

// cell is a figure and, smaller, how sure it is.
type cell struct{ main, aside string }

func word(s string) cell { return cell{main: clean(s)} }

// spread returns a figure's cell.
func spread(s result.Spread, unit func(float64) string) cell {
	if !s.Known() {
		return cell{main: unknown}
	}
	return cell{main: unit(s.Median), aside: width(s)}
}

// empty tells whether no row has anything in a column.
func (t table) empty(i int) bool {
	for _, row := range t.rows {
		if row[i].main != unknown && row[i].main != "" {
			return false
		}
	}
	return true
}

// compact returns the table without the columns in which nothing is known.
func (t table) compact() table {
	var out table
	out.rows = make([][]cell, len(t.rows))
	for i, c := range t.columns {
		if t.empty(i) {
			continue
		}
		out.columns = append(out.columns, c)
		for r, row := range t.rows {
			out.rows[r] = append(out.rows[r], row[i])
		}
	}
	return out
}

// meanings returns what the columns of all tables mean, in the order in which they appear. Columns of one meaning stand together.
func (d document) meanings() []fact {
	var out []fact
	for _, s := range d.sections {
		for _, p := range s.parts {
			for _, c := range p.table.columns {
				out = meaning(out, c)
			}
		}
	}
	return append(out, fact{"±", meansSpread})
}

func meaning(out []fact, c column) []fact {
	name := cmp.Or(c.entry, c.title)
	i := slices.IndexFunc(out, func(f fact) bool { return f.value == c.meaning })
	switch {
	case c.meaning == "":
		return out
	case i < 0:
		return append(out, fact{name, c.meaning})
	case !slices.Contains(strings.Split(out[i].name, ", "), name):
		out[i].name += ", " + name
	}
	return out
}
