package proxy

import (
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// signals is everything in a request that names a tenant.
type signals struct {
	sni  string // server name of the connection; lower case
	host string // as parseHost returns it
	path string // judged
	// header is X-Tenant-ID; hasHeader, since it may be there and empty.
	header    string
	hasHeader bool
	// owner and key are whose credential the request holds; nil if it holds none or an unknown one.
	owner *tenant.Entry
	key   *tenant.Key
}

// place is where a request goes.
type place struct {
	entry  *tenant.Entry
	key    *tenant.Key // who asks; nil where nobody was authenticated
	path   string      // within the tenant
	prefix string      // what was cut off before path: "" or /tenant/<id>
	own    bool        // on a host of the tenant's own
	health bool        // the one thing that is told to everybody
}

// nobody is what a host signal says that no tenant has. It is no tenant id.
const nobody = "\x00"

// resolve finds the tenant that a request is for: every signal that is present has to name it, and the credential has to be
// one of its own (design, step 3). The errors tell nothing of which tenants exist: Misdirected if the host is not one of
// the connection's, Forbidden for a valid credential among signals that contradict each other (place then holds whose it
// was, to be audited), Unauthenticated for everything else.
func resolve(d Directory, shared bool, in signals) (place, error) {
	onHost, own := d.ByHost(in.host)
	if !sameSite(d, in, onHost) {
		return place{}, fault.New(fault.Misdirected, "host %s on a connection to %s", in.host, in.sni)
	}
	p := place{path: in.path, own: own}
	named, agree := p.read(in, onHost, shared)
	if agree && own && public(onHost.Record, in.path, &p) {
		p.entry = onHost
		return p, nil
	}
	switch {
	case in.key == nil:
		return place{}, fault.New(fault.Unauthenticated, "no credential of any tenant")
	case !agree:
		return place{entry: in.owner, key: in.key}, fault.New(fault.Forbidden, "the host, path and X-Tenant-ID name different tenants")
	case named != "" && named != in.owner.Record.ID.String():
		return place{}, fault.New(fault.Unauthenticated, "the credential belongs to another tenant")
	}
	p.entry, p.key = in.owner, in.key
	return p, nil
}

// sameSite says whether the request's host belongs to the connection's server name: the same name, or two of one tenant.
func sameSite(d Directory, in signals, onHost *tenant.Entry) bool {
	if in.sni == in.host {
		return in.sni != ""
	}
	onSNI, ok := d.ByHost(in.sni)
	return ok && onHost != nil && onSNI.Scope == onHost.Scope
}

// read collects what host, path and header name, and says whether they agree. named is "" if none of them names anybody.
// It cuts the prefix off the path where there can be one: on its own host, a dedicated tenant's paths are all its own.
func (p *place) read(in signals, onHost *tenant.Entry, shared bool) (named string, agree bool) {
	agree = true
	say := func(id string) {
		if id == "" {
			id = nobody
		}
		if named == "" {
			named = id
		}
		agree = agree && named == id
	}
	switch {
	case p.own:
		say(onHost.Record.ID.String())
	case !shared:
		say(nobody)
	}
	if !p.own || onHost.Record.Mode != tenant.ModeDedicated {
		if id, rest, ok := cutTenant(in.path); ok {
			say(id)
			p.path, p.prefix = rest, in.path[:len("/tenant/")+len(id)]
		}
	}
	if in.hasHeader {
		say(in.header)
	}
	return named, agree
}

// public says whether a request on a tenant's own host needs no credential of ours: liveness, by its exact path and nothing
// that resembles it (case X27), or a gateway of the tenant's own that authenticates by itself.
func public(r *tenant.Record, path string, p *place) bool {
	if r.Mode == tenant.ModeDedicated && r.Dedicated.Auth == tenant.AuthUpstream {
		return true
	}
	p.health = path == "/healthz"
	return p.health
}

// refuseSuspended is the answer for a suspended tenant, to those who may know the reason.
func refuseSuspended(r *tenant.Record) error {
	if r.State != tenant.StateSuspended {
		return nil
	}
	detail := "this tenant is suspended"
	if r.SuspendReason != "" {
		detail += ": " + r.SuspendReason
	}
	return (&fault.Error{Kind: fault.Unavailable, Detail: detail}).After(suspendedRetry)
}
