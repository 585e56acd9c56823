package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/audit/otlp"
	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/peer"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tracing"
)

// openAudit opens the log, and everything else that gets its lines.
func (d *daemon) openAudit(ctx context.Context) error {
	cfg := d.cfg.Audit
	sink, err := audit.OpenFile(cfg.File)
	if err != nil {
		return err
	}
	d.parts.onStop("audit file", sink.Close)
	signer, err := d.auditSigner()
	if err != nil {
		return err
	}
	mirrors, err := d.openMirrors(ctx)
	if err != nil {
		return err
	}
	d.buffer = audit.NewBuffer(cfg.Buffer)
	d.drain, err = audit.NewDrain(audit.DrainConfig{
		Outbox: d.outbox, Buffer: d.buffer, Sink: sink, Interval: cfg.Interval, Replica: d.cfg.Replica.Name, Logger: d.log.With("part", "audit"),
		Rotation:  audit.Rotation{MaxBytes: int64(cfg.RotateBytes), MaxAge: cfg.RotateAfter},
		Retention: audit.Retention{MaxAge: cfg.Retain, MaxBytes: int64(cfg.RetainBytes)},
		Signer:    signer, Checkpoint: cfg.CheckpointEvery, Mirrors: mirrors, Shared: d.among(),
	})
	if err != nil {
		return err
	}
	d.records, err = audit.NewReader(audit.ReaderConfig{Dir: filepath.Dir(cfg.File), Ext: filepath.Ext(cfg.File)})
	if err != nil {
		return err
	}
	d.audits, err = audit.NewCluster(audit.ClusterConfig{
		Self: d.cfg.Replica.Name, Reader: d.records, Flush: d.drain.Flush, Live: d.replicaNames, Writers: d.outbox.Writers,
		Call: func(ctx context.Context, replica string, body []byte) ([]byte, error) {
			return laterCaller{d}.Call(ctx, replica, peer.Audit, body)
		},
		Logger: d.log.With("part", "audit"),
	})
	if err != nil {
		return err
	}
	d.parts.start(ctx, "audit", d.drain.Run)
	return nil
}

// among says whether this replica may be one of several: the store is not its own.
func (d *daemon) among() bool {
	return len(d.cfg.Etcd.Endpoints) > 0 || len(d.cfg.Etcd.Embedded.Cluster.Members) > 0
}

// auditSigner returns what signs the checkpoints. Its key comes from the platform's secret, so that all replicas, and every
// later start, sign with the same one. The public half is written beside the data: a signature that nobody can check is none.
func (d *daemon) auditSigner() (audit.Signer, error) {
	key, err := seal.DataKeyFrom(d.secret)
	if err != nil {
		return nil, err
	}
	signer, err := audit.NewSigner(key.Derive("audit-checkpoints").Bytes())
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("audit: encode the public key: %w", err)
	}
	path := filepath.Join(d.cfg.DataDir, "audit.pem")
	if err := writeFile(path, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))); err != nil {
		return nil, fmt.Errorf("cannot write %s: %w: make its folder writable", path, cause(err))
	}
	return signer, nil
}

// openMirrors opens what gets a copy of the log's lines.
func (d *daemon) openMirrors(ctx context.Context) (mirrors []audit.Mirror, err error) {
	if d.cfg.Audit.Stdout {
		w := audit.NewWriterMirror(os.Stdout, 0)
		d.parts.start(ctx, "audit on stdout", w.Run)
		mirrors = append(mirrors, w)
	}
	c := d.cfg.Audit.OTLP
	if c.Endpoint == "" {
		return mirrors, nil
	}
	headers, err := config.Headers(c.HeadersFile)
	if err != nil {
		return nil, fmt.Errorf("audit.otlp.headers_file: %w", err)
	}
	roots, err := config.Roots(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("audit.otlp.ca_file: %w", err)
	}
	m, err := otlp.New(otlp.Config{Endpoint: c.Endpoint, Headers: headers, RootCAs: roots, Timeout: c.Timeout, Queue: int(c.QueueBytes), Replica: d.cfg.Replica.Name})
	if err != nil {
		return nil, err
	}
	d.parts.start(ctx, "audit to the collector", m.Run)
	return append(mirrors, m), nil
}

// openTracing makes the tracer, if traces are wanted.
func (d *daemon) openTracing(ctx context.Context) error {
	c := d.cfg.Tracing
	if c.Endpoint == "" {
		return nil
	}
	headers, err := config.Headers(c.HeadersFile)
	if err != nil {
		return fmt.Errorf("tracing.headers_file: %w", err)
	}
	roots, err := config.Roots(c.CAFile)
	if err != nil {
		return fmt.Errorf("tracing.ca_file: %w", err)
	}
	d.tracer, err = tracing.New(ctx, tracing.Config{
		Endpoint: c.Endpoint, Headers: headers, RootCAs: roots, Ratio: c.Ratio, Timeout: c.Timeout, Replica: d.cfg.Replica.Name,
	})
	if err != nil {
		return err
	}
	d.parts.onStop("traces", func() error {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Timeout)
		defer cancel()
		_ = d.tracer.Close(last) // what the collector does not take at the end is lost, as documented
		return nil
	})
	return nil
}
