package vgw

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
)

// kindSandbox is the type of sandboxes in grants and resources, and the kind of their objects.
const kindSandbox = sandbox.Kind

// SandboxLimits bounds what sandboxes take of this replica. A zero field is the default.
type SandboxLimits struct {
	MaxSessions   int          // exec and log streams open at a time of one sandbox; 0 = 16
	MaxExecOutput int64        // bytes that a one-shot exec answers with, of each stream; 0 = 1 MiB
	Pace          sandbox.Pace // how long what may take
}

// boxes is the part of a gateway that has its sandboxes. They are opened with the gateway and live while its claim does; if they cannot be
// opened, the rest of the gateway goes on, and the next who asks for them tries again.
type boxes struct {
	mux *Mux
	gw  *Gateway

	mu      sync.Mutex
	manager *sandbox.Manager // guarded by mu; nil = not open
	failed  error            // guarded by mu: why not
	closed  bool             // guarded by mu
	made    settings         // guarded by mu: what manager was made with
	seen    int64            // guarded by mu: revision of the record that they are from

	vigil vigil
	tasks tasks
	books books
}

// tasks runs functions until it is closed. It has a lock of its own, and run never waits: it is called with others held.
type tasks struct {
	mu     sync.Mutex
	closed bool           // guarded by mu
	all    sync.WaitGroup // added to while mu is held and closed is false
}

// run calls f in the background.
func (t *tasks) run(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.all.Go(f)
	}
}

// close waits for all of them. None begins after it.
func (t *tasks) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.all.Wait()
}

// settings is all of a routing record that sandboxes hang on.
type settings struct {
	tenant sandbox.Tenant
	rules  sandbox.Rules
}

func (c *Config) sandboxSettings(e *tenant.Entry) settings {
	s := settings{tenant: sandbox.Tenant{Scope: e.Scope, Namespace: e.Record.Namespace, Quotas: e.Record.Quotas}}
	if e.Record.Sandboxes != nil {
		s.tenant.Settings = *e.Record.Sandboxes.Clone()
	}
	if c.SandboxTenant != nil {
		s.tenant = c.SandboxTenant(e)
	}
	if c.SandboxRules != nil {
		s.rules = c.SandboxRules(e)
	}
	return s
}

// newBoxes gives a gateway its sandboxes, which end with its context.
func (m *Mux) newBoxes(gw *Gateway, e *tenant.Entry) *boxes {
	b := &boxes{mux: m, gw: gw}
	b.vigil = vigil{b: b, is: e.Record.Awake, said: e.Record.Awake}
	b.vigil.busy.Store(e.Record.Awake)
	m.opening.Add(1)
	context.AfterFunc(gw.ctx, func() {
		defer m.opening.Done()
		b.close()
	})
	return b
}

// open returns the manager, with the settings of e or later ones. It is opened under the gateway's context and a limit of its own: no
// caller's leaving is to fail those who wait beside.
func (b *boxes) open(e *tenant.Entry) (*sandbox.Manager, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.gw.ctx.Err() != nil {
		return nil, moved(context.Cause(b.gw.ctx))
	}
	if e.Record.Revision <= b.seen && b.manager != nil {
		return b.manager, nil
	}
	now := b.mux.cfg.sandboxSettings(e)
	if b.manager != nil && reflect.DeepEqual(now, b.made) {
		b.seen = e.Record.Revision
		return b.manager, nil
	}
	driver, err := b.mux.cfg.Sandboxes.Open(now.tenant)
	if err == nil {
		err = b.put(driver, now)
	}
	if err != nil {
		b.failed = err
		return nil, err
	}
	b.made, b.seen, b.failed = now, e.Record.Revision, nil
	return b.manager, nil
}

