package config

import (
	"net/url"
	"time"
)

func (a *Audit) check(cs *checks) {
	within(cs, "audit.buffer", a.Buffer, 16, 10_000_000)
	within(cs, "audit.interval", a.Interval, 10*time.Millisecond, time.Second)
	if a.RotateBytes != 0 {
		within(cs, "audit.rotate_bytes", a.RotateBytes, 1<<20, 1<<40)
	}
	if a.RotateAfter != 0 {
		within(cs, "audit.rotate_after", a.RotateAfter, time.Minute, 9600*time.Hour)
	}
	if a.Retain < 0 || a.Retain > 0 && a.Retain < time.Hour {
		cs.fail("audit.retain", "is %v: 1h or more is allowed, or 0 to keep closed files for ever", a.Retain)
	}
	switch {
	case a.RetainBytes == 0:
	case a.RotateBytes == 0 && a.RotateAfter == 0:
		cs.fail("audit.retain_bytes", "is set, but no file is ever closed, so none can be removed: set rotate_bytes or rotate_after")
	case a.RetainBytes < a.RotateBytes:
		cs.fail("audit.retain_bytes", "is %s, less than one file may have (rotate_bytes is %s): raise it, or set 0 for no bound", a.RetainBytes, a.RotateBytes)
	}
	within(cs, "audit.checkpoint_every", a.CheckpointEvery, time.Second, 24*time.Hour)
	checkCollector(cs, "audit.otlp", a.OTLP.Endpoint, a.OTLP.HeadersFile, a.OTLP.CAFile)
	within(cs, "audit.otlp.timeout", a.OTLP.Timeout, 100*time.Millisecond, time.Minute)
	within(cs, "audit.otlp.queue_bytes", a.OTLP.QueueBytes, 64<<10, 1<<30)
}

func (t *Tracing) check(cs *checks) {
	checkCollector(cs, "tracing", t.Endpoint, t.HeadersFile, t.CAFile)
	within(cs, "tracing.ratio", t.Ratio, 0, 1)
	within(cs, "tracing.timeout", t.Timeout, 100*time.Millisecond, time.Minute)
}

// checkCollector checks where an OpenTelemetry collector is, and what belongs to it.
func checkCollector(cs *checks, path, endpoint, headersFile, caFile string) {
	if endpoint == "" {
		if headersFile != "" || caFile != "" {
			cs.fail(path, "has settings of a collector, but no endpoint: set endpoint, or remove headers_file and ca_file")
		}
		return
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "":
		cs.fail(path+".endpoint", "is not an http or https URL with a host and without user: write, for example, https://collector.example.com:4318/v1/logs, and put credentials into headers_file")
	case caFile != "" && u.Scheme == "http":
		cs.fail(path+".ca_file", "is set, but endpoint is http, which verifies nobody: use https")
	}
}
