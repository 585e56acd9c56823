package policy

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Library compiles bundles and keeps what tenants have in common: bundles with equal modules share one compiled form.
// Data, concurrency and time are each tenant's own. It is safe for concurrent use and runs no goroutine of its own; a
// compilation whose caller went away ends by itself within Limits.CompileTime.
type Library struct {
	limits       Limits
	small, large chan struct{} // compilations under way, by size, so that large bundles hold up only each other
	turns        lane          // long evaluations under way

	mu       sync.Mutex // guards what follows, and the counts in it
	programs map[[sha256.Size]byte]*shared
	members  map[string]*member // by the tenant's unique id
}

// shared is a program and how many engines use it. It is dropped when none does.
type shared struct {
	users int
	done  chan struct{} // closed when program and err are set
	*program
	err error
}

// member is what all engines of a tenant share, so that changing its bundle gives it no second share of anything.
type member struct {
	engines   int
	slots     chan struct{} // evaluations under way
	long      chan struct{} // the one that waits for a turn or has it
	usage     usage         // of turns
	compiling chan struct{} // the one compilation that it may have waiting or under way
}

// smallBundle is the size up to which a bundle compiles beside large ones, in bytes.
const smallBundle = 32 << 10

// NewLibrary returns an empty library.
func NewLibrary(l Limits) *Library {
	l = l.or(Defaults())
	return &Library{
		limits: l,
		small:  make(chan struct{}, l.Compiles), large: make(chan struct{}, l.Compiles), turns: lane{free: l.Long},
		programs: make(map[[sha256.Size]byte]*shared), members: make(map[string]*member),
	}
}

// Open compiles a bundle for the tenant of scope. A bundle that is refused is a fault.Invalid with a CompileError inside;
// an engine that is open already is not touched by that. The caller closes the engine that it no longer asks.
func (l *Library) Open(ctx context.Context, scope tenant.Scope, b *Bundle) (*Engine, error) {
	if scope.ID() == "" {
		return nil, fault.New(fault.Internal, "a policy needs a tenant")
	}
	if err := b.check(l.limits); err != nil {
		return nil, err
	}
	m := l.join(scope)
	p, key, err := l.program(ctx, m, b)
	if err != nil {
		l.leave(scope)
		return nil, err
	}
	d, err := parseData(b.Data, p.packages)
	if err != nil {
		l.drop(key)
		l.leave(scope)
		return nil, err
	}
	return &Engine{library: l, scope: scope, member: m, program: p, key: key, data: d, digest: b.Digest()}, nil
}

// join returns the tenant's member and counts an engine in.
func (l *Library) join(scope tenant.Scope) *member {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.members[identity(scope)]
	if m == nil {
		m = &member{slots: make(chan struct{}, l.limits.Concurrent), long: make(chan struct{}, 1), compiling: make(chan struct{}, 1)}
		l.members[identity(scope)] = m
	}
	m.engines++
	return m
}

func (l *Library) leave(scope tenant.Scope) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := l.members[identity(scope)]; m != nil {
		if m.engines--; m.engines == 0 {
			delete(l.members, identity(scope))
		}
	}
}

// identity names a tenant apart from an earlier one of the same id. An id holds no '/'.
func identity(s tenant.Scope) string { return s.ID().String() + "/" + s.UID() }

// program returns the compiled form of a bundle's modules, and counts a user in. The first to ask compiles.
func (l *Library) program(ctx context.Context, m *member, b *Bundle) (*program, [sha256.Size]byte, error) {
	key := moduleKey(b)
	for {
		s, first := l.lookup(key)
		if first {
			go l.fill(ctx, m, b, s) // so that the caller can go away; OPA cannot be interrupted
		}
		select {
		case <-s.done:
		case <-ctx.Done():
			l.drop(key)
			return nil, key, fault.Wrap(fault.Canceled, ctx.Err(), "the compilation was given up")
		}
		if s.err == nil {
			return s.program, key, nil
		}
		l.forget(key, s)
		if first || fault.From(s.err).Kind != fault.Canceled {
			return nil, key, s.err
		} // another caller gave up what this one waited for: try again
	}
}

// lookup returns the entry of key and whether the caller has to fill it.
func (l *Library) lookup(key [sha256.Size]byte) (*shared, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.programs[key]
	if !ok {
		s = &shared{done: make(chan struct{})}
		l.programs[key] = s
	}
	s.users++
	return s, !ok
}

// fill compiles within the tenant's turn and the lane of the bundle's size.
func (l *Library) fill(ctx context.Context, m *member, b *Bundle, s *shared) {
	defer close(s.done)
	lane := l.large
	if b.Size() <= smallBundle {
		lane = l.small
	}
	for _, c := range []chan struct{}{m.compiling, lane} {
		select {
		case c <- struct{}{}:
			defer func() { <-c }()
		case <-ctx.Done():
			s.err = fault.Wrap(fault.Canceled, ctx.Err(), "the compilation was given up before it began")
			return
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, l.limits.CompileTime, errCompileTime)
	defer cancel()
	s.program, s.err = compile(ctx, b, false)
}

func (l *Library) drop(key [sha256.Size]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.programs[key]; s != nil {
		if s.users--; s.users == 0 {
			delete(l.programs, key)
		}
	}
}

// forget removes an entry that failed, unless another took its place.
func (l *Library) forget(key [sha256.Size]byte, s *shared) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.programs[key] == s {
		delete(l.programs, key)
	}
}

// moduleKey hashes what a program is made of.
func moduleKey(b *Bundle) [sha256.Size]byte {
	h := sha256.New()
	write(h, b.RegoVersion)
	for _, name := range slices.Sorted(maps.Keys(b.Modules)) {
		if !isTest(name) {
			write(h, name)
			write(h, b.Modules[name])
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Sizes returns how many compiled forms and how many tenants the library holds, for metrics.
func (l *Library) Sizes() (programs, tenants int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.programs), len(l.members)
}

// String names the library's limits, for logs.
func (l *Library) String() string {
	return fmt.Sprintf("policy: %d bytes, %v per evaluation", l.limits.BundleBytes, l.limits.EvalTime)
}
