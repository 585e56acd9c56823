package proxy

import (
	"slices"
	"strings"

	"github.com/polygate/polygate/internal/authn"
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
	// owner and key are whose key the request holds; nil if it holds none or an unknown one.
	owner *tenant.Entry
	key   *tenant.Key
}

// place is where a request goes.
type place struct {
	entry  *tenant.Entry // the tenant; nil until it is known
	key    *tenant.Key   // who asks, if it asks with a key
	path   string        // within the tenant
	prefix string        // what was cut off before path: "" or /tenant/<id>
	own    bool          // on a host of the tenant's own
	open   open          // what is told to everybody
	// ask holds the tenants whose authenticators have to say who asks: one; or, if conflict, all that the signals name, of
	// which one that knows the caller makes the refusal a 403.
	ask      []*tenant.Entry
	conflict bool
}

// open says what needs no credential of ours. The zero value is nothing.
type open uint8

const (
	closed       open = iota
	openRelay         // a gateway of the tenant's own that authenticates by itself
	openHealth        // liveness
	openMetadata      // who issues the tenant's tokens (RFC 9728)
	openBrowser       // login and what belongs to it
)

// nobody is what a host signal says that no tenant has. It is no tenant id.
const nobody = "\x00"

// resolve finds the tenant that a request is for: every signal that is present has to name it, and the credential has to be
// one of its own (design, step 3). A key says by itself whose it is; of everything else the named tenant's authenticators
// say so, which place.ask lists. The errors tell nothing of which tenants exist: Misdirected if the host is not one of the
// connection's, Forbidden for a valid key among signals that contradict each other (place then holds whose it was, to be
// audited), Unauthenticated for everything else.
func resolve(d Directory, shared bool, in signals) (place, error) {
	onHost, own := d.ByHost(in.host)
	if !sameSite(d, in, onHost) {
		return place{}, fault.New(fault.Misdirected, "host %s on a connection to %s", in.host, in.sni)
	}
	if own && onHost.Record.Mode == tenant.ModePassthrough { // not so on connections of before it was: see findDirectory
		return place{}, fault.New(fault.Misdirected, "host %s is its tenant's own gateway's: TLS does not end here", in.host)
	}
	p := place{path: in.path, own: own}
	named := p.read(in, onHost, shared)
	if p.open = public(onHost, in.path, own && !p.conflict); p.open != closed {
		p.entry = onHost
		return p, nil
	}
	if in.key == nil { // or one that nobody has
		return p.unproven(d, named)
	}
	switch {
	case p.conflict:
		return place{entry: in.owner, key: in.key}, fault.New(fault.Forbidden, "the host, path and X-Tenant-ID name different tenants")
	case named.len > 0 && named.of[0] != in.owner.Record.ID.String():
		return place{}, fault.New(fault.Unauthenticated, "the credential belongs to another tenant")
	}
	p.entry, p.key = in.owner, in.key
	return p, nil
}

// unproven finds whom to ask about a credential that is no key. Without a name there is nobody: such a credential does not
// say whose it is.
func (p place) unproven(d Directory, named names) (place, error) {
	for _, id := range named.of[:named.len] {
		if e, ok := d.ByID(tenant.ID(id)); ok {
			p.ask = append(p.ask, e)
		}
	}
	if len(p.ask) == 0 {
		return place{}, fault.New(fault.Unauthenticated, "no credential of any tenant")
	}
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

// read collects whom host, path and header name, each once, and notes whether they disagree. It cuts the prefix off the
// path where there can be one: on its own host, a dedicated tenant's paths are all its own.
func (p *place) read(in signals, onHost *tenant.Entry, shared bool) (n names) {
	say := n.say
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
	p.conflict = n.len > 1
	return n
}

// names are the tenants that host, path and header name, each once.
type names struct {
	of  [3]string
	len int
}

func (n *names) say(id string) {
	if id == "" {
		id = nobody
	}
	if !slices.Contains(n.of[:n.len], id) {
		n.of[n.len] = id
		n.len++
	}
}

// The paths of a tenant's own host that need no credential.
const (
	healthPath   = "/healthz"
	metadataPath = authn.MetadataPath
	browserPath  = "/.polygate/"
)

// public says what on a tenant's own host needs no credential of ours: by its exact path, and nothing that resembles it
// (case X27). A gateway of the tenant's own that authenticates by itself has all paths.
func public(onHost *tenant.Entry, path string, agree bool) open {
	switch {
	case !agree:
		return closed
	case onHost.Record.Mode == tenant.ModeDedicated && onHost.Record.Dedicated.Auth == tenant.AuthUpstream:
		return openRelay
	case path == healthPath:
		return openHealth
	case path == metadataPath || strings.HasPrefix(path, metadataPath+"/"):
		return openMetadata
	case strings.HasPrefix(path, browserPath):
		return openBrowser
	}
	return closed
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