// put opens a manager with a driver, or gives the driver to the one that is open. mu is held.
func (b *boxes) put(driver sandbox.Driver, s settings) error {
	b.books.limit(s.tenant.Quotas)
	if b.manager != nil {
		b.manager.Renew(driver, s.tenant, s.rules)
		return nil
	}
	ctx, cancel := context.WithTimeout(b.gw.ctx, b.mux.cfg.OpenIn)
	defer cancel()
	count := b.mux.sandboxMetrics(b.gw.scope)
	meter, err := b.books.open(ctx, b.gw.claim, count)
	if err != nil {
		driver.Close()
		return err
	}
	m, err := sandbox.Open(ctx, sandbox.Config{
		Driver: driver, Store: systemStore{b.mux, b.gw}, Tenant: s.tenant, Rules: s.rules, Pace: b.mux.cfg.SandboxLimits.Pace,
		Logger: b.mux.cfg.Logger, Now: b.mux.cfg.Now, MaxSessions: b.mux.cfg.SandboxLimits.MaxSessions,
		Awake: b.vigil.say, Worked: b.vigil.busy.Load(), Forgets: b.forgets, Meter: meter, Sealer: b.gw.key,
	})
	if err != nil {
		driver.Close()
		return err
	}
	b.manager = m
	b.books.show(m, count)
	return nil
}

// have returns the manager if it is open, else why it is not.
func (b *boxes) have() (*sandbox.Manager, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.manager != nil && !b.closed {
		return b.manager, nil
	}
	if b.failed != nil {
		return nil, unread(b.failed)
	}
	return nil, moved(context.Cause(b.gw.ctx))
}

// follow takes over the settings of a record that changed.
func (b *boxes) follow(e *tenant.Entry) {
	b.tasks.run(func() {
		if _, err := b.open(e); err != nil && b.gw.ctx.Err() == nil {
			b.mux.cfg.Logger.Warn("the settings of a tenant's sandboxes could not be put in force", "tenant", b.gw.scope.String(), "err", err)
		}
		b.vigil.observe(e.Record)
	})
}

// close ends the manager. What runs goes on, for the next owner to find.
func (b *boxes) close() {
	b.mu.Lock()
	b.closed = true
	m := b.manager
	b.mu.Unlock()
	b.vigil.stop()
	b.books.close()
	b.tasks.close()
	if m != nil {
		m.Close()
	}
}

// forgets returns what is deleted with a sandbox: what was delegated of it.
func (b *boxes) forgets(s *sandbox.Sandbox) []tenant.Write {
	return deleteGrants(b.gw.grants.Load().idsOf(objectKey{kindSandbox, s.ID}))
}

// busy says whether the gateway has work without requests.
func (g *Gateway) busy() bool { return g.boxes != nil && g.boxes.vigil.busy.Load() }

// systemStore is what a manager reads and writes with: under the gateway's claim, on the system's behalf.
type systemStore struct {
	mux *Mux
	gw  *Gateway
}

// Load implements sandbox.Store.
func (s systemStore) Load(ctx context.Context, kind string) ([]tenant.Object, error) {
	return s.gw.claim.Load(ctx, kind)
}

// Commit implements sandbox.Store.
func (s systemStore) Commit(ctx context.Context, action authz.Action, resource string, w ...tenant.Write) error {
	ctx, cancel := context.WithTimeout(ctx, commitIn)
	defer cancel()
	permit, leave, err := s.mux.asSystem(s.gw.scope, action, resource)
	if err != nil {
		return err
	}
	defer leave()
	err = permit.Settle(s.gw.claim.Commit(ctx, permit.Entry(audit.OutcomeOK), owed(w)...))
	if err == nil {
		s.gw.forgetGrants(w)
	}
	return err
}

// owed marks writes that follow from what is stored already, which no budget refuses: else a tenant that is full could neither stop nor
// delete what fills it.
func owed(w []tenant.Write) []tenant.Write {
	out := slices.Clone(w)
	for i := range out {
		out[i].Owed = true
	}
	return out
}

