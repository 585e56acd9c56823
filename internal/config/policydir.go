package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/goccy/go-yaml/ast"

	"github.com/polygate/polygate/internal/policy"
)

// maxWatched bounds how many files of a folder that cannot be read as a bundle are watched for its repair.
const maxWatched = 2000

// policyFolder is a folder that was read. Tenants may share one: it is read, and compiled, once.
type policyFolder struct {
	bundle *policy.Bundle // nil if something is wrong with it, which has been told
	digest string
}

// policy reads the bundle in the folder that policy_dir names.
func (r *tenantsReader) policy(n ast.Node, f *tenantForm, t *Tenant) {
	at := place(find(n, "policy_dir"))
	t.PolicyDir, t.policyAt = f.PolicyDir, at
	dir := f.PolicyDir
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(r.dir, dir)
	}
	known, ok := r.policies[dir]
	if !ok {
		known = r.readPolicy(dir, f.PolicyDir, at)
		r.policies[dir] = known
	}
	t.Policy, t.PolicyDigest = known.bundle, known.digest
}

func (r *tenantsReader) readPolicy(dir, name string, at position) policyFolder {
	if info, err := os.Stat(dir); err != nil {
		r.files = append(r.files, dir)
		r.badPolicy(dir, name, at, errors.New(fileReason(err)))
		return policyFolder{}
	} else if !info.IsDir() {
		r.files = append(r.files, dir)
		r.badPolicy(dir, name, at, errors.New("is not a folder"))
		return policyFolder{}
	}
	b, files, err := policy.ReadDir(dir, r.opt.PolicyLimits)
	if err != nil {
		r.files = append(r.files, below(dir)...)
		r.badPolicy(dir, name, at, err)
		return policyFolder{}
	}
	r.files = append(r.files, files...)
	if r.opt.CheckPolicy != nil {
		if err := r.opt.CheckPolicy(b); err != nil {
			r.badPolicy(dir, name, at, err)
			return policyFolder{}
		}
	}
	return policyFolder{b, b.Digest()}
}

// badPolicy tells what is wrong with a bundle: in its own files, where it says the place, else where the folder is named.
func (r *tenantsReader) badPolicy(dir, name string, at position, err error) {
	var bad *policy.CompileError
	if !errors.As(err, &bad) || len(bad.Problems) == 0 {
		r.add(at, "policy_dir %q: %s", clip(name), reason(err))
		return
	}
	for _, p := range bad.Problems {
		if p.File == "" {
			r.add(at, "policy_dir %q: %s", clip(name), p.Message)
			continue
		}
		c := collector{file: filepath.Join(dir, filepath.FromSlash(p.File))}
		c.add(position{Line: p.Line, Column: p.Column}, "%s", p.Message)
		r.take(c.list)
	}
}

// below returns a folder and what is in it, to be watched.
func below(dir string) []string {
	files := []string{dir}
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error { // what cannot be read cannot be watched
		if err != nil || len(files) >= maxWatched {
			return fs.SkipAll
		}
		files = append(files, path)
		return nil
	})
	return files
}
