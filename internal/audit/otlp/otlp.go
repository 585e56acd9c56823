// Package otlp ships audit lines to an OpenTelemetry collector over OTLP/HTTP. The file with its chains stays the log:
// this is a copy, behind a bounded queue, that may lose records and says how many.
package otlp

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/polygate/polygate/internal/audit"
)

// Defaults, and bounds of one request.
const (
	defaultTimeout = 10 * time.Second
	defaultRetry   = time.Minute
	defaultQueue   = 8 << 20
	batchBytes     = 512 << 10
	closeTimeout   = 3 * time.Second // for what is left at the end
)

// Config says where the records go.
type Config struct {
	Endpoint string            // URL of the collector's log intake, such as https://collector:4318/v1/logs; required
	Headers  map[string]string // added to each request, such as a credential
	RootCAs  *x509.CertPool    // of the collector; nil = the system's
	Timeout  time.Duration     // of one request; 0 = 10 s
	Retry    time.Duration     // for how long a batch is tried again; 0 = 1 min
	Queue    int               // bytes of lines that wait at most; 0 = 8 MiB
	Replica  string            // service.instance.id
}

// withDefaults checks c and fills it in.
func (c Config) withDefaults() (Config, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return c, errors.New("audit otlp: the endpoint is no http or https URL: use one such as https://collector:4318/v1/logs")
	}
	if c.Timeout < 0 || c.Retry < 0 || c.Queue < 0 {
		return c, errors.New("audit otlp: timeout, retry and queue: use 0 or more")
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Retry == 0 {
		c.Retry = defaultRetry
	}
	if c.Queue == 0 {
		c.Queue = defaultQueue
	}
	return c, nil
}

// Mirror is an audit.Mirror.
type Mirror struct {
	*audit.Queue
	cfg Config

	mu  sync.Mutex
	err error // guarded by mu
}

var _ audit.Mirror = (*Mirror)(nil)

// New checks cfg and makes a mirror. It connects to nothing until Run.
func New(cfg Config) (*Mirror, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Mirror{Queue: audit.NewQueue(cfg.Queue), cfg: cfg}, nil
}

// Err returns why the last batch was not taken; nil if it was.
func (m *Mirror) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Run sends until ctx ends, and then for 3 s what is left.
func (m *Mirror) Run(ctx context.Context) error {
	// Everything is given, or the exporter would take it from OTEL_EXPORTER_OTLP_* in the environment.
	options := []otlploghttp.Option{otlploghttp.WithEndpointURL(m.cfg.Endpoint), otlploghttp.WithHeaders(m.cfg.Headers),
		otlploghttp.WithTimeout(m.cfg.Timeout), otlploghttp.WithCompression(otlploghttp.GzipCompression),
		otlploghttp.WithRetry(otlploghttp.RetryConfig{Enabled: true, InitialInterval: 500 * time.Millisecond, MaxInterval: 10 * time.Second, MaxElapsedTime: m.cfg.Retry})}
	if strings.HasPrefix(m.cfg.Endpoint, "https:") {
		options = append(options, otlploghttp.WithTLSClientConfig(&tls.Config{RootCAs: m.cfg.RootCAs, MinVersion: tls.VersionTLS12}))
	}
	exporter, err := otlploghttp.New(ctx, options...)
	if err != nil {
		return fmt.Errorf("audit otlp: %w", err)
	}
	c := &collector{}
	provider := sdklog.NewLoggerProvider(sdklog.WithProcessor(c), sdklog.WithAttributeValueLengthLimit(-1), sdklog.WithResource(m.resource()))
	s := sender{mirror: m, exporter: exporter, collector: c, logger: provider.Logger("github.com/polygate/polygate/audit")}
	// A batch that is on its way when ctx ends gets the same 3 s as what is still waiting.
	patience, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(closeTimeout, cancel) })()
	s.run(ctx, patience)
	s.dropAll()
	_, _ = provider.Shutdown(patience), exporter.Shutdown(patience) // both hold nothing that could be lost
	return nil
}

func (m *Mirror) resource() *resource.Resource {
	return resource.NewSchemaless(attribute.String("service.name", "polygate"), attribute.String("service.instance.id", m.cfg.Replica))
}

