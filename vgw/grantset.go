package vgw

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// A delegation is stored as t/<tenant>/grant/<id>. Readers accept grantVersion and the next.
const (
	kindGrant    = "grant"
	grantVersion = 1
)

// Bounds of delegations. Those of one server are deleted with it in one transaction, of which etcd allows 128 operations.
const (
	maxGrants       = 1000
	maxServerGrants = 64 // of one server
	maxSweep        = 24 // dead ones deleted beside another change

	// A request's record may be older than the principal to whom another has just delegated.
	sweepAfter = 10 * time.Minute
)

// grant is a delegation as stored. It is immutable.
type grant struct {
	V       int          `json:"v"`
	ID      string       `json:"id"`
	To      string       `json:"to"` // Ref of the principal
	Action  authz.Action `json:"action"`
	Server  string       `json:"server"` // the server's id: another one of the same name is another object
	By      string       `json:"by"`     // Ref of who granted it
	Created time.Time    `json:"created"`
	Until   time.Time    `json:"until"`
	// Epoch is when the authenticator of a user was made. One that is deleted and made anew under the same name may mean
	// others by the same subjects, to whom nothing was delegated.
	Epoch time.Time `json:"authenticator_created,omitzero"`
}

// grantSet is all delegations of a tenant. It is immutable.
type grantSet struct {
	all    []*grant            // sorted by id
	server map[string][]*grant // by the server's id; nil without any
}

func newGrantSet(all []*grant) *grantSet {
	s := &grantSet{all: all}
	slices.SortFunc(s.all, func(a, b *grant) int { return strings.Compare(a.ID, b.ID) })
	if len(all) > 0 {
		s.server = make(map[string][]*grant)
	}
	for _, g := range s.all {
		s.server[g.Server] = append(s.server[g.Server], g)
	}
	return s
}

// with returns s with some grants put in or replaced, and others taken out.
func (s *grantSet) with(put []*grant, remove []string) *grantSet {
	next := slices.DeleteFunc(slices.Clone(s.all), func(g *grant) bool {
		return slices.Contains(remove, g.ID) || slices.ContainsFunc(put, func(p *grant) bool { return p.ID == g.ID })
	})
	return newGrantSet(append(next, put...))
}

func (s *grantSet) find(id string) (*grant, bool) {
	i, ok := slices.BinarySearchFunc(s.all, id, func(g *grant, id string) int { return strings.Compare(g.ID, id) })
	if !ok {
		return nil, false
	}
	return s.all[i], true
}

// of returns what was delegated of a server to a principal, in the words of a decision; ref "" is everybody. To call
// includes to look, as it does with roles: nobody can call a tool without initializing a session first.
func (s *grantSet) of(r *tenant.Record, server, ref string) []authz.Grant {
	var out []authz.Grant
	for _, g := range s.server[server] {
		if ref != "" && g.To != ref || !g.stands(r) {
			continue
		}
		a := authz.Grant{ID: g.ID, To: g.To, Action: g.Action, Type: kindServer, Object: g.Server, By: g.By, Created: g.Created, Until: g.Until}
		out = append(out, a)
		if g.Action == authz.MCPCall {
			a.Action = authz.MCPRead
			out = append(out, a)
		}
	}
	return out
}

// stands says whether the principal is still the one that was meant.
func (g *grant) stands(r *tenant.Record) bool {
	epoch, err := epoch(r, g.To)
	return err == nil && epoch.Equal(g.Epoch)
}

// epoch checks that a tenant knows the principal of a ref, and returns when the authenticator of a user was made.
func epoch(r *tenant.Record, ref string) (time.Time, error) {
	kind, id, _ := strings.Cut(ref, ":")
	switch tenant.PrincipalKind(kind) {
	case tenant.KindKey:
		if k, ok := r.KeyByName(id); ok && k.ID == id && k.Bot == "" {
			return time.Time{}, nil
		}
	case tenant.KindBot:
		if b, ok := r.BotByName(id); ok && b.ID == id {
			return time.Time{}, nil
		}
	case tenant.KindUser:
		name, _, err := parseUser(ref)
		if err != nil {
			return time.Time{}, err
		}
		if a, ok := r.AuthenticatorByName(name); ok {
			return a.Created, nil
		}
	}
	return time.Time{}, fault.New(fault.Invalid, "this tenant knows no %.64q: write user:<authenticator>/<subject>, bot:<id> or key:<id>", ref)
}

