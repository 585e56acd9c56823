package vgw

import (
	"context"
	"slices"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
)

// keyBody is the body of POST /api/v1/keys.
type keyBody struct {
	Name string `json:"name"`
	Role string `json:"role"` // "" = editor
}

func createKey(ctx context.Context, c *call) (exchange.Decision, error) {
	body, err := decode[keyBody](c)
	if err != nil {
		return nil, err
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.KeyCreate, Resource: "key/" + label(body.Name)})
	if err != nil {
		return nil, err
	}
	key, secret, err := c.newKey(body)
	var e *tenant.Entry
	if err == nil {
		e, err = c.records.update(ctx, addKey(key), permit.Entry(audit.OutcomeOK))
	}
	if err := permit.Settle(err); err != nil {
		return nil, err
	}
	v := viewKey(e.Record, &key)
	v.Key = secret
	d, err := reply(201, v)
	if err != nil {
		return nil, err
	}
	d.Header.Set("Etag", etag(keyVersion(&key)))
	return d, nil
}

// newKey makes the key that body asks for, if the caller may grant its role.
func (c *call) newKey(body keyBody) (tenant.Key, string, error) {
	if err := tenant.CheckName("name", body.Name, false); err != nil {
		return tenant.Key{}, "", err
	}
	if _, err := uuid.Parse(body.Name); err == nil {
		return tenant.Key{}, "", fault.New(fault.Invalid, "name looks like an id, by which another key could be meant")
	}
	role, err := tenant.ParseRole(body.Role)
	if err != nil {
		return tenant.Key{}, "", err
	}
	if own := c.r.Visit.Principal().Role; role > own {
		return tenant.Key{}, "", fault.New(fault.Forbidden, "role %s may not grant %s", own, role)
	}
	secret, hash := authn.NewKey()
	return tenant.Key{ID: uuid.NewString(), Name: body.Name, Hash: hash, Role: role, Source: tenant.SourceAPI, Created: c.now().UTC()}, secret, nil
}

func addKey(key tenant.Key) func(*tenant.Record) error {
	return func(r *tenant.Record) error {
		if have, ok := r.KeyByName(key.Name); ok {
			if have.Source == tenant.SourceFile {
				return fault.New(fault.Conflict, "key %q is declared in the file %s: change it there", key.Name, r.File)
			}
			return fault.New(fault.Conflict, "there is a key %q already", key.Name)
		}
		if n := len(r.Keys); n >= tenant.MaxKeys {
			return fault.New(fault.Conflict, "there are %d keys, the most that a tenant may have", n)
		}
		r.Keys = append(r.Keys, key)
		return nil
	}
}

func revokeKey(ctx context.Context, c *call) (exchange.Decision, error) {
	pre, err := ifMatch(c.r.Header)
	if err != nil {
		return nil, err
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.KeyRevoke, Resource: "key/" + label(c.params[0])})
	if err != nil {
		return nil, err
	}
	_, err = c.records.update(ctx, dropKey(c.params[0], pre), permit.Entry(audit.OutcomeOK))
	if err := permit.Settle(err); err != nil {
		return nil, err
	}
	return noContent(), nil
}

// dropKey removes the key of a name or id.
func dropKey(name string, pre precondition) func(*tenant.Record) error {
	return func(r *tenant.Record) error {
		k, ok := r.KeyByName(name)
		switch {
		case !ok:
			return fault.New(fault.NotFound, "no key %q", name)
		case k.Source == tenant.SourceFile:
			return fault.New(fault.Conflict, "key %q is declared in the file %s: remove it there", k.Name, r.File)
		case !pre.allows(keyVersion(k)):
			return stale(keyVersion(k))
		}
		id := k.ID
		r.Keys = slices.DeleteFunc(r.Keys, func(k tenant.Key) bool { return k.ID == id })
		return nil
	}
}