// asSystem admits what the platform does of its own accord in a tenant.
func (m *Mux) asSystem(scope tenant.Scope, action authz.Action, resource string) (*guard.Permit, func(), error) {
	visit, err := m.cfg.Guards.Platform().Enter(tenant.System("gateway"), guard.Request{})
	if err != nil {
		return nil, nil, err
	}
	permit, err := visit.Admit(guard.Effect{Action: action, Resource: resource, Subject: scope})
	if err != nil {
		visit.Leave()
		return nil, nil, err
	}
	return permit, visit.Leave, nil
}

// vigil keeps Record.Awake true while there is work without requests: some replica has a gateway open for every tenant whose record
// says so, also when this one is gone.
type vigil struct {
	b    *boxes
	busy atomic.Bool // there is work, or is about to be: the gateway is not idle

	mu    sync.Mutex
	said  bool        // guarded by mu: what the manager said last
	is    bool        // guarded by mu: what the record says, as far as is known
	retry *time.Timer // guarded by mu; nil = nothing is to be tried again
	over  bool        // guarded by mu
}

// awakeRetry is the pause after the record could not be written.
const awakeRetry = time.Second

// say is told by the manager, before it stores the first work and after the last rests. So the record says first that there is work:
// a crash in between leaves nobody's.
func (v *vigil) say(awake bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.said = awake
	v.settle()
}

// observe compares with what the record says: another owner, who had the tenant before, may have written late.
func (v *vigil) observe(r *tenant.Record) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.is = r.Awake
	v.settle()
}

// settle makes the record say what is so, now or a little later. mu is held over the write: another must not overtake it.
func (v *vigil) settle() {
	v.busy.Store(v.said)
	if v.said == v.is || v.over {
		return
	}
	if v.b.setAwake(v.said) == nil {
		v.is = v.said
		return
	}
	if v.retry == nil {
		v.retry = time.AfterFunc(awakeRetry, v.again)
	}
}

func (v *vigil) again() {
	v.b.tasks.run(func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.retry = nil
		v.settle()
	})
}

// stop ends the tries.
func (v *vigil) stop() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.over = true
	if v.retry != nil {
		v.retry.Stop()
	}
}

// setAwake writes the routing record.
func (b *boxes) setAwake(awake bool) error {
	ctx := b.gw.ctx
	if ctx.Err() != nil {
		return moved(context.Cause(ctx))
	}
	permit, leave, err := b.mux.asSystem(b.gw.scope, authz.SandboxTransition, "awake")
	if err != nil {
		return err
	}
	defer leave()
	all := records{b.mux.cfg.Records, b.gw.scope, tenant.System("gateway"), b.mux.cfg.Now, 0}
	_, err = all.update(ctx, func(r *tenant.Record) error {
		if ctx.Err() != nil { // the next owner's to say
			return moved(context.Cause(ctx))
		}
		r.Awake = awake
		return nil
	}, permit.Entry(audit.OutcomeOK))
	if err = permit.Settle(err); err != nil && ctx.Err() == nil && !fault.Is(err, fault.NotFound) {
		b.mux.cfg.Logger.WarnContext(ctx, "that a tenant has work without requests could not be stored, and is tried again", "tenant", b.gw.scope.String(), "awake", awake, "err", err)
	}
	return err
}

// errNoSandboxes is the answer where none are run.
func errNoSandboxes() error {
	return fault.New(fault.Unavailable, "this platform runs no sandboxes: set sandboxes.driver")
}

// sandboxes returns the manager of the tenant's sandboxes.
func (c *call) sandboxes() (*sandbox.Manager, error) {
	if c.gw.boxes == nil {
		return nil, errNoSandboxes()
	}
	m, err := c.gw.boxes.open(c.e)
	if err == nil {
		return m, nil
	}
	return nil, unread(err)
}

// unread is what is answered where sandboxes could not be opened.
func unread(err error) error {
	if f := (*fault.Error)(nil); errors.As(err, &f) {
		return err
	}
	return fault.Wrap(fault.Unavailable, err, "this tenant's sandboxes could not be read: try again").After(time.Second)
}
