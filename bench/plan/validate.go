package plan

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of a demand. They keep the arithmetic exact, and slips of a few zeros from being planned for.
const (
	maxTenants = 10_000_000
	maxCount   = 1_000_000_000
	maxSpare   = 100
	maxEach    = 10_000 // of hosts, keys and servers of a tenant
	maxCores   = 4096
)

// problem is what is wrong with a field.
type problem struct {
	field, text string
}

func (p *problem) Error() string { return p.field + " " + p.text }

// within is a number and where it has to lie.
type within struct {
	field     string
	value     float64
	low, high float64
}

// problem returns the first thing that is wrong with a demand, nil if nothing is.
func (d *Demand) problem() *problem {
	if d.Tenants == 0 {
		return &problem{"tenants", "is missing: say how many are registered"}
	}
	if p := outside(d.ranges(), func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }); p != nil {
		return p
	}
	if p := outside(d.sizes(), func(v float64) string { return Size(v).String() }); p != nil {
		return p
	}
	if p := shares("requests.protocols", d.Requests.Protocols, protocols()); p != nil {
		return p
	}
	if p := shares("requests.credentials", d.Requests.Credentials, credentials()); p != nil {
		return p
	}
	if k := d.Etcd.Kind; k != "" && k != Embedded && k != Cluster && k != External {
		return &problem{"etcd.kind", fmt.Sprintf("is %q: it is embedded, cluster or external", clip(string(k)))}
	}
	return nil
}

// outside returns the first number that does not lie where it has to, in words.
func outside(list []within, words func(float64) string) *problem {
	for _, w := range list {
		if !(w.value >= w.low && w.value <= w.high) { // NaN is in no range
			return &problem{w.field, fmt.Sprintf("is %s: it has to be from %s to %s", words(w.value), words(w.low), words(w.high))}
		}
	}
	return nil
}

// sizes are the numbers of bytes.
func (d *Demand) sizes() []within {
	return []within{
		{"policy_bytes", float64(d.PolicyBytes), 0, 64 << 20},
		{"requests.answer_bytes", float64(d.Requests.AnswerBytes), 0, 1 << 40},
		{"etcd.quota_bytes", float64(d.Etcd.QuotaBytes), 1 << 20, 1 << 50},
		{"machine.memory", float64(d.Machine.Memory), 64 << 20, 1 << 50},
	}
}

// ranges are the others.
func (d *Demand) ranges() []within {
	return []within{
		{"tenants", float64(d.Tenants), 1, maxTenants},
		{"active_share", d.ActiveShare, 0, 1},
		{"virtual_share", d.VirtualShare, 0, 1},
		{"hosts", float64(d.Hosts), 0, maxEach},
		{"keys", float64(d.Keys), 0, maxEach},
		{"servers", float64(d.Servers), 0, maxEach},
		{"requests.per_second", d.Requests.PerSecond, 0, maxCount},
		{"connections.open", float64(d.Connections.Open), 0, maxCount},
		{"connections.life", d.Connections.Life.Seconds(), 0.001, (10 * 365 * 24 * time.Hour).Seconds()},
		{"connections.handshakes_per_second", d.Connections.HandshakesPerSecond, 0, maxCount},
		{"connections.resumed_share", d.Connections.ResumedShare, 0, 1},
		{"streams", float64(d.Streams), 0, maxCount},
		{"certificates.number", float64(d.Certificates.Number), 0, maxCount},
		{"certificates.life", d.Certificates.Life.Seconds(), (24 * time.Hour).Seconds(), (20 * 365 * 24 * time.Hour).Seconds()},
		{"sandboxes.open", float64(d.Sandboxes.Open), 0, maxCount},
		{"sandboxes.starts_per_day", d.Sandboxes.StartsPerDay, 0, maxCount},
		{"changes_per_day", d.ChangesPerDay, 0, maxCount},
		{"spare_replicas", float64(d.SpareReplicas), 0, maxSpare},
		{"etcd.reserve", float64(d.Etcd.Reserve), 0, 90},
		{"etcd.compact_after", d.Etcd.CompactAfter.Seconds(), 1, (365 * 24 * time.Hour).Seconds()},
		{"limits.max_connections", float64(d.Limits.MaxConnections), 1, maxCount},
		{"limits.max_streams", float64(d.Limits.MaxStreams), 1, maxCount},
		{"limits.orders_per_minute", float64(d.Limits.OrdersPerMinute), 1, maxCount},
		{"machine.cores", d.Machine.Cores, 0.1, maxCores},
		{"machine.headroom", d.Machine.Headroom, 0.05, 1},
	}
}

func protocols() []string { return []string{"http1", "http2", "websocket", "sse", "mcp", "grpc"} }

func credentials() []string { return []string{"none", "key", "jwt"} }

// shares checks parts of a whole.
func shares(field string, m map[string]float64, known []string) *problem {
	sum := 0.0
	for _, k := range slices.Sorted(maps.Keys(m)) {
		v := m[k]
		if !slices.Contains(known, k) {
			return &problem{field, fmt.Sprintf("has %q: known are %s", clip(k), strings.Join(known, ", "))}
		}
		if !(v >= 0 && v <= 1) {
			return &problem{field + "." + k, fmt.Sprintf("is %v: a share is from 0 to 1", v)}
		}
		sum += v
	}
	if math.Abs(sum-1) > 0.001 {
		return &problem{field, fmt.Sprintf("add up to %.4g: shares have to add up to 1", sum)}
	}
	return nil
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
