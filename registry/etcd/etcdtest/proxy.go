package etcdtest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

// Proxy is one client's way to the members of a cluster: what is done to it, no other client notices.
type Proxy struct {
	t     testing.TB
	links []*toxiproxy.Proxy
}

// Leaks is for goleak in tests that use a Proxy: a connection that ends while something is done to it leaves a goroutine
// of toxiproxy's behind.
func Leaks() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"),
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).read"),
	}
}

// Proxy puts a proxy in front of each member, for one client.
func (c *Cluster) Proxy() *Proxy {
	c.t.Helper()
	addrs := make([]string, 0, len(c.members))
	for _, m := range c.members {
		addrs = append(addrs, m.client)
	}
	return NewProxy(c.t, addrs)
}

// NewProxy puts a proxy in front of each of some addresses, whatever serves there.
func NewProxy(t testing.TB, upstreams []string) *Proxy {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	p := &Proxy{t: t}
	for _, up := range upstreams {
		link := toxiproxy.NewProxy(server, up, "127.0.0.1:0", up)
		if err := link.Start(); err != nil {
			t.Fatalf("proxy in front of %s: %v", up, err)
		}
		t.Cleanup(link.Stop)
		p.links = append(p.links, link)
	}
	return p
}

// Addresses returns the proxies' host:port, in the order of what they stand in front of.
func (p *Proxy) Addresses() []string {
	out := make([]string, 0, len(p.links))
	for _, l := range p.links {
		out = append(out, l.Listen)
	}
	return out
}

// Endpoints returns the proxies' URLs.
func (p *Proxy) Endpoints() []string {
	out := p.Addresses()
	for i := range out {
		out[i] = "http://" + out[i]
	}
	return out
}

// Hole lets connections stand, and nothing through, as where a firewall drops packets: half-open connections. links names
// the members; none = all.
func (p *Proxy) Hole(links ...int) {
	p.t.Helper()
	p.toxic(links, "timeout", "upstream", map[string]int64{"timeout": 0})
	p.toxic(links, "timeout", "downstream", map[string]int64{"timeout": 0})
}

// Deaf lets requests through, and no answers: what was sent is done, and nobody hears of it.
func (p *Proxy) Deaf(links ...int) {
	p.t.Helper()
	p.toxic(links, "timeout", "downstream", map[string]int64{"timeout": 0})
}

// Slow delays answers by d, more or less by jitter.
func (p *Proxy) Slow(d, jitter time.Duration, links ...int) {
	p.t.Helper()
	p.toxic(links, "latency", "downstream", map[string]int64{"latency": d.Milliseconds(), "jitter": jitter.Milliseconds()})
}

// Late delays requests by d: what was sent in time arrives when that time is over.
func (p *Proxy) Late(d time.Duration, links ...int) {
	p.t.Helper()
	p.toxic(links, "latency", "upstream", map[string]int64{"latency": d.Milliseconds()})
}

// Refuse ends the connections and refuses new ones.
func (p *Proxy) Refuse(links ...int) {
	p.t.Helper()
	p.each(links, func(l *toxiproxy.Proxy) error {
		l.Stop()
		return nil
	})
}

// Heal takes everything back. Connections that had a Hole end, as after a while those of a firewall do.
func (p *Proxy) Heal() {
	p.t.Helper()
	p.each(nil, func(l *toxiproxy.Proxy) error {
		l.Toxics.ResetToxics(context.Background())
		if l.Enabled {
			return nil
		}
		return l.Start()
	})
}

func (p *Proxy) toxic(links []int, kind, stream string, attributes map[string]int64) {
	p.t.Helper()
	b, err := json.Marshal(map[string]any{"type": kind, "stream": stream, "attributes": attributes})
	if err != nil {
		p.t.Fatal(err)
	}
	p.each(links, func(l *toxiproxy.Proxy) error {
		_, err := l.Toxics.AddToxicJson(io.Reader(bytes.NewReader(b)))
		return err
	})
}

func (p *Proxy) each(links []int, f func(*toxiproxy.Proxy) error) {
	p.t.Helper()
	if len(links) == 0 {
		for i := range p.links {
			links = append(links, i)
		}
	}
	for _, i := range links {
		if err := f(p.links[i]); err != nil {
			p.t.Errorf("proxy in front of %s: %v", p.links[i].Upstream, err)
		}
	}
}
