package gateway

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/polygate/polygate/bench/result"
	"github.com/polygate/polygate/bench/scenario"
)

// CapacityConfig is where capacity is measured.
type CapacityConfig struct {
	Binary string
	Etcd   string // etcd's program; "" = the one that FindEtcd finds. It is a process of its own, so that memory is the gateway's alone
	Dir    string // empty, for all state and logs, which are left there
	Domain string // "" = polybench.test
	Cores  []int  // that the gateway may run on; nil = all
}

// Capacity starts the gateway once for each number of registered tenants and measures its memory: when it is ready, when some of them
// have made a request, and with connections and event streams open. Points that were measured are returned beside an error.
func Capacity(ctx context.Context, c CapacityConfig, s scenario.Capacity, progress func(string)) ([]result.CapacityPoint, error) {
	m := &capacity{CapacityConfig: c, wanted: s, progress: progress}
	if err := m.begin(ctx); err != nil {
		return nil, fmt.Errorf("capacity: %w", err)
	}
	defer m.stub.close()
	var points []result.CapacityPoint
	for _, n := range s.Registered {
		p, err := m.point(ctx, n)
		if err != nil {
			compare(points)
			return points, fmt.Errorf("capacity with %d tenants: %w", n, err)
		}
		points = append(points, p)
	}
	compare(points)
	return points, nil
}

// capacity is a measurement that goes on.
type capacity struct {
	CapacityConfig
	wanted   scenario.Capacity
	progress func(string)
	stub     *stub
	template *template
}

// begin prepares what all points share.
func (m *capacity) begin(ctx context.Context) (err error) {
	if m.Domain == "" {
		m.Domain = "polybench.test"
	}
	if m.progress == nil {
		m.progress = func(string) {}
	}
	if m.Etcd == "" {
		if m.Etcd, err = FindEtcd(ctx); err != nil {
			return err
		}
	}
	if m.stub, err = startStub(); err != nil {
		return err
	}
	if slices.Max(append([]int{0}, m.wanted.Registered...)) == 0 {
		return nil
	}
	m.progress("a tenant to copy")
	if m.template, err = makeTemplate(ctx, m.CapacityConfig, m.stub.url()); err != nil {
		m.stub.close()
	}
	return err
}

// point measures one number of tenants, with an etcd and a gateway of its own.
func (m *capacity) point(ctx context.Context, n int) (p result.CapacityPoint, err error) {
	dir := filepath.Join(m.Dir, fmt.Sprintf("registered-%d", n))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return p, err
	}
	etcd, endpoint, err := startEtcd(ctx, m.Etcd, filepath.Join(dir, "etcd"))
	if err != nil {
		return p, err
	}
	defer etcd.kill()
	r, err := m.register(ctx, dir, endpoint, n)
	if err != nil {
		return p, err
	}
	defer r.destroy()
	m.progress(fmt.Sprintf("%d registered: start", n))
	if err := r.up(ctx); err != nil {
		return p, err
	}
	return m.stages(ctx, r, n)
}

// register lays a replica out whose registry holds n tenants.
func (m *capacity) register(ctx context.Context, dir, endpoint string, n int) (*replica, error) {
	kek := filepath.Join(m.Dir, "kek")
	if m.template == nil {
		if err := writeKEK(kek); err != nil {
			return nil, err
		}
	}
	r, err := newReplica(m.Binary, platform{
		dir: filepath.Join(dir, "replica-0"), domain: m.Domain, replica: "replica-0", kek: kek, etcd: []string{endpoint},
	}, m.Cores)
	if err != nil || n == 0 {
		return r, err
	}
	m.progress(fmt.Sprintf("%d registered: restore", n))
	return r, m.template.restore(ctx, m.Binary, r, n)
}

// stages measures a gateway that is ready, one stage after the other.
func (m *capacity) stages(ctx context.Context, r *replica, n int) (result.CapacityPoint, error) {
	p := result.CapacityPoint{Subject: Polygate{}.Name(), Registered: n, StartSecs: r.took.Seconds(), Active: min(m.wanted.Active, n)}
	if p.Active > 0 {
		p.Connected, p.Streams = m.wanted.Connected, m.wanted.Streams
	}
	if err := r.knows(ctx, n); err != nil {
		return p, err
	}
	v, err := newVisitors(r, m.Domain)
	if err != nil {
		return p, err
	}
	defer v.close()
	var at [4]footprint
	for i, stage := range []struct {
		count int
		name  string
		do    func(context.Context) error
	}{
		{1, fmt.Sprintf("%d registered: at rest", n), func(context.Context) error { return nil }},
		{p.Active, fmt.Sprintf("%d registered: %d active", n, p.Active), func(ctx context.Context) error {
			return errors.Join(v.ask(ctx, p.Active), r.opened(ctx, p.Active))
		}},
		{p.Connected, fmt.Sprintf("%d registered: %d connected", n, p.Connected), func(ctx context.Context) error { return v.connect(ctx, p.Connected, p.Active) }},
		{p.Streams, fmt.Sprintf("%d registered: %d streams", n, p.Streams), func(ctx context.Context) error {
			return errors.Join(v.stream(ctx, p.Streams, p.Active), v.touch())
		}},
	} {
		if stage.count == 0 {
			at[i] = at[i-1]
			continue
		}
		m.progress(stage.name)
		if err := stage.do(ctx); err != nil {
			return p, fmt.Errorf("%s: %w", stage.name, err)
		}
		if at[i], err = r.settle(ctx); err != nil {
			return p, fmt.Errorf("%s: %w", stage.name, err)
		}
	}
	if err := v.alive(); err != nil {
		return p, err
	}
	p.RSS.Start, p.RSS.Active, p.RSS.Connected, p.RSS.Streams = at[0].rss, at[1].rss, at[2].rss, at[3].rss
	p.Heap.Start, p.Heap.Active, p.Heap.Connected, p.Heap.Streams = at[0].heap, at[1].heap, at[2].heap, at[3].heap
	perUnit(&p)
	store, err := r.metric(ctx, "polygate_store_db_in_use_bytes")
	p.StoreBytes = int64(store)
	return p, err
}

// perUnit divides what each stage added by how many it added.
func perUnit(p *result.CapacityPoint) {
	p.PerActive = share(p.RSS.Active-p.RSS.Start, p.Active)
	p.PerConnected = share(p.RSS.Connected-p.RSS.Active, p.Connected)
	p.PerStream = share(p.RSS.Streams-p.RSS.Connected, p.Streams)
	p.HeapPerActive = share(p.Heap.Active-p.Heap.Start, p.Active)
	p.HeapPerConnected = share(p.Heap.Connected-p.Heap.Active, p.Connected)
	p.HeapPerStream = share(p.Heap.Streams-p.Heap.Connected, p.Streams)
}

func share(bytes int64, among int) float64 {
	if among == 0 {
		return 0
	}
	return float64(bytes) / float64(among)
}

// compare fills in what a registered tenant costs: against the point with the fewest.
func compare(points []result.CapacityPoint) {
	if len(points) == 0 {
		return
	}
	fewest := points[0]
	for _, p := range points {
		if p.Registered < fewest.Registered {
			fewest = p
		}
	}
	for i := range points {
		p := &points[i]
		p.PerRegistered = share(p.RSS.Start-fewest.RSS.Start, p.Registered-fewest.Registered)
		p.HeapPerRegistered = share(p.Heap.Start-fewest.Heap.Start, p.Registered-fewest.Registered)
	}
}
