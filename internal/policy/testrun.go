package policy

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Test runs the bundle's tests: the rules whose names begin with test_ in files that end in _test.rego; those that begin
// with todo_test_ are skipped. The bounds of an evaluation hold for each of them, with ten times its time, and
// Limits.TestTime for all: what is left then is reported as not run.
func Test(ctx context.Context, b *Bundle, l Limits) ([]TestResult, error) {
	l = l.or(Defaults())
	p, d, err := whole(ctx, b, l)
	if err != nil {
		return nil, err
	}
	end := time.Now().Add(l.TestTime)
	var out []TestResult
	for _, r := range p.tests() {
		res := TestResult{
			Package: r.Module.Package.Path.String(), Name: ruleName(r), File: r.Loc().File, Line: r.Loc().Row,
			Skip: strings.HasPrefix(ruleName(r), "todo_"),
		}
		if !res.Skip {
			p.test(ctx, &res, d, end, l)
		}
		out = append(out, res)
	}
	return out, nil
}

// tests returns one rule for each test, in the order of files and lines.
func (p *program) tests() []*ast.Rule {
	var out []*ast.Rule
	seen := make(map[string]bool)
	for _, file := range slices.Sorted(maps.Keys(p.compiler.Modules)) {
		if !isTest(file) {
			continue
		}
		for _, r := range p.compiler.Modules[file].Rules {
			name := ruleName(r)
			if !strings.HasPrefix(name, "test_") && !strings.HasPrefix(name, "todo_test_") || seen[r.Ref().String()] {
				continue
			}
			seen[r.Ref().String()] = true
			out = append(out, r)
		}
	}
	slices.SortStableFunc(out, func(a, b *ast.Rule) int {
		return cmp.Or(cmp.Compare(a.Loc().File, b.Loc().File), cmp.Compare(a.Loc().Row, b.Loc().Row))
	})
	return out
}

func ruleName(r *ast.Rule) string {
	ref := r.Head.Ref()
	if v, ok := ref[0].Value.(ast.Var); ok {
		return string(v)
	}
	return ""
}

// test evaluates one test rule.
func (p *program) test(ctx context.Context, res *TestResult, d *data, end time.Time, l Limits) {
	begun := time.Now()
	defer func() { res.Duration = time.Since(begun) }()
	if begun.After(end) || ctx.Err() != nil {
		res.Error = "not run: the time for all tests is over"
		return
	}
	q, qc, err := p.ask(fmt.Sprintf("answer = %s.%s", res.Package, res.Name))
	if err != nil {
		res.Error = clip(err.Error(), maxMessage)
		return
	}
	deadline := begun.Add(10 * l.EvalTime)
	if deadline.After(end) {
		deadline = end
	}
	bud := &budget{ctx: ctx, deadline: deadline, bytes: l.EvalBytes}
	v, err := p.run(ctx, q, qc, d, new(Input).value("test"), bud, nil)
	if f := bud.classify(err); f != Decided {
		res.Error = string(f)
		if err != nil {
			res.Error += ": " + clip(strings.ReplaceAll(err.Error(), guarded, ""), maxMessage)
		}
		return
	}
	res.Pass = v != nil && v.Compare(ast.Boolean(true)) == 0
}
