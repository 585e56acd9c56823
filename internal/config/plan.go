package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// Vanished is the reason for which a tenant is suspended that is no longer in the file.
const Vanished = "removed from tenants.yaml"

// ChangeKind says what a Change does.
type ChangeKind string

// The kinds.
const (
	Create  ChangeKind = "create"
	Update  ChangeKind = "update"
	Suspend ChangeKind = "suspend" // the tenant vanished from the file, or the file suspends it
	Resume  ChangeKind = "resume"  // it is back, or the file resumes it
	Release ChangeKind = "release" // it gives up hosts or keys that another declared tenant takes over; its update follows
)

// Change is one step towards what the file declares.
type Change struct {
	Kind   ChangeKind
	ID     tenant.ID
	Record *tenant.Record // with Create: the record to create
	// Edit changes a record into what is declared; nil with Create. It keeps what the file does not own, so it can be applied
	// to a newer record than the plan was made from, and twice.
	Edit func(*tenant.Record) error
	// Notes say what the change takes away or takes over that was made through the API, for the log.
	Notes []string
}

// planner compares what a file declares with the records that there are.
type planner struct {
	want     *Tenants
	now      time.Time
	current  map[tenant.ID]*tenant.Record
	next     map[tenant.ID]*tenant.Record // current, but as they will be; what is new too
	declared map[tenant.ID]bool           // by the file
	refused  map[tenant.ID]bool           // declared, but in conflict: they stay as they are
	errs     collector
}

// Plan returns the steps that lead from the current records to the declared tenants, in the order in which they can be
// applied, and what is refused because it clashes with tenants or keys that were there earlier: those tenants stay as they
// are, the others go on. A tenant that vanished from the file is suspended, with all its state; one that is back is
// resumed, but not if an operator suspended it. Tenants that the API made are never touched, nor are API keys of any.
// Records are compared, so a second plan after the first was applied is empty. now dates new keys.
func Plan(want *Tenants, current []*tenant.Record, now time.Time) ([]Change, Errors) {
	p := &planner{
		want: want, now: now.UTC(), errs: collector{file: want.Path},
		current:  make(map[tenant.ID]*tenant.Record, len(current)),
		next:     make(map[tenant.ID]*tenant.Record, len(current)+len(want.List)),
		declared: make(map[tenant.ID]bool, len(want.List)),
		refused:  make(map[tenant.ID]bool),
	}
	for i := range want.List {
		p.declared[want.List[i].Record.ID] = true
	}
	for _, r := range current {
		p.current[r.ID], p.next[r.ID] = r, r
	}
	p.desire()
	p.refuseClashes()
	changes := p.releases()
	changes = append(changes, p.suspensions()...)
	for i := range want.List {
		changes = append(changes, p.change(&want.List[i])...)
	}
	slices.SortStableFunc(changes, func(a, b Change) int { return cmp.Compare(order(a.Kind), order(b.Kind)) })
	return changes, p.errs.list
}

// order puts what sets hosts and keys free before what takes them.
func order(k ChangeKind) int {
	switch k {
	case Release:
		return 0
	case Create:
		return 2
	}
	return 1
}

// desire computes each declared tenant's next record, and refuses those that clash with what the API made of them.
func (p *planner) desire() {
	for i := range p.want.List {
		t := &p.want.List[i]
		id := t.Record.ID
		cur := p.current[id]
		if cur == nil {
			p.next[id] = t.made(p.now)
			continue
		}
		if cur.Source != tenant.SourceFile {
			p.refuse(t, t.at, "tenant %q was made through the API: delete it there, or take it out of the file", id)
			continue
		}
		if p.keyClash(t, cur) || p.nameClash(t, cur) {
			continue
		}
		if next := t.edited(cur, p.now); p.sound(t, next) {
			p.next[id] = next
		}
		if t.Policy != nil && cur.Policy != nil && cur.Policy.Source != tenant.SourceFile {
			p.errs.add(t.policyAt, "tenant %q has a policy that was put in force through the API, which stays: end that one, or take policy_dir out", id)
		}
	}
}

func (p *planner) refuse(t *Tenant, at position, format string, args ...any) {
	p.refused[t.Record.ID] = true
	p.errs.add(at, format, args...)
}