// collector takes the records that the logger makes, so that a batch is sent as one and its end is known: the SDK's batch
// processor only logs what it drops.
type collector struct{ records []sdklog.Record }

// Enabled implements sdklog.Processor.
func (*collector) Enabled(context.Context, sdklog.EnabledParameters) bool { return true }

// OnEmit implements sdklog.Processor.
func (c *collector) OnEmit(_ context.Context, r *sdklog.Record) error {
	c.records = append(c.records, r.Clone())
	return nil
}

// Shutdown implements sdklog.Processor.
func (*collector) Shutdown(context.Context) error { return nil }

// ForceFlush implements sdklog.Processor.
func (*collector) ForceFlush(context.Context) error { return nil }

// sender is the one goroutine that sends.
type sender struct {
	mirror    *Mirror
	exporter  sdklog.Exporter
	collector *collector
	logger    log.Logger
}

// run sends what comes until ctx ends, and then what is left until patience does.
func (s *sender) run(ctx, patience context.Context) {
	for {
		s.sendAll(patience)
		select {
		case <-ctx.Done():
			s.sendAll(patience)
			return
		case <-s.mirror.Ready():
		}
	}
}

// sendAll sends batches until the queue is empty or ctx ends.
func (s *sender) sendAll(ctx context.Context) {
	for ctx.Err() == nil {
		text := s.mirror.Take(batchBytes)
		if text == nil {
			return
		}
		s.send(ctx, text)
	}
}

func (s *sender) send(ctx context.Context, text []byte) {
	s.collector.records = nil
	lines := 0
	for line := range bytes.Lines(text) {
		lines++
		if err := s.emit(ctx, bytes.TrimSuffix(line, []byte("\n"))); err != nil {
			s.mirror.Drop(1)
			lines--
		}
	}
	err := s.exporter.Export(ctx, s.collector.records)
	if err != nil {
		s.mirror.Drop(lines)
		err = fmt.Errorf("audit otlp: %d records were not taken by the collector: %w", lines, err)
	}
	s.mirror.mu.Lock()
	defer s.mirror.mu.Unlock()
	s.mirror.err = err
}

// dropAll counts what is left when the time for it is over.
func (s *sender) dropAll() {
	for text := s.mirror.Take(batchBytes); text != nil; text = s.mirror.Take(batchBytes) {
		s.mirror.Drop(bytes.Count(text, []byte("\n")))
	}
}

// emit makes a record of a line. Its body is the whole line, so that who holds the copy can verify the chains from it.
func (s *sender) emit(ctx context.Context, text []byte) error {
	l, err := audit.ParseLine(text)
	if err != nil {
		return err
	}
	e, err := l.Decode()
	if err != nil {
		return err
	}
	var r log.Record
	r.SetTimestamp(e.Time)
	r.SetObservedTimestamp(time.Now())
	r.SetEventName("polygate.audit")
	r.SetSeverity(log.SeverityInfo)
	if e.Decision == audit.Deny {
		r.SetSeverity(log.SeverityWarn)
	}
	r.SetBody(attribute.StringValue(string(text)))
	r.AddAttributes(attributes(l, &e)...)
	s.logger.Emit(ctx, r)
	return nil
}

// attributes are the fields of an entry by which a collector searches. Empty ones are left out.
func attributes(l audit.Line, e *audit.Entry) []attribute.KeyValue {
	out := []attribute.KeyValue{attribute.Int64("audit.seq", int64(l.Seq))}
	for _, f := range [][2]string{
		{"chain", l.Chain}, {"id", e.ID}, {"tenant", string(e.Tenant)}, {"tenant_uid", e.TenantUID}, {"replica", e.Replica}, {"principal", e.Principal},
		{"name", e.Name}, {"role", e.Role}, {"issuer", e.Issuer}, {"key_id", e.KeyID}, {"via", e.Via}, {"action", e.Action}, {"resource", e.Resource},
		{"decision", e.Decision}, {"rule", e.Rule}, {"bundle", e.Bundle}, {"outcome", e.Outcome}, {"request_id", e.RequestID}, {"remote", e.Remote},
	} {
		if f[1] != "" {
			out = append(out, attribute.String("audit."+f[0], f[1]))
		}
	}
	if e.Millis != 0 {
		out = append(out, attribute.Int64("audit.ms", e.Millis))
	}
	return out
}
