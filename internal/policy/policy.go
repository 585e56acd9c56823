// Package policy evaluates what a tenant itself allows: a bundle of Rego modules and data that the tenant wrote, judged
// by OPA inside this process and within hard bounds of time, memory and concurrency. It answers with a Decision, always:
// whatever goes wrong is a deny with a reason. It leaves to others where bundles are stored, when they change and what a
// denial looks like on the wire; it knows no HTTP, no store and no clock that a policy could see. DESIGN.md in this folder
// is the contract for the authors of policies.
package policy

import "time"

// Failure says why a decision is not the policy's own word. It labels metrics and audit records, so the names are stable.
type Failure string

// The failures. A decision with any of them is a deny.
const (
	Decided     Failure = ""           // none: the policy said allow or deny
	FailNone    Failure = "no-bundle"  // there is no engine, or it was closed
	FailBusy    Failure = "busy"       // the tenant's evaluations filled its share for as long as one may take
	FailTimeout Failure = "timeout"    // the evaluation took longer than Limits.EvalTime
	FailMemory  Failure = "memory"     // a built-in function would have made a value over its bound
	FailUndef   Failure = "undefined"  // `allow` has no value
	FailType    Failure = "wrong-type" // an entrypoint has a value of a type that it must not have
	FailError   Failure = "error"      // two values for one rule, or a built-in function failed
	FailPanic   Failure = "panic"      // the evaluator panicked; that is a defect
	FailCancel  Failure = "canceled"   // the caller went away
)

// Decision is the outcome of one evaluation. The zero Decision is a deny.
type Decision struct {
	Allow           bool
	Reason          string   // for the caller and the audit record; never empty in a deny
	Denies          []string // what `deny` holds, as text, sorted; at most 16 of at most 256 bytes
	RequireApproval bool     // `require_approval` holds; the decision is then a deny
	Rule            string   // the rule that decided, such as "data.polygate.authz.deny"
	Digest          string   // of the bundle that decided; empty without one
	Failure         Failure
	Duration        time.Duration // waiting included
}

// Explanation is a Decision with where it came from.
type Explanation struct {
	Decision
	Input  string     // the input document as the policy saw it, as JSON
	Rules  []Location // the rules that had a part in the decision, entrypoints first
	Notes  []string   // the course of the evaluation, a line each; at most 200 lines of at most 512 bytes
	Cut    bool       // there was more than Notes or Rules hold
	Source string     // the Rego version of the bundle: "v0" or "v1"
}

// Location names a rule and where it is written.
type Location struct {
	Rule string // such as "data.polygate.authz.deny"
	File string
	Line int
}

// TestResult is the outcome of one test_ rule.
type TestResult struct {
	Package  string // such as "data.polygate.authz_test"
	Name     string // such as "test_admin_may_delete"
	File     string
	Line     int
	Pass     bool
	Skip     bool   // its name begins with todo_test_
	Error    string // why it did not pass, if it was not simply false or undefined
	Duration time.Duration
}

// Report is what Check found in a bundle that compiles.
type Report struct {
	Digest      string
	RegoVersion string   // the one used: "v0" or "v1"
	Packages    []string // such as "polygate.authz", sorted
	Entrypoints []string // those of allow, deny, reason and require_approval that are defined
	Tests       int      // how many test_ rules there are
	Warnings    []string
	CompileTime time.Duration
}
