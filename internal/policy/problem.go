package policy

import "fmt"

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
	Problems []Problem // never empty
}

// Error returns the first problem and how many there are.
func (e *CompileError) Error() string {
	if len(e.Problems) == 1 {
		return e.Problems[0].String()
	}
	return fmt.Sprintf("%s (and %d more)", e.Problems[0], len(e.Problems)-1)
}
