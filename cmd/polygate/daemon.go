package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/polygate/polygate/certs"
	"github.com/polygate/polygate/certs/peerca"
	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/egress"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/hostproof"
	"github.com/polygate/polygate/internal/openapi"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/shares"
	"github.com/polygate/polygate/internal/telemetry"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/tracing"
	"github.com/polygate/polygate/proxy"
	"github.com/polygate/polygate/proxy/admin"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/vgw"
	"github.com/polygate/polygate/vgw/sandbox"
)

// readyTimeout bounds how long a start waits for the registry without anything coming from it, beside the time to live of its lease.
const readyTimeout = 30 * time.Second

// daemon is one replica of Polygate: `polygate serve`. It joins the parts, which do not know each other, opens them in the
// order in which they need one another, and closes them in reverse. Tests run several in one process.
type daemon struct {
	cfg   *config.Platform
	log   *slog.Logger
	out   io.Writer // what a person who started it reads
	parts *group
	ready atomic.Bool

	listen   listeners
	kek      *seal.Keyring
	token    tenant.Hash
	secret   []byte // the platform's own, in the registry under the key-encryption key
	etcd     *storage
	store    *registry.Store
	outbox   *registry.Outbox
	drain    *audit.Drain
	buffer   *audit.Buffer
	gatherer *prometheus.Registry
	metrics  *telemetry.Metrics
	guards   *guard.Set
	certs    *certs.Manager
	dial     *egress.Guard
	authn    *authn.Service
	secrets  *authn.Secrets
	policies *policy.Library
	uses     *lastUses
	records  *audit.Reader
	audits   *audit.Cluster  // the logs of all replicas
	tracer   *tracing.Tracer // nil = no traces
	mux      *vgw.Mux
	rekey    *rekeyer
	front    *proxy.Server
	peers    *peerca.Authority // nil = no other replica can reach this one
	cluster  *cluster
	shares   *shares.Shares
	numbers  *telemetry.Cluster
	served   atomic.Pointer[vgw.Mux] // mux, once metrics and it are there: the registry runs before
	declared func(tenant.ID) bool    // whether tenants.yaml declares a tenant
	drivers  sandbox.Drivers         // nil: there are no sandboxes
	eraser   sandbox.Eraser          // with drivers
	places   *places                 // which tenant has which namespace

	stateDeclared func(tenant.ID) bool // and whether it declares the tenant's state

	joinTimeout time.Duration // see etcd.ClusterConfig; not 0 in a restore
}

func newDaemon(cfg *config.Platform, out io.Writer, log *slog.Logger) *daemon {
	none := func(tenant.ID) bool { return false }
	return &daemon{cfg: cfg, log: log, out: out, parts: newGroup(log), declared: none, stateDeclared: none}
}

// run serves until ctx ends, or a part fails.
func (d *daemon) run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, d.parts.stop()) }()
	for _, open := range []func(context.Context) error{
		d.openGarbage,
		d.checkTenants,  // before anything is touched: a broken file is said at once
		d.openFolder,    // whoever holds its lock may touch the data
		d.openListeners, // early: a port in use is said before anything is written
		d.openKeys,      // the registry holds nothing that can be read without them
		d.openRegistry,
		d.openAudit, // before anything that records
		d.openTracing,
		d.openPeers, // an authority that cannot be read is said early
		d.openEgress,
		d.openCerts,    // hosts have certificates before the front serves; none is ordered yet
		d.openIdentity, // the gateways and the front ask it
		d.openDrivers,
		d.openGateways,
		d.openRekey,
		d.openCluster,
		d.openFront,     // follows the index from here on, and serves nothing yet
		d.openTenants,   // before the front serves: the first request finds its tenant
		d.serve,         // last to serve, first to stop
		d.runSandboxes,  // what was kept awake goes on
		d.runCerts,      // challenges of ACME are answered from here on
		d.openTelemetry, // after the front, so that "ready" is the truth
		d.welcome,
	} {
		if err := open(ctx); err != nil {
			if ctx.Err() != nil {
				return nil // told to end while starting
			}
			return err
		}
	}
	d.ready.Store(true)
	d.log.Info("ready", "public", d.listen.public.Addr().String(), "tenants", d.store.Index().Len())
	err = d.parts.wait(ctx)
	d.ready.Store(false)
	if err == nil {
		d.leave()
	}
	d.log.Info("stopping")
	return err
}

