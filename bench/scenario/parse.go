package scenario

import "errors"

// Parse reads one scenario and fills in its defaults. Errors begin with name:line:column; there may be several, a line each.
func Parse(name string, b []byte) (*Scenario, error) { return nil, errors.ErrUnsupported }

// Read reads a scenario from a file, if what it is given has a / or ends with .yaml, and else takes the one that comes along by
// that name.
func Read(nameOrPath string) (*Scenario, error) { return nil, errors.ErrUnsupported }

// Builtin returns the scenarios that come along, sorted by name.
func Builtin() []*Scenario { return nil }

// Validate checks a complete scenario, such as one that was changed after it was read.
func (s *Scenario) Validate() error { return errors.ErrUnsupported }

// LoadNamed returns the load with that name.
func (s *Scenario) LoadNamed(name string) (Load, bool) { return Load{}, false }

// Range returns the numbers of the tenants that the draw chooses from, the first and how many, where there are so many tenants.
// It says nothing of a list, which is of names.
func (d Draw) Range(tenants int) (first, count int) { return 0, 0 }
