package acme

import (
	"strconv"
	"time"
)

// The codes of errors: one word each, for metrics and for the status of a host.
const (
	CodeDirectoryUnreachable = "directory_unreachable" // no answer, or none over TLS that can be trusted
	CodeDirectoryInvalid     = "directory_invalid"     // an answer that is not ACME
	CodeServer               = "server_error"          // the server says that it failed
	CodeRateLimited          = "rate_limited"          // see RetryAfter
	CodeChallengeFailed      = "challenge_failed"      // the server did not find the proof
	CodeCAA                  = "caa"                   // a CAA record forbids it
	CodeRejectedIdentifier   = "rejected_identifier"   // the server does not issue for the name
	CodeAccount              = "account"               // the server refuses the account
	CodeEABRequired          = "eab_required"          // the server wants an external account binding
	CodeUnauthorized         = "unauthorized"          // the account may not do this
	CodeProfile              = "profile"               // the server does not offer the profile
	CodeClock                = "clock"                 // our clock and theirs disagree
	CodeStorage              = "storage"               // the account or the challenge could not be kept
	CodeStorageFull          = "storage_full"          //
	CodeTimeout              = "timeout"               // it took too long
	CodeCanceled             = "canceled"              // the caller gave up
	CodeDNS                  = "dns"                   // a TXT record could not be set, or a name could not be looked up
	CodeUnsupported          = "unsupported"           // the server does not offer what was asked for
	CodeInternal             = "internal"              //
)

// Error is why there is no certificate. Neither it nor what it wraps holds a key, a token or the key of an external account.
type Error struct {
	Code   string
	Detail string // what is wrong and what to do, for people
	// RetryAfter is how long the server asked to be left alone; 0 = unsaid.
	RetryAfter time.Duration
	// Permanent says that trying again is of no use until somebody changes something, here or there: retry slowly.
	Permanent bool
	Err       error // the cause; may be nil
}

// Error returns the code, the detail and the cause.
func (e *Error) Error() string {
	s := "acme: " + e.Code + ": " + e.Detail
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func quote(s string) string { return strconv.Quote(s) }
