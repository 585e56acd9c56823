package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw"
	"github.com/polygate/polygate/vgw/sandbox"
	"github.com/polygate/polygate/vgw/sandbox/kube"
	"github.com/polygate/polygate/vgw/sandbox/process"
)

// openDrivers makes what runs sandboxes. A cluster that is away is no reason not to start.
func (d *daemon) openDrivers(ctx context.Context) error {
	d.places = &places{vault: d.store.Vault(), now: time.Now}
	switch d.cfg.Sandboxes.Driver {
	case config.DriverKube:
		drivers, err := kube.New(ctx, d.kubeConfig())
		if err != nil {
			return fmt.Errorf("sandboxes.kube: %w", err)
		}
		d.drivers, d.eraser = drivers, drivers
	case config.DriverProcess:
		p := d.cfg.Sandboxes.Process
		drivers, err := process.New(process.Config{
			Dir: p.Dir, Bwrap: p.Bubblewrap, Paths: p.Paths, Cgroup: true, HostNetwork: p.HostNetwork, Pids: p.Pids, Logger: d.log.With("part", "sandboxes"),
		})
		if err != nil {
			return fmt.Errorf("sandboxes.process: %w", err)
		}
		if w := drivers.Warn(); w != "" {
			d.log.Warn("sandboxes are processes of this machine, for development", "warning", w)
		}
		home := hostPlace + d.cfg.Replica.Name + "."
		d.drivers = hosted{Drivers: drivers, places: d.places, home: home}
		d.eraser = hostedEraser{drivers, home}
	}
	return nil
}

func (d *daemon) kubeConfig() kube.Config {
	k := d.cfg.Sandboxes.Kube
	peers := func(p config.KubePeers) kube.Peers {
		return kube.Peers{Namespace: p.Namespace, PodLabels: p.PodLabels, Addresses: p.Addresses}
	}
	gateway := peers(k.Gateway)
	gateway.ServiceAccount = k.ServiceAccount
	return kube.Config{
		Kubeconfig: k.Kubeconfig, InCluster: k.InCluster, Timeout: k.Timeout, QPS: float32(k.QPS), Burst: k.Burst, Instance: k.Instance,
		NamespacePrefix: k.NamespacePrefix, AgentSandbox: k.AgentSandbox, Gateway: gateway, DNS: peers(k.DNS.KubePeers), DNSPorts: k.DNS.Ports, Places: d.places,
		Logger: d.log.With("part", "sandboxes"),
	}
}

// sandboxTenant is what a driver is told of a tenant: its own settings, and the platform's where it has none.
func (d *daemon) sandboxTenant(e *tenant.Entry) sandbox.Tenant {
	t := sandbox.Tenant{Scope: e.Scope, Namespace: e.Record.Namespace, Quotas: d.sandboxQuotas(e.Record.Quotas)}
	if s := e.Record.Sandboxes; s != nil {
		t.Settings = *s.Clone()
	}
	t.Settings.PodSecurity = cmp.Or(t.Settings.PodSecurity, tenant.PodRestricted)
	t.Settings.Network = cmp.Or(t.Settings.Network, tenant.NetworkEnforce)
	if len(t.Settings.Images) == 0 {
		t.Settings.Images = d.cfg.Sandboxes.Images
	}
	if len(t.Settings.RuntimeClasses) == 0 {
		t.Settings.RuntimeClasses = d.cfg.Sandboxes.RuntimeClasses
	}
	return t
}

// sandboxQuotas fills in the platform's quotas where a tenant has none of its own.
func (d *daemon) sandboxQuotas(q tenant.Quotas) tenant.Quotas {
	p := d.cfg.Quotas.Defaults()
	q.MaxSandboxes = cmp.Or(q.MaxSandboxes, p.MaxSandboxes)
	q.SandboxCPU = cmp.Or(q.SandboxCPU, p.SandboxCPU)
	q.SandboxMemory = cmp.Or(q.SandboxMemory, p.SandboxMemory)
	q.SandboxStorage = cmp.Or(q.SandboxStorage, p.SandboxStorage)
	q.SandboxGPUs = cmp.Or(q.SandboxGPUs, d.cfg.Quotas.SandboxGPUs) // 0 is none: a ceiling gives nobody a GPU
	q.SandboxLifetime = cmp.Or(q.SandboxLifetime, p.SandboxLifetime)
	return q
}

