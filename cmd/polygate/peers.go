package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/metrics"
	"syscall"
	"time"

	"github.com/polygate/polygate/certs/peerca"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/peer"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/proxy"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/vgw"
)

// drainPause is how long a replica that drains waits before it looks again for what is left.
const drainPause = 200 * time.Millisecond

// advertised returns the address at which other replicas reach this one; "" if none can. A listener on all addresses is
// reached by the machine's name.
func (d *daemon) advertised() (string, error) {
	if d.listen.peer == nil || d.cfg.Replica.Advertise != "" {
		return d.cfg.Replica.Advertise, nil
	}
	addr := d.listen.peer.Addr().String()
	ap, err := netip.ParseAddrPort(addr)
	if err != nil || !ap.Addr().IsUnspecified() {
		return addr, err
	}
	host, err := os.Hostname()
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(addr)
	return net.JoinHostPort(host, port), err
}

// checkVersions refuses to run beside a replica of a version that knew one replica alone: it records what others commit in its own
// audit log too, and then anchors nothing more. One that ended without a word has its lease's time.
func (d *daemon) checkVersions(ctx context.Context) error {
	if !d.among() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*d.cfg.Replica.TTL)
	defer cancel()
	for {
		changed := d.store.Index().Changed() // before the look
		name := beforePeers(d.store.Index().Replicas())
		if name == "" {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("replica %s is of a version that cannot run beside others: stop it, then start this one", name)
		}
	}
}

// beforePeers returns a replica of a version that knew one replica alone, "" = there is none. It did not say when it started.
func beforePeers(all []registry.Replica) string {
	for _, r := range all {
		if r.Started.IsZero() {
			return r.Name
		}
	}
	return ""
}

// openPeers makes this replica known to the others by a certificate of their common authority.
func (d *daemon) openPeers(ctx context.Context) error {
	if d.listen.peer == nil {
		return nil
	}
	d.peers = peerca.New(d.store.Vault(), d.kek, d.cfg.Replica.Name, nil, d.log.With("part", "peers"))
	if err := d.peers.Open(ctx); err != nil {
		return err
	}
	d.parts.start(ctx, "peer certificates", d.peers.Run)
	return nil
}

// openCluster joins the parts that know of other replicas. Calls of theirs are answered once the front runs.
func (d *daemon) openCluster(ctx context.Context) error {
	d.cluster = &cluster{
		self: d.cfg.Replica.Name, cfg: d.cfg.Placement, store: d.store, index: d.store.Index(), mux: d.mux,
		status: d.status, log: d.log.With("part", "cluster"),
	}
	d.parts.onStop("draining", func() error { d.cluster.stopDraining(); return nil })
	index := d.store.Index()
	rebalancer, err := vgw.NewRebalancer(vgw.RebalancerConfig{
		Mux: d.mux, Self: d.cfg.Replica.Name, Nodes: d.cluster.nodes, Overload: d.cfg.Placement.Overload,
		Moves: d.cfg.Placement.Moves, Interval: d.cfg.Placement.Interval, Logger: d.log.With("part", "placement"),
		Owned: func() []tenant.ID { return index.OwnedBy(d.cfg.Replica.Name) }, Changed: index.Changed, Entry: index.ByID,
	})
	if err != nil {
		return err
	}
	if d.listen.peer != nil && d.cfg.Placement.Moves > 0 {
		d.parts.start(ctx, "placement", rebalancer.Run)
	}
	return nil
}

// peerConfig returns what the front needs to know of other replicas; nil if there can be none.
func (d *daemon) peerConfig() *proxy.PeerConfig {
	if d.listen.peer == nil {
		return nil
	}
	return &proxy.PeerConfig{
		Listener: d.listen.peer, Identity: d.peers, Locate: d.cluster, Address: d.cluster.address, Changed: d.store.Index().Changed, Wait: d.cfg.Placement.Wait,
		AwaitRecords: d.store.AwaitRecords,
		Handlers: map[string]peer.Handler{
			peer.Move: d.cluster.handleMove, peer.Drain: d.cluster.handleDrain, peer.Defrag: d.etcd.handleDefrag, peer.Rekey: d.rekey.handle, peer.Shares: d.shares.Handle, peer.Usage: d.numbers.Handle, peer.Audit: d.audits.Handle,
		},
	}
}

