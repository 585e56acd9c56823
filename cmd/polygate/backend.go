package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/etcd"
)

// etcdDir is where the embedded etcd keeps its data.
func (d *daemon) etcdDir() string { return filepath.Join(d.cfg.DataDir, "etcd") }

// openBackend starts the embedded etcd, or connects to the one that is configured.
func (d *daemon) openBackend(ctx context.Context) (registry.Backend, error) {
	if len(d.cfg.Etcd.Endpoints) > 0 {
		return d.openExternal(ctx)
	}
	server, err := etcd.StartEmbedded(ctx, d.embeddedEtcd())
	if err != nil {
		return nil, err
	}
	d.parts.onStop("etcd", server.Close)
	d.parts.start(ctx, "etcd watch", func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case <-server.Stopped():
			return errors.New("the embedded etcd stopped by itself: see the log, and check the disk under data_dir")
		}
	})
	backend, err := server.Backend(d.cfg.Etcd.Prefix)
	if err != nil {
		return nil, err
	}
	d.parts.onStop("etcd client", backend.Close)
	d.etcd = &storage{d, backend, server}
	return backend, nil
}

// embeddedEtcd returns how the etcd inside this process runs.
func (d *daemon) embeddedEtcd() etcd.EmbeddedConfig {
	e := d.cfg.Etcd.Embedded
	cfg := etcd.EmbeddedConfig{
		Dir: d.etcdDir(), Quota: int64(e.QuotaBytes), Retention: e.CompactAfter, Logger: d.log.With("part", "etcd"),
	}
	if len(e.Cluster.Members) == 0 {
		return cfg
	}
	cfg.Cluster = &etcd.ClusterConfig{
		Name: d.cfg.Replica.Name, Listen: e.Cluster.Listen, CA: e.Cluster.CA, Cert: e.Cluster.Cert, Key: e.Cluster.Key,
		JoinTimeout: d.joinTimeout,
	}
	for _, m := range e.Cluster.Members {
		cfg.Cluster.Members = append(cfg.Cluster.Members, etcd.ClusterMember{Name: m.Name, Address: m.Address})
	}
	return cfg
}

// budgets returns what tenants may keep in the registry, and what it keeps for itself.
func (d *daemon) budgets() registry.Budgets {
	defaults, ceilings := guardLimits(d.cfg.Quotas.Tenant()), guardLimits(d.cfg.Quotas.Ceilings.Tenant())
	b := registry.Budgets{Reserve: d.cfg.Etcd.Reserve, Stored: func(q tenant.Quotas) int64 {
		l, _ := guard.Effective(q, defaults, ceilings)
		return l.MaxStored
	}}
	if len(d.cfg.Etcd.Endpoints) == 0 {
		b.Window = d.cfg.Etcd.Embedded.CompactAfter
	}
	return b
}

func (d *daemon) openExternal(ctx context.Context) (registry.Backend, error) {
	c := d.cfg.Etcd
	password, err := readPassword(c.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("etcd.password_file: %w", err)
	}
	tlsConfig, err := etcdTLS(c)
	if err != nil {
		return nil, err
	}
	backend, err := etcd.New(etcd.Config{
		Endpoints: c.Endpoints, TLS: tlsConfig, Username: c.User, Password: password, Root: c.Prefix, Logger: d.log.With("part", "etcd"),
	})
	if err != nil {
		return nil, err
	}
	d.parts.onStop("etcd client", backend.Close)
	d.etcd = &storage{d: d, backend: backend}
	return backend, backend.Check(ctx)
}

func readPassword(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	b, err := os.ReadFile(path)
	return strings.TrimRight(string(b), "\r\n"), err
}

// etcdTLS returns the TLS settings of the client, or nil if no endpoint uses TLS.
func etcdTLS(c config.Etcd) (*tls.Config, error) {
	if !strings.HasPrefix(c.Endpoints[0], "https://") {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.TLS.CA != "" {
		pem, err := os.ReadFile(c.TLS.CA)
		if err != nil {
			return nil, fmt.Errorf("etcd.tls.ca: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("etcd.tls.ca: no certificate in %s", c.TLS.CA)
		}
	}
	if c.TLS.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key)
		if err != nil {
			return nil, fmt.Errorf("etcd.tls.cert: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}
