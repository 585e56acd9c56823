package vgw

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
)

const (
	hostTokenBytes = 32                 // of randomness in a token
	pendingLife    = 7 * 24 * time.Hour // a host that nobody proved by then is forgotten
)

func hostRoutes() []route {
	return []route{
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/hosts", Action: authz.HostList, Summary: "the hosts of the tenant, and those that it asked for"}, handle: listHosts},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/hosts", Owner: exchange.OwnerAny, Action: authz.HostCreate, Summary: "ask for a host of one's own"}, handle: createHost},
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/hosts/{host}", Owner: exchange.OwnerAny, Action: authz.HostRead, Summary: "one host"}, handle: getHost},
		{Route: exchange.Route{Method: "DELETE", Pattern: "/api/v1/hosts/{host}", Owner: exchange.OwnerAny, Action: authz.HostDelete, Summary: "give up a host that the tenant asked for"}, handle: deleteHost},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/hosts/{host}/verify", Action: authz.HostVerify, Summary: "look for the proof that a host is the tenant's"}, handle: verifyHost},
	}
}

// hostState is what a host is doing.
type hostState string

const (
	hostActive  hostState = "active"  // it is served
	hostPending hostState = "pending" // it is the tenant's once it is proven to be
)

// hostSource says who gave the tenant a host.
type hostSource string

const (
	hostOfPlatform hostSource = "platform" // every tenant has one
	hostOfOperator hostSource = "operator" // declared, in a file or by the operators' API
	hostOfTenant   hostSource = "tenant"   // asked for, and proven
)

// hostView is a host as the tenant's people see it. A token is no secret: it is published in the DNS.
type hostView struct {
	Host            string     `json:"host"`
	State           hostState  `json:"state"`
	DeclaredBy      hostSource `json:"declared_by"`
	File            string     `json:"file,omitzero"`
	Created         time.Time  `json:"created,omitzero"`
	Expires         time.Time  `json:"expires,omitzero"`
	TXTName         string     `json:"txt_name,omitzero"`
	TXTValue        string     `json:"txt_value,omitzero"`
	LastCheck       time.Time  `json:"last_check,omitzero"`
	LastError       string     `json:"last_error,omitzero"`
	Next            string     `json:"next,omitzero"`
	ResourceVersion int64      `json:"resource_version,string"` // also the ETag
}

// servedVersion is the resource version of a host that is served: there is nothing in it to change. An If-Match that was read
// before the proof of a host does not hold after it.
const servedVersion = 1

// own says whether a host is the one that every tenant has.
func (c *call) own(host string) bool {
	return c.cfg.BaseDomain != "" && host == tenant.OwnHost(c.e.Scope.ID(), c.cfg.BaseDomain)
}

// viewHost finds a host of the tenant's, or one that it asked for.
func (c *call) viewHost(r *tenant.Record, host string) (hostView, bool) {
	switch i := pendingAt(r, host, c.now()); {
	case c.own(host):
		return hostView{Host: host, State: hostActive, DeclaredBy: hostOfPlatform, ResourceVersion: servedVersion}, true
	case slices.Contains(r.ProvenHosts, host):
		return hostView{Host: host, State: hostActive, DeclaredBy: hostOfTenant, ResourceVersion: servedVersion}, true
	case slices.Contains(r.Hosts, host):
		v := hostView{Host: host, State: hostActive, DeclaredBy: hostOfOperator, ResourceVersion: servedVersion}
		if r.Source == tenant.SourceFile {
			v.File = r.File
		}
		return v, true
	case i >= 0:
		return viewPending(&r.PendingHosts[i]), true
	}
	return hostView{}, false
}

