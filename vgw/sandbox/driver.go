package sandbox

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// Drivers makes a Driver for each tenant. It is what the platform was configured with: one cluster, or this machine.
type Drivers interface {
	// Open returns the driver of one tenant. It does nothing outside yet, and is cheap.
	Open(t Tenant) (Driver, error)
	// Name is kube or process.
	Name() string
}

// Tenant is all that a driver knows of the tenant that it is for. It is made from the routing record alone (X53).
type Tenant struct {
	Scope     tenant.Scope
	Namespace string           // Record.Namespace; "" = the driver names one after the tenant
	Settings  tenant.Sandboxes // of the record, the platform's defaults filled in
	Quotas    tenant.Quotas    // likewise
}

// Task is one run as a driver makes it. Its fields are judged, the defaults filled in.
type Task struct {
	Sandbox string // id
	Nonce   string
	UID     string // "" = not known yet
	Name    string // of the sandbox, for people
	Owner   string // a hash of the owner's Ref, fit for a label
	Session string
	Spec    Spec
	Until   time.Time // when the cluster ends it by itself, should no gateway be there to; zero = never
}

// Phase is what a driver sees of a run.
type Phase uint8

// The phases.
const (
	PhaseAbsent   Phase = iota // there is no such run (any more)
	PhaseWaiting               // it exists and does not run
	PhaseRunning               // its process runs
	PhaseEnded                 // its process ended; what is left of it is to be released
	PhaseStopping              // it was told to end
)

// Observation is what a driver sees of one run.
type Observation struct {
	Sandbox, Nonce, UID string
	Phase               Phase
	Started, Ended      time.Time // as the cluster tells; zero = unknown
	Exit                *int
	Reason              string // of an end, or of waiting
	Message             string // for people
	Address             string
	Node                string
	Conditions          []Condition // Since may be zero
	Deleting            bool        // somebody asked the cluster to delete it
}

// Driver makes one tenant's runs. All its methods can be called at the same time, and return soon: a cluster that hangs costs at
// most the timeout of its calls, and one that fails on and on is not called for a while (ErrUnreachable at once).
type Driver interface {
	// Prepare brings the tenant's place in shape, and is called before the first Create and now and then after it.
	Prepare(ctx context.Context) error
	// Create makes the run of a task, or finds that an earlier call made it. It returns the UID.
	Create(ctx context.Context, t Task) (uid string, err error)
	// Remove tells a run to end: politely, and after grace by force. What is gone already is no error. If t.UID is set nothing
	// else of that name is touched.
	Remove(ctx context.Context, t Task, grace time.Duration) error
	// Release lets go of what an ended run left (a finalizer, files), once its end is stored. What is gone is no error.
	Release(ctx context.Context, t Task) error
	// Watch tells of all runs of the tenant as they are, then calls synced, and then of each change, until ctx ends or what it
	// watches breaks; the caller begins anew. Its functions are called one at a time.
	Watch(ctx context.Context, seen func(Observation), synced func()) error
	// Exec runs a command in a run, and returns when it has ended.
	Exec(ctx context.Context, t Task, x Exec) (Exit, error)
	// Logs reads what the run wrote to its standard output and error. The end of a followed log is io.EOF when the run ended.
	Logs(ctx context.Context, t Task, q LogQuery) (io.ReadCloser, error)
	// Events tells what the cluster did with a run, oldest first.
	Events(ctx context.Context, t Task) ([]Event, error)
	// Used returns what runs use now, by UID; ErrUnmetered where nobody measures.
	Used(ctx context.Context) (map[string]Used, error)
	// Close ends what the driver keeps in memory. Runs go on.
	Close()
}

// Eraser removes all that is left of a tenant that was deleted. A Drivers that makes places implements it.
type Eraser interface {
	// Erase goes on where an earlier call stopped; done is false while the cluster is still at it.
	Erase(ctx context.Context, place string, tenantUID string) (done bool, err error)
}

// Exec is a command to be run.
type Exec struct {
	Command        []string
	Env            []Var
	Stdin          io.Reader // nil = none
	Stdout, Stderr io.Writer // with TTY all comes by Stdout
	TTY            bool
	Resize         <-chan Size   // nil = never
	Signals        <-chan string // "INT", "TERM", …: sent to the command's process group; nil = none
}

// Size is that of a terminal, in characters.
type Size struct{ Columns, Rows uint16 }

// Exit is how a command ended.
type Exit struct {
	Code   int    // 128 + n for one that a signal ended
	Signal string // "" = none
}

// LogQuery says which lines.
type LogQuery struct {
	Follow     bool
	Since      time.Time // zero = from the beginning
	Tail       int64     // so many lines of the end; negative = all
	Timestamps bool      // each line begins with its time (RFC 3339) and a space
	Limit      int64     // bytes; 0 = none
}

// Event is one thing that happened to a sandbox.
type Event struct {
	At      time.Time `json:"at"`
	Type    string    `json:"type"` // Normal or Warning
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Count   int       `json:"count,omitzero"`
}

// Used is what a run uses.
type Used struct {
	CPU    float64 // cores
	Memory int64   // bytes
}

// What drivers say in their errors, beside a fault.Kind.
var (
	ErrUnreachable = errors.New("the cluster cannot be reached")                  // fault.Unavailable: try again
	ErrQuota       = errors.New("the cluster's quota does not allow it")          // fault.Conflict: may change
	ErrRefused     = errors.New("the cluster refuses it")                         // fault.Invalid: for good
	ErrTerminating = errors.New("the tenant's namespace is being deleted")        // fault.Unavailable
	ErrNotOurs     = errors.New("what has that name was not made by the gateway") // fault.Conflict: never touched
	ErrGone        = errors.New("the run is gone")                                // fault.NotFound
	ErrNotRunning  = errors.New("the sandbox does not run")                       // fault.Conflict
	ErrUnmetered   = errors.New("use is not measured here")
)
