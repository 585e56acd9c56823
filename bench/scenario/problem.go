package scenario

import (
	"fmt"
	"strings"

	"github.com/polygate/polygate/internal/strictyaml"
)

// Bounds of what is told: the first errors of a file are worth reading, and what they quote of it is not to fill the screen.
const (
	mostProblems = 20
	longestText  = 500
)

// Problem is one thing that is wrong with a scenario, and where.
type Problem struct {
	File   string // "" if it did not come from one
	Line   int    // from 1; 0 = the scenario as a whole
	Column int    // from 1
	Text   string // what is wrong, and what to do
}

// Error returns file:line:column: text.
func (p Problem) Error() string {
	switch {
	case p.File == "":
		return p.Text
	case p.Line == 0:
		return p.File + ": " + p.Text
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Text)
}

// Problems are what is wrong with a scenario: the first that were found.
type Problems []Problem

// Error returns a line for each.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// collector gathers the problems of one scenario.
type collector struct {
	file  string
	list  Problems
	where map[string]position // of each value that the file has, by its path
}

// Add adds a problem at a place. Beyond the bound, it is dropped.
func (c *collector) Add(at position, format string, args ...any) {
	if c.Full() {
		return
	}
	text := fmt.Sprintf(format, args...)
	if len(text) > longestText {
		text = strings.ToValidUTF8(text[:longestText], "") + "…"
	}
	c.list = append(c.list, Problem{File: c.file, Line: at.Line, Column: at.Column, Text: text})
}

// Full implements strictyaml.Mistakes.
func (c *collector) Full() bool { return len(c.list) >= mostProblems }

// at adds a problem with the value at a path, or, where the file has none, with the nearest one around it.
func (c *collector) at(path, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if path != "" {
		text = path + ": " + text
	}
	for {
		if p, ok := c.where[path]; ok || path == "" {
			c.Add(p, "%s", text)
			return
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
}

// set tells whether the file has a value at the path.
func (c *collector) set(path string) bool {
	_, ok := c.where[path]
	return ok
}

// err returns the problems as an error, or nil.
func (c *collector) err() error {
	if len(c.list) == 0 {
		return nil
	}
	return c.list
}

// clip bounds a piece of the file that a message quotes.
func clip(s string) string { return strictyaml.Clip(s) }
