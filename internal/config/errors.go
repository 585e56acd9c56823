package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/polygate/polygate/internal/fault"
)

// MaxErrors bounds how many errors of a load are told, and maxMsg how many bytes of each.
const (
	MaxErrors = 20
	maxMsg    = 1000
)

// Error is one thing that is wrong with a configuration file, and where.
type Error struct {
	File   string // as it was opened
	Line   int    // from 1; 0 = the file as a whole
	Column int    // from 1
	Msg    string // what is wrong and what to do; never a secret
}

// Error returns file:line:column: message.
func (e *Error) Error() string {
	switch {
	case e.File == "":
		return e.Msg
	case e.Line == 0:
		return e.File + ": " + e.Msg
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Msg)
}

// Errors are all errors that were found, in the order of the file; at most MaxErrors and a last one that says so.
type Errors []*Error

// Error returns one line for each error.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the errors, for errors.As.
func (es Errors) Unwrap() []error {
	list := make([]error, len(es))
	for i, e := range es {
		list[i] = e
	}
	return list
}

// spot is a place, and the file.
type spot struct {
	file string
	position
}

// collector gathers the errors of one file.
type collector struct {
	file string
	list Errors
}

func (c *collector) add(at position, format string, args ...any) {
	switch {
	case len(c.list) < MaxErrors:
		msg := fmt.Sprintf(format, args...)
		if len(msg) > maxMsg {
			msg = strings.ToValidUTF8(msg[:maxMsg], "") + "…"
		}
		c.list = append(c.list, &Error{File: c.file, Line: at.Line, Column: at.Column, Msg: msg})
	case len(c.list) == MaxErrors:
		c.list = append(c.list, &Error{File: c.file, Msg: fmt.Sprintf("more than %d errors; the rest is left out", MaxErrors)})
	}
}

// take adds errors of another file.
func (c *collector) take(list Errors) {
	for _, e := range list {
		if c.full() {
			return
		}
		c.list = append(c.list, e)
	}
}

// full says that more errors need not be looked for.
func (c *collector) full() bool { return len(c.list) > MaxErrors }

// err returns the errors as an error, or nil.
func (c *collector) err() error {
	if len(c.list) == 0 {
		return nil
	}
	return c.list
}

// reason returns what an error of the vocabulary's own checks says, without its kind.
func reason(err error) string {
	var f *fault.Error
	if errors.As(err, &f) && f.Detail != "" {
		return f.Detail
	}
	return err.Error()
}