func (d *daemon) openFolder(context.Context) error {
	release, err := lockDir(d.cfg.DataDir)
	if err != nil {
		return err
	}
	d.parts.onStop("lock", release)
	return nil
}

// listeners are bound early and served late. A nil one is switched off.
type listeners struct {
	public, plain, admin, telemetry, peer net.Listener
}

func (d *daemon) openListeners(ctx context.Context) error {
	for _, l := range []struct {
		name, field, addr string
		into              *net.Listener
	}{
		{"public", "listen.public", d.cfg.Listen.Public, &d.listen.public},
		{"plain", "listen.plain", d.cfg.Listen.Plain, &d.listen.plain},
		{"admin", "listen.admin", d.cfg.Listen.Admin, &d.listen.admin},
		{"telemetry", "listen.telemetry", d.cfg.Listen.Telemetry, &d.listen.telemetry},
		{"peer", "listen.peer", d.cfg.Listen.Peer, &d.listen.peer},
	} {
		if l.addr == "" {
			continue
		}
		ln, err := new(net.ListenConfig).Listen(ctx, "tcp", l.addr)
		if err != nil {
			return fmt.Errorf("cannot listen on %s: %w: stop what uses it, or change %s", l.addr, listenCause(err), l.field)
		}
		*l.into = ln
		d.parts.onStop(l.name+" listener", func() error {
			_ = ln.Close() // its server has closed it already, unless the start failed
			return nil
		})
	}
	return nil
}

func listenCause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