func viewPending(p *tenant.PendingHost) hostView {
	v := hostView{
		Host: p.Host, State: hostPending, DeclaredBy: hostOfTenant, Created: p.Created, Expires: p.Created.Add(pendingLife),
		TXTName: tenant.HostChallenge + "." + p.Host, TXTValue: p.Token, LastCheck: p.LastCheck, LastError: p.LastError,
		ResourceVersion: max(later(p.Created, p.LastCheck).UnixMicro(), servedVersion+1),
	}
	v.Next = fmt.Sprintf("make the TXT record txt_name with the value txt_value, and POST /api/v1/hosts/%s/verify before it expires", p.Host)
	return v
}

// pendingAt returns where a host is among those that were asked for, or -1. One whose time is over is none.
func pendingAt(r *tenant.Record, host string, now time.Time) int {
	return slices.IndexFunc(r.PendingHosts, func(p tenant.PendingHost) bool { return p.Host == host && !lapsed(&p, now) })
}

func lapsed(p *tenant.PendingHost, now time.Time) bool {
	return !now.Before(p.Created.Add(pendingLife))
}

// dropLapsed forgets the hosts that nobody proved in time.
func dropLapsed(r *tenant.Record, now time.Time) {
	r.PendingHosts = slices.DeleteFunc(r.PendingHosts, func(p tenant.PendingHost) bool { return lapsed(&p, now) })
}

func listHosts(_ context.Context, c *call) (exchange.Decision, error) {
	permit, may, err := admitList(c, authz.HostList, "host")
	if err != nil {
		return nil, err
	}
	var items []hostView
	if may {
		items = c.allHosts()
	}
	return answerList(c, permit, items, func(v hostView) string { return v.Host }, func(v hostView) hostView { return v })
}

func (c *call) allHosts() []hostView {
	r := c.e.Record
	names := slices.Clone(r.Hosts)
	for i := range r.PendingHosts {
		names = append(names, r.PendingHosts[i].Host)
	}
	if c.cfg.BaseDomain != "" {
		names = append(names, tenant.OwnHost(c.e.Scope.ID(), c.cfg.BaseDomain))
	}
	slices.Sort(names)
	items := make([]hostView, 0, len(names))
	for _, host := range slices.Compact(names) {
		if v, ok := c.viewHost(r, host); ok {
			items = append(items, v)
		}
	}
	return items
}

func noHost(host string) error { return fault.New(fault.NotFound, "no host %q", host) }

func getHost(_ context.Context, c *call) (exchange.Decision, error) {
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.HostRead, Resource: "host/" + label(c.params[0])})
	if err != nil {
		return nil, err
	}
	v, ok := c.viewHost(c.e.Record, c.params[0])
	if !ok {
		err = noHost(c.params[0])
	}
	permit.Done(err)
	if err != nil {
		return nil, err
	}
	return c.replyHost(200, v)
}

func (c *call) replyHost(status int, v hostView) (exchange.Decision, error) {
	d, err := reply(status, v)
	if err != nil {
		return nil, err
	}
	d.Header.Set("Etag", etag(v.ResourceVersion))
	if status == 201 {
		d.Header.Set("Location", c.r.Base+"/api/v1/hosts/"+v.Host)
	}
	return d, nil
}

// hostBody is the body of POST /api/v1/hosts.
type hostBody struct {
	Host string `json:"host"`
}

// createHost puts a host among those that wait for their proof. Whether another tenant has it is neither asked nor told:
// that is for its owner to know, which the caller has not proven to be.
func createHost(ctx context.Context, c *call) (exchange.Decision, error) {
	body, err := decode[hostBody](c)
	if err != nil {
		return nil, err
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.HostCreate, Resource: "host/" + label(body.Host)})
	if err != nil {
		return nil, err
	}
	if err := c.mayHave(body.Host); err != nil {
		return nil, permit.Settle(err)
	}
	made, asked := tenant.PendingHost{Host: body.Host, Token: newHostToken(), Created: c.now().UTC()}, false
	e, err := c.change(ctx, permit, func(r *tenant.Record) (err error) {
		asked, err = c.ask(r, made)
		return err
	})
	if err != nil {
		return nil, err
	}
	if asked { // nothing was changed, so nothing was recorded
		permit.Done(nil)
	}
	v, ok := c.viewHost(e.Record, body.Host)
	if !ok {
		return nil, noHost(body.Host)
	}
	return c.replyHost(201, v)
}

