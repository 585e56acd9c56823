package sandbox

import "time"

// Spec is what is asked for. None of its fields can name a namespace, a node, a service account, a volume of the host or
// another right: what is not here cannot be expressed (X52).
type Spec struct {
	Image        string            `json:"image,omitempty"`   // "" = the platform's default; of the tenant's allow-list
	Command      []string          `json:"command,omitempty"` // in place of the image's entry point
	Args         []string          `json:"args,omitempty"`
	Env          []Var             `json:"env,omitempty"`         // sorted by name; never a secret's place
	WorkingDir   string            `json:"working_dir,omitempty"` // absolute
	Resources    Resources         `json:"resources,omitzero"`
	Ports        []Port            `json:"ports,omitempty"`
	RuntimeClass string            `json:"runtime_class,omitempty"` // of the tenant's allow-list
	Lifetime     time.Duration     `json:"lifetime,omitempty"`      // after the start, until it is stopped; 0 = the tenant's limit
	IdleTimeout  time.Duration     `json:"idle_timeout,omitempty"`  // without a session, until it is stopped; 0 = none
	Labels       map[string]string `json:"labels,omitempty"`        // of its owner's; never those of the cluster's object as they are
	Providers    []string          `json:"providers,omitempty"`     // names of the tenant's providers
}

// Var is one variable of the environment.
type Var struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Port is one that the process listens on.
type Port struct {
	Name   string `json:"name"` // a DNS label, unique in the sandbox
	Number int    `json:"port"` // 1024 to 65535
}

// Resources are both what is set aside and the limit. A zero field is the platform's default.
type Resources struct {
	CPU     int64            `json:"cpu_millis,omitempty"` // thousandths of a core
	Memory  int64            `json:"memory_bytes,omitempty"`
	Storage int64            `json:"storage_bytes,omitempty"` // of what it writes: workspace, /tmp and log together
	GPUs    map[string]int64 `json:"gpus,omitempty"`          // by resource name, such as nvidia.com/gpu
}
