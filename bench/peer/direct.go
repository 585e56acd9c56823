package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
)

// Direct is no gateway: the upstream's own TLS port, at each tenant's own address, with nothing between. It is the floor of what a
// request costs, and the ceiling of what the generator can send. It checks no credential, whatever the site asks: what it shows is
// the generator, which shows them all the same. pids are the upstream's processes.
func Direct(tlsPort int, pids ...int) Peer { return &direct{tlsPort, pids} }

type direct struct {
	port int
	pids []int
}

func (*direct) Name() string { return "direct" }

func (*direct) Version(context.Context) (string, error) { return "", nil }

func (d *direct) Start(ctx context.Context, s *Site) (Running, error) {
	r := &directRunning{pids: d.pids, addrs: make([]string, len(s.Tenants))}
	for i := range s.Tenants {
		host, _, err := net.SplitHostPort(s.Tenants[i].Upstream)
		if err != nil {
			return nil, fmt.Errorf("the upstream of %s: %w", s.Tenants[i].Name, err)
		}
		r.addrs[i] = net.JoinHostPort(host, strconv.Itoa(d.port))
	}
	if len(r.addrs) == 0 {
		return nil, errors.New("start direct: the site has no tenants")
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := greet(ctx, s, r.addrs[0], s.Tenants[0].Host); err != nil {
		return nil, fmt.Errorf("the upstream does not speak %s at %s: %w", tls.VersionName(tls.VersionTLS13), r.addrs[0], err)
	}
	return r, nil
}

type directRunning struct {
	addrs []string
	pids  []int
}

func (r *directRunning) Addr(tenant int) string { return r.addrs[tenant] }
func (r *directRunning) PIDs() []int            { return r.pids }
func (*directRunning) Stop() error              { return nil } // who started the upstream stops it