// sandboxRules is what a tenant's members may ask for.
func (d *daemon) sandboxRules(e *tenant.Entry) sandbox.Rules {
	s, t := d.cfg.Sandboxes, d.sandboxTenant(e)
	return sandbox.Rules{
		Images: t.Settings.Images, HostImage: s.Driver == config.DriverProcess, RuntimeClasses: t.Settings.RuntimeClasses, DefaultImage: s.DefaultImage,
		Default: sandbox.Resources{CPU: int64(s.Defaults.CPU), Memory: int64(s.Defaults.Memory), Storage: int64(s.Defaults.Storage)},
		Max:     sandbox.Resources{CPU: t.Quotas.SandboxCPU, Memory: t.Quotas.SandboxMemory, Storage: t.Quotas.SandboxStorage},
		GPUs:    s.GPUs, MaxLifetime: time.Duration(t.Quotas.SandboxLifetime) * time.Second,
	}
}

// runSandboxes keeps tenants with sandboxes open, and removes what deleted ones left.
func (d *daemon) runSandboxes(ctx context.Context) error {
	if d.drivers == nil {
		return nil
	}
	index := d.store.Index()
	keeper, err := vgw.NewKeeper(vgw.KeeperConfig{
		Mux: d.mux, Awake: index.Awake, Here: func(s tenant.Scope) bool { return d.cluster.Locate(s).Self },
	})
	if err != nil {
		return err
	}
	d.parts.start(ctx, "sandboxes", keeper.Run)
	j := &janitor{places: d.places, store: d.store, eraser: d.eraser, guards: d.guards, wake: make(chan struct{}, 1), log: d.log.With("part", "sandboxes")}
	cancel := index.Subscribe(j.hear)
	d.parts.onStop("sandbox subscription", func() error { cancel(); return nil })
	d.parts.start(ctx, "leftovers", j.run)
	return nil
}

// hostPlace begins the places that are no namespaces, but of tenants' processes on a replica.
const hostPlace = "host."

// hosted notes which tenants have processes on this machine before they get one, as kube does with namespaces.
type hosted struct {
	sandbox.Drivers
	places *places
	home   string
}

// Open implements sandbox.Drivers.
func (h hosted) Open(t sandbox.Tenant) (sandbox.Driver, error) {
	driver, err := h.Drivers.Open(t)
	if err != nil {
		return nil, err
	}
	return &hostedDriver{Driver: driver, all: h, tenant: t}, nil
}

type hostedDriver struct {
	sandbox.Driver
	all    hosted
	tenant sandbox.Tenant
	noted  atomic.Bool
}

// Prepare implements sandbox.Driver.
func (h *hostedDriver) Prepare(ctx context.Context) error {
	if !h.noted.Load() {
		if err := h.all.places.Claim(ctx, h.all.home+h.tenant.Scope.UID(), h.tenant.Scope, false); err != nil {
			return err
		}
		h.noted.Store(true)
	}
	return h.Driver.Prepare(ctx)
}

// hostedEraser erases what is on this machine, and leaves other machines' to them.
type hostedEraser struct {
	sandbox.Eraser
	home string
}

// Erase implements sandbox.Eraser.
func (h hostedEraser) Erase(ctx context.Context, place, tenantUID string) (bool, error) {
	if !strings.HasPrefix(place, h.home) {
		return false, nil
	}
	return h.Eraser.Erase(ctx, place, tenantUID)
}

// sandboxLimits bounds what one sandbox may cost the gateway.
func (d *daemon) sandboxLimits() vgw.SandboxLimits {
	s := d.cfg.Sandboxes
	return vgw.SandboxLimits{MaxSessions: s.MaxSessions, MaxExecOutput: int64(s.MaxExecOutput), Pace: sandbox.Pace{StartTimeout: s.StartTimeout}}
}
