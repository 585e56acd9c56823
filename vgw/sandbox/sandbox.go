// Package sandbox keeps a tenant's sandboxes: what was asked for (Spec), what is stored of each (Sandbox), the rules by which
// one state follows another, and the Driver that makes it so, in a Kubernetes namespace (sandbox/kube) or in processes of this
// machine (sandbox/process). The gateway of the tenant owns them, under its claim; a driver is built for one tenant and has no
// parameter with which to name another.
package sandbox

import (
	"time"
)

// Version is the version that this build writes at the start of a stored sandbox. Readers accept it and the next.
const Version = 1

// Kind is the kind of stored sandboxes: t/<tenant>/sandbox/<id>.
const Kind = "sandbox"

// State is where a sandbox is in its life.
type State string

// The states. Running and Stopped are where a sandbox rests; Failed is Stopped with a reason; the others are on the way.
const (
	Pending  State = "Pending"  // accepted; nothing runs, and what is missing is in the conditions
	Starting State = "Starting" // the driver has it; it does not run yet
	Running  State = "Running"
	Stopping State = "Stopping"
	Stopped  State = "Stopped" // keeps its name and settings; what it wrote is gone
	Failed   State = "Failed"  // ended by itself, or cannot be started; start tries again
	Deleting State = "Deleting"
)

// Want is what its owner asked of a sandbox last.
type Want string

// The wants.
const (
	WantRunning Want = "running"
	WantStopped Want = "stopped"
	WantDeleted Want = "deleted"
)

// Sandbox is a sandbox as it is stored. It is immutable once it is shared.
type Sandbox struct {
	V       int       `json:"v"`
	ID      string    `json:"id"`                             // UUID, never reused
	Name    string    `json:"name"`                           // a DNS label without "--", unique in the tenant while the sandbox exists
	Owner   string    `json:"owner"`                          // Ref of who made it
	Epoch   time.Time `json:"authenticator_created,omitzero"` // of an owner that is a user: when its authenticator was made
	Spec    Spec      `json:"spec"`
	Session string    `json:"session,omitempty"` // the session that it serves; "" = none
	// Key is a keyed digest of the idempotency key under which it was made and of who made it, Request one of the body too; "" = none
	// was given.
	Key     string `json:"key,omitempty"`
	Request string `json:"request,omitempty"`

	Want       Want        `json:"want"`
	State      State       `json:"state"`
	Conditions []Condition `json:"conditions,omitempty"` // sorted by type
	Run        Run         `json:"run,omitzero"`         // the one now, or the last
	Runs       int         `json:"runs,omitempty"`       // begun so far

	Created   time.Time `json:"created"`
	Updated   time.Time `json:"updated"`
	Used      time.Time `json:"used,omitzero"`      // last exec or other session, coarse
	Accounted time.Time `json:"accounted,omitzero"` // until when the run's use has been added to the tenant's periods
	Billed    string    `json:"billed,omitempty"`   // the Nonce of the run that Accounted is of: a new run begins at its own start
	Version   int64     `json:"version"`            // resource_version
}

// Run is one start of a sandbox, until what runs is gone.
type Run struct {
	// Nonce is random and part of the driver's name for the run. It is stored before the driver hears of it, so that a name that
	// exists already is an earlier try of ours, and nothing that somebody put there in advance.
	Nonce   string    `json:"nonce,omitempty"`
	UID     string    `json:"uid,omitempty"`    // the driver's own identity of what runs; once it is known, nothing else is touched
	Begun   time.Time `json:"begun,omitzero"`   // when it was asked for
	Started time.Time `json:"started,omitzero"` // when it ran
	Ended   time.Time `json:"ended,omitzero"`
	Exit    *int      `json:"exit,omitempty"`    // of its process; nil while it runs, and where nobody knows
	Reason  string    `json:"reason,omitempty"`  // why it ended: see the Reason constants
	Address string    `json:"address,omitempty"` // where its ports are reached from the gateway; "" = nowhere
}

// Live says whether something runs, or may.
func (r *Run) Live() bool { return r.Nonce != "" && r.Ended.IsZero() }

// Condition is one thing that is known of a sandbox.
type Condition struct {
	Type    string    `json:"type"`
	Status  bool      `json:"status"`
	Reason  string    `json:"reason"`  // CamelCase, for programs
	Message string    `json:"message"` // for people: what is wrong and what to do
	Since   time.Time `json:"since"`   // when Status last changed
}

// The types of conditions.
const (
	Ready          = "Ready"          // it runs and can be used
	PlaceReady     = "PlaceReady"     // the tenant's namespace is in shape
	Scheduled      = "Scheduled"      // a node has it
	ImageAvailable = "ImageAvailable" // its image was found
	ClusterReached = "ClusterReached" // the driver's last call was answered
)

// The reasons of ends and of conditions.
const (
	ReasonCompleted     = "Completed"      // its process ended with 0
	ReasonError         = "Error"          // with another exit code
	ReasonOOM           = "OutOfMemory"    // it used more memory than its limit
	ReasonEvicted       = "Evicted"        // the node took it away: disk, memory, or its storage limit
	ReasonNodeLost      = "NodeLost"       // its node is gone, or silent
	ReasonDeleted       = "DeletedOutside" // somebody deleted it behind our back
	ReasonLifetime      = "LifetimeOver"
	ReasonIdle          = "Idle"
	ReasonStopped       = "StopRequested"
	ReasonImage         = "ImageCannotBePulled"
	ReasonUnschedulable = "Unschedulable"
	ReasonQuota         = "ClusterQuota" // the namespace's ResourceQuota or a LimitRange refused it
	ReasonRefused       = "Refused"      // the cluster refused it for good: admission, policy
	ReasonCrashLoop     = "CrashLoop"
	ReasonTerminating   = "NamespaceTerminating"
	ReasonUnreachable   = "ClusterUnreachable"
	ReasonWaiting       = "Waiting"
	ReasonReplica       = "ReplicaLost" // process driver: the machine or the replica that ran it is gone
)
