package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// Passthrough bounds the connections to hosts of tenants whose TLS does not end here. A zero field is its default.
type Passthrough struct {
	// Dial returns how upstreams are reached: trusted ones, which an operator declared in a file, may be anywhere. nil = none
	// are, and connections to hosts of such tenants are refused.
	Dial           func(trusted bool) func(ctx context.Context, network, addr string) (net.Conn, error)
	MaxConnections int // spliced at a time on this replica, of nine tenths of Limits.Connections at most; more are refused. Default 10000
	MaxPerTenant   int // of one tenant. Default 1000
	// MaxDrain is how long connections stay that began before their tenant got another mode, another upstream, or lost the
	// host. 0 = until they end by themselves.
	MaxDrain time.Duration
	// HandshakeTime bounds connecting to the upstream, then the wait for its first byte, and at last how long a client may say
	// nothing after the upstream has ended its side. Default 10s.
	HandshakeTime time.Duration
	// Idle is how long a connection may last without a byte either way. Default 1h. TCP finds clients that vanished long before.
	Idle time.Duration
}

func (p Passthrough) withDefaults() Passthrough {
	or(&p.MaxConnections, 10000)
	or(&p.MaxPerTenant, 1000)
	or(&p.HandshakeTime, 10*time.Second)
	or(&p.Idle, time.Hour)
	return p
}

// Validate checks settings that are whole. The error names the field.
func (p Passthrough) Validate() error {
	for _, f := range []struct {
		name     string
		v        int64
		min, max int64
	}{
		{"max_connections", int64(p.MaxConnections), 1, 1 << 20},
		{"max_connections_per_tenant", int64(p.MaxPerTenant), 1, 1 << 20},
		{"max_drain", int64(p.MaxDrain), 0, int64(400 * 24 * time.Hour)},
		{"handshake_time", int64(p.HandshakeTime), int64(time.Millisecond), int64(5 * time.Minute)},
		{"idle", int64(p.Idle), int64(time.Millisecond), int64(30 * 24 * time.Hour)},
	} {
		if f.v < f.min || f.v > f.max {
			return fmt.Errorf("passthrough: %s is %d: %d to %d are allowed", f.name, f.v, f.min, f.max)
		}
	}
	return nil
}

// leavePlaces keeps a tenth of the listener's places from those that are spliced. These need no credential and may idle for
// an hour: with all the places, strangers would keep everybody out.
func (p *Passthrough) leavePlaces(listener int) {
	p.MaxConnections = min(p.MaxConnections, listener-listener/10)
}

// errSpliced ends the handshake of a connection that is not for us to terminate: what was read of it goes to the tenant's
// own gateway. GetConfigForClient returns it where passthrough said so, before it looks at anything else of the hello.
var errSpliced = errors.New("the connection goes to the tenant's own gateway")

// passthrough says whether the connection of hello is for a tenant's own gateway, and then has taken it: nothing of the
// terminating handshake reaches the client any more. The server name is the one that crypto/tls read, of a hello in whatever
// segments and records (case X05), and ALPN does not matter: a challenge of acme-tls/1 is the tenant's gateway's as well.
func (s *Server) passthrough(hello *tls.ClientHelloInfo) (taken bool) {
	c, _ := hello.Conn.(*helloConn)
	name := strings.ToLower(hello.ServerName)
	e, ok := s.cfg.Directory.ByHost(name)
	if !ok || e.Record.Mode != tenant.ModePassthrough {
		if c != nil {
			c.terminate(e)
		}
		return false
	}
	if c != nil && c.take() {
		s.splice(c, e, name)
	}
	return true
}

// helloOf returns the connection that a request came on; nil if it is none of the public listener's.
func (f *flight) helloOf() *helloConn {
	t, ok := f.r.Context().Value(connKey{}).(*tls.Conn)
	if !ok {
		return nil
	}
	c, _ := t.NetConn().(*helloConn)
	return c
}

// findDirectory sets what the request is resolved with. A connection whose TLS ended here, before its tenant was changed to
// passthrough, cannot be spliced any more. Its requests are served as they were when it began, and each answer asks for
// the connection to be given up. The change may come between any two looks at the record, so each look sees to that.
func (f *flight) findDirectory() {
	f.directory = f.s.cfg.Directory
	then := f.terminatedFor()
	if then != nil && then.Record.Mode != tenant.ModePassthrough {
		f.before = before{Directory: f.directory, then: then}
		f.directory = &f.before
	}
}

// terminatedFor returns whose the server name was when TLS of the client's connection ended; nil if it was no tenant's. What
// another replica forwards is for virtual tenants.
func (f *flight) terminatedFor() *tenant.Entry {
	if v := f.hop.from; v != nil {
		if v.Host == nil {
			return nil
		}
		e, ok := f.s.cfg.Directory.ByID(v.Host.ID)
		if !ok || e.Scope.UID() != v.Host.UID || e.Record.Mode != tenant.ModePassthrough {
			return nil
		}
		r := *e.Record
		r.Mode, r.Passthrough = tenant.ModeVirtual, nil
		return &tenant.Entry{Record: &r, Scope: e.Scope}
	}
	if c := f.helloOf(); c != nil {
		return c.entry
	}
	return nil
}

// before is a Directory in which one tenant still has the mode that it had: who may do what is as it is now.
type before struct {
	Directory
	then *tenant.Entry
	used bool // that mode was told of, in place of passthrough
}

// ByHost implements Directory.
func (b *before) ByHost(host string) (*tenant.Entry, bool) {
	e, ok := b.Directory.ByHost(host)
	return b.as(e), ok
}

// ByKey implements Directory.
func (b *before) ByKey(h tenant.Hash) (*tenant.Entry, *tenant.Key, bool) {
	e, k, ok := b.Directory.ByKey(h)
	return b.as(e), k, ok
}

// ByID implements Directory.
func (b *before) ByID(id tenant.ID) (*tenant.Entry, bool) {
	e, ok := b.Directory.ByID(id)
	return b.as(e), ok
}

func (b *before) as(e *tenant.Entry) *tenant.Entry {
	if e == nil || e.Scope != b.then.Scope || e.Record.Mode != tenant.ModePassthrough {
		return e
	}
	b.used = true
	r := *e.Record
	r.Mode, r.Dedicated, r.Passthrough = b.then.Record.Mode, b.then.Record.Dedicated, nil
	return &tenant.Entry{Record: &r, Scope: e.Scope}
}
