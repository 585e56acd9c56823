package plan

import "errors"

// Compute returns the plan of a demand on machines like m; fields of m that are zero are the demand's, then the defaults. The error
// says what cannot be, and wraps ErrNone where more replicas do not help; the plan is valid beside an ErrNone, and says how far it is off.
func Compute(d Demand, c *Costs, m Machine) (*Plan, error) { return nil, errors.New("not built yet") }
