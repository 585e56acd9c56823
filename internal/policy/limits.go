package policy

import "time"

// Limits bound what one tenant's policy may cost. The zero value of a field means its default.
type Limits struct {
	BundleBytes int           // modules and data of one bundle together, in bytes; 1 MiB
	SourceBytes int           // modules of one bundle together, in bytes; 256 KiB: OPA's parser takes up to 7 s for 1 MiB, and cannot be interrupted
	DataBytes   int           // data of one bundle, in bytes; 1 MiB
	Modules     int           // modules of one bundle, tests included; 200
	EvalTime    time.Duration // one evaluation, waiting for its turn included; 50 ms
	EvalBytes   int           // what built-in functions may make in one evaluation, in bytes; 8 MiB
	Concurrent  int           // evaluations of one tenant at a time; 8
	CompileTime time.Duration // one compilation, looked at between its stages; 5 s
	Compiles    int           // compilations at a time, for small bundles and for large ones each; 1
	Long        int           // evaluations that have run for long, of all tenants, at a time; 1
	TestTime    time.Duration // all tests of one bundle; 5 s
}

// Defaults returns the default of every limit.
func Defaults() Limits {
	return Limits{
		BundleBytes: 1 << 20, SourceBytes: 256 << 10, DataBytes: 1 << 20, Modules: 200,
		EvalTime: 50 * time.Millisecond, EvalBytes: 8 << 20, Concurrent: 8,
		CompileTime: 5 * time.Second, Compiles: 1, Long: 1, TestTime: 5 * time.Second,
	}
}

// or returns l with its zero fields replaced by those of d.
func (l Limits) or(d Limits) Limits {
	return Limits{
		BundleBytes: pick(l.BundleBytes, d.BundleBytes), SourceBytes: pick(l.SourceBytes, d.SourceBytes), DataBytes: pick(l.DataBytes, d.DataBytes), Modules: pick(l.Modules, d.Modules),
		EvalTime: pick(l.EvalTime, d.EvalTime), EvalBytes: pick(l.EvalBytes, d.EvalBytes), Concurrent: pick(l.Concurrent, d.Concurrent),
		CompileTime: pick(l.CompileTime, d.CompileTime), Compiles: pick(l.Compiles, d.Compiles), Long: pick(l.Long, d.Long),
		TestTime: pick(l.TestTime, d.TestTime),
	}
}

func pick[T int | time.Duration](v, otherwise T) T {
	if v > 0 {
		return v
	}
	return otherwise
}

// The shape that a bundle may have. Bytes alone do not bound a compilation: several of OPA's stages cost the square of
// one of these counts, or more, and cannot be interrupted. Each is far above what people write; DESIGN.md has the costs
// that were measured. They are not settable because they hold together.
const (
	maxModule   = 128 << 10 // bytes of one module: parsing a call costs the square of its arguments
	maxParse    = 700       // recursion of the parser, about 60 nested brackets
	maxDots     = 64        // dots of one run of names, before the parser sees it
	maxBrackets = 2000      // "][" and "]." of one module, before the parser sees it
	maxDigits   = 64        // characters of one number: arithmetic on numbers costs the square of their length
	maxRules    = 3000      // rules of one bundle, `else` branches included
	maxImports  = 1000      // imports of one bundle
	maxArgs     = 32        // parameters of one function
	maxExprs    = 20_000    // expressions of one bundle
	maxBody     = 100       // expressions of one body
	maxOrder    = 5 << 20   // sum over bodies of the square of their length times all that lies in them: ordering them for safety costs that
	maxElse     = 50        // `else` branches of one rule
	maxTerms    = 100_000   // terms of one bundle, constants included
	maxExprSize = 500       // variables and references of one expression
	maxRef      = 32        // segments of one reference, import or package
	maxNest     = 6         // comprehensions and every within each other
	maxWith     = 16        // `with` modifiers of one expression
	maxSearch   = 100_000   // references into `data` whose path holds a variable, times rules
	maxEdges    = 20_000    // pairs of rules of which one refers to the other
	maxChain    = 2000      // expressions from a rule through those that it refers to, along the longest way
	maxData     = 32        // nesting of data
)
