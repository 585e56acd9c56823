package proxy

import (
	"context"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/telemetry"
)

// report counts the request and writes its one event, at its end.
func (f *flight) report() {
	now := time.Now()
	status := f.status
	if status == 0 { // nobody was there to be answered
		status = fault.Canceled.Status()
	}
	f.count(telemetry.Result{Status: status, Err: f.err, Duration: now.Sub(f.began), BytesIn: f.body.n.Load(), BytesOut: f.bytesOut})
	ev := telemetry.Event{
		RequestID: f.id, Replica: f.s.cfg.Replica, Remote: remoteAddr(f.r), Host: f.host, Method: f.r.Method, Path: f.target.path,
		Protocol: f.r.Proto, Status: status, UpstreamStatus: f.upstreamStatus, Err: f.err, Began: f.began,
		BytesIn: f.body.n.Load(), BytesOut: f.bytesOut, ForwardedTo: f.hop.to,
	}
	if f.hop.from != nil {
		ev.ForwardedFrom = f.hop.from.From
	}
	if f.place.entry != nil {
		ev.Tenant, ev.Principal = f.place.entry.Record.ID, f.who
	}
	ev.Log(context.WithoutCancel(f.r.Context()), f.s.log, now)
}

// count adds the request to the metrics of its tenant, or to those of requests without one.
func (f *flight) count(r telemetry.Result) {
	m := f.metrics
	if f.hop.passed { // the owner has counted it
		return
	}
	if m == nil {
		if f.s.cfg.Metrics == nil {
			return
		}
		m = f.s.cfg.Metrics.NoTenant()
		m.Begin()
	}
	m.End(r)
}
