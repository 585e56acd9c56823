package vgw

import (
	"context"
	"strings"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
)

// ownable is an object that has an owner, who may delegate what can be done with it.
type ownable struct {
	objectKey
	name string
	by   owner
}

// object returns what a decision is told of it; the zero Object of none.
func (o *ownable) object(r *tenant.Record) authz.Object {
	if o == nil {
		return authz.Object{}
	}
	return ownedObject(r, o.objectKey, o.by)
}

// objects finds the tenant's objects that have owners.
type objects struct {
	servers   *snapshot
	sandboxes *sandbox.Manager
	// unknown is why there may be sandboxes that are not known; nil if all of them are.
	unknown error
}

// objects returns the objects as they are.
func (g *Gateway) objects(ctx context.Context) (objects, error) {
	servers, err := g.catalog(ctx)
	if err != nil {
		return objects{}, err
	}
	return g.beside(servers), nil
}

// beside adds the sandboxes to the servers.
func (g *Gateway) beside(servers *snapshot) objects {
	all := objects{servers: servers}
	if g.boxes != nil {
		all.sandboxes, all.unknown = g.boxes.have()
	}
	return all
}

// byKey returns an object; nil if there is none.
func (all objects) byKey(k objectKey) *ownable {
	switch k.kind {
	case kindServer:
		if s, ok := all.servers.byID(k.id); ok {
			return &ownable{k, s.Name, owner{s.Owner, s.Epoch}}
		}
	case kindSandbox:
		if all.sandboxes == nil {
			return nil
		}
		if s, ok := all.sandboxes.Find(k.id); ok && s.ID == k.id {
			return ownableSandbox(s)
		}
	}
	return nil
}

func ownableSandbox(s *sandbox.Sandbox) *ownable {
	return &ownable{objectKey{kindSandbox, s.ID}, s.Name, owner{s.Owner, s.Epoch}}
}

// exists says whether there is an object, or may be.
func (all objects) exists(k objectKey) bool {
	return k.kind == kindSandbox && all.unknown != nil || all.byKey(k) != nil
}

// named returns the object that a text such as server/<name or id> names; nil if there is none.
func (all objects) named(text string) *ownable {
	kind, name, _ := strings.Cut(text, "/")
	switch kind {
	case kindServer:
		s, ok := all.servers.find(name)
		if !ok {
			s, ok = all.servers.byID(name)
		}
		if ok {
			return all.byKey(objectKey{kindServer, s.ID})
		}
	case kindSandbox:
		if all.sandboxes == nil {
			return nil
		}
		if s, ok := all.sandboxes.Find(name); ok {
			return ownableSandbox(s)
		}
	}
	return nil
}
