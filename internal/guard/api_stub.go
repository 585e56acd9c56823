package guard

import (
	"context"
	"time"

	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// Meter counts what the guard of one tenant does. It is asked for once per guard. Its methods never block.
type Meter interface {
	Refused(r quota.Reason)                         // a request or a stream was refused by a quota
	Streams(delta int)                              // streams opened or ended
	Policy(took time.Duration, denied, failed bool) // the tenant's policy was asked; failed: it had no say of its own
	Evicted(n int)                                  // idle callers left the table
}

// Changed follows a change of a tenant's record, so that a visit that lasts (a WebSocket) meets new limits and a new
// policy at its next effect. It makes no guard where none is. e is nil when the tenant is gone.
func (s *Set) Changed(id tenant.ID, e *tenant.Entry) {
	if e == nil {
		s.Forget(id)
		return
	}
}

// Sweep gives back what has been idle for a while: callers whose budgets are full, and engines of policies. It is to be
// called about once a minute; nothing depends on it but memory.
func (s *Set) Sweep() {}

// Bytes accounts n bytes of bodies, in and out, as they pass. They are never refused: while the tenant owes more than its
// burst, its new requests are. The result is how long a relay that wishes to be fair waits before it goes on, at most
// MaxPause; 0 = go on.
func (v *Visit) Bytes(in, out int) time.Duration { return 0 }

// MaxPause bounds what Bytes asks to wait.
const MaxPause = time.Second

// Stream turns the visit into a stream: an event stream or a WebSocket. Over the quota, the error is fault.RateLimited. It
// may be called more than once; the first counts. EndStream, or Leave, ends it.
func (v *Visit) Stream() error { return nil }

// EndStream ends the stream before the visit ends.
func (v *Visit) EndStream() {}

// MayDo says whether Admit would admit e, and records nothing: it is for leaving rows out of a list, never for an effect.
// The tenant's policy is asked too. What it may cost is bounded for each visit; past the bound, the answer is no.
func (v *Visit) MayDo(e Effect) bool { return false }

// Explanation says why an effect would be admitted or refused.
type Explanation struct {
	Allow     bool
	Principal string // Ref of whom it is about
	Role      tenant.Role
	Needs     tenant.Role         // the smallest role that may do it; NoRole where no member may
	Rule      string              // of the authorization
	Bundle    string              // digest of the policy in force; "" = none
	Policy    *policy.Explanation // what the policy says; nil without one, or where the authorization refuses already
	Reason    string              // in a sentence
}

// Explain says what Admit would decide on e, and why, without doing or recording anything. about is whom it is about; nil =
// the visitor itself. Only an admin may ask about somebody else, and sees how the policy came to its decision.
func (v *Visit) Explain(ctx context.Context, e Effect, about *tenant.Principal) (*Explanation, error) {
	return nil, nil
}

// Usage is a reading of what a tenant uses on this replica.
type Usage struct {
	InFlight    int64
	Streams     int64
	RateLeft    float64 // requests that may come at once now; -1 = no limit
	BytesIn     uint64  // bytes of bodies since the guard was made
	BytesOut    uint64
	BytesLeft   float64 // bytes that may pass before requests are refused; below 0 = owed. Without a limit 0
	Requests    uint64  // requests that entered
	Refused     [quota.NumReasons]uint64
	Limits      Limits
	Origins     Origins
	Callers     []CallerUsage // the principals with the most requests, at most MaxCallers
	Principals  int           // how many principals the table holds
	TableBytes  int64
	Since       time.Time // when the counts began
	PolicyInUse string    // digest of the policy that is loaded; "" = none
}

// MaxCallers bounds Usage.Callers.
const MaxCallers = 20

// CallerUsage is one principal's part.
type CallerUsage struct {
	Ref      string
	InFlight int
	Requests uint64 // that entered, since it was last seen after a pause
	Refused  uint64
	RateLeft float64 // -1 = no limit
}

// Usage returns what the tenant uses now.
func (g *Guard) Usage() Usage { return Usage{} }
