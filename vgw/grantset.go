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

// Bounds of delegations. Those of one object are deleted with it in one transaction, of which etcd allows 128 operations.
const (
	maxGrants       = 1000
	maxObjectGrants = 64 // of one object
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
	Server  string       `json:"server,omitempty"` // of a server: its id
	Type    string       `json:"type,omitempty"`   // of another object: its type, such as sandbox, and its id
	Object  string       `json:"object,omitempty"`
	By      string       `json:"by"` // Ref of who granted it
	Created time.Time    `json:"created"`
	Until   time.Time    `json:"until"`
	// Epoch is when the authenticator of a user was made. One that is deleted and made anew under the same name may mean
	// others by the same subjects, to whom nothing was delegated.
	Epoch time.Time `json:"authenticator_created,omitzero"`
}

// objectKey names an object by its type and its id: another one of the same name is another object.
type objectKey struct{ kind, id string }

// on returns what a grant is about.
func (g *grant) on() objectKey {
	if g.Type == "" {
		return objectKey{kindServer, g.Server}
	}
	return objectKey{g.Type, g.Object}
}

// about sets it. Those of servers are stored as replicas of earlier versions read them.
func (g *grant) about(k objectKey) {
	if k.kind == kindServer {
		g.Server = k.id
		return
	}
	g.Type, g.Object = k.kind, k.id
}

// grantSet is all delegations of a tenant. It is immutable.
type grantSet struct {
	all []*grant               // sorted by id
	of  map[objectKey][]*grant // nil without any
}

func newGrantSet(all []*grant) *grantSet {
	s := &grantSet{all: all}
	slices.SortFunc(s.all, func(a, b *grant) int { return strings.Compare(a.ID, b.ID) })
	if len(all) > 0 {
		s.of = make(map[objectKey][]*grant)
	}
	for _, g := range s.all {
		s.of[g.on()] = append(s.of[g.on()], g)
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

// to returns what was delegated of an object to a principal, in the words of a decision; ref "" is everybody.
func (s *grantSet) to(r *tenant.Record, on objectKey, ref string) []authz.Grant {
	var out []authz.Grant
	for _, g := range s.of[on] {
		if ref != "" && g.To != ref || !g.stands(r) {
			continue
		}
		a := authz.Grant{ID: g.ID, To: g.To, Action: g.Action, Type: on.kind, Object: on.id, By: g.By, Created: g.Created, Until: g.Until}
		out = append(out, a)
		if also := includes(a); also != a.Action {
			a.Action = also
			out = append(out, a)
		}
	}
	return out
}

// includes returns what a delegation lets its principal do beside, or its own action. To call includes to look, as it does with
// roles: nobody can call a tool without initializing a session first. And nobody can use a sandbox that is not there for him.
func includes(a authz.Grant) authz.Action {
	switch {
	case a.Action == authz.MCPCall:
		return authz.MCPRead
	case a.Type == kindSandbox:
		return authz.SandboxRead
	}
	return a.Action
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

// dead returns the ids of some grants that allow nothing any more: they ended, or the object or the principal is gone.
func (s *grantSet) dead(now time.Time, r *tenant.Record, exists func(objectKey) bool) []string {
	var ids []string
	for _, g := range s.all {
		ok := exists(g.on())
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

// idsOf returns the ids of an object's grants.
func (s *grantSet) idsOf(on objectKey) []string {
	var ids []string
	for _, g := range s.of[on] {
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
	g.editGrants(func(*grantSet) *grantSet { return s })
}

// editGrants is setGrants with a set that is made of the one that is there: sandboxes go by themselves, and what was delegated of
// them with them, while another change is under way.
func (g *Gateway) editGrants(edit func(*grantSet) *grantSet) {
	g.holdsMu.Lock()
	defer g.holdsMu.Unlock()
	g.grants.Store(edit(g.grants.Load()))
	for h := range g.holds {
		g.recheck(h)
	}
}

// forgetGrants takes those out that writes which were made have deleted.
func (g *Gateway) forgetGrants(made []tenant.Write) {
	var gone []string
	for _, w := range made {
		if w.Kind == kindGrant && w.Value == nil {
			gone = append(gone, w.ID)
		}
	}
	if gone != nil {
		g.editGrants(func(s *grantSet) *grantSet { return s.with(nil, gone) })
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
	q.Now, q.Grants = g.now(), g.grants.Load().to(h.record, objectKey{q.Object.Type, q.Object.ID}, h.ref)
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
