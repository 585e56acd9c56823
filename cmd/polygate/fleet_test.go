package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// fleet is several gateways on one etcd, and a balancer of TCP connections in front of them.
type fleet struct {
	t   *testing.T
	gs  []*gateway
	ttl time.Duration
	key map[string]string // an admin's key by tenant
	rr  atomic.Int64
}

// fleetTTL is the time to live of the replicas' leases.
const fleetTTL = 2 * time.Second

// newFleet starts n replicas on an etcd: its settings are lines of polygate.yaml, as startEtcd returns them.
func newFleet(t *testing.T, n int, etcd, tenantsYAML, more string) *fleet {
	t.Helper()
	return newFleetOf(t, n, fleetTTL, etcd, tenantsYAML, more)
}

// newFleetOf is newFleet with another lease: where none is to end, one that a busy machine renews in time.
func newFleetOf(t *testing.T, n int, ttl time.Duration, etcd, tenantsYAML, more string) *fleet {
	t.Helper()
	f := &fleet{t: t, ttl: ttl, key: make(map[string]string)}
	for i := range n {
		f.gs = append(f.gs, f.layOut(fmt.Sprintf("r%d", i), etcd, tenantsYAML, more))
	}
	for _, g := range f.gs {
		g.launch()
	}
	for _, g := range f.gs {
		g.waitReady(30 * time.Second)
		g.env = readEnv(t, filepath.Join(g.dir, "demo", "env"))
	}
	return f
}

// layOut makes the folder of one replica and starts nothing.
func (f *fleet) layOut(name, etcd, tenantsYAML, more string) *gateway {
	g := newGateway(f.t, tenantsYAML)
	g.write("polygate.yaml", fmt.Sprintf(`
data_dir: %[1]s/data
base_domain: localhost
shared_hosts: [localhost]
listen: {public: %[2]q, plain: %[3]q, admin: %[4]q, telemetry: %[5]q, peer: %[6]q}
tenants_file: tenants.yaml
egress: {allow: [127.0.0.0/8]}
demo: {env_file: %[1]s/demo/env}
replica: {name: %[7]s, ttl: %[8]s}
%[9]s
%[10]s
`, g.dir, g.public, g.plain, g.admin, g.metrics, freePort(f.t), name, f.ttl, etcd, more))
	return g
}

// adminKey makes an API key with the role admin, once, through any replica.
func (f *fleet) adminKey(id string) string {
	f.t.Helper()
	if k := f.key[id]; k != "" {
		return k
	}
	g := f.gs[0]
	got := g.operator(g.client(), "POST", "/api/v1/tenants/"+id+"/keys", map[string]string{"name": "fleet", "role": "admin"})
	var k struct{ Key string }
	if err := json.Unmarshal(got.Body, &k); err != nil || k.Key == "" {
		f.t.Fatalf("make a key of %s: %d %s %v", id, got.Status, got.Body, got.Err)
	}
	f.key[id] = k.Key
	return k.Key
}

// to returns a client whose connections all go to one replica, and the URL of a tenant's host.
func (f *fleet) to(i int) *http.Client {
	return f.dialing(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", f.gs[i].public)
	})
}

// balanced returns a client whose connections go to the replicas in turn, as a TCP load balancer's do: to the next one that
// takes them and says that it is ready.
func (f *fleet) balanced() *http.Client {
	return f.dialing(func(ctx context.Context) (conn net.Conn, err error) {
		for range 2 * len(f.gs) {
			g := f.gs[int(f.rr.Add(1))%len(f.gs)]
			if !g.isReady(ctx) {
				err = errors.Join(err, fmt.Errorf("%s is not ready", g.public))
				continue
			}
			if conn, err = new(net.Dialer).DialContext(ctx, "tcp", g.public); err == nil {
				return conn, nil
			}
		}
		return nil, err
	})
}

func (g *gateway) isReady(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.metrics+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func (f *fleet) dialing(dial func(context.Context) (net.Conn, error)) *http.Client {
	f.t.Helper()
	pem, err := os.ReadFile(f.gs[0].env["POLYGATE_CA"])
	if err != nil {
		f.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	tr := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		ForceAttemptHTTP2: true,
	}
	f.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// host returns the URL of a tenant's own host.
func (f *fleet) host(id string) string { return "https://" + id + ".localhost" }

// ask sends a request of an admin to a tenant.
func (f *fleet) ask(c *http.Client, id, method, path string, body any) answer {
	return do(c, method, f.host(id)+path, body, bearer(f.adminKey(id))...)
}

// owner returns the number of the replica that serves a tenant, or -1.
func (f *fleet) owner(id string) int {
	f.t.Helper()
	for _, g := range f.gs {
		if g.cmd == nil {
			continue
		}
		got := g.operator(g.client(), "GET", "/api/v1/tenants/"+id+"/owner", nil)
		if got.Status != 200 {
			continue
		}
		var o struct{ Replica string }
		if err := json.Unmarshal(got.Body, &o); err != nil {
			f.t.Fatal(err)
		}
		if o.Replica == "" {
			return -1
		}
		var i int
		if _, err := fmt.Sscanf(o.Replica, "r%d", &i); err != nil {
			f.t.Fatal(err)
		}
		return i
	}
	f.t.Fatal("no replica says who the owner is")
	return -1
}

// move has a tenant served by a replica, and returns when those that are asked for its owner know: another one than moved it is told by
// its watch.
func (f *fleet) move(id string, to int) {
	f.t.Helper()
	g := f.gs[to]
	if got := g.operator(g.client(), "POST", "/api/v1/tenants/"+id+"/move", map[string]string{"to": fmt.Sprintf("r%d", to)}); got.Status != 200 {
		f.t.Fatalf("move %s to r%d: %d %s %v", id, to, got.Status, got.Body, got.Err)
	}
	await(f.t, 5*time.Second, "word of the move", func() error {
		if at := f.owner(id); at != to {
			return fmt.Errorf("%s is at r%d after a move to r%d", id, at, to)
		}
		return nil
	})
}

// logs returns what all replicas printed, for a failure.
func (f *fleet) logs() string {
	var b strings.Builder
	for i, g := range f.gs {
		fmt.Fprintf(&b, "--- r%d\n%s\n", i, g.log)
	}
	return b.String()
}

func fleetTenants(n int) string {
	var b strings.Builder
	b.WriteString("tenants:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - {id: t%d, display_name: T%d}\n", i, i)
	}
	return b.String()
}
