package vgw

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/mcp"
)

// commitIn bounds one commit. It is no part of the caller's patience: a commit that a client's leaving could break off
// would often be one whose outcome is unknown.
const commitIn = 10 * time.Second

// Gateway answers for one tenant. What it holds is that tenant's alone, and nothing in it can name another.
type Gateway struct {
	scope tenant.Scope
	claim Claim
	ctx   context.Context // ends with the claim, or when the gateway is closed
	live  context.Context // of relays and streams: ends with ctx, unless the tenant was given away, and then some time later
	now   func() time.Time

	cancel context.CancelCauseFunc // of ctx
	end    context.CancelCauseFunc // of live
	away   atomic.Bool             // the tenant is being given away: the end of ctx is not the end of live

	key     *seal.DataKey // seals values at rest
	cursors *seal.DataKey // seals list cursors
	mcp     mcp.Handler

	changes sync.Mutex               // one change of the tenant's objects at a time, from the check to the swap
	servers atomic.Pointer[snapshot] // replaced whole, after the commit
	grants  atomic.Pointer[grantSet] // likewise, by setGrants
	stale   atomic.Bool              // a commit's outcome is unknown: the store is to be read again

	policing chan struct{} // the turn of who handles a policy
	enforced string        // digest of the policy that was last put in force here; held with policing

	proofs proofs // when hosts were looked for
	boxes  *boxes // the sandboxes; nil = this platform runs none

	holdsMu sync.Mutex
	holds   map[*hold]struct{} // guarded by holdsMu: streams that a delegation allows

	refs     int           // uses; guarded by the slot's mu, as what follows
	deciding int           // uses by handlers that decide
	calm     chan struct{} // if not nil, closed when no handler decides any more
	left     bool          // the tenant was given away, and what began here goes on
	used     time.Time     // end of the last use
}

// close ends the gateway and all that runs there.
func (g *Gateway) close(cause error) {
	g.cancel(cause)
	g.end(cause)
}

// follow ends what runs in the gateway when its claim is lost, unless it is given away.
func (g *Gateway) follow() {
	if !g.away.Load() {
		g.end(context.Cause(g.ctx))
	}
}

// newGateway makes a gateway that has loaded nothing yet.
func (m *Mux) newGateway(claim Claim) *Gateway {
	gw := &Gateway{scope: claim.Scope(), claim: claim, now: m.cfg.Now, policing: make(chan struct{}, 1)}
	gw.ctx, gw.cancel = context.WithCancelCause(claim.Context())
	gw.live, gw.end = context.WithCancelCause(context.Background())
	context.AfterFunc(gw.ctx, gw.follow)
	return gw
}

// open claims the tenant of e, loads its state, and takes over what it has spent elsewhere.
func (m *Mux) open(ctx context.Context, e *tenant.Entry) (_ *Gateway, err error) {
	scope := e.Scope
	claim, err := m.cfg.Claims.Claim(ctx, scope)
	if err != nil {
		return nil, err
	}
	gw := m.newGateway(claim)
	defer func() {
		if err != nil {
			gw.close(err)
			m.release(ctx, gw)
		}
	}()
	if claim.Scope() != scope {
		return nil, fmt.Errorf("the claim is on %s (%s), wanted %s (%s)", claim.Scope(), claim.Scope().UID(), scope, scope.UID())
	}
	if state := claim.Handed(); len(state) > 0 && m.cfg.Limits != nil {
		m.cfg.Limits.Import(e, state) // first of all, since the claim tells it once
	}
	if gw.key, err = m.dataKey(ctx, claim); err != nil {
		return nil, err
	}
	servers, err := gw.load(ctx)
	if err != nil {
		return nil, err
	}
	grants, err := gw.loadGrants(ctx)
	if err != nil {
		return nil, err
	}
	gw.servers.Store(servers)
	gw.grants.Store(grants)
	if m.cfg.Sandboxes != nil {
		gw.boxes = m.newBoxes(gw, e)
		if _, err := gw.boxes.open(e); err != nil { // no reason not to serve the rest
			m.cfg.Logger.WarnContext(ctx, "a tenant's sandboxes could not be opened", "tenant", scope.String(), "err", err)
		}
	}
	gw.cursors = gw.key.Derive("cursor")
	gw.mcp = mcp.Handler{
		Tenant: scope.UID(), Sessions: gw.key.Derive("mcp-session"), Server: gw.upstream,
		MaxBody: m.cfg.MaxBody, Bodies: &mcp.Budget{Max: m.cfg.MaxBodies, Total: &m.bodies},
	}
	return gw, nil
}

