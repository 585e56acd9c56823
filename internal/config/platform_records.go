package config

import "time"

// Audit says where audit records end up, and for how long.
type Audit struct {
	File            string        `yaml:"file"`             // JSON lines, appended; default <data_dir>/audit.jsonl
	Buffer          int           `yaml:"buffer"`           // records of requests held in memory at most; default 8192
	Interval        time.Duration `yaml:"interval"`         // between two drains to the file; 10ms to 1s; default 200ms
	RotateBytes     Size          `yaml:"rotate_bytes"`     // size at which the file is closed and a new one begun; 1MiB to 1TiB, 0 = never by size; default 64MiB
	RotateAfter     time.Duration `yaml:"rotate_after"`     // age at which it is; 1m to 9600h, 0 = never by age; default 24h
	Retain          time.Duration `yaml:"retain"`           // for which a closed file is kept; 1h or more, 0 = for ever; default 9600h (400 days)
	RetainBytes     Size          `yaml:"retain_bytes"`     // of all files together, the oldest go first; default 0 = no bound
	CheckpointEvery time.Duration `yaml:"checkpoint_every"` // between two signed checkpoints of all chains; 1s to 24h; default 10m
	Stdout          bool          `yaml:"stdout"`           // write the records to standard output as well; default false
	OTLP            AuditOTLP     `yaml:"otlp"`
}

// AuditOTLP sends a copy of the audit records to an OpenTelemetry collector, by OTLP over HTTP. The file stays the log: the
// copy may lose records, and says how many.
type AuditOTLP struct {
	Endpoint    string        `yaml:"endpoint"`     // of the collector's logs, such as https://collector.example.com:4318/v1/logs; default none = off
	HeadersFile string        `yaml:"headers_file"` // lines of "Name: value", sent with each request; default none
	CAFile      string        `yaml:"ca_file"`      // PEM roots of the collector; default the system's
	Timeout     time.Duration `yaml:"timeout"`      // of one request; 100ms to 1m; default 5s
	QueueBytes  Size          `yaml:"queue_bytes"`  // of records that wait at most; 64KiB to 1GiB; default 8MiB
}

// Tracing sends spans to an OpenTelemetry collector, by OTLP over HTTP.
type Tracing struct {
	Endpoint    string        `yaml:"endpoint"`     // of the collector's traces, such as https://collector.example.com:4318/v1/traces; default none = off
	HeadersFile string        `yaml:"headers_file"` // lines of "Name: value", sent with each request; default none
	CAFile      string        `yaml:"ca_file"`      // PEM roots of the collector; default the system's
	Ratio       float64       `yaml:"ratio"`        // of requests that begin a trace here; one that arrives with a trace follows it; 0 to 1; default 0.01
	Timeout     time.Duration `yaml:"timeout"`      // of one request to the collector; 100ms to 1m; default 5s
}
