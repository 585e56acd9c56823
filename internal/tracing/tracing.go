// Package tracing makes spans of requests and sends them to a collector by OTLP over HTTP. It follows and passes on the W3C
// trace context (https://www.w3.org/TR/trace-context/). It is the one package that knows OpenTelemetry's API for traces: the
// rest of the project starts and ends spans here. A nil *Tracer makes spans that do nothing and costs nothing.
package tracing

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/quota"
)

// Config is what a Tracer is made with.
type Config struct {
	Endpoint string            // URL of the collector's traces, such as https://collector:4318/v1/traces. Required
	Headers  map[string]string // sent with each request to the collector
	RootCAs  *x509.CertPool    // of the collector; nil = the system's
	Ratio    float64           // of requests that begin a trace here, 0 to 1
	Timeout  time.Duration     // of one request to the collector; 0 = 5 s
	Replica  string            // this replica's name
}

// followed bounds the traces that callers ask for. Whoever may send a request may set the flag that it is sampled, and
// could else make the collector's bill.
func followed() quota.Limit { return quota.Limit{PerSecond: 50, Burst: 100} }

// Tracer makes spans. It is safe for concurrent use.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	format   propagation.TraceContext
}

// New returns a tracer. The collector is not asked whether it is there: spans that it does not take are dropped.
func New(ctx context.Context, cfg Config) (*Tracer, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Second
	}
	options := []otlptracehttp.Option{ // all of them: what is left out comes from OTEL_EXPORTER_OTLP_* in the environment
		otlptracehttp.WithEndpointURL(cfg.Endpoint), otlptracehttp.WithHeaders(cfg.Headers), otlptracehttp.WithTimeout(cfg.Timeout),
		otlptracehttp.WithCompression(otlptracehttp.GzipCompression),
	}
	if strings.HasPrefix(cfg.Endpoint, "https:") {
		options = append(options, otlptracehttp.WithTLSClientConfig(&tls.Config{RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12}))
	}
	exporter, err := otlptracehttp.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	return with(sdktrace.NewBatchSpanProcessor(exporter), cfg), nil
}

func with(p sdktrace.SpanProcessor, cfg Config) *Tracer {
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(p),
		sdktrace.WithSampler(newSampler(cfg.Ratio)),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "polygate"), attribute.String("service.instance.id", cfg.Replica))),
	)
	return &Tracer{provider: provider, tracer: provider.Tracer("github.com/polygate/polygate")}
}

// Close sends what is left, for as long as ctx allows.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

// Begin starts the span of a request, which follows the trace of its header, if it has one.
func (t *Tracer) Begin(ctx context.Context, h http.Header, name string) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	if len(h["Traceparent"]) == 1 { // two are none: the specification takes neither
		ctx = t.format.Extract(ctx, propagation.HeaderCarrier(h))
	}
	ctx, s := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer))
	return ctx, Span{s}
}

// Start starts a span within that of ctx.
func (t *Tracer) Start(ctx context.Context, name string) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	ctx, s := t.tracer.Start(ctx, name)
	return ctx, Span{s}
}

// Inject writes the trace of ctx into a header that goes upstream, in the place of the caller's.
func (t *Tracer) Inject(ctx context.Context, h http.Header) {
	if t != nil && trace.SpanContextFromContext(ctx).IsValid() {
		t.format.Inject(ctx, propagation.HeaderCarrier(h))
	}
}

// Span is a part of a trace. The zero Span does nothing.
type Span struct{ s trace.Span }

// Set tells something of the span: names and outcomes, never a secret or an argument.
func (s Span) Set(key, value string) {
	if s.s != nil && value != "" {
		s.s.SetAttributes(attribute.String(key, value))
	}
}

// SetInt tells a number.
func (s Span) SetInt(key string, value int) {
	if s.s != nil {
		s.s.SetAttributes(attribute.Int(key, value))
	}
}

// End ends the span. Of an error it tells the kind alone: details are for the log.
func (s Span) End(err error) {
	if s.s == nil {
		return
	}
	if err != nil {
		s.s.SetStatus(codes.Error, fault.KindOf(err).String())
	}
	s.s.End()
}

// sampler decides which traces are kept.
type sampler struct {
	ratio sdktrace.Sampler
	rate  *quota.Rate
}

func newSampler(ratio float64) sdktrace.Sampler {
	return sampler{sdktrace.TraceIDRatioBased(ratio), &quota.Rate{}}
}

// ShouldSample implements sdktrace.Sampler: a span follows the one it is within; a trace that a caller began and samples is
// kept while there are few of those; of all others, the ratio.
func (s sampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	parent := trace.SpanContextFromContext(p.ParentContext)
	var keep bool
	switch {
	case parent.IsValid() && !parent.IsRemote():
		keep = parent.IsSampled()
	case parent.IsValid() && parent.IsSampled() && s.rate.Spend(time.Now(), followed()).OK:
		keep = true
	default:
		return s.ratio.ShouldSample(p)
	}
	result := sdktrace.SamplingResult{Decision: sdktrace.Drop, Tracestate: parent.TraceState()}
	if keep {
		result.Decision = sdktrace.RecordAndSample
	}
	return result
}

// Description implements sdktrace.Sampler.
func (s sampler) Description() string { return "polygate: " + s.ratio.Description() }
