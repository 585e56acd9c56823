package peer

import "errors"

// errSentinel is a constant error.
type errSentinel string

func (e errSentinel) Error() string { return string(e) }

// The reasons for which a subject is skipped, for errors.Is; the errors that wrap them say what to install.
const (
	ErrMissing errSentinel = "not on this machine"
	ErrCannot  errSentinel = "has no means for it"
)

// Skippable tells whether an error of a Peer is no defect but a reason to skip it.
func Skippable(err error) bool { return errors.Is(err, ErrMissing) || errors.Is(err, ErrCannot) }
