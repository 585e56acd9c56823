package telemetry

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/polygate/polygate/internal/guard"
)

// maxUnpacked bounds the metrics of one replica, as text.
const maxUnpacked = 64 << 20

// ours begins the names of the metrics that are merged. What the runtime counts is a replica's own, at its own listener.
const ours = "polygate_"

// pack writes our families as text, compressed: they are much alike.
func pack(families []*dto.MetricFamily) ([]byte, error) {
	families = slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return !strings.HasPrefix(f.GetName(), ours) })
	text, err := render(families)
	if err != nil {
		return nil, err
	}
	return squeeze(text)
}

func squeeze(text []byte) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(text); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// unpack reads what pack wrote.
func unpack(packed []byte) (map[string]*dto.MetricFamily, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(z, maxUnpacked+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxUnpacked {
		return nil, fmt.Errorf("more than %d MiB of metrics: lower metrics.max_tenants", maxUnpacked>>20)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(bytes.NewReader(text))
}

// merger adds up families of several replicas.
type merger struct {
	of map[string]*merged
}

type merged struct {
	family *dto.MetricFamily      // without metrics
	by     map[string]*dto.Metric // by labels
}

func newMerger() *merger { return &merger{of: map[string]*merged{}} }

// add adds what one replica counts. A family of another type than the same name has elsewhere is passed over: it is of
// another version.
func (m *merger) add(replica string, families map[string]*dto.MetricFamily) {
	for name, f := range families {
		if !strings.HasPrefix(name, ours) {
			continue
		}
		into := m.family(name, f)
		if into.family.GetType() != f.GetType() {
			continue
		}
		for _, one := range f.GetMetric() {
			if f.GetType() == dto.MetricType_GAUGE && !labelled(one, "tenant") {
				one.Label = append(one.Label, label("replica", replica))
			}
			into.add(one)
		}
	}
}

func (m *merger) family(name string, like *dto.MetricFamily) *merged {
	into := m.of[name]
	if into == nil {
		into = &merged{family: &dto.MetricFamily{Name: like.Name, Help: like.Help, Type: like.Type}, by: map[string]*dto.Metric{}}
		m.of[name] = into
	}
	return into
}

// up says whether a replica answered.
func (m *merger) up(replica string, up bool) {
	name, help, value := ours+"replica_up", "Whether the replica said what it counts.", 0.0
	if up {
		value = 1
	}
	into := m.family(name, &dto.MetricFamily{Name: &name, Help: &help, Type: dto.MetricType_GAUGE.Enum()})
	into.add(&dto.Metric{Label: []*dto.LabelPair{label("replica", replica)}, Gauge: &dto.Gauge{Value: &value}})
}

// families returns the sums, in a stable order.
func (m *merger) families() (all []*dto.MetricFamily) {
	for _, name := range slices.Sorted(maps.Keys(m.of)) {
		one := m.of[name]
		for _, key := range slices.Sorted(maps.Keys(one.by)) {
			one.family.Metric = append(one.family.Metric, one.by[key])
		}
		all = append(all, one.family)
	}
	return all
}

func label(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }

func labelled(m *dto.Metric, name string) bool {
	return slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == name })
}

func keyOf(m *dto.Metric) string {
	slices.SortFunc(m.Label, func(a, b *dto.LabelPair) int { return cmp.Compare(a.GetName(), b.GetName()) })
	var b strings.Builder
	for _, l := range m.GetLabel() {
		b.WriteString(l.GetName() + "\xff" + l.GetValue() + "\xff")
	}
	return b.String()
}

// add adds one series.
func (m *merged) add(one *dto.Metric) {
	key := keyOf(one)
	sum := m.by[key]
	if sum == nil {
		m.by[key] = one
		return
	}
	switch {
	case sum.Counter != nil && one.Counter != nil:
		*sum.Counter.Value += one.Counter.GetValue()
	case sum.Gauge != nil && one.Gauge != nil && strings.HasSuffix(m.family.GetName(), "_timestamp_seconds"):
		*sum.Gauge.Value = min(sum.Gauge.GetValue(), one.Gauge.GetValue()) // a time: the first that ends
	case sum.Gauge != nil && one.Gauge != nil:
		*sum.Gauge.Value += one.Gauge.GetValue()
	case sum.Histogram != nil && one.Histogram != nil:
		addHistogram(sum.Histogram, one.Histogram)
	}
}

// addHistogram adds buckets of the same bounds. Others are of another version, and left out with their counts.
func addHistogram(sum, one *dto.Histogram) {
	same := slices.EqualFunc(sum.GetBucket(), one.GetBucket(), func(a, b *dto.Bucket) bool { return a.GetUpperBound() == b.GetUpperBound() })
	if !same {
		return
	}
	count, total := sum.GetSampleCount()+one.GetSampleCount(), sum.GetSampleSum()+one.GetSampleSum()
	sum.SampleCount, sum.SampleSum = &count, &total
	for i, b := range sum.Bucket {
		n := b.GetCumulativeCount() + one.Bucket[i].GetCumulativeCount()
		b.CumulativeCount = &n
	}
}

// addUsage adds what a tenant uses on another replica. Its limits are the same everywhere.
func addUsage(u, other guard.Usage) guard.Usage {
	u.Since = earliest(u.Since, other.Since)
	u.InFlight += other.InFlight
	u.Streams += other.Streams
	u.Requests += other.Requests
	for i, n := range other.Refused {
		u.Refused[i] += n
	}
	u.RateLeft = addLeft(u.RateLeft, other.RateLeft)
	u.BytesIn += other.BytesIn
	u.BytesOut += other.BytesOut
	u.BytesLeft += other.BytesLeft
	u.BytesOwed = max(u.BytesOwed, other.BytesOwed)
	u.Part = min(u.Part+other.Part, 1)
	u.Guaranteed += other.Guaranteed
	u.Known += other.Known
	u.TableBytes += other.TableBytes
	u.Callers = addCallers(u.Callers, other.Callers)
	return u
}

func earliest(a, b time.Time) time.Time {
	if b.IsZero() || !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}

// addLeft adds what is left of a limit; -1 = there is none.
func addLeft(a, b float64) float64 {
	if a < 0 || b < 0 {
		return -1
	}
	return a + b
}

// addCallers adds up the principals, and keeps those with the most requests.
func addCallers(a, b []guard.CallerUsage) []guard.CallerUsage {
	of := map[string]guard.CallerUsage{}
	for _, c := range a {
		of[c.Ref] = c
	}
	for _, c := range b {
		sum, known := of[c.Ref]
		if known {
			c = guard.CallerUsage{
				Ref: c.Ref, InFlight: sum.InFlight + c.InFlight, Requests: sum.Requests + c.Requests, Refused: sum.Refused + c.Refused,
				RateLeft: addLeft(sum.RateLeft, c.RateLeft),
			}
		}
		of[c.Ref] = c
	}
	all := slices.SortedFunc(maps.Values(of), func(x, y guard.CallerUsage) int {
		return cmp.Or(cmp.Compare(y.Requests, x.Requests), cmp.Compare(y.Refused, x.Refused), cmp.Compare(x.Ref, y.Ref))
	})
	return all[:min(len(all), guard.MaxCallers)]
}
