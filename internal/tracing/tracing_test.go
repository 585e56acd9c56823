package tracing

import (
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	"github.com/polygate/polygate/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func recorded(ratio float64) (*Tracer, *tracetest.InMemoryExporter) {
	out := tracetest.NewInMemoryExporter()
	return with(sdktrace.NewSimpleSpanProcessor(out), Config{Ratio: ratio, Replica: "r1"}), out
}

func TestFollowsAndPassesOn(t *testing.T) {
	tr, out := recorded(0)
	ctx, root := tr.Begin(context.Background(), http.Header{"Traceparent": {parent}}, "GET /servers")
	inner, span := tr.Start(ctx, "relay")
	h := http.Header{"Traceparent": {"00-ffffffffffffffffffffffffffffffff-ffffffffffffffff-01"}}
	tr.Inject(inner, h)
	span.Set("tenant", "team-a")
	span.End(fault.New(fault.BadUpstream, "a secret detail"))
	root.End(nil)
	spans := out.GetSpans()
	if len(spans) != 2 {
		t.Fatalf("%d spans, want 2", len(spans))
	}
	got := h.Get("Traceparent")
	if !strings.HasPrefix(got, "00-0af7651916cd43dd8448eb211c80319c-"+spans[0].SpanContext.SpanID().String()) {
		t.Errorf("passed on %q", got)
	}
	if spans[1].Parent.SpanID().String() != "b7ad6b7169203331" || spans[0].Parent.SpanID() != spans[1].SpanContext.SpanID() {
		t.Error("the spans are not within each other and within the caller's")
	}
	if d := spans[0].Status.Description; d != "bad_upstream" && strings.Contains(d, "secret") {
		t.Errorf("status %q", d)
	}
}

func TestWhatIsSampled(t *testing.T) {
	tr, out := recorded(0)
	unsampled := strings.TrimSuffix(parent, "01") + "00"
	for _, h := range []http.Header{{}, {"Traceparent": {unsampled}}, {"Traceparent": {parent, parent}}, {"Traceparent": {"nonsense"}}} {
		_, s := tr.Begin(context.Background(), h, "x")
		s.End(nil)
	}
	if n := len(out.GetSpans()); n != 0 {
		t.Errorf("%d spans of nothing that is to be sampled", n)
	}
	for range 1000 {
		_, s := tr.Begin(context.Background(), http.Header{"Traceparent": {parent}}, "x")
		s.End(nil)
	}
	if n := len(out.GetSpans()); n < 100 || n > 200 {
		t.Errorf("callers had %d of 1000 traces sampled, want the burst of 100 and little more", n)
	}
}

func TestOffCostsNothing(t *testing.T) {
	var tr *Tracer
	allocs := testing.AllocsPerRun(100, func() {
		ctx, s := tr.Begin(context.Background(), nil, "x")
		tr.Inject(ctx, nil)
		_, in := tr.Start(ctx, "y")
		in.Set("k", "v")
		in.End(nil)
		s.End(io.EOF)
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
	if err := tr.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestSendsToACollector(t *testing.T) {
	var mu sync.Mutex
	var paths, secrets []string
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		zipped, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		b, _ := io.ReadAll(zipped)
		mu.Lock()
		defer mu.Unlock()
		paths, secrets = append(paths, r.URL.Path), append(secrets, r.Header.Get("X-Secret"))
		if !strings.Contains(string(b), "polygate") {
			t.Error("the spans do not name the service")
		}
	}))
	defer srv.Close()
	tr, err := New(context.Background(), Config{Endpoint: srv.URL + "/v1/traces", Headers: map[string]string{"X-Secret": "s"}, Ratio: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, s := tr.Begin(context.Background(), nil, "x")
	s.End(nil)
	if err := tr.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(paths) != 1 || paths[0] != "/v1/traces" || secrets[0] != "s" {
		t.Errorf("the collector got %v with %v", paths, secrets)
	}
}