// fresh says whether what this replica knows is recent enough to serve tenants by.
func (d *daemon) fresh(needsClaim bool) error {
	if needsClaim {
		return d.store.Fresh(0)
	}
	return d.store.Fresh(d.cfg.Replica.ServeStale)
}

// leave empties this replica before it stops: it is not ready any more, hands its tenants over one by one, and has streams
// come again elsewhere. It serves all the while. Alone, there is nobody to hand over to.
func (d *daemon) leave() {
	if d.cluster == nil || d.front == nil || len(d.store.Index().Replicas()) < 2 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), d.cfg.Drain.Delay+d.cfg.Drain.Timeout)
	defer cancel()
	d.log.Info("draining", "tenants", d.store.Index().OwnedCount(d.cfg.Replica.Name))
	_ = sleep(ctx, d.cfg.Drain.Delay)
	if err := d.cluster.setDraining(ctx, true); err != nil {
		d.log.Warn("draining: the other replicas could not be told", "error", err)
	}
	d.front.Drain(ctx) // streams, and connections
	d.cluster.awaitDrained(ctx)
	d.log.Info("drained", "tenants_left", d.store.Index().OwnedCount(d.cfg.Replica.Name))
}

// awaitDrained returns when every tenant was given up, or ctx ends.
func (c *cluster) awaitDrained(ctx context.Context) {
	c.mu.Lock()
	d := c.drain
	c.mu.Unlock()
	if d == nil {
		return
	}
	select {
	case <-d.done:
	case <-ctx.Done():
	}
}

// loadMeter measures how busy this process is, between one look and the next.
type loadMeter struct {
	last time.Time
	cpu  time.Duration
	mem  []metrics.Sample
}

func newLoadMeter() *loadMeter {
	return &loadMeter{mem: []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}}
}

// read is called by one goroutine.
func (m *loadMeter) read(now time.Time) (cpu float64, memory int64) {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err == nil {
		spent := time.Duration(use.Utime.Nano() + use.Stime.Nano())
		if took := now.Sub(m.last); !m.last.IsZero() && took > 0 {
			cpu = min(float64(spent-m.cpu)/float64(took)/float64(runtime.GOMAXPROCS(0)), 1)
		}
		m.last, m.cpu = now, spent
	}
	metrics.Read(m.mem)
	return cpu, int64(m.mem[0].Value.Uint64() - m.mem[1].Value.Uint64())
}

// load tells the other replicas how busy this one is.
func (d *daemon) load(m *loadMeter) registry.Load {
	l := registry.Load{}
	l.CPU, l.Memory = m.read(time.Now())
	if mux := d.served.Load(); mux != nil { // the registry runs before there are gateways
		l.Tenants = mux.Stats().Open
		l.Requests, l.Streams = d.metrics.InFlight()
	}
	return l
}

// replicaNames returns the names of the live replicas.
func (d *daemon) replicaNames() []string {
	all := d.store.Index().Replicas()
	list := make([]string, len(all))
	for i, r := range all {
		list[i] = r.Name
	}
	return list
}

// laterCaller asks other replicas through the front, which is made after those who ask.
type laterCaller struct{ d *daemon }

// Call implements peer.Caller.
func (l laterCaller) Call(ctx context.Context, replica, name string, body []byte) ([]byte, error) {
	if l.d.cluster == nil || l.d.cluster.call == nil {
		return nil, fault.New(fault.Unavailable, "replica %s cannot be asked: this one has no listen.peer", replica)
	}
	return l.d.cluster.call.Call(ctx, replica, name, body)
}
