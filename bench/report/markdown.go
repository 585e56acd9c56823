package report

import "strings"

// markdown lays a document out as GitHub's Markdown.
type markdown struct{ b strings.Builder }

func (m *markdown) document(d document) {
	m.line("# " + escapeMarkdown(d.title))
	m.line("")
	for _, f := range d.facts {
		m.line("- **" + escapeMarkdown(f.name) + "**: " + m.value(f))
	}
	for _, w := range d.warnings {
		m.line("")
		m.line("> " + escapeMarkdown(w))
	}
	for _, s := range d.sections {
		m.section(s)
	}
	m.line("")
	m.line("## What the figures mean")
	m.line("")
	for _, f := range d.meanings() {
		m.line("- **" + escapeMarkdown(f.name) + "**: " + escapeMarkdown(f.value))
	}
}

// value sets a command as code, so that it can be copied.
func (m *markdown) value(f fact) string {
	if f.name == "command" && !strings.Contains(f.value, "`") {
		return "`" + f.value + "`"
	}
	return escapeMarkdown(f.value)
}

func (m *markdown) section(s section) {
	m.line("")
	m.line("## " + escapeMarkdown(s.title))
	if s.about != "" {
		m.line("")
		m.line(escapeMarkdown(s.about))
	}
	for _, p := range s.parts {
		if p.title != "" {
			m.line("")
			m.line("### " + escapeMarkdown(p.title))
		}
		m.line("")
		m.table(p.table)
		m.list(p.notes)
	}
	m.list(s.notes)
}

func (m *markdown) list(notes []string) {
	if len(notes) == 0 {
		return
	}
	m.line("")
	for _, n := range notes {
		m.line("- " + escapeMarkdown(n))
	}
}

func (m *markdown) table(t table) {
	head, rule := make([]string, len(t.columns)), make([]string, len(t.columns))
	for i, c := range t.columns {
		head[i], rule[i] = escapeMarkdown(c.title), "--:"
		if c.words {
			rule[i] = ":--"
		}
	}
	m.row(head)
	m.row(rule)
	for _, row := range t.rows {
		cells := make([]string, len(row))
		for i, c := range row {
			cells[i] = escapeMarkdown(c.main + gap(c.aside))
		}
		m.row(cells)
	}
}

func (m *markdown) row(cells []string) { m.line("| " + strings.Join(cells, " | ") + " |") }

func (m *markdown) line(s string) { m.b.WriteString(s + "\n") }

// escapeMarkdown takes their meaning from the characters that have one anywhere in a line: names of loads, targets and classes of
// errors come from outside. clean took the ends of lines.
func escapeMarkdown(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case strings.ContainsRune("\\`*_[]|#~$", r):
			b.WriteString("\\" + string(r))
		case r == '<':
			b.WriteString("&lt;")
		case r == '>':
			b.WriteString("&gt;")
		case r == '&':
			b.WriteString("&amp;")
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
