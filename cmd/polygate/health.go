package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/polygate/polygate/internal/telemetry"
)

// openTelemetry serves /metrics, /healthz and /readyz.
func (d *daemon) openTelemetry(ctx context.Context) error {
	if d.listen.telemetry == nil {
		return nil
	}
	handler := telemetry.NewHandler(d.gatherer,
		telemetry.Check{Name: "started", Func: d.started},
		telemetry.Check{Name: "registry", Func: d.store.Healthy},
		telemetry.Check{Name: "audit", Func: d.drain.Err},
		telemetry.Check{Name: "shares", Func: d.shares.Ready},
	)
	d.parts.start(ctx, "telemetry", func(ctx context.Context) error {
		return serveHTTP(ctx, d.listen.telemetry, telemetryRoutes(handler, d.numbers))
	})
	return nil
}

func (d *daemon) started() error {
	if !d.ready.Load() {
		return errors.New("starting or stopping")
	}
	return nil
}

// serveHTTP serves a small plain listener until ctx ends.
func serveHTTP(ctx context.Context, ln net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 60 * time.Second, MaxHeaderBytes: 16 << 10,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