// keyClash refuses a declared key whose name or hash the API gave to a key of the same tenant earlier.
func (p *planner) keyClash(t *Tenant, cur *tenant.Record) bool {
	for _, k := range cur.Keys {
		if k.Source == tenant.SourceFile {
			continue
		}
		for _, d := range t.Record.Keys {
			if d.Hash == k.Hash || d.Name == k.Name {
				p.refuse(t, t.keys[d.Hash], "key %q of tenant %q has the name or the hash of a key that was made through the API: revoke that one, or change this one", d.Name, cur.ID)
				return true
			}
		}
	}
	return false
}

// nameClash refuses a declared bot or authenticator whose name the API gave to another of the same tenant earlier.
func (p *planner) nameClash(t *Tenant, cur *tenant.Record) bool {
	for _, b := range cur.Bots {
		if at, ok := t.bots[b.Name]; ok && b.Source != tenant.SourceFile {
			p.refuse(t, at, "bot %q of tenant %q was made through the API: delete that one, or change the name of this one", b.Name, cur.ID)
			return true
		}
	}
	for _, a := range cur.Authenticators {
		if at, ok := t.authenticators[a.Name]; ok && a.Source != tenant.SourceFile {
			p.refuse(t, at, "authenticator %q of tenant %q was made through the API: delete that one, or change the name of this one", a.Name, cur.ID)
			return true
		}
	}
	return false
}

// sound refuses a tenant that would break a rule together with what the API made of it, such as how many keys it may have.
func (p *planner) sound(t *Tenant, next *tenant.Record) bool {
	for _, k := range next.Keys {
		if k.Source == tenant.SourceFile && k.Bot != "" && k.Expires.Sub(k.Created) > tenant.MaxKeyLife {
			p.refuse(t, t.keys[k.Hash], "key %q of tenant %q is in use since %s and must end within a year of that: make a new key, and keep this one until it is in use", k.Name, next.ID, k.Created.Format(time.DateOnly))
			return false
		}
	}
	if err := next.Validate(""); err != nil { // the hosts were checked against the base domain when the file was read
		p.refuse(t, t.at, "tenant %q cannot be so together with what was made of it through the API: %s", next.ID, reason(err))
		return false
	}
	return true
}

// refuseClashes refuses declared tenants whose hosts or keys another tenant has, and will keep. A refused tenant keeps what
// it has now, which may refuse another; hence the loop, which ends as each round refuses at least one more.
func (p *planner) refuseClashes() {
	for again := true; again; {
		again = false
		taken := p.holders()
		for i := range p.want.List {
			t := &p.want.List[i]
			if !p.refused[t.Record.ID] && p.clash(t, taken) {
				p.next[t.Record.ID] = p.current[t.Record.ID]
				if p.next[t.Record.ID] == nil {
					delete(p.next, t.Record.ID)
				}
				again = true
			}
		}
	}
}

// holding is what must be one tenant's alone.
type holding struct {
	host string
	key  tenant.Hash
}

func holdings(r *tenant.Record) []holding {
	if r == nil {
		return nil
	}
	list := make([]holding, 0, len(r.Hosts)+len(r.Keys))
	for _, h := range r.Hosts {
		list = append(list, holding{host: h})
	}
	for _, k := range r.Keys {
		list = append(list, holding{key: k.Hash})
	}
	return list
}

// holders returns who will hold what, as far as it is not open to dispute: what a tenant holds already and keeps. What the
// file gave to a tenant that vanished from it, the file may give to another: so a tenant can be renamed.
func (p *planner) holders() map[holding]tenant.ID {
	taken := make(map[holding]tenant.ID)
	for id, r := range p.next {
		cur := p.current[id]
		has := make(map[holding]bool)
		for _, h := range holdings(cur) {
			has[h] = true
		}
		gone := cur != nil && p.vanished(cur)
		for _, h := range holdings(r) {
			if has[h] && !(gone && ownedByFile(cur, h)) {
				taken[h] = id
			}
		}
	}
	return taken
}

// vanished says whether r was declared by this file and is no more.
func (p *planner) vanished(r *tenant.Record) bool {
	return r.Source == tenant.SourceFile && r.File == p.want.File && !p.declared[r.ID]
}