// The tenant's data key is one object, wrapped by the platform's key-encryption key and bound to the tenant's UID. It is
// erased with the tenant, and with it everything it sealed: session ids and cursors die then, wherever they are (X41).
const (
	kindDataKey = "datakey"
	idDataKey   = "current"
)

// dataKey loads the tenant's data key, and makes it at the tenant's first opening.
func (m *Mux) dataKey(ctx context.Context, claim Claim) (*seal.DataKey, error) {
	objects, err := claim.Load(ctx, kindDataKey)
	if err != nil {
		return nil, fmt.Errorf("load the data key: %w", err)
	}
	for _, o := range objects {
		if o.ID == idDataKey {
			return m.unwrap(claim.Scope(), o.Value)
		}
	}
	return m.newDataKey(ctx, claim)
}

func (m *Mux) unwrap(s tenant.Scope, envelope []byte) (*seal.DataKey, error) {
	b, err := m.cfg.Keys.Unwrap(envelope, s.UID(), kindDataKey, idDataKey)
	if err != nil {
		return nil, fmt.Errorf("unwrap the data key: %w", err)
	}
	return seal.DataKeyFrom(b)
}

func (m *Mux) newDataKey(ctx context.Context, claim Claim) (*seal.DataKey, error) {
	visit, err := m.cfg.Guards.Platform().Enter(tenant.System("gateway"), guard.Request{})
	if err != nil {
		return nil, err
	}
	defer visit.Leave()
	s := claim.Scope()
	permit, err := visit.Admit(guard.Effect{Action: authz.DataKeyCreate, Resource: kindDataKey + "/" + idDataKey, Subject: s})
	if err != nil {
		return nil, err
	}
	key := seal.NewDataKey()
	envelope, err := m.cfg.Keys.Wrap(key.Bytes(), s.UID(), kindDataKey, idDataKey)
	if err == nil {
		err = claim.Commit(ctx, permit.Entry(audit.OutcomeOK), tenant.Write{Kind: kindDataKey, ID: idDataKey, Value: envelope})
	}
	if err := permit.Settle(err); err != nil {
		return nil, fmt.Errorf("make the data key: %w", err)
	}
	return key, nil
}

// commit writes to the tenant's state for who has the right by, with the permit's record. It goes on when the caller leaves.
// If it fails so that the outcome is unknown, the state is read again before it is next used.
func (g *Gateway) commit(by records, permit *guard.Permit, w ...tenant.Write) error {
	ctx, cancel := context.WithTimeout(g.ctx, commitIn)
	defer cancel()
	entry := permit.Entry(audit.OutcomeOK)
	err := by.bound(ctx, entry, func(judged int64) error { return g.claim.CommitIf(ctx, judged, entry, w...) })
	if err == nil {
		return nil
	}
	g.stale.Store(true)
	if fault.KindOf(err) == fault.Internal && g.ctx.Err() != nil {
		err = moved(context.Cause(g.ctx))
	}
	return err
}

// digest returns a keyed digest of text, which tells nothing of it to who lacks the tenant's key.
func (g *Gateway) digest(text []byte) string {
	return fmt.Sprintf("%x", g.keyedDigest("catalog-digest", text))
}

// keyedDigest is digest for a purpose of its own.
func (g *Gateway) keyedDigest(purpose string, text []byte) []byte {
	mac := hmac.New(sha256.New, g.key.Derive(purpose).Bytes())
	mac.Write(text)
	return mac.Sum(nil)
}