// dead returns the ids of some grants that allow nothing any more: they ended, or the server or the principal is gone.
func (s *grantSet) dead(now time.Time, r *tenant.Record, servers *snapshot) []string {
	var ids []string
	for _, g := range s.all {
		_, ok := servers.byID(g.Server)
		young := now.Sub(g.Created) < sweepAfter
		if ok && now.Before(g.Until) && (young || g.stands(r)) {
			continue
		}
		if ids = append(ids, g.ID); len(ids) == maxSweep {
			break
		}
	}
	return ids
}

// ofServer returns the ids of a server's grants.
func (s *grantSet) ofServer(server string) []string {
	var ids []string
	for _, g := range s.server[server] {
		ids = append(ids, g.ID)
	}
	return ids
}

// loadGrants reads all delegations from the store. Those that ended stay behind: they are deleted with the next change.
func (g *Gateway) loadGrants(ctx context.Context) (*grantSet, error) {
	objects, err := g.claim.Load(ctx, kindGrant)
	if err != nil {
		return nil, fmt.Errorf("load grants: %w", err)
	}
	all := make([]*grant, 0, len(objects))
	for _, o := range objects {
		v := new(grant)
		if err := json.Unmarshal(o.Value, v); err != nil {
			return nil, fmt.Errorf("grant %q: %w", o.ID, err)
		}
		if v.V < grantVersion || v.V > grantVersion+1 || v.ID != o.ID {
			return nil, fmt.Errorf("grant %q: record of version %d, id %q", o.ID, v.V, v.ID)
		}
		all = append(all, v)
	}
	return newGrantSet(all), nil
}

func (v *grant) write() (tenant.Write, error) {
	value, err := json.Marshal(v)
	if err != nil {
		return tenant.Write{}, fmt.Errorf("encode grant %s: %w", v.ID, err)
	}
	return tenant.Write{Kind: kindGrant, ID: v.ID, Value: value}, nil
}

func deleteGrants(ids []string) []tenant.Write {
	var w []tenant.Write
	for _, id := range ids {
		w = append(w, tenant.Write{Kind: kindGrant, ID: id})
	}
	return w
}

// setGrants puts a new set in place, and ends the streams that hung on what is not in it any more.
func (g *Gateway) setGrants(s *grantSet) {
	g.grants.Store(s)
	g.holdsMu.Lock()
	defer g.holdsMu.Unlock()
	for h := range g.holds {
		g.recheck(h)
	}
}

// hold is a stream that a delegation allows. It ends with the delegation.
type hold struct {
	question authz.Question // without Grants and Now
	record   *tenant.Record
	ref      string
	end      context.CancelCauseFunc
	timer    *time.Timer // fires when the delegation ends by itself; nil before the first check
}

var errDelegation = errors.New("vgw: the delegation that allowed the stream has ended")

// holdFor returns a context that ends when no delegation allows the question any more, and what gives it back. The context is nil
// if the question needs no delegation.
func (g *Gateway) holdFor(q authz.Question, r *tenant.Record) (context.Context, func(), error) {
	q.Grants, q.Now = nil, g.now()
	if authz.Decide(q).Allow {
		return nil, func() {}, nil
	}
	ctx, end := context.WithCancelCause(g.live)
	h := &hold{question: q, record: r, ref: q.Principal.Ref(), end: end}
	g.holdsMu.Lock()
	if g.holds == nil {
		g.holds = make(map[*hold]struct{})
	}
	g.holds[h] = struct{}{}
	g.recheck(h)
	g.holdsMu.Unlock()
	release := func() { g.release(h) }
	if ctx.Err() != nil {
		release()
		return nil, nil, fault.Wrap(fault.Forbidden, context.Cause(ctx), "the delegation has ended")
	}
	return ctx, release, nil
}

func (g *Gateway) release(h *hold) {
	g.holdsMu.Lock()
	defer g.holdsMu.Unlock()
	delete(g.holds, h)
	if h.timer != nil {
		h.timer.Stop()
	}
	h.end(nil)
}

// recheck asks the question of a hold again. holdsMu is held.
func (g *Gateway) recheck(h *hold) {
	q := h.question
	q.Now, q.Grants = g.now(), g.grants.Load().of(h.record, q.Object.ID, h.ref)
	if !authz.Decide(q).Allow {
		h.end(fault.Wrap(fault.Forbidden, errDelegation, "the delegation has ended"))
		return
	}
	var until time.Time
	for _, a := range q.Grants {
		if a.Action == q.Action {
			until = later(until, a.Until)
		}
	}
	wait := max(until.Sub(q.Now), time.Millisecond)
	if h.timer != nil {
		h.timer.Reset(wait)
		return
	}
	h.timer = time.AfterFunc(wait, func() {
		g.holdsMu.Lock()
		defer g.holdsMu.Unlock()
		if _, ok := g.holds[h]; ok {
			g.recheck(h)
		}
	})
}