func (d *daemon) openRegistry(ctx context.Context) error {
	backend, err := d.openBackend(ctx)
	if err != nil {
		return err
	}
	address, err := d.advertised()
	if err != nil {
		return fmt.Errorf("the address for other replicas cannot be found: %w: set replica.advertise", err)
	}
	meter := newLoadMeter()
	d.store, err = registry.New(registry.Config{
		Backend: backend, Replica: d.cfg.Replica.Name, Address: address, TTL: d.cfg.Replica.TTL, Version: readBuild().Version,
		Capacity: d.cfg.Replica.Capacity, Load: func() registry.Load { return d.load(meter) },
		BaseDomain: d.cfg.BaseDomain, Logger: d.log.With("part", "registry"), Budgets: d.budgets(),
		TakeOver: len(d.cfg.Etcd.Endpoints) == 0, // the folder's lock proves that an earlier process is dead
	})
	if err != nil {
		return err
	}
	d.outbox = d.store.Outbox()
	if d.among() {
		d.outbox = d.store.ReplicaOutbox()
	}
	d.parts.start(ctx, "registry", d.store.Run)
	if err := d.awaitRegistry(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := d.checkVersions(ctx); err != nil {
		return err
	}
	return d.checkKEK(ctx)
}

func (d *daemon) openGateways(ctx context.Context) (err error) {
	d.gatherer = prometheus.NewRegistry()
	d.gatherer.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if d.metrics, err = telemetry.NewMetrics(d.gatherer, d.cfg.Metrics.MaxTenants); err != nil {
		return err
	}
	d.shares = shares.New(shares.Config{
		Replica: d.cfg.Replica.Name, Replicas: d.replicaNames, Keeper: func(id tenant.ID) string { return d.cluster.keeper(id) }, Caller: laterCaller{d},
	})
	d.guards = guard.NewSet(guard.Config{
		Part: d.shares.Part, Wanting: d.shares.Wanting,
		Recorder: d.buffer, Replica: d.cfg.Replica.Name, OpenPolicy: d.openPolicy, Alive: d.alive,
		Defaults: guardLimits(d.cfg.Quotas.Tenant()), Ceilings: guardLimits(d.cfg.Quotas.Ceilings.Tenant()),
		MaxInFlight: d.cfg.Limits.MaxRequests, MaxStreams: d.cfg.Limits.MaxStreams,
		Meter: func(s tenant.Scope) guard.Meter { return d.metrics.Tenant(s.ID()) },
	})
	d.parts.start(ctx, "guards", d.sweepGuards)
	d.gatherer.MustRegister(d.storageMetrics()...)
	d.numbers = telemetry.NewCluster(telemetry.ClusterConfig{
		Replica: d.cfg.Replica.Name, Replicas: d.replicaNames, Caller: laterCaller{d}, Gatherer: d.gatherer, Metrics: d.metrics,
		Usage: d.guards.UsageOf, Status: d.ownStatus, Logger: d.log.With("part", "numbers"),
	})
	d.mux, err = vgw.NewMux(vgw.Config{
		Numbers: d.numbers,
		Claims:  claims{d.store}, Records: d.store, Keys: d.kek, Guards: d.guards, Telemetry: d.metrics, Limits: d.guards, Streams: d.cfg.Drain.Streams,
		IdleAfter: d.cfg.Limits.IdleGatewayAfter, MaxBody: int64(d.cfg.Limits.MCPMaxBodyBytes),
		MaxBodies: int64(d.cfg.Limits.MCPMaxTenantBytes), MaxAll: int64(d.cfg.Limits.MCPMaxTotalBytes), Logger: d.log.With("part", "vgw"),
		KeyUse: d.uses, Secrets: d.secrets, JudgeAddr: d.judgeIssuer, Policies: vgw.NewPolicies(d.cfg.Policy.Limits()),
		Audit: d.audits, OpenAPI: openapi.Tenant(),
		Certificates: d.certs, HostProof: hostproof.New(d.cfg.Certificates.Resolvers).Check, ReservedHost: d.reservedHost, BaseDomain: d.cfg.BaseDomain,
		Sandboxes: d.drivers, SandboxTenant: d.sandboxTenant, SandboxRules: d.sandboxRules, SandboxLimits: d.sandboxLimits(),
		SandboxMetrics: d.sandboxMetrics,
	})
	if err != nil {
		return err
	}
	d.metrics.Observe(telemetry.Sources{
		Tenants: d.store.Index().Len, Claims: func() int { return d.mux.Stats().Open },
		AuditDropped: d.buffer.Dropped, AuditWritten: d.drain.Written, AuditLag: d.drain.Lag, Certificates: d.certs.Len, Expiries: d.certs.Expiries,
		Guards:      func() int { return d.guards.Stats().Guards },
		CallerBytes: func() int64 { return d.guards.Stats().TableBytes }, LentRequests: func() int64 { return d.guards.Stats().LentRequests },
		LentStreams: func() int64 { return d.guards.Stats().LentStreams },
		Alive:       func(id tenant.ID) bool { _, ok := d.store.Index().ByID(id); return ok },
	})
	d.parts.start(ctx, "gateways", d.mux.Run)
	d.served.Store(d.mux)
	return nil
}

// claims hands the registry's claims to the virtual gateways, whose interface they satisfy.
type claims struct{ store *registry.Store }

func (c claims) Claim(ctx context.Context, s tenant.Scope) (vgw.Claim, error) {
	claim, err := c.store.Claim(ctx, s)
	if owned := (*registry.OwnerError)(nil); errors.As(err, &owned) {
		return nil, fault.Wrap(fault.Unavailable, errors.Join(&exchange.Elsewhere{Replica: owned.Replica}, err), "this tenant is served by another replica: try again").After(time.Second)
	}
	if err != nil {
		return nil, err // not the typed nil
	}
	return claim, nil
}

func (d *daemon) openFront(context.Context) error {
	l := d.cfg.Limits
	engine, err := proxy.NewReverseProxyEngine(proxy.EngineConfig{
		DialContext: d.dial.DialContext, HeaderTimeout: l.UpstreamHeaderTimeout, Logger: d.log.With("part", "engine"),
	})
	if err != nil {
		return err
	}
	d.parts.onStop("upstream connections", func() error { engine.Close(); return nil })
	d.front, err = proxy.New(proxy.Config{
		Public: d.listen.public, Plain: d.listen.plain, SharedHosts: d.cfg.SharedHosts,
		Directory: d.store.Index(), Gateways: d.mux, Guards: d.guards, Engine: engine, Certificates: d.certs, Challenge: d.certs.Challenge(), MinVersion: tlsVersion(d.cfg.TLS.MinVersion),
		ClientCertificates: d.certs, Passthrough: d.passthrough(),
		Peers: d.peerConfig(), Fresh: d.fresh, ProxyProtocolFrom: d.cfg.Listen.ProxyProtocolFrom, DrainStreams: d.cfg.Drain.Streams,
		Metrics: d.metrics, Replica: d.cfg.Replica.Name, Logger: d.log, Tracer: d.tracer,
		Authenticator: d.authn, Records: d.store, BaseDomain: d.cfg.BaseDomain, Used: d.uses.mark,
		Limits: proxy.Limits{
			Connections: l.MaxConnections, ConnectionsPerAddress: l.MaxConnectionsPerAddress, Streams: l.MaxStreamsPerConnection, HeaderBytes: int(l.MaxHeaderBytes), HeaderFields: l.MaxHeaders,
			URI: int(l.MaxURIBytes), QueryParameters: l.MaxQueryParameters, Body: int64(l.MaxBodyBytes), HeaderTime: l.HeaderTimeout,
			IdleTime: l.IdleTimeout, BodyIdle: l.BodyIdleTimeout, WriteIdle: l.WriteIdleTimeout, Cookies: l.MaxCookies, ShutdownGrace: l.ShutdownGrace,
		},
	})
	if err != nil {
		return err
	}
	d.cluster.call = d.front.Caller()
	d.rekey.call = d.front.Caller
	cancel := d.store.Index().Subscribe(d.tenantChanged)
	d.parts.onStop("index subscription", func() error { cancel(); return nil })
	return nil
}

// serve starts what takes requests.
func (d *daemon) serve(ctx context.Context) error {
	if err := d.openAdmin(ctx); err != nil {
		return err
	}
	d.parts.start(ctx, "front", d.front.Run)
	d.parts.start(ctx, "shares", func(ctx context.Context) error { return d.shares.Run(ctx, d.guards) })
	return nil
}

// tenantChanged follows a change of a routing record through the parts that hold something of the tenant: requests in
// flight, its gateway, its guard and its metrics. e is nil when the tenant is gone.
func (d *daemon) tenantChanged(id tenant.ID, e *tenant.Entry) {
	d.certs.TenantChanged(id, e)
	d.authn.Changed(id, e)
	d.guards.Changed(id, e)
	d.front.Revalidate(id, e)
	d.mux.Changed(id, e)
	if e == nil {
		d.metrics.Forget(id)
	}
}

func (d *daemon) openAdmin(ctx context.Context) error {
	if d.listen.admin == nil {
		return nil
	}
	operators, err := d.openOperators()
	if err != nil {
		return err
	}
	server, err := admin.New(admin.Config{
		Listener: d.listen.admin, GetCertificate: d.certs.AdminCertificate, Token: func() tenant.Hash { return d.token },
		Authenticate: operators.Authenticate,
		Hosts:        append([]string{"localhost", "127.0.0.1", "::1"}, d.cfg.Admin.Hosts...),
		Tenants:      d.store, Index: d.store.Index(), Guards: d.guards, Counts: d.cluster, Heads: d.outbox, KeyUse: d.uses,
		Audits: d.audits, OpenAPI: openapi.Admin(), Ceilings: d.cfg.Quotas.Ceilings.Tenant(),
		Declared: d.declared, StateDeclared: d.stateDeclared, BaseDomain: d.cfg.BaseDomain, Certificates: d.certs, Cluster: d.cluster, Numbers: d.numbers,
		Seal:     func(id tenant.ID, name, plain string) (string, error) { return d.secrets.Seal(id, name, plain), nil },
		Archives: archives{d}, Secrets: d.rekey, Storage: d.etcd,
		Reserved: slices.Concat(d.cfg.SharedHosts, d.cfg.Admin.Hosts), Logger: d.log.With("part", "admin"),
	})
	if err != nil {
		return err
	}
	d.parts.start(ctx, "admin", server.Run)
	return nil
}