// ownedByFile says whether a declared tenant has h from its file alone: the hosts that it has not proven to own, and the keys
// that are not the API's.
func ownedByFile(r *tenant.Record, h holding) bool {
	if h.host != "" {
		return !slices.Contains(r.ProvenHosts, h.host)
	}
	k, ok := r.KeyByHash(h.key)
	return ok && k.Source == tenant.SourceFile
}

func (p *planner) clash(t *Tenant, taken map[holding]tenant.ID) bool {
	id := t.Record.ID
	for _, h := range holdings(p.next[id]) {
		other, ok := taken[h]
		if !ok || other == id {
			continue
		}
		switch {
		case h.host == "":
			p.refuse(t, t.keys[h.key], "a key_hash of tenant %q belongs to tenant %q already: a key belongs to one tenant", id, other)
		case p.proven(other, h.host):
			p.refuse(t, t.hosts[h.host], "host %[1]q of tenant %[2]q belongs to tenant %[3]q, which proved to own it: it stays there until it is given up (polygate host remove %[1]s)", h.host, id, other)
		default:
			p.refuse(t, t.hosts[h.host], "host %q of tenant %q belongs to tenant %q already: take it from there first", h.host, id, other)
		}
		return true
	}
	return false
}

func (p *planner) proven(id tenant.ID, host string) bool {
	r := p.current[id]
	return r != nil && slices.Contains(r.ProvenHosts, host)
}

// releases lets go of what moves from one tenant to another, before anything else: two tenants may even swap.
func (p *planner) releases() []Change {
	wanted := make(map[holding]tenant.ID)
	for id := range p.declared {
		if p.refused[id] {
			continue
		}
		for _, h := range holdings(p.next[id]) {
			wanted[h] = id
		}
	}
	var list []Change
	for _, id := range slices.Sorted(maps.Keys(p.current)) {
		lost := make(map[holding]bool)
		for _, h := range holdings(p.current[id]) {
			if other, ok := wanted[h]; ok && other != id {
				lost[h] = true
			}
		}
		if len(lost) > 0 {
			list = append(list, Change{Kind: Release, ID: id, Edit: func(r *tenant.Record) error { release(r, lost); return nil }})
		}
	}
	return list
}

func release(r *tenant.Record, lost map[holding]bool) {
	r.Hosts = slices.DeleteFunc(r.Hosts, func(h string) bool { return lost[holding{host: h}] && ownedByFile(r, holding{host: h}) })
	r.Keys = slices.DeleteFunc(r.Keys, func(k tenant.Key) bool { return k.Source == tenant.SourceFile && lost[holding{key: k.Hash}] })
}

// suspensions suspends the active tenants that this file declared earlier and declares no more.
func (p *planner) suspensions() []Change {
	var list []Change
	for _, id := range slices.Sorted(maps.Keys(p.current)) {
		r := p.current[id]
		if p.vanished(r) && r.State == tenant.StateActive {
			list = append(list, Change{Kind: Suspend, ID: id, Edit: suspend})
		}
	}
	return list
}

func suspend(r *tenant.Record) error {
	if r.State == tenant.StateActive {
		r.State, r.SuspendReason = tenant.StateSuspended, Vanished
	}
	return nil
}

// change returns the step for one declared tenant, or none.
func (p *planner) change(t *Tenant) []Change {
	id := t.Record.ID
	cur, next := p.current[id], p.next[id]
	switch {
	case p.refused[id]:
		return nil
	case cur == nil:
		return []Change{{Kind: Create, ID: id, Record: next}}
	case equal(cur, next):
		return nil
	}
	kind := Update
	if cur.State != next.State {
		kind = Suspend
		if next.State == tenant.StateActive {
			kind = Resume
		}
	}
	now := p.now // the planner need not live as long as the edit
	edit := func(r *tenant.Record) error {
		if r.Source != tenant.SourceFile {
			return fmt.Errorf("tenant %q is no longer declared by a file", id)
		}
		*r = *t.edited(r, now)
		return nil
	}
	return []Change{{Kind: kind, ID: id, Edit: edit, Notes: notes(cur, next)}}
}
