package telemetry

// InFlight returns how many requests this replica carries out, and how many of them are streams, of all tenants together.
func (m *Metrics) InFlight() (requests, streams int64) {
	m.of.Range(func(_, v any) bool {
		t := &v.(*member).metrics
		requests += t.inFlight.Load()
		streams += t.streams.Load()
		return true
	})
	return requests, streams
}
