package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/telemetry"
	"github.com/polygate/polygate/internal/tenant"
)

// discard is an http.ResponseWriter for benchmarks.
type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}
func (d *discard) FlushError() error           { return nil }

// quiet makes a front whose parts cost as little as in production, or less.
func quiet(b *testing.B) *front {
	b.Helper()
	m, err := telemetry.NewMetrics(prometheus.NewRegistry(), 10)
	if err != nil {
		b.Fatal(err)
	}
	f := newFront(b, func(c *Config) { c.Logger, c.Metrics = slog.New(slog.DiscardHandler), m })
	f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{}}`)
	}))
	return f
}

// BenchmarkHandlerReply is the handler alone: a reply of a virtual gateway, without any network.
func BenchmarkHandlerReply(b *testing.B) {
	f := quiet(b)
	f.gateways.decide = func(context.Context, *tenant.Entry, *exchange.Request) (exchange.Decision, error) {
		return &exchange.Reply{Status: 200, Body: []byte("ok")}, nil
	}
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		r := httptest.NewRequest("GET", "https://"+hostA+"/servers", nil)
		r.RequestURI = "/servers"
		r.TLS = &tls.ConnectionState{ServerName: hostA}
		r.Header["Authorization"] = []string{"Bearer " + keyA}
		f.serveHTTP(&discard{http.Header{}}, r)
	}
}

// BenchmarkRequestOnly is what the benchmarks themselves cost: the making of a request.
func BenchmarkRequestOnly(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest("GET", "https://"+hostA+"/servers", nil)
		r.RequestURI = "/servers"
		r.TLS = &tls.ConnectionState{ServerName: hostA}
		r.Header["Authorization"] = []string{"Bearer " + keyA}
		_ = &discard{http.Header{}}
	}
}

// BenchmarkHandlerRelay adds the engine and a real upstream on loopback.
func BenchmarkHandlerRelay(b *testing.B) {
	f := quiet(b)
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		r := httptest.NewRequest("POST", "https://"+hostD+"/mcp", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"ping"}`))
		r.RequestURI = "/mcp"
		r.TLS = &tls.ConnectionState{ServerName: hostD}
		f.serveHTTP(&discard{http.Header{}}, r)
	}
}

// BenchmarkFront is the whole way over TLS: client, front, upstream.
func BenchmarkFront(b *testing.B) {
	f := quiet(b)
	c := f.client()
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		f.do(c, "POST", "https://"+hostD+"/mcp", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"ping"}`))
	}
}
