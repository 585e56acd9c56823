package vgw

import (
	"context"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// sandboxFilter says which sandboxes a list or a watch is about.
type sandboxFilter struct {
	selector selector
	states   []sandbox.State // nil = all
	owner    string          // Ref; "" = everybody
	watch    bool
}

// filterParams are the query parameters of a list beside limit and cursor.
func filterParams() []string { return []string{"selector", "state", "owner", "watch"} }

// sandboxFilter reads the query of a list.
func (c *call) sandboxFilter() (f sandboxFilter, err error) {
	q, err := queryOf(c.r.Query, append(filterParams(), "limit", "cursor")...)
	if err != nil {
		return f, err
	}
	if q.Has("selector") {
		if f.selector, err = parseSelector(q.Get("selector")); err != nil {
			return f, err
		}
	}
	if q.Has("state") {
		if f.states, err = statesOf(q.Get("state")); err != nil {
			return f, err
		}
	}
	switch owner := q.Get("owner"); {
	case owner == "me":
		f.owner = c.r.Visit.Principal().Ref()
	case q.Has("owner") && (!strings.Contains(owner, ":") || len(owner) > maxParam):
		return f, fault.New(fault.Invalid, "owner must be me, or a ref such as user:<authenticator>/<subject>, bot:<id> or key:<id>")
	default:
		f.owner = owner
	}
	if f.watch, err = flagOf(q, "watch"); err != nil {
		return f, err
	}
	if f.watch && (q.Has("limit") || q.Has("cursor")) {
		return f, fault.New(fault.Invalid, "a watch has no pages: leave limit and cursor out")
	}
	return f, nil
}

// queryOf reads a query in which each of the names may be given once, and nothing else.
func queryOf(raw string, names ...string) (url.Values, error) {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the query is malformed")
	}
	for name, values := range q {
		if !slices.Contains(names, name) {
			return nil, fault.New(fault.Invalid, "the query parameter %.64q is unknown: use %s", name, inWords(names))
		}
		if len(values) > 1 {
			return nil, fault.New(fault.Invalid, "the query parameter %s is given %d times", name, len(values))
		}
	}
	return q, nil
}

// flagOf reads a parameter that is on or off.
func flagOf(q url.Values, name string) (bool, error) {
	switch q.Get(name) {
	case "1", "true":
		return true, nil
	case "0", "false":
		return false, nil
	case "":
		if !q.Has(name) {
			return false, nil
		}
	}
	return false, fault.New(fault.Invalid, "%s must be 1 or 0", name)
}

func statesOf(text string) (out []sandbox.State, err error) {
	known := []sandbox.State{sandbox.Pending, sandbox.Starting, sandbox.Running, sandbox.Stopping, sandbox.Stopped, sandbox.Failed, sandbox.Deleting}
	for name := range strings.SplitSeq(text, ",") {
		if !slices.Contains(known, sandbox.State(name)) {
			return nil, fault.New(fault.Invalid, "state %.32q is unknown: use Pending, Starting, Running, Stopping, Stopped, Failed or Deleting", name)
		}
		out = append(out, sandbox.State(name))
	}
	return out, nil
}

// chooses says whether a sandbox is one that is asked for. by is its owner as it is shown.
func (f *sandboxFilter) chooses(s *sandbox.Sandbox, by string) bool {
	return (f.owner == "" || f.owner == by) && (f.states == nil || slices.Contains(f.states, s.State)) && f.selector.matches(s.Spec.Labels)
}

func listSandboxes(_ context.Context, c *call) (exchange.Decision, error) {
	f, err := c.sandboxFilter()
	if err != nil {
		return nil, err
	}
	if !f.watch {
		return c.pageSandboxes(f)
	}
	return c.watchSandboxes(f)
}

// pageSandboxes answers with a page of those that the caller may see. Whoever has no role sees what was delegated to it.
func (c *call) pageSandboxes(f sandboxFilter) (exchange.Decision, error) {
	permit, may, err := admitList(c, authz.SandboxList, kindSandbox)
	if err != nil {
		return nil, err
	}
	all, err := c.sandboxes()
	if err != nil && may {
		return nil, settleList(permit, err)
	}
	var items []*sandbox.Sandbox
	if err == nil {
		items = c.chosen(all, f)
	}
	part, err := page(c, items, func(s *sandbox.Sandbox) string { return s.Name }, filterParams()...)
	if err != nil {
		return nil, settleList(permit, err)
	}
	out := list[sandboxView]{Items: []sandboxView{}, NextCursor: part.NextCursor}
	for _, s := range part.Items {
		if c.showsOne(s, may) {
			out.Items = append(out.Items, c.sandboxView(s))
		}
	}
	d, err := reply(200, out)
	return decision(d, settleList(permit, err))
}

// chosen returns the sandboxes that a filter is about, of those that the caller may see as far as its role, its ownership and its
// delegations say; a policy is asked of each of a page alone.
func (c *call) chosen(all *sandbox.Manager, f sandboxFilter) []*sandbox.Sandbox {
	var out []*sandbox.Sandbox
	for _, s := range all.Snapshot() {
		o := ownableSandbox(s).object(c.e.Record)
		if f.chooses(s, o.Owner) && c.allows(authz.SandboxRead, o) {
			out = append(out, s)
		}
	}
	return out
}

// showsOne says whether a sandbox is shown in a list: where the list was admitted, if nothing denies it; else it is admitted by itself.
func (c *call) showsOne(s *sandbox.Sandbox, listed bool) bool {
	effect := c.sandboxEffect(authz.SandboxRead, s)
	if listed {
		return c.r.Visit.MayDo(effect)
	}
	permit, err := c.r.Visit.Admit(effect)
	if err == nil {
		permit.Done(nil)
	}
	return err == nil
}

// Bounds of a wait.
const (
	waitFor  = time.Minute // where nothing is said
	waitMost = time.Hour
)

// goalOf reads the query of a wait.
func goalOf(raw string) (g goal, err error) {
	q, err := queryOf(raw, "for", "timeout")
	if err != nil {
		return g, err
	}
	g = goal{name: "settled", timeout: waitFor}
	if q.Has("for") {
		g.name = q.Get("for")
	}
	if !slices.Contains([]string{"running", "stopped", "deleted", "settled"}, g.name) {
		return g, fault.New(fault.Invalid, "for %.32q is unknown: use running, stopped, deleted or settled", g.name)
	}
	if q.Has("timeout") {
		g.timeout, err = spanOf("timeout", q.Get("timeout"), time.Second, waitMost)
	}
	return g, err
}

// spanOf reads a time such as 90s, or a number of seconds.
func spanOf(name, text string, least, most time.Duration) (time.Duration, error) {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		text = strconv.FormatUint(n, 10) + "s"
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most {
		return 0, fault.New(fault.Invalid, "%s must be %s to %s, such as 90s or 90", name, least, most)
	}
	return d, nil
}
