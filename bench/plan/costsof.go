package plan

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/polygate/polygate/bench/result"
)

// subject is the name under which reports have Polygate.
const subject = "polygate"

// CostsOf returns the default costs with those that a report measured in their place, and the names of those that it could have
// measured and has not. The error is that it has none.
func CostsOf(r *result.Report) (*Costs, []string, error) {
	c, err := DefaultCosts()
	if err != nil {
		return nil, nil, err
	}
	found := make(map[string]float64)
	runs := make(map[string][]result.Run) // a suite has scenarios several times, for some protocols and credentials each
	for _, sc := range r.Scenarios {
		runs[sc.Name] = append(runs[sc.Name], sc.Runs...)
	}
	throughput(runs["throughput"], found)
	handshakes(runs["handshakes"], found)
	settleHandshakes(found, c)
	capacity(r.Capacity, found)
	if len(found) == 0 {
		return nil, nil, errors.New("it holds no figure of polygate from the scenarios throughput, handshakes or capacity: measure them first, with polybench compare --json")
	}
	source := reportSource(r)
	for name, v := range found {
		c.Costs[name] = Cost{Value: v, Unit: c.Costs[name].Unit, Measured: true, From: source}
	}
	c.Source = fmt.Sprintf("%s; what it does not hold: %s", source, c.Source)
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(c.Costs)) {
		if _, ok := found[name]; !ok && measurable(name) {
			missing = append(missing, name)
		}
	}
	return c, missing, nil
}

// reportSource says where a report is from.
func reportSource(r *result.Report) string {
	return fmt.Sprintf("measured by polybench on %s, %d cores of %s, %s", r.Started.Format("2006-01-02"), r.Machine.Cores, r.Machine.CPU, r.Machine.OS)
}

// measurable says whether a report can hold a cost.
func measurable(name string) bool {
	return strings.HasPrefix(name, "cpu.request.") || strings.HasPrefix(name, "cpu.credential.") && name != credentialCost("none") ||
		slices.Contains([]string{costFull, costResumed, memBase, memRegistered, memActive, memConnection, memStream}, name)
}

// throughput takes costs of requests and credentials from runs whose variant is "<protocol>" or "<protocol>, <credential>". What
// cannot be had without a credential, as MCP, is measured with one, which is taken off.
func throughput(runs []result.Run, found map[string]float64) {
	at := func(variant string) (float64, bool) {
		return micros(runs, func(r result.Run) bool { return r.Variant == variant })
	}
	for _, k := range credentials() {
		for _, p := range []string{"http1", "http2"} {
			bare, ok := at(p)
			with, too := at(p + ", " + k)
			if _, have := found[credentialCost(k)]; ok && too && !have {
				found[credentialCost(k)] = max(with-bare, 0)
			}
		}
	}
	for _, p := range protocols() {
		if v, ok := at(p); ok {
			found[requestCost(p)] = v
			continue
		}
		for _, k := range credentials() {
			if v, ok := at(p + ", " + k); ok {
				found[requestCost(p)] = max(v-found[credentialCost(k)], 0)
				break
			}
		}
	}
}

// handshakes takes the costs of a request on a new connection.
func handshakes(runs []result.Run, found map[string]float64) {
	for load, name := range map[string]string{"full": costFull, "resumed": costResumed} {
		if v, ok := micros(runs, func(r result.Run) bool { return r.Load == load }); ok {
			found[name] = v
		}
	}
}

// settleHandshakes takes the request off that was made on each connection.
func settleHandshakes(found map[string]float64, c *Costs) {
	request, ok := found[requestCost("http1")]
	if !ok {
		request = c.of(requestCost("http1"))
	}
	for _, name := range []string{costFull, costResumed} {
		if v, ok := found[name]; ok {
			found[name] = max(v-request, 0)
		}
	}
}

// micros returns the median CPU time of a request in the runs of ours that match.
func micros(runs []result.Run, match func(result.Run) bool) (float64, bool) {
	var ours []result.Run
	for _, r := range runs {
		if r.Subject == subject && match(r) {
			ours = append(ours, r)
		}
	}
	s := result.Over(ours, result.Figures.CPU)
	return s.Median, s.Known() && s.Median > 0
}

// capacity takes costs of memory. Its gateway has its etcd outside (bench/gateway), so nothing of a member is in these figures: what that
// takes is memory.member, memory.store_byte and memory.store_key, which no report holds.
func capacity(points []result.CapacityPoint, found map[string]float64) {
	most := -1
	var active, connection, stream []float64
	for _, p := range points {
		if p.Subject != subject {
			continue
		}
		if p.Registered > most && p.PerRegistered > 0 {
			most, found[memRegistered] = p.Registered, p.PerRegistered
		}
		if p.Registered == 0 && p.RSS.Start > 0 {
			found[memBase] = float64(p.RSS.Start)
		}
		active, connection, stream = append(active, p.PerActive), append(connection, p.PerConnected), append(stream, p.PerStream)
	}
	for name, values := range map[string][]float64{memActive: active, memConnection: connection, memStream: stream} {
		values = slices.DeleteFunc(values, func(v float64) bool { return !(v > 0) })
		if len(values) > 0 {
			found[name] = result.SpreadOf(values).Median
		}
	}
	if v, ok := found[memStream]; ok { // each had a connection of its own, which plans count as such
		found[memStream] = max(v-found[memConnection], 0)
	}
}
