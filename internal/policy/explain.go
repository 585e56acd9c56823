package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/polygate/polygate/internal/fault"
)

const (
	maxNotes     = 200
	maxLocations = 50
)

// Explain judges an input as Decide does, and says which rules decided. It costs a multiple of Decide and holds the same bounds.
func (e *Engine) Explain(ctx context.Context, in *Input) (*Explanation, error) {
	if e == nil || e.closed.Load() {
		return nil, fault.New(fault.NotFound, "the tenant has no policy")
	}
	if in == nil {
		in = new(Input)
	}
	t := &tracer{seen: make(map[*ast.Rule]bool)}
	d := e.decide(ctx, in, t)
	slices.SortStableFunc(t.rules, func(a, b Location) int { return rank(a.Rule) - rank(b.Rule) })
	return &Explanation{
		Decision: d, Input: clip(in.value(e.scope.ID()).String(), 64<<10), Source: e.program.version,
		Rules: t.rules, Notes: t.notes, Cut: t.cut,
	}, nil
}

// rank puts the rules of the entrypoints first, in the order in which they decide.
func rank(rule string) int {
	for i, name := range entrypoints() {
		if full := entryPackage + "." + name; rule == full || strings.HasPrefix(rule, full+".") || strings.HasPrefix(rule, full+"[") {
			return i
		}
	}
	return len(entrypoints())
}

// tracer keeps the rules that had a value and the course of the evaluation, bounded.
type tracer struct {
	seen  map[*ast.Rule]bool
	rules []Location
	notes []string
	cut   bool
}

// Enabled implements topdown.QueryTracer.
func (*tracer) Enabled() bool { return true }

// Config implements topdown.QueryTracer.
func (*tracer) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent implements topdown.QueryTracer.
func (t *tracer) TraceEvent(ev topdown.Event) {
	rule, ok := ev.Node.(*ast.Rule)
	switch {
	case ev.Op == topdown.FailOp && ev.Location != nil && ev.Location.File != "":
		t.note("fail", ev.Location, string(ev.Location.Text))
	case !ok:
	case ev.Op == topdown.EnterOp:
		t.note("enter", rule.Loc(), rule.Ref().String())
	case ev.Op == topdown.ExitOp:
		t.note("exit", rule.Loc(), rule.Ref().String())
		t.decided(rule)
	}
}

func (t *tracer) decided(r *ast.Rule) {
	switch {
	case t.seen[r]:
	case len(t.rules) >= maxLocations:
		t.cut = true
	default:
		t.seen[r] = true
		t.rules = append(t.rules, Location{Rule: r.Ref().String(), File: r.Loc().File, Line: r.Loc().Row})
	}
}

func (t *tracer) note(what string, loc *ast.Location, text string) {
	if len(t.notes) >= maxNotes {
		t.cut = true
		return
	}
	text, _, _ = strings.Cut(text, "\n")
	t.notes = append(t.notes, clip(fmt.Sprintf("%s %s:%d %s", what, loc.File, loc.Row, printable(text)), 512))
}
