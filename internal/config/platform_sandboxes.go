package config

import (
	"net/netip"
	"time"
)

// Sandboxes says where tenants' sandboxes run, and what they may be where a tenant has no settings of its own.
type Sandboxes struct {
	Driver         string         `yaml:"driver"`          // kube: pods in a cluster; process: processes of this machine, for development; none; default none
	DefaultImage   string         `yaml:"default_image"`   // of a sandbox that names none; default none: each has to name one
	Images         []string       `yaml:"images"`          // that may be run: a repository, or a prefix that ends in "/"; default none
	RuntimeClasses []string       `yaml:"runtime_classes"` // that may be asked for; default none
	GPUs           []string       `yaml:"gpus"`            // resource names of GPUs that may be asked for, within quotas.sandbox_gpus; default none listed: those of the usual device plugins, such as nvidia.com/gpu
	Defaults       SandboxSize    `yaml:"defaults"`        // of a sandbox that does not say
	StartTimeout   time.Duration  `yaml:"start_timeout"`   // after which a sandbox that does not come to run has failed; 10s to 24h; default 10m
	MaxSessions    int            `yaml:"max_sessions"`    // exec and log streams open at a time for one sandbox; 1 to 1000; default 16
	MaxExecOutput  Size           `yaml:"max_exec_output"` // of a command without a stream, stdout and stderr each; 1KiB to 16MiB; default 1MiB
	Process        SandboxProcess `yaml:"process"`
	Kube           SandboxKube    `yaml:"kube"`
}

// SandboxSize is what one sandbox gets.
type SandboxSize struct {
	CPU     Cores `yaml:"cpu"`     // cores, such as 2 or 500m; default 500m
	Memory  Size  `yaml:"memory"`  // default 512MiB
	Storage Size  `yaml:"storage"` // that it may write; default 1GiB
}

// SandboxProcess tunes the driver process.
type SandboxProcess struct {
	Dir         string   `yaml:"dir"`          // folder of what runs; default <data_dir>/sandboxes
	Bubblewrap  string   `yaml:"bubblewrap"`   // the bwrap program, or none; default: looked for, and without it nothing is isolated, which is said
	Paths       []string `yaml:"paths"`        // folders and files of this machine that sandboxes may read, beside the system's; default none
	Pids        int      `yaml:"pids"`         // processes and threads of one sandbox; 8 to 100000; default 512
	HostNetwork bool     `yaml:"host_network"` // tenants whose egress holds internet share this machine's network, its loopback included; default false: none has a network
}

// SandboxKube tunes the driver kube.
type SandboxKube struct {
	Kubeconfig      string        `yaml:"kubeconfig"`       // file; default none
	InCluster       bool          `yaml:"in_cluster"`       // use the service account of this pod; default false
	Timeout         time.Duration `yaml:"timeout"`          // of one call of the API server; 1s to 1m; default 10s
	QPS             float64       `yaml:"qps"`              // calls in a second, sustained; default 50
	Burst           int           `yaml:"burst"`            // calls at once above it; default 100
	NamespacePrefix string        `yaml:"namespace_prefix"` // of namespaces that are made for tenants which name none; default polygate-
	Instance        string        `yaml:"instance"`         // this installation's name on the cluster: two of one name would fight; default default
	AgentSandbox    string        `yaml:"agent_sandbox"`    // auto: through agents.x-k8s.io where the cluster serves it; require; off: plain pods; default off
	Gateway         KubePeers     `yaml:"gateway"`          // who of us may reach sandboxes
	ServiceAccount  string        `yaml:"service_account"`  // of gateway.namespace, as which this gateway calls the cluster, and which gets its rights in each tenant's namespace; default none: it has them already
	DNS             KubeDNS       `yaml:"dns"`              // whom sandboxes ask for names; default namespace kube-system, pod_labels {k8s-app: kube-dns}, ports [53]
}

// KubeDNS names the servers that sandboxes ask for names. Its defaults are those of kubeadm and most clusters.
type KubeDNS struct {
	KubePeers `yaml:",inline"`
	Ports     []int `yaml:"ports"` // of the pods themselves, behind their Service; default 53, on OpenShift 5353
}

// KubePeers names pods of a namespace, or addresses outside the cluster.
type KubePeers struct {
	Namespace string            `yaml:"namespace"`  // default none
	PodLabels map[string]string `yaml:"pod_labels"` // in it; default none
	Addresses []netip.Prefix    `yaml:"addresses"`  // default none
}

// The drivers.
const (
	DriverNone    = "none"
	DriverProcess = "process"
	DriverKube    = "kube"
)
