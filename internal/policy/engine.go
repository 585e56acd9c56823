package policy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/polygate/polygate/internal/tenant"
)

// Engine is one tenant's compiled bundle. It is immutable and safe for concurrent use. A nil Engine denies everything.
type Engine struct {
	library *Library
	scope   tenant.Scope
	member  *member
	program *program
	key     [sha256.Size]byte
	data    *data
	digest  string
	closed  atomic.Bool
}

// Digest returns the digest of the bundle; "" for a nil Engine.
func (e *Engine) Digest() string {
	if e == nil {
		return ""
	}
	return e.digest
}

// Warnings returns what Check would warn of.
func (e *Engine) Warnings() []string {
	if e == nil {
		return nil
	}
	return e.program.warnings
}

// Close gives back what the engine holds in its library. Decisions under way end normally, later ones deny.
func (e *Engine) Close() {
	if e != nil && e.closed.CompareAndSwap(false, true) {
		e.library.drop(e.key)
		e.library.leave(e.scope)
	}
}

// Decide judges an input. It never fails: whatever goes wrong is a deny whose Failure and Reason say so.
func (e *Engine) Decide(ctx context.Context, in *Input) Decision {
	return e.decide(ctx, in, nil)
}

func (e *Engine) decide(ctx context.Context, in *Input, t topdown.QueryTracer) Decision {
	begun := time.Now()
	if e == nil || e.closed.Load() {
		return failed(FailNone, "", begun)
	}
	if in == nil {
		in = new(Input)
	}
	deadline := begun.Add(e.library.limits.EvalTime)
	if f := e.admit(ctx, deadline); f != Decided {
		return failed(f, e.digest, begun)
	}
	defer func() { <-e.member.slots }()
	answer, f, err := e.eval(ctx, in, begun, deadline, t)
	if f != Decided {
		d := failed(f, e.digest, begun)
		if err != nil && (f == FailError || f == FailPanic) {
			d.Reason += ": " + clip(strings.ReplaceAll(err.Error(), guarded, ""), maxText)
		}
		return d
	}
	d := e.judge(answer)
	d.Digest, d.Duration = e.digest, time.Since(begun)
	return d
}

// admit takes one of the tenant's slots; it waits for one no longer than the evaluation may take.
func (e *Engine) admit(ctx context.Context, deadline time.Time) Failure {
	select {
	case e.member.slots <- struct{}{}:
		return Decided
	default:
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	switch {
	case acquire(ctx, e.member.slots, timer):
		return Decided
	case ctx.Err() != nil:
		return FailCancel
	}
	return FailBusy
}

// eval runs the query. The long lane's turn is given back whatever happens.
func (e *Engine) eval(ctx context.Context, in *Input, begun, deadline time.Time, t topdown.QueryTracer) (ast.Object, Failure, error) {
	b := &budget{
		ctx: ctx, deadline: deadline, bytes: e.library.limits.EvalBytes,
		long: &long{turns: &e.library.turns, m: e.member, begun: time.Now()},
	}
	defer b.long.end()
	if b.look(); b.failure != Decided {
		return nil, b.failure, nil
	}
	v, err := e.program.run(ctx, e.program.query, e.program.queryComp, e.data, in.value(e.scope.ID()), b, t)
	if f := b.classify(err); f != Decided {
		return nil, f, err
	}
	o, ok := v.(ast.Object)
	if !ok {
		return nil, FailUndef, nil
	}
	return o, Decided, nil
}

var errPanic = errors.New("panic")

// run evaluates a query that binds `answer`, and returns what it binds; nil if it is undefined.
func (p *program) run(ctx context.Context, q ast.Body, qc ast.QueryCompiler, d *data, in ast.Value, b *budget, t topdown.QueryTracer) (v ast.Value, err error) {
	defer func() {
		if r := recover(); r != nil {
			v, err = nil, fmt.Errorf("%w: %v", errPanic, r)
		}
	}()
	query := topdown.NewQuery(q).WithQueryCompiler(qc).WithCompiler(p.compiler).
		WithStore(d).WithTransaction(noTransaction{}).WithInput(ast.NewTerm(in)).
		WithBuiltins(p.functions).WithCancel(b).WithMetrics(metrics.NoOp()).WithTime(time.Unix(0, 1)).
		WithStrictBuiltinErrors(true).WithVirtualCache(cache{topdown.NewVirtualCache(), b})
	if t != nil {
		query = query.WithQueryTracer(t)
	}
	name := ast.Var("answer")
	for written, was := range qc.RewrittenVars() {
		if was == name {
			name = written
		}
	}
	err = query.Iter(ctx, func(r topdown.QueryResult) error {
		if t := r[name]; t != nil {
			v = t.Value
		}
		return nil
	})
	return v, err
}

// classify says what an evaluation's end means. The budget's word comes first, as OPA may have wrapped or swallowed it.
func (b *budget) classify(err error) Failure {
	switch {
	case b.failure != Decided:
		return b.failure
	case err == nil:
		return Decided
	case errors.Is(err, errPanic):
		return FailPanic
	case errors.Is(err, errMemory):
		return FailMemory
	case topdown.IsCancel(err):
		return FailTimeout
	}
	return FailError
}

// failed returns the deny of a failure.
func failed(f Failure, digest string, begun time.Time) Decision {
	return Decision{Reason: f.reason(), Failure: f, Digest: digest, Duration: time.Since(begun)}
}

// reason tells people what a failure means and what to do.
func (f Failure) reason() string {
	switch f {
	case FailNone:
		return "the tenant's policy is not loaded, so nothing is allowed: ask an admin of the tenant"
	case FailBusy:
		return "the tenant's policy is asked more often than it can answer: try again"
	case FailTimeout:
		return "the tenant's policy did not decide in time: an admin of the tenant has to make it cheaper"
	case FailMemory:
		return "the tenant's policy makes a value that is too large: an admin of the tenant has to make it cheaper"
	case FailUndef:
		return "no rule of the tenant's policy allows this"
	case FailType:
		return "the tenant's policy answers with a value of a wrong type"
	case FailPanic:
		return "the tenant's policy could not be evaluated"
	case FailCancel:
		return "the request was given up"
	}
	return "the tenant's policy failed"
}
