package plan

import (
	"errors"
	"io"
)

// Text writes the plan for people.
func (p *Plan) Text(w io.Writer) error { return errors.New("not built yet") }

// JSON writes the plan for programs.
func (p *Plan) JSON(w io.Writer) error { return errors.New("not built yet") }
