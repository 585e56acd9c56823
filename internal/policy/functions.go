package policy

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/types"
)

// typeFunctions tells OPA which rules are functions. Its evaluator asks the type environment for that when `with`
// replaces one, and the type checker, which would have filled it, is left out (program.build). A compiler that is given the
// functions as built-in ones fills an environment without checking anything.
func typeFunctions(c *ast.Compiler) *ast.Error {
	decls := guards()
	for _, m := range c.Modules {
		for _, r := range m.Rules {
			n := len(r.Head.Args)
			if n == 0 {
				continue
			}
			name := r.Ref().GroundPrefix().String()
			if !plainName(name) {
				return ast.NewError(ast.CompileErr, r.Loc(), "the function's name is no plain path: use letters, digits and _")
			}
			args := make([]types.Type, n)
			for i := range args {
				args[i] = types.A
			}
			decls[name] = &ast.Builtin{Name: name, Decl: types.NewFunction(args, types.A)}
		}
	}
	env := ast.NewCompiler().WithCapabilities(c.Capabilities())
	//lint:ignore SA1019 as in build
	env = env.WithBuiltins(decls) //nolint:staticcheck // as in build
	env.Compile(nil)
	c.TypeEnv = env.TypeEnv
	return nil
}

// plainName says whether OPA can make the reference of a function out of its name.
func plainName(s string) bool {
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.") == "" && !strings.ContainsAny(s, "[\"")
}
