package archtest

import (
	"fmt"
	"go/ast"
	"slices"
	"strconv"
	"strings"
)

// parts are the four that know the vocabulary and not each other.
func parts() []string { return []string{"proxy", "vgw", "registry", "certs"} }

// vocabulary returns what a package of the vocabulary may import of the project; ok is false for other packages.
func vocabulary(path string) (may []string, ok bool) {
	switch path {
	case "internal/fault", "internal/strictyaml", "internal/openapi", "internal/placement", "internal/peer":
		return nil, true
	case "internal/tenant":
		return []string{"internal/fault"}, true
	case "internal/authz", "internal/quota", "internal/audit":
		return []string{"internal/tenant", "internal/fault"}, true
	case "internal/policy":
		return []string{"internal/tenant", "internal/fault"}, true
	case "internal/guard":
		return []string{"internal/authz", "internal/policy", "internal/quota", "internal/audit", "internal/tenant", "internal/fault"}, true
	case "internal/exchange":
		return []string{"internal/guard", "internal/authz", "internal/tenant", "internal/fault"}, true
	}
	return nil, false
}

// ImportMap holds the star: imports point from cmd to the parts to internal, the parts do not know each other, and the
// vocabulary stays small.
func ImportMap(p *Package) []string {
	var bad []string
	for _, full := range p.Imports {
		imp := within(full)
		if imp == full { // not of the project
			continue
		}
		if why := forbidden(p.Path, imp); why != "" {
			bad = append(bad, fmt.Sprintf("%s imports %s: %s", p.Path, imp, why))
		}
	}
	return bad
}

func forbidden(from, to string) string {
	if under(to, "cmd") && !under(from, "cmd") {
		return "commands are at the outside, nothing imports them"
	}
	if under(from, "bench") && !measuring(to) || under(from, "cmd/polybench") && !measuring(to) && !under(to, "cmd/polybench") {
		return "the harness sees the product from outside, as it sees its peers"
	}
	if may, ok := vocabulary(from); ok && !slices.Contains(may, to) {
		return "it is part of the vocabulary and may import only [" + strings.Join(may, " ") + "]"
	}
	for _, part := range parts() {
		switch {
		case !under(to, part):
		case under(from, "internal"):
			return "internal packages know no part"
		case slices.ContainsFunc(parts(), func(other string) bool { return other != part && under(from, other) }):
			return "parts do not know each other: they meet in cmd"
		}
	}
	return ""
}

// measuring tells whether the bench harness may know a package: its own, and how we read YAML, which is nothing of the product.
func measuring(path string) bool { return under(path, "bench") || path == "internal/strictyaml" }

// Libraries holds which part sees which outside library, and that decisions name no HTTP library.
func Libraries(p *Package) []string {
	var bad []string
	for _, imp := range p.Imports {
		if why := foreign(p, imp); why != "" {
			bad = append(bad, fmt.Sprintf("%s imports %s: %s", p.Path, imp, why))
		}
	}
	return bad
}

func foreign(p *Package, imp string) string {
	switch {
	case under(imp, "go.etcd.io") && !under(p.Path, "registry"):
		return "only registry sees etcd"
	case under(imp, "k8s.io/client-go") && p.Name != "kube" && p.Name != "kubetest":
		return "only packages named kube, and kubetest, see client-go"
	case (under(imp, "github.com/caddyserver/certmagic") || under(imp, "github.com/mholt/acmez") || under(imp, "github.com/libdns") || under(imp, "github.com/miekg/dns")) && !under(p.Path, "certs"):
		return "only certs sees certmagic, its ACME engine and its DNS providers"
	case (under(imp, "github.com/coreos/go-oidc") || under(imp, "github.com/go-jose/go-jose") || under(imp, "golang.org/x/oauth2")) && p.Path != "internal/authn" && p.Path != "bench/credential":
		return "only internal/authn, and bench/credential, see go-oidc, go-jose and oauth2"
	case under(imp, "github.com/open-policy-agent/opa") && p.Path != "internal/policy":
		return "only internal/policy sees OPA"
	case under(imp, "net/http") && (under(p.Path, "vgw") && p.Name != "kube" || p.Path == "internal/exchange" || p.Path == "internal/policy"):
		return "a decision names no HTTP library: return a Reply, a Relay or a Serve"
	}
	return ""
}

// Confinement holds that only the registry makes a tenant.Scope, so that whoever serves a tenant cannot name another.
func Confinement(p *Package) []string {
	if under(p.Path, "registry") || p.Path == "internal/tenant" {
		return nil
	}
	var bad []string
	for _, f := range p.Files {
		name, imported := localName(f, Module+"/internal/tenant")
		if !imported {
			continue
		}
		if name == "." {
			bad = append(bad, p.at(f.Pos())+": imports tenant with a dot, which hides a call of Confine")
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "Confine" {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == name {
					bad = append(bad, p.at(s.Pos())+": only registry may use tenant.Confine")
				}
			}
			return true
		})
	}
	return bad
}

// localName returns the name under which a file knows an import.
func localName(f *ast.File, path string) (string, bool) {
	for _, spec := range f.Imports {
		if got, err := strconv.Unquote(spec.Path.Value); err != nil || got != path {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name, true
		}
		return path[strings.LastIndexByte(path, '/')+1:], true
	}
	return "", false
}
