package exchange

// Elsewhere is why a gateway does not serve here: its tenant is, or will be in a moment, another replica's. Nothing of the
// request was done, so that it can be asked there. Whoever returns it wraps it in a fault.Unavailable, which is what the client
// is told where there is nobody to ask.
type Elsewhere struct {
	Replica string // who has it; "" = nobody knows yet
}

// Error implements error.
func (e *Elsewhere) Error() string {
	if e.Replica == "" {
		return "this tenant is on its way to another replica"
	}
	return "this tenant is served by replica " + e.Replica
}
