package plan

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// near is the share of a bound from which somebody should know.
const near = 0.8

// warnings are what somebody should do something about.
func (s *shape) warnings(p *Plan) (out []string) {
	d := s.d
	for _, l := range p.Limits {
		if l.Share > near && l.Share <= 1 {
			out = append(out, fmt.Sprintf("%s: the peak takes %.0f %% of what there is", l.Name, 100*l.Share))
		}
	}
	if b := p.Replicas.Binds; (b == limitConnections || b == limitStreams) && s.n > 1 {
		setting := map[string]string{limitConnections: "limits.max_connections", limitStreams: "limits.max_streams"}[b]
		out = append(out, fmt.Sprintf("%s decides the number of replicas, and is a setting: raise it where memory and file descriptors allow", setting))
	}
	if p.Replicas.Spare == 0 {
		out = append(out, "there is no spare replica: while one is down or replaced at the peak, the others are past their headroom")
	}
	if history := 1 - p.Etcd.Live.Total*s.c.of(storePages)/p.Etcd.Size.Total; history > 0.5 && p.Etcd.Size.Total > 256<<20 {
		out = append(out, fmt.Sprintf("%.0f %% of etcd's size is history that is kept for up to %.0f s: a shorter etcd.embedded.compact_after, or --auto-compaction-retention, makes it smaller",
			100*history, s.historySeconds()))
	}
	if s.kind == External && d.Etcd.QuotaBytes == 2<<30 && p.Etcd.Size.Total > 1<<30 {
		out = append(out, "etcd's default quota is 2 GiB: set --quota-backend-bytes of your own")
	}
	return append(out, s.guesses(p)...)
}

// guesses names the costs that are not measured, of those that matter here.
func (s *shape) guesses(p *Plan) []string {
	costs := map[string]string{
		"full handshakes": costFull, "resumed handshakes": costResumed, "answers past 520 bytes": costAnswer,
		"requests passed to the owner, and taken from others": costForward, "registered tenants, all on each replica": memRegistered,
		"active virtual tenants": memActive, "connections": memConnection, "streams": memStream, "certificates in use": memCertificate,
		"requests in flight": memRequest, "sandboxes": memSandbox, "audit heads anchored": costHead, "gateways opened and closed": costOpening,
	}
	for _, protocol := range protocols() {
		costs[protocol+" requests"] = requestCost(protocol)
	}
	for _, kind := range credentials() {
		costs["credentials: "+kind] = credentialCost(kind)
	}
	found := make(map[string]bool)
	for _, sum := range []Sum{p.CPU, p.Memory} {
		for _, t := range sum.Terms {
			name, ok := costs[t.Name]
			if ok && t.Amount > sum.Total/10 && !s.c.Costs[name].Measured {
				found[name] = true
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	return []string{"not measured, and more than a tenth of a sum here: " + strings.Join(slices.Sorted(maps.Keys(found)), ", ")}
}

// assumptions are what the figures rest on, in words.
func (s *shape) assumptions(p *Plan) []string {
	out := []string{
		"requests fall evenly on the active tenants and on the replicas; of virtual tenants they come in the share that those have, and go to the owner by one hop unless they arrive there",
		"a core is one of the machine on which the costs were measured; scale cores by a request's cost on yours",
		fmt.Sprintf("a day's changes and starts come in %.3g of the day", s.c.of(costPeakDay)),
		fmt.Sprintf("requests are under way for %.1f s on average", inFlight),
		"every tenant that was asked anything has its audit head anchored once at each settlement, about once a second: that is what writes most",
		fmt.Sprintf("etcd keeps superseded revisions for compact_after, and until it compacts next: %.0f s in all", s.historySeconds()),
		"sandboxes, upstreams and tenants' own gateways run elsewhere and are not in the plan",
	}
	if s.kind == External {
		out = append(out, "etcd runs apart, on 3 or 5 machines with a disk that syncs within 10 ms")
	}
	if p.Replicas.Total > 1 {
		out = append(out, fmt.Sprintf("when a replica dies, its %.0f claims end within replica.ttl, and each gateway opens elsewhere at its next request", s.activeVirtual()/float64(s.n)))
	}
	return out
}

// amount is a number with its unit, for people.
func amount(v float64, unit string) string {
	switch unit {
	case "bytes":
		return bytesText(v)
	case "cores":
		return fmt.Sprintf("%.2f cores", v)
	}
	return number(v) + " " + unit
}

// bytesText is a number of bytes in the largest unit that leaves something before the point.
func bytesText(v float64) string {
	for _, u := range units() {
		if whole := float64(uint64(1) << u.shift); v >= whole {
			return fmt.Sprintf("%.3g %s", math.Min(v/whole, 1e6), u.name)
		}
	}
	return fmt.Sprintf("%.0f bytes", v)
}

// figure is a number with so many digits that matter, or all of those before the point: never with an exponent.
func figure(v float64, digits int) string {
	if s := strconv.FormatFloat(v, 'g', digits, 64); !strings.Contains(s, "e+") {
		return s
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

// number is a number with three digits that matter, and its thousands apart.
func number(v float64) string {
	if v < 999.5 {
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	digits := strconv.FormatFloat(v, 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
