package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/polygate/polygate/internal/fault"
)

// entryPackage is where a bundle answers.
const entryPackage = "data.polygate.authz"

// entrypoints returns the rules that are asked, in the order in which they decide.
func entrypoints() []string { return []string{"deny", "require_approval", "allow", "reason"} }

// program is a bundle's modules, compiled. It is immutable and holds nothing of a tenant: bundles with equal modules
// share one.
type program struct {
	compiler  *ast.Compiler
	query     ast.Body // one query for the whole decision
	queryComp ast.QueryCompiler
	functions map[string]*topdown.Builtin
	packages  []ast.Ref
	entries   []string
	version   string
	warnings  []string
	took      time.Duration
}

// compile makes a program of a bundle that passed Bundle.check. It gives up between modules and stages when ctx ends.
// withTests takes the modules *_test.rego in too.
func compile(ctx context.Context, b *Bundle, withTests bool) (p *program, err error) {
	begun := time.Now()
	defer func() {
		if r := recover(); r != nil {
			p, err = nil, fault.Wrap(fault.Internal, fmt.Errorf("compile policy: panic: %v\n%s", r, debug.Stack()), "the policy cannot be compiled")
		}
	}()
	p = &program{functions: functions()}
	mods, version, err := p.parse(ctx, b, withTests)
	if err != nil {
		return nil, err
	}
	if err := p.judge(mods); err != nil {
		return nil, err
	}
	if err := p.build(ctx, mods, version); err != nil {
		return nil, err
	}
	if err := p.prepare(); err != nil {
		return nil, err
	}
	p.took = time.Since(begun)
	return p, nil
}

// parse reads the modules as the bundle says, or as v1 and then as v0.
func (p *program) parse(ctx context.Context, b *Bundle, withTests bool) (map[string]*ast.Module, ast.RegoVersion, error) {
	if b.RegoVersion != "" {
		p.version = b.RegoVersion
		mods, err := parseAll(ctx, b, withTests, version(b.RegoVersion))
		return mods, version(b.RegoVersion), err
	}
	p.version = "v1"
	mods, err := parseAll(ctx, b, withTests, ast.RegoV1)
	if err == nil || fault.From(err).Kind != fault.Invalid {
		return mods, ast.RegoV1, err
	}
	old, err0 := parseAll(ctx, b, withTests, ast.RegoV0)
	if err0 != nil {
		return nil, ast.RegoV1, err // people write v1: its errors are those that help
	}
	p.version = "v0"
	p.warnings = append(p.warnings, "the bundle is written in Rego v0: move it to v1 with `opa fmt --v0-v1`, or say rego_version v0")
	return old, ast.RegoV0, nil
}

func version(s string) ast.RegoVersion {
	if s == "v0" {
		return ast.RegoV0
	}
	return ast.RegoV1
}

func parseAll(ctx context.Context, b *Bundle, withTests bool, v ast.RegoVersion) (map[string]*ast.Module, error) {
	var p problems
	out := make(map[string]*ast.Module, len(b.Modules))
	caps := capabilities(v)
	for _, name := range slices.Sorted(maps.Keys(b.Modules)) {
		if isTest(name) && !withTests {
			continue
		}
		if ctx.Err() != nil {
			return nil, tooSlow(ctx)
		}
		m, err := parseModule(name, b.Modules[name], v, caps)
		if err != nil {
			p.opa(err)
			continue
		}
		out[name] = m
	}
	return out, p.err()
}

// parseModule parses twice: OPA bounds the recursion of its parser at 100,000 unless it is told otherwise, and only
// the parser, not the function that makes modules, can be told.
func parseModule(name, src string, v ast.RegoVersion, caps *ast.Capabilities) (*ast.Module, error) {
	opts := ast.ParserOptions{RegoVersion: v, Capabilities: caps}
	_, _, errs := ast.NewParser().WithMaxRecursionDepth(maxParse).WithFilename(name).WithReader(strings.NewReader(src)).
		WithRegoVersion(v).WithCapabilities(caps).Parse()
	for _, e := range errs {
		if strings.Contains(e.Message, ast.ErrMaxParsingRecursionDepthExceeded.Error()) {
			e.Message = "an expression is nested too deeply"
			return nil, ast.Errors{e}
		}
	}
	m, err := ast.ParseModuleWithOpts(name, src, opts)
	if err == nil && m == nil {
		err = ast.Errors{ast.NewError(ast.ParseErr, &ast.Location{File: name, Row: 1, Col: 1}, "the module is empty")}
	}
	return m, err
}

