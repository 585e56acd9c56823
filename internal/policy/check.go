package policy

import (
	"context"
	"slices"
	"strings"
)

// Check says whether a bundle could be opened, without opening it. The error is that of Library.Open. Its tests are
// compiled too.
func Check(ctx context.Context, b *Bundle, l Limits) (*Report, error) {
	l = l.or(Defaults())
	p, d, err := whole(ctx, b, l)
	if err != nil {
		return nil, err
	}
	_ = d
	r := &Report{
		Digest: b.Digest(), RegoVersion: p.version, Entrypoints: p.entries, Warnings: p.warnings,
		Tests: len(p.tests()), CompileTime: p.took,
	}
	for _, ref := range p.packages {
		r.Packages = append(r.Packages, strings.TrimPrefix(ref.String(), "data."))
	}
	slices.Sort(r.Packages)
	return r, nil
}

// whole compiles a bundle and its tests, first without them: a bundle whose tests hold what it lacks must not pass.
func whole(ctx context.Context, b *Bundle, l Limits) (*program, *data, error) {
	if err := b.check(l); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 2*l.CompileTime, errCompileTime)
	defer cancel()
	p, err := compile(ctx, b, false)
	if err != nil {
		return nil, nil, err
	}
	if slices.ContainsFunc(modulesOf(b), isTest) {
		if p, err = compile(ctx, b, true); err != nil {
			return nil, nil, err
		}
	}
	d, err := parseData(b.Data, p.packages)
	return p, d, err
}

func modulesOf(b *Bundle) []string {
	out := make([]string, 0, len(b.Modules))
	for name := range b.Modules {
		out = append(out, name)
	}
	return out
}
