package config

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

func (c EtcdCluster) check(cs *checks) {
	const at = "etcd.embedded.cluster"
	if len(c.Members) == 0 {
		if (c.Listen != "" || c.CA != "" || c.Cert != "" || c.Key != "") && len(c.Members) == 0 {
			cs.fail(at, "has no members: name all of them, this one included")
		}
		return
	}
	if n := len(c.Members); n != 3 && n != 5 {
		cs.fail(at+".members", "are %d: use 3 or 5, of which a minority may fail", n)
	}
	names, addresses := make(map[string]bool), make(map[string]bool)
	for i, m := range c.Members {
		c.checkMember(cs, fmt.Sprintf("%s.members[%d]", at, i), m, names, addresses)
	}
	if c.Listen != "" {
		if _, err := checkAddr(c.Listen); err != "" {
			cs.fail(at+".listen", "%s", err)
		}
	}
	given := count(c.CA != "", c.Cert != "", c.Key != "")
	switch {
	case given != 0 && given != 3:
		cs.fail(at, "ca, cert and key belong together: set all or none")
	case given == 0 && !c.local():
		cs.fail(at, "has members that are not on this machine, and no ca, cert and key: whoever could reach them could read and change everything")
	}
}

func (c EtcdCluster) checkMember(cs *checks, at string, m EtcdMember, names, addresses map[string]bool) {
	if err := tenant.CheckSegment(m.Name); err != nil {
		cs.fail(at+".name", "%s", reason(err))
	}
	host, _, err := net.SplitHostPort(m.Address)
	if port, bad := checkAddr(m.Address); bad != "" || err != nil || host == "" || port == 0 {
		cs.fail(at+".address", "%q is not host:port with both parts", clip(m.Address))
	}
	if names[m.Name] {
		cs.fail(at+".name", "%q is there twice", clip(m.Name))
	}
	if addresses[m.Address] {
		cs.fail(at+".address", "%q is there twice", clip(m.Address))
	}
	names[m.Name], addresses[m.Address] = true, true
}

// local says whether all members are on loopback addresses.
func (c EtcdCluster) local() bool {
	for _, m := range c.Members {
		host, _, _ := net.SplitHostPort(m.Address)
		if a, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !a.IsLoopback()) {
			return false
		}
	}
	return true
}

func count(all ...bool) (n int) {
	for _, one := range all {
		if one {
			n++
		}
	}
	return n
}

func (p Placement) check(cs *checks) {
	within(cs, "placement.overload", p.Overload, 1.01, 100)
	within(cs, "placement.moves_per_second", p.Moves, 0, 1000)
	within(cs, "placement.interval", p.Interval, 100*time.Millisecond, time.Hour)
	within(cs, "placement.wait", p.Wait, 100*time.Millisecond, time.Minute)
}

func (d Drain) check(cs *checks) {
	within(cs, "drain.delay", d.Delay, 0, 5*time.Minute)
	within(cs, "drain.streams", d.Streams, 0, time.Hour)
	within(cs, "drain.timeout", d.Timeout, time.Second, time.Hour)
}

// checkPeers checks what a replica says of itself to the others.
func (p *Platform) checkPeers(cs *checks) {
	r := p.Replica
	within(cs, "replica.capacity", r.Capacity, 1, 100_000)
	within(cs, "replica.serve_stale", r.ServeStale, 0, 24*time.Hour)
	if r.Advertise != "" {
		host, _, err := net.SplitHostPort(r.Advertise)
		if port, bad := checkAddr(r.Advertise); bad != "" || err != nil || host == "" || port == 0 {
			cs.fail("replica.advertise", "%q is not host:port with both parts", clip(r.Advertise))
		} else if a, err := netip.ParseAddr(host); err == nil && a.IsUnspecified() {
			cs.fail("replica.advertise", "%s is no address that others can reach", host)
		}
	}
	for i, f := range p.Listen.ProxyProtocolFrom {
		if f != f.Masked() {
			cs.fail(fmt.Sprintf("listen.proxy_protocol_from[%d]", i), "%s has bits after its length: write %s", f, f.Masked())
		}
	}
	members := p.Etcd.Embedded.Cluster.Members
	if len(members) == 0 {
		return
	}
	for _, m := range members {
		if m.Name == r.Name {
			return
		}
	}
	cs.fail("replica.name", "%q is none of etcd.embedded.cluster.members: each replica of the cluster is one of them", clip(r.Name))
}