// judge holds the modules against the bounds and finds their packages.
func (p *program) judge(mods map[string]*ast.Module) error {
	var bad problems
	s := &shape{p: &bad}
	for _, name := range slices.Sorted(maps.Keys(mods)) {
		m := mods[name]
		s.module(m)
		if ref := m.Package.Path; len(ref) > 1 && ref[1].Value.Compare(ast.SystemDocumentKey) == 0 {
			bad.at(m.Package.Loc(), "package system is reserved")
		} else if !slices.ContainsFunc(p.packages, func(r ast.Ref) bool { return r.Equal(ref) }) {
			p.packages = append(p.packages, ref)
		}
	}
	return bad.err()
}

// build runs OPA's compiler with our stages between its own. Two stages of OPA's are left out. That for recursion is
// chainStage here. The type checker takes exponential time for types that share their parts (32 rules of the form `t1 := [t0, t0]`
// never end), and nothing interrupts it; a call with a wrong type is an error when it is evaluated, and so a deny.
func (p *program) build(ctx context.Context, mods map[string]*ast.Module, v ast.RegoVersion) error {
	c := ast.NewCompiler().SetErrorLimit(maxProblems).WithCapabilities(capabilities(v)).WithDefaultRegoVersion(v)
	c = c.WithSkipStages(ast.StageCheckRecursion, ast.StageCheckTypes, ast.StageBuildRequiredCapabilities)
	//lint:ignore SA1019 deprecated in favour of rego.Function, which ends here too
	c = c.WithBuiltins(guards()) //nolint:staticcheck // deprecated in favour of rego.Function, which ends here too
	stage := func(after ast.StageID, name string, f ast.CompilerStage) {
		c.WithStageAfterID(after, ast.CompilerStageDefinition{Name: name, MetricName: name, Stage: f})
	}
	for _, id := range ast.AllStages() {
		stage(id, "Deadline", func(*ast.Compiler) *ast.Error {
			if ctx.Err() != nil {
				return ast.NewError(ast.CompileErr, nil, "it takes too long to compile: make it smaller")
			}
			return nil
		})
	}
	stage(ast.StageRewriteExprTerms, "Rename", renameStage)
	stage(ast.StageSetGraph, "Chains", chainStage)
	stage(ast.StageRewriteDynamicTerms, "Weigh", weighStage)
	stage(ast.StageRewriteDynamicTerms, "Functions", typeFunctions)
	c.Compile(mods)
	if ctx.Err() != nil {
		return tooSlow(ctx)
	}
	p.compiler = c
	var bad problems
	if c.Failed() {
		bad.opa(c.Errors)
	}
	return bad.err()
}

func tooSlow(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), errCompileTime) {
		return fault.New(fault.Invalid, "the policy takes too long to compile: make it smaller or split its rules")
	}
	return fault.Wrap(fault.Canceled, ctx.Err(), "the compilation was given up")
}

var errCompileTime = fault.New(fault.Invalid, "compile time is over")

// prepare finds the entrypoints and compiles the query that asks them all. Each stands in a comprehension of its own, so that one
// that is undefined leaves an empty array and not an undefined answer.
func (p *program) prepare() error {
	var bad problems
	var parts []string
	for _, name := range entrypoints() {
		rules := p.compiler.GetRulesWithPrefix(ast.MustParseRef(entryPackage + "." + name))
		for _, r := range rules {
			if len(r.Head.Args) > 0 && r.Ref().String() == entryPackage+"."+name {
				bad.at(r.Loc(), "%s is a function: write it as a rule", name)
			}
		}
		if len(rules) > 0 {
			p.entries = append(p.entries, name)
			parts = append(parts, fmt.Sprintf(`"%s": [v | v := %s.%s]`, name, entryPackage, name))
		}
	}
	if !slices.Contains(p.entries, "allow") {
		bad.add("", "no module defines allow in package polygate.authz: everything would be refused")
	}
	if err := bad.err(); err != nil {
		return err
	}
	var err error
	p.query, p.queryComp, err = p.ask("answer = {" + strings.Join(parts, ", ") + "}")
	return err
}

// ask compiles a query.
func (p *program) ask(query string) (ast.Body, ast.QueryCompiler, error) {
	body, err := ast.ParseBodyWithOpts(query, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		return nil, nil, fmt.Errorf("parse query: %w", err)
	}
	qc := p.compiler.QueryCompiler()
	compiled, err := qc.Compile(body)
	if err != nil {
		return nil, nil, fmt.Errorf("compile query: %w", err)
	}
	return compiled, qc, nil
}
