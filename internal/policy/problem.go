package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/polygate/polygate/internal/fault"
)

// Problem is one reason why a bundle is refused. Line and Column count from 1; 0 where there is no place to point at.
type Problem struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
}

// String returns "file:line: message".
func (p Problem) String() string {
	switch {
	case p.File == "":
		return p.Message
	case p.Line == 0:
		return p.File + ": " + p.Message
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message)
}

// CompileError says why a bundle is refused. It comes inside a fault.Invalid whose detail names the first problems;
// errors.As finds the list.
type CompileError struct {
	Problems []Problem // never empty, at most 20
}

// Error returns the first problem and how many there are.
func (e *CompileError) Error() string {
	if len(e.Problems) == 1 {
		return e.Problems[0].String()
	}
	return fmt.Sprintf("%s (and %d more)", e.Problems[0], len(e.Problems)-1)
}

const (
	maxProblems = 20
	maxMessage  = 512 // bytes: messages of OPA quote source
)

// problems gathers what is wrong with a bundle.
type problems struct {
	list []Problem
}

func (p *problems) add(file, format string, args ...any) {
	p.list = append(p.list, Problem{File: file, Message: fmt.Sprintf(format, args...)})
}

func (p *problems) at(loc *ast.Location, format string, args ...any) {
	q := Problem{Message: fmt.Sprintf(format, args...)}
	if loc != nil {
		q.File, q.Line, q.Column = loc.File, loc.Row, loc.Col
	}
	p.list = append(p.list, q)
}

// opa takes over the errors of OPA.
func (p *problems) opa(err error) {
	var list ast.Errors
	if !errors.As(err, &list) {
		p.add("", "%s", err)
		return
	}
	for _, e := range list {
		p.at(e.Location, "%s", strings.ReplaceAll(e.Message, guarded, ""))
	}
}

// err returns nil without problems, else a fault.Invalid with a CompileError inside.
func (p *problems) err() error {
	if len(p.list) == 0 {
		return nil
	}
	slices.SortStableFunc(p.list, func(a, b Problem) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		return a.Line - b.Line
	})
	p.list = slices.Compact(p.list)
	p.list = p.list[:min(len(p.list), maxProblems)]
	for i := range p.list {
		p.list[i].Message = clip(p.list[i].Message, maxMessage)
	}
	e := &CompileError{Problems: p.list}
	first := make([]string, 0, 3)
	for _, q := range p.list[:min(len(p.list), 3)] {
		first = append(first, q.String())
	}
	detail := "the policy is refused: " + strings.Join(first, "; ")
	if more := len(p.list) - len(first); more > 0 {
		detail += fmt.Sprintf("; and %d more", more)
	}
	return &fault.Error{Kind: fault.Invalid, Detail: detail, Err: e}
}

// clip cuts s to n bytes at a rune's end.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-3], "") + "…"
}