// newHostToken draws a token. That it is right proves who asked for it, so it is random and no function of the host.
func newHostToken() string {
	b := make([]byte, hostTokenBytes)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// mayHave says whether a tenant may have a host at all, whoever has it.
func (c *call) mayHave(host string) error {
	if c.cfg.HostProof == nil {
		return fault.New(fault.Unavailable, "this gateway is not configured to look for the proof of a host: ask a platform operator for it")
	}
	if err := tenant.CheckHost(host); err != nil {
		return err
	}
	base := c.cfg.BaseDomain
	if base != "" && (host == base || strings.HasSuffix(host, "."+base)) {
		return fault.New(fault.Invalid, "host %q lies within the base domain %s, which the platform hands out: use a name of your own", host, base)
	}
	if len(tenant.HostChallenge)+1+len(host) > 253 {
		return fault.New(fault.Invalid, "host %q is too long for a record %s.<host>: use a shorter one", host, tenant.HostChallenge)
	}
	if c.cfg.ReservedHost == nil {
		return nil
	}
	return c.cfg.ReservedHost(host)
}

// ask puts a host among those that were asked for. If it is there already, it stays as it is: its record may be made.
func (c *call) ask(r *tenant.Record, p tenant.PendingHost) (asked bool, err error) {
	if pendingAt(r, p.Host, c.now()) >= 0 {
		return true, nil
	}
	if slices.Contains(r.Hosts, p.Host) {
		return false, fault.New(fault.Conflict, "host %q is the tenant's already", p.Host)
	}
	dropLapsed(r, c.now())
	if n := len(r.PendingHosts); n >= tenant.MaxPendingHosts {
		return false, fault.New(fault.Conflict, "%d hosts wait for their proof, the most that may: prove or delete one", n)
	}
	if err := roomForHost(r); err != nil {
		return false, err
	}
	r.PendingHosts = append(r.PendingHosts, p)
	return false, nil
}

func roomForHost(r *tenant.Record) error {
	if n := len(r.Hosts); n >= tenant.MaxHosts {
		return fault.New(fault.Conflict, "there are %d hosts, the most that a tenant may have: delete one", n)
	}
	return nil
}

func deleteHost(ctx context.Context, c *call) (exchange.Decision, error) {
	return c.remove(ctx, authz.HostDelete, "host/", c.dropHost)
}

// dropHost takes a host away that the tenant asked for, proven or not. It is not served from then on, and anybody may ask
// for it.
func (c *call) dropHost(host string, pre precondition) func(*tenant.Record) error {
	return func(r *tenant.Record) error {
		v, ok := c.viewHost(r, host)
		switch {
		case !ok:
			return noHost(host)
		case v.DeclaredBy == hostOfPlatform:
			return fault.New(fault.Conflict, "host %q is the one that every tenant has: it stays", host)
		case v.File != "":
			return fault.New(fault.Conflict, "host %q is declared in the file %s: change it there", host, v.File)
		case v.DeclaredBy == hostOfOperator:
			return fault.New(fault.Conflict, "host %q was declared by a platform operator: ask one to change it", host)
		}
		if !pre.allows(v.ResourceVersion) {
			return stale(v.ResourceVersion)
		}
		is := func(h string) bool { return h == host }
		r.Hosts, r.ProvenHosts = slices.DeleteFunc(r.Hosts, is), slices.DeleteFunc(r.ProvenHosts, is)
		r.PendingHosts = slices.DeleteFunc(r.PendingHosts, func(p tenant.PendingHost) bool { return p.Host == host })
		dropLapsed(r, c.now())
		return nil
	}
}
