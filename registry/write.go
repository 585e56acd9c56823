package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Bounds of what is stored. etcd refuses a request above 1.5 MiB by default; ours lie below, so that the answer is one
// that the caller understands.
const (
	MaxValue  = 1<<20 - 4<<10          // bytes of one value
	maxTxn    = 1<<20 + 1<<18          // bytes of all values and keys of a transaction
	maxWrites = 100                    // of one commit: etcd allows 128 operations by default
	backoffAt = 50 * time.Millisecond  // after the first attempt that failed
	backoffTo = 400 * time.Millisecond // and at most
)

// outcome is a transaction's result and how many attempts it took. After more than one, a failed comparison may be the
// work of the first, whose answer was lost.
type outcome struct {
	*TxnResult
	attempts int
}

// commit applies t, and repeats it while the store does not say whether it did, a bounded time. Repeating is what settles
// an unknown outcome (X49): t must compare something that it changes, so that it cannot apply twice, and a late first
// attempt cannot apply once the repeated one has. The caller tells from Else whether a failed comparison is our own doing.
// ctx bounds it too; a change that has been sent should not be abandoned because its caller went away, so callers pass
// contexts without their cancellation. The error wraps ErrUnknown unless it is certain that t was not applied: after an
// attempt without an answer, a refusal of the next one says nothing of the first.
func (s *Store) commit(ctx context.Context, t *Txn) (outcome, error) {
	if err := checkSize(t); err != nil {
		return outcome{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	wait := backoffAt
	for n := 1; ; n++ {
		res, err := s.attempt(ctx, t)
		if err == nil {
			return outcome{res, n}, nil
		}
		if !retryable(err) && n == 1 {
			return outcome{}, err
		}
		if !retryable(err) {
			return outcome{}, unknown(err)
		}
		pause(ctx, wait)
		wait = min(2*wait, backoffTo)
		if ctx.Err() != nil {
			return outcome{}, unknown(err)
		}
	}
}

// unknown is the error of a change of which it is not known whether it was made.
func unknown(cause error) error {
	return fault.Wrap(fault.Unavailable, fmt.Errorf("%w: %w", ErrUnknown, cause),
		"the registry did not answer for sure; whether the change was made is not known").After(retryAdvice)
}

func (s *Store) attempt(ctx context.Context, t *Txn) (*TxnResult, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	return s.backend.Txn(ctx, t)
}

// retryable says whether an error leaves the outcome open.
func retryable(err error) bool {
	k := fault.KindOf(err)
	return (k == fault.Unavailable || k == fault.Canceled) && !errors.Is(err, ErrRejected)
}

func checkSize(t *Txn) error {
	total := 0
	for _, p := range t.Puts {
		if len(p.Value) > MaxValue {
			return fault.New(fault.TooLarge, "a stored object of %d bytes: at most %d are allowed", len(p.Value), MaxValue)
		}
		total += len(p.Key) + len(p.Value)
	}
	if total > maxTxn {
		return fault.New(fault.TooLarge, "a change of %d bytes: at most %d are allowed at once", total, maxTxn)
	}
	return nil
}

// outboxValue is the value of an a/ key.
type outboxValue struct {
	V     int         `json:"v"`
	Entry audit.Entry `json:"entry"`
}

// auditPut makes the write of an audit entry, which must be of the platform's chain or of tenant id's.
func auditPut(e audit.Entry, id tenant.ID) (Put, error) {
	if e.ID == "" || e.Action == "" || tenant.CheckSegment(e.ID) != nil {
		return Put{}, fault.Wrap(fault.Internal, ErrNoRecord, "")
	}
	if e.Tenant != "" && e.Tenant != id {
		return Put{}, fault.Wrap(fault.Internal, errForeignRecord, "")
	}
	val, err := encode(outboxValue{storedVersion, e})
	if err != nil {
		return Put{}, err
	}
	return Put{Key: auditKey(&e), Value: val}, nil
}
