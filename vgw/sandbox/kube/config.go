// Package kube runs sandboxes as pods of a Kubernetes cluster, each tenant's in a namespace of its own: one pod and one
// ServiceAccount a run, made by a deterministic name and adopted by labels and UID only. What the cluster shows of a pod becomes a
// sandbox.Observation (observe.go), what is asked of a run becomes a pod (pod.go); both are pure. The namespace itself (labels, quotas,
// network policies, rights) is kept in shape by Prepare.
package kube

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
)

// Config says which cluster, and who the gateway is in it.
type Config struct {
	// Kubeconfig is the path of a kubeconfig file. "" with InCluster unset = $KUBECONFIG or ~/.kube/config are NOT looked at: it is refused.
	Kubeconfig string
	InCluster  bool // the pod's own ServiceAccount is used; Kubeconfig must be ""

	Timeout time.Duration // of each call, and until a stream is answered; 0 = 10 s
	QPS     float32       // calls per second to the cluster, of all tenants together; 0 = 50
	Burst   int           // at once above it; 0 = 100

	// Instance tells two platforms on one cluster apart: neither sees, adopts or reaps what carries the other's. "" = "default".
	Instance        string
	NamespacePrefix string // of the namespaces that the driver makes; "" = "polygate-"
	AgentSandbox    string // AgentAuto, AgentOff or AgentRequire; "" = AgentOff

	Gateway  Peers  // who of the platform may reach sandboxes
	DNS      Peers  // whom sandboxes ask for names
	DNSPorts []int  // on which they are asked; none = 53
	Places   Places // which tenant has which namespace, durably; needed by Prepare and Erase

	Logger *slog.Logger     // nil = none
	Now    func() time.Time // nil = time.Now
}

// The values of Config.AgentSandbox.
const (
	AgentAuto    = "auto"    // runs are made through agents.x-k8s.io where the cluster serves it
	AgentOff     = "off"     // runs are plain pods
	AgentRequire = "require" // runs are made through agents.x-k8s.io, or not at all
)

// Peers are pods of the cluster, or machines outside it.
type Peers struct {
	Namespace      string
	PodLabels      map[string]string
	ServiceAccount string // under which the gateway calls the cluster; "" = it is not known
	Addresses      []netip.Prefix
}

// Places is the platform's durable note of which tenant has which namespace. It is written before a namespace is made, so that
// two tenants never share one, whatever the cluster shows (X53).
type Places interface {
	// Claim notes that a namespace is the tenant's. It is fault.Conflict if another tenant has it.
	Claim(ctx context.Context, namespace string, s tenant.Scope, adopted bool) error
	// Release forgets it, once the namespace is gone or given back.
	Release(ctx context.Context, namespace string) error
}

func (c Config) withDefaults() Config {
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.QPS == 0 {
		c.QPS = 50
	}
	if c.Burst == 0 {
		c.Burst = 100
	}
	if c.Instance == "" {
		c.Instance = "default"
	}
	if c.NamespacePrefix == "" {
		c.NamespacePrefix = "polygate-"
	}
	if c.AgentSandbox == "" {
		c.AgentSandbox = AgentOff
	}
	if len(c.DNSPorts) == 0 {
		c.DNSPorts = []int{53}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

func (c Config) check() error {
	switch {
	case c.InCluster && c.Kubeconfig != "":
		return fault.New(fault.Invalid, "sandboxes.kube: kubeconfig and in_cluster exclude each other: set one of them")
	case !c.InCluster && c.Kubeconfig == "":
		return fault.New(fault.Invalid, "sandboxes.kube: no cluster is named: set kubeconfig, or in_cluster where the gateway runs as a pod")
	case c.AgentSandbox != AgentAuto && c.AgentSandbox != AgentOff && c.AgentSandbox != AgentRequire:
		return fault.New(fault.Invalid, "sandboxes.kube.agent_sandbox %q is unknown: use auto, off or require", c.AgentSandbox)
	case !isLabelValue(c.Instance):
		return fault.New(fault.Invalid, "sandboxes.kube.instance %q cannot be a label: use 1 to 63 letters, digits, - and .", c.Instance)
	}
	return nil
}

// Drivers makes the drivers of all tenants. It is a sandbox.Drivers and a sandbox.Eraser.
type Drivers struct {
	config  Config
	cluster *cluster
}

// New builds the drivers of a cluster. It calls nobody: a cluster that is away is no reason for a gateway not to start.
func New(_ context.Context, c Config) (*Drivers, error) {
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return nil, err
	}
	cl, err := dial(c)
	if err != nil {
		return nil, err
	}
	return &Drivers{config: c, cluster: cl}, nil
}

// Name implements sandbox.Drivers.
func (d *Drivers) Name() string { return "kube" }

// Open implements sandbox.Drivers.
func (d *Drivers) Open(t sandbox.Tenant) (sandbox.Driver, error) {
	return d.open(t)
}

func (d *Drivers) open(t sandbox.Tenant) (*driver, error) {
	if t.Scope.ID() == "" || t.Scope.UID() == "" {
		return nil, fault.New(fault.Internal, "a driver is for one tenant: its id and UID are missing")
	}
	return &driver{
		Drivers:   d,
		place:     d.place(t),
		tenant:    t,
		namespace: d.config.namespace(t),
		making:    newCircuit("pods of "+t.Scope.String(), d.config.Logger),
		names:     newNames(),
	}, nil
}

// namespace returns the tenant's namespace, which follows from its routing record alone: no request can name one (X53).
func (c Config) namespace(t sandbox.Tenant) string {
	if t.Namespace != "" {
		return t.Namespace
	}
	return c.NamespacePrefix + string(t.Scope.ID())
}

// driver is the driver of one tenant. It has no parameter with which to name another: its namespace and the labels of all that it
// makes and asks for are fixed.
type driver struct {
	*Drivers
	place     *place
	tenant    sandbox.Tenant
	namespace string
	making    *circuit // of making pods: an admission webhook of one namespace that hangs must not cut off the others
	names     *names   // UIDs of the runs that are watched, by name
}

// Close implements sandbox.Driver.
func (d *driver) Close() {}
