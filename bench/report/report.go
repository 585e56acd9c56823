// Package report renders what bench/result holds: as text for a terminal, as Markdown for bench/RESULTS.md, and as one HTML page
// with plots that needs nothing beside itself. It also shows how a measurement goes on. It measures nothing, and compares only by the
// functions of bench/result.
package report

import (
	"io"

	"github.com/polygate/polygate/bench/result"
)

// Text writes tables for a terminal: per scenario and variant a row for each subject, figures with their spread and as a ratio.
func Text(w io.Writer, r *result.Report) error {
	var t text
	t.document(build(r))
	return write(w, t.b.String())
}

// Markdown writes the same tables as bench/RESULTS.md, with what each figure means.
func Markdown(w io.Writer, r *result.Report) error {
	var m markdown
	m.document(build(r))
	return write(w, m.b.String())
}

// HTML writes one page with the tables and a plot beside each. It has no script and loads nothing, so that it can be mailed, and
// opened from a file years later.
func HTML(w io.Writer, r *result.Report) error {
	var p page
	p.document(build(r))
	return write(w, p.m.String())
}
