// Package result is what a measurement found, as it is kept in JSON: figures of runs, and pure functions over them, such as the
// spread over runs and the ratio of two subjects. It measures and renders nothing.
package result

import "time"

// Version of the JSON form.
const Version = 1

// Report is one command's findings.
type Report struct {
	V         int               `json:"v"`
	Command   string            `json:"command"`
	Started   time.Time         `json:"started"`
	Seconds   float64           `json:"seconds"`
	Complete  bool              `json:"complete"`         // false: it ended early, and holds what was measured until then
	Reason    string            `json:"reason,omitempty"` // what went wrong, if anything did; "" of what is not complete: it was interrupted
	Machine   Machine           `json:"machine"`
	Versions  map[string]string `json:"versions"` // by program
	Ceilings  []Ceiling         `json:"ceilings,omitempty"`
	Scenarios []Scenario        `json:"scenarios,omitempty"`
	Capacity  []CapacityPoint   `json:"capacity,omitempty"`
	Tenants   []TenantsPoint    `json:"tenants,omitempty"`
	Skipped   []Skipped         `json:"skipped,omitempty"`
}

// Machine is where it ran.
type Machine struct {
	OS     string  `json:"os"`  // and kernel
	CPU    string  `json:"cpu"` // model
	Cores  int     `json:"cores"`
	Memory int64   `json:"memory"` // bytes
	Load   float64 `json:"load"`   // load average over the minute before the start
	Stolen float64 `json:"stolen"` // share of the processors' time that the machine's host gave to others meanwhile, 0 to 1
}

// Ceiling is what the generator reaches by itself, against the lab's upstream with nothing between.
type Ceiling struct {
	Protocol  string  `json:"protocol"`
	Rate      float64 `json:"rate"`       // requests a second
	CPUMicros float64 `json:"cpu_micros"` // of generator and upstream together, a request
}

// Skipped is a subject that was not measured.
type Skipped struct {
	Subject string `json:"subject"`
	Why     string `json:"why"`
}

// Scenario is the findings of one scenario.
type Scenario struct {
	Name  string   `json:"name"`
	About string   `json:"about,omitempty"`
	Runs  []Run    `json:"runs"`
	Notes []string `json:"notes,omitempty"`
}

// Run is one load's figures in one phase of one turn of one subject.
type Run struct {
	Subject string `json:"subject"` // polygate, nginx, …, direct, or the target's address
	Variant string `json:"variant"` // what differs beside the subject, such as "http1" or "http2, key"
	Turn    int    `json:"turn"`    // from 1; the same turns of two subjects ran next to each other
	Phase   string `json:"phase"`
	Load    string `json:"load"`
	// Protocol and Asked let a report say what the generator's own ceiling limited. Both may be absent.
	Protocol string  `json:"protocol,omitempty"` // as Ceiling's; without it, the words before the first comma of Variant
	Asked    float64 `json:"asked,omitempty"`    // open loop: requests a second that were due; 0 = a closed loop
	Figures  Figures `json:"figures"`
}

// Figures are of one measured span.
type Figures struct {
	Seconds   float64          `json:"seconds"`
	Requests  int64            `json:"requests"`         // answered rightly
	Errors    map[string]int64 `json:"errors,omitempty"` // by class, such as "status 503", "timeout", "wrong answer"
	Rate      float64          `json:"rate"`             // right answers a second
	Late      int64            `json:"late,omitempty"`   // open loop: requests that started over 1 ms after they were due, because the generator or its concurrency was exhausted
	Latency   Latency          `json:"latency"`
	Handshake *Latency         `json:"handshake,omitempty"`  // of new connections, TCP and TLS
	CPUMicros float64          `json:"cpu_micros,omitempty"` // user and system time of the subject's processes, a request; 0 = not known
	RSS       int64            `json:"rss,omitempty"`        // bytes resident in the subject's processes at the end
	PSS       int64            `json:"pss,omitempty"`        // the same with shared pages divided among those that share them
	BytesIn   int64            `json:"bytes_in,omitempty"`
	Generator float64          `json:"generator_cpu_micros,omitempty"` // of the generator itself, a request
}

// Latency are percentiles in microseconds.
type Latency struct {
	Count    int64   `json:"count"`
	Mean     float64 `json:"mean"`
	P50      float64 `json:"p50"`
	P90      float64 `json:"p90"`
	P99      float64 `json:"p99"`
	P999     float64 `json:"p999"`
	Max      float64 `json:"max"`
	Spectrum []Point `json:"spectrum,omitempty"` // for plots
}

// Point is a latency at a quantile.
type Point struct {
	Quantile float64 `json:"q"` // 0 to 1
	Micros   float64 `json:"us"`
}

// CapacityPoint is what a number of tenants cost.
type CapacityPoint struct {
	Subject    string  `json:"subject"`
	Registered int     `json:"registered"`
	Active     int     `json:"active"`
	Connected  int     `json:"connected"`
	Streams    int     `json:"streams"`
	StartSecs  float64 `json:"start_seconds"` // from the start of the process to ready
	RSS        struct {
		Start     int64 `json:"start"`     // ready, nothing asked yet
		Active    int64 `json:"active"`    // after a request to each active tenant
		Connected int64 `json:"connected"` // with the connections open
		Streams   int64 `json:"streams"`   // with the streams open too
	} `json:"rss"`
	// Heap is what is alive of it after a collection. RSS holds what Go's collector leaves for later too, up to as much again.
	Heap struct {
		Start     int64 `json:"start"`
		Active    int64 `json:"active"`
		Connected int64 `json:"connected"`
		Streams   int64 `json:"streams"`
	} `json:"heap"`
	PerRegistered float64 `json:"per_registered"` // bytes, against the point with the fewest
	PerActive     float64 `json:"per_active"`     // bytes
	PerConnected  float64 `json:"per_connected"`  // bytes
	PerStream     float64 `json:"per_stream"`     // bytes
	// The same of what is alive.
	HeapPerRegistered float64 `json:"heap_per_registered"`
	HeapPerActive     float64 `json:"heap_per_active"`
	HeapPerConnected  float64 `json:"heap_per_connected"`
	HeapPerStream     float64 `json:"heap_per_stream"`
	StoreBytes        int64   `json:"store_bytes"` // size of the registry's database in use
}

// TenantsPoint is what a number of tenants cost in a subject, whichever number of processes it needs for them.
type TenantsPoint struct {
	Subject   string  `json:"subject"`
	Tenants   int     `json:"tenants"`
	Processes int     `json:"processes"`
	StartSecs float64 `json:"start_seconds"` // of all
	RSS       int64   `json:"rss"`           // of all, after a request to each
	PSS       int64   `json:"pss"`
	CPUMicros float64 `json:"cpu_micros"`       // a request, spread over all tenants
	IdleCPU   float64 `json:"idle_cpu"`         // share of a core that all burn with nothing to do
	Errors    int64   `json:"errors,omitempty"` // requests that were not answered rightly
}
