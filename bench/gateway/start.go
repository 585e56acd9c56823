package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"path/filepath"
	"time"

	"github.com/polygate/polygate/bench/peer"
)

// Start implements peer.Peer. What it returns is a *Running.
//
// The gateway is started once to take the tenants in, ended, and started again, which is what is measured: a gateway that has just read
// a thousand certificates from files has them, and whoever they are of, at hand, and that is not how it is found on other days. With
// Options.Once it is started once.
func (p Polygate) Start(ctx context.Context, s *peer.Site) (peer.Running, error) {
	r, err := p.run(ctx, s)
	if err != nil {
		return nil, err // not a nil *Running in an interface
	}
	return r, nil
}

// run starts it.
func (p Polygate) run(ctx context.Context, s *peer.Site) (*Running, error) {
	p.Replicas = max(1, p.Replicas)
	if err := p.refuse(s); err != nil {
		return nil, err
	}
	r := &Running{site: s, opt: p.Options}
	if err := r.begin(ctx, p); err != nil {
		r.destroy()
		return nil, err
	}
	return r, nil
}

// begin does in order what a start is made of. What it has begun when it fails, destroy ends.
func (r *Running) begin(ctx context.Context, p Polygate) error {
	if err := r.opt.writeTenants(r.site.Dir, r.site); err != nil {
		return fmt.Errorf("polygate: write the tenants: %w", err)
	}
	if err := r.layOut(ctx, p); err != nil {
		return err
	}
	first := r.replicas[0]
	if !r.opt.Once || len(r.replicas) > 1 { // one alone takes the tenants in: replicas would race for it
		if err := first.up(ctx); err != nil {
			return err
		}
		if err := first.down(ctx); err != nil {
			return err
		}
	}
	for _, one := range r.replicas {
		if err := one.up(ctx); err != nil {
			return err
		}
	}
	if len(r.replicas) > 1 {
		b, err := startBalancer(r.replicas)
		if err != nil {
			return err
		}
		r.balancer = b
	}
	return r.greet(ctx, readyLimit)
}

// layOut prepares the replicas, and starts the etcd that several share.
func (r *Running) layOut(ctx context.Context, p Polygate) error {
	dir := r.site.Dir
	kek := filepath.Join(dir, "kek")
	if err := writeKEK(kek); err != nil {
		return err
	}
	var endpoints []string
	if p.Replicas > 1 {
		endpoint, err := r.ownEtcd(ctx, p.Etcd)
		if err != nil {
			return err
		}
		endpoints = []string{endpoint}
	}
	for i := range p.Replicas {
		name := fmt.Sprintf("replica-%d", i)
		one, err := newReplica(p.Binary, platform{
			dir: filepath.Join(dir, name), domain: r.site.Domain, replica: name, kek: kek, etcd: endpoints,
			tenants: filepath.Join(dir, "tenants.yaml"), certificates: len(r.site.Tenants),
		}, r.site.Cores)
		if err != nil {
			return err
		}
		r.replicas = append(r.replicas, one)
	}
	return nil
}

func (r *Running) ownEtcd(ctx context.Context, program string) (endpoint string, err error) {
	if program == "" {
		if program, err = FindEtcd(ctx); err != nil {
			return "", err
		}
	}
	r.etcd, endpoint, err = startEtcd(ctx, program, filepath.Join(r.site.Dir, "etcd"))
	return endpoint, err
}

// greet makes a handshake with the last tenant's host, at each replica: it has to get the certificate that its peers have as well. One
// tenant is enough, since a start at which anything of the tenants file was refused has failed, and to greet all would warm them.
// A certificate that does not come within a time ends the wait.
func (r *Running) greet(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("its certificate was not served within %s", within))
	defer cancel()
	last := r.site.Tenants[len(r.site.Tenants)-1]
	d := &tls.Dialer{Config: &tls.Config{ServerName: last.Host, RootCAs: r.site.CA, MinVersion: tls.VersionTLS13}}
	for _, one := range r.replicas {
		err := one.awaitUp(ctx, func(ctx context.Context) error {
			c, err := d.DialContext(ctx, "tcp", one.public)
			if err != nil {
				return err
			}
			return c.Close()
		})
		if err != nil {
			return fmt.Errorf("greet %s: %w", last.Host, err)
		}
	}
	return nil
}
