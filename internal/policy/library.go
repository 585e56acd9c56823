package policy

import (
	"context"

	"github.com/polygate/polygate/internal/tenant"
)

// Library compiles bundles and keeps what tenants have in common: bundles with equal modules share one compiled form.
// Data, concurrency and time are each tenant's own. It is safe for concurrent use and runs no goroutine of its own.
type Library struct {
	limits Limits
}

// NewLibrary returns an empty library.
func NewLibrary(l Limits) *Library { return &Library{limits: l} }

// Open compiles a bundle for the tenant of scope. A bundle that is refused is a fault.Invalid with a CompileError inside;
// an engine that is open already is not touched by that. The caller closes the engine that it no longer asks.
func (l *Library) Open(ctx context.Context, scope tenant.Scope, b *Bundle) (*Engine, error) {
	return nil, errNotBuilt
}

// Engine is one tenant's compiled bundle. It is immutable and safe for concurrent use. A nil Engine denies everything.
type Engine struct{}

// Decide judges an input. It never fails: whatever goes wrong is a deny whose Failure and Reason say so.
func (e *Engine) Decide(ctx context.Context, in *Input) Decision { return Decision{Reason: "no policy is loaded", Failure: FailNone} }

// Explain judges an input as Decide does, and says which rules decided.
func (e *Engine) Explain(ctx context.Context, in *Input) (*Explanation, error) { return nil, errNotBuilt }

// Digest returns the digest of the bundle.
func (e *Engine) Digest() string { return "" }

// Warnings returns what Check would warn of.
func (e *Engine) Warnings() []string { return nil }

// Close gives back what the engine holds in its library. Decisions under way end normally, later ones deny.
func (e *Engine) Close() {}
