package policy

import (
	"context"
	"errors"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

var errMemory = errors.New("a value would be larger than a policy may make")

// budget is what one evaluation may still spend. OPA asks it before every step whether to stop (topdown.Cancel), which
// needs neither a timer nor a goroutine; functions under guard take from it. One goroutine uses it.
type budget struct {
	ctx      context.Context
	deadline time.Time
	bytes    int // what is left of Limits.EvalBytes
	steps    uint
	failure  Failure
	long     *long // nil: there is no lane to change to
}

// Cancel implements topdown.Cancel.
func (b *budget) Cancel() { b.fail(FailCancel) }

// Cancelled implements topdown.Cancel.
func (b *budget) Cancelled() bool {
	b.steps++
	if b.failure == Decided && b.steps%8 == 0 {
		b.look()
	}
	return b.failure != Decided
}

func (b *budget) look() {
	now := time.Now()
	switch {
	case now.After(b.deadline):
		b.fail(FailTimeout)
	case b.ctx.Err() != nil:
		b.fail(FailCancel)
	case b.long != nil && !b.long.turn(b.ctx, now, b.deadline):
		b.fail(FailTimeout)
	}
}

// fail stops the evaluation. The first failure stands.
func (b *budget) fail(f Failure) {
	if b.failure == Decided {
		b.failure = f
	}
}

// spend takes n bytes.
func (b *budget) spend(n int) error {
	if n > b.bytes || n < 0 {
		return b.over()
	}
	b.bytes -= n
	return nil
}

// over stops the evaluation for want of memory. Halt passes every construct that would swallow an error.
func (b *budget) over() error {
	b.fail(FailMemory)
	return topdown.Halt{Err: errMemory}
}

// maxWeight bounds one value, in bytes as weigh counts them.
const maxWeight = 1 << 20

// check stops the evaluation at a value that is too large. Values share their parts, so forty rules of the form
// `x1 := [x0, x0]` make a tree of a trillion leaves in a kilobyte; comparing two of them, which is one step for OPA,
// would never end.
func (b *budget) check(v ast.Value) (int, error) {
	left := maxWeight
	weigh(v, &left)
	if left < 0 {
		return 0, b.over()
	}
	return maxWeight - left, nil
}

// weigh takes the size of a value from left, counting shared parts as often as they occur, and stops below zero.
func weigh(v ast.Value, left *int) {
	*left -= 32
	if *left < 0 {
		return
	}
	switch v := v.(type) {
	case ast.String:
		*left -= len(v)
	case ast.Number:
		*left -= len(v)
	case *ast.Array:
		for i := 0; i < v.Len() && *left >= 0; i++ {
			weigh(v.Elem(i).Value, left)
		}
	case ast.Set:
		v.Until(func(t *ast.Term) bool { weigh(t.Value, left); return *left < 0 })
	case ast.Object:
		v.Until(func(k, t *ast.Term) bool {
			weigh(k.Value, left)
			weigh(t.Value, left)
			return *left < 0
		})
	}
}

// cache is OPA's cache of rule values, which sees every value that passes from rule to rule.
type cache struct {
	topdown.VirtualCache
	b *budget
}

// Put weighs a value and keeps it.
func (c cache) Put(ref ast.Ref, value *ast.Term) {
	if value != nil {
		_, _ = c.b.check(value.Value) // it has failed the budget: the next step stops
	}
	c.VirtualCache.Put(ref, value)
}
