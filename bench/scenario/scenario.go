// Package scenario is the vocabulary of a measurement: which load goes to how many tenants, in which phases, and what happens
// meanwhile. It reads the small YAML files that describe one, strictly, and carries those that come with polybench. It knows
// nothing of how a load is generated or what it is sent to.
package scenario

import "time"

// Scenario is one measurement. The zero values of its fields are filled in by Parse, so what it returns is complete.
type Scenario struct {
	Name  string `yaml:"name"`  // a-z, 0-9 and -; required
	About string `yaml:"about"` // a sentence for people
	Site  Site   `yaml:"site"`  // what a lab starts; a run against --target takes its tenants from there
	// Loads are the callers, each described once. Which of them call when is said by Phases.
	Loads []Load `yaml:"loads"`
	// Phases follow each other without a pause; each is reported apart.
	Phases []Phase `yaml:"phases"`
	// Capacity, if set, measures memory and start against numbers of tenants, in place of Loads and Phases.
	Capacity *Capacity `yaml:"capacity"`
}

// Site is what a lab starts for the scenario.
type Site struct {
	Tenants     int `yaml:"tenants"`      // 1 to 100000; default 8
	AnswerBytes int `yaml:"answer_bytes"` // of each answer's body, 64 to 16 MiB; default 520
	Replicas    int `yaml:"replicas"`     // of the gateway, on an etcd of their own if more than one; 1 to 9; default 1
	Cores       int `yaml:"cores"`        // that the process under test may use; default 1
}

// Protocol is what a load speaks, always inside TLS with the tenant's own host as server name.
type Protocol string

// The protocols. One request is: an HTTP request and its whole answer; a message and its echo on a WebSocket; an event stream
// from its request to its last event; a tools/call; a unary RPC.
const (
	HTTP1     Protocol = "http1"
	HTTP2     Protocol = "http2"
	WebSocket Protocol = "websocket"
	SSE       Protocol = "sse"
	MCP       Protocol = "mcp"
	GRPC      Protocol = "grpc"
)

// Loop is how a load decides when to send.
type Loop string

// The loops. In an open loop requests are due at a constant rate whatever the answers do, and a time is counted from when its
// request was due: a stall of the server is in the percentiles (coordinated omission). In a closed loop each of so many callers
// sends when it has the answer to the one before.
const (
	Open   Loop = "open"
	Closed Loop = "closed"
)

// Connections says whether connections are kept.
type Connections string

// A new connection for each request makes each a handshake.
const (
	Kept Connections = "kept"
	New  Connections = "new"
)

// Credential is what a load shows.
type Credential string

// The credentials. A JWT is made by polybench from a key; an OIDC token is fetched from the issuer's token endpoint.
const (
	NoCredential Credential = "none"
	Key          Credential = "key"
	JWT          Credential = "jwt"
	OIDC         Credential = "oidc"
)

// Load is a kind of callers.
type Load struct {
	Name        string        `yaml:"name"`        // unique in the scenario; required
	Protocol    Protocol      `yaml:"protocol"`    // default http1
	Loop        Loop          `yaml:"loop"`        // default closed
	Rate        float64       `yaml:"rate"`        // open: requests a second, all tenants together; required there unless each phase has one
	Concurrency int           `yaml:"concurrency"` // closed: callers; open: most requests in flight, those due beyond it wait and their wait counts; default 32 and 256
	Connections Connections   `yaml:"connections"` // default kept
	Resume      bool          `yaml:"resume"`      // TLS sessions, where connections are new; default false: each is a full handshake
	Credential  Credential    `yaml:"credential"`  // default none
	Tenants     Draw          `yaml:"tenants"`
	Method      string        `yaml:"method"`     // HTTP; default GET, POST with a body
	Path        string        `yaml:"path"`       // default that of the protocol at the lab's upstream
	BodyBytes   int           `yaml:"body_bytes"` // of each request or message; 0 to 16 MiB; default 0, WebSocket 64
	Messages    int           `yaml:"messages"`   // SSE: events of a stream; WebSocket: echoes on a connection before it is closed where connections are new; default 10
	Interval    time.Duration `yaml:"interval"`   // SSE: between two events; default 0
	Timeout     time.Duration `yaml:"timeout"`    // of a request; default 10s
}

// DrawKind is how the tenant of a request is chosen.
type DrawKind string

// The draws.
const (
	Uniform DrawKind = "uniform" // each as likely
	Zipf    DrawKind = "zipf"    // the k-th with a weight of 1/k^skew
	List    DrawKind = "list"    // those that are named, each as likely
	Each    DrawKind = "each"    // one after the other, each once: the load ends with the last
)

// Draw chooses the tenants of a load.
type Draw struct {
	Draw  DrawKind `yaml:"draw"`  // default uniform
	Skew  float64  `yaml:"skew"`  // zipf; above 0; default 1
	List  []string `yaml:"list"`  // list: names of tenants, which are t0, t1, … where polybench makes them; required there
	First int      `yaml:"first"` // the first tenant's number, from 0; default 0
	Count int      `yaml:"count"` // how many from there; 0 = all the rest
}

// Phase is a part of a run in which the same loads call.
type Phase struct {
	Name     string        `yaml:"name"`     // unique in the scenario; required
	Loads    []PhaseLoad   `yaml:"loads"`    // default: all, as they are
	Ramp     time.Duration `yaml:"ramp"`     // in which open loops go from their rate before (0 at first) to this phase's; left out of the figures
	Warmup   time.Duration `yaml:"warmup"`   // left out of the figures
	Duration time.Duration `yaml:"duration"` // of what is measured; required unless all its loads draw each tenant once
	Events   []Event       `yaml:"events"`
}

// PhaseLoad is a load in a phase, with what is different there.
type PhaseLoad struct {
	Load        string  `yaml:"load"`        // its name; required
	Rate        float64 `yaml:"rate"`        // 0 = the load's
	Concurrency int     `yaml:"concurrency"` // 0 = the load's
}

// Action is something that is done to the gateway while it is measured. Only a lab's own gateway can be treated so.
type Action string

// The actions.
const (
	Reload Action = "reload" // the tenants file is written anew with one tenant changed, and read again
	Crash  Action = "crash"  // kill -9 of the replica that owns most tenants; it is started again 2 s later
	Drain  Action = "drain"  // SIGTERM to it; it is started again when it has ended
	Stall  Action = "stall"  // the upstream answers nothing for the event's length
)

// Event is an action at a time of a phase, counted from the end of its warm-up.
type Event struct {
	At    time.Duration `yaml:"at"`    // default 0
	Every time.Duration `yaml:"every"` // again and again; 0 = once
	Do    Action        `yaml:"do"`    // required
	For   time.Duration `yaml:"for"`   // stall: its length; default 1s
}

// Capacity measures what tenants cost that are registered, active and connected.
type Capacity struct {
	Registered []int `yaml:"registered"` // numbers of tenants, each 0 to 1000000, one start for each; required
	Active     int   `yaml:"active"`     // of them get one request each, and idle; default 1000, at most those registered
	Connected  int   `yaml:"connected"`  // connections that are then held open, kept alive and idle; default 1000
	Streams    int   `yaml:"streams"`    // event streams that are then held open; default 0
}
