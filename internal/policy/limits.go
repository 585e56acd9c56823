package policy

import "time"

// Limits bound what one tenant's policy may cost. The zero value of a field means its default.
type Limits struct {
	BundleBytes int           // modules and data of one bundle together, in bytes; 1 MiB
	DataBytes   int           // data of one bundle, in bytes; 1 MiB
	Modules     int           // modules of one bundle, tests included; 200
	EvalTime    time.Duration // one evaluation, waiting for its turn included; 50 ms
	EvalBytes   int           // what built-in functions may make in one evaluation, in bytes; 8 MiB
	Concurrent  int           // evaluations of one tenant at a time; 8
	CompileTime time.Duration // one compilation, looked at between its stages; 2 s
	Compiles    int           // compilations at a time, for small bundles and for large ones each; 1
	TestTime    time.Duration // all tests of one bundle; 5 s
}

// Defaults returns the default of every limit.
func Defaults() Limits {
	return Limits{
		BundleBytes: 1 << 20, DataBytes: 1 << 20, Modules: 200,
		EvalTime: 50 * time.Millisecond, EvalBytes: 8 << 20, Concurrent: 8,
		CompileTime: 2 * time.Second, Compiles: 1, TestTime: 5 * time.Second,
	}
}
