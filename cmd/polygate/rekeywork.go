package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/polygate/polygate/certs"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/peer"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/vgw"
)

// rekeyWork is one pass.
type rekeyWork struct {
	k         *rekeyer
	elsewhere map[string][]tenant.ID // by owner
	err       error                  // the first
}

func (w *rekeyWork) note(err error) {
	if w.err == nil {
		w.err = err
	}
}

// rewrap has one value wrapped anew, by whoever may write it.
func (w *rekeyWork) rewrap(ctx context.Context, key string) error {
	state, of, name := registry.WrappedIn(key)
	switch {
	case state != "" && name == vgw.DataKeyKind+"/"+vgw.DataKeyID:
		return w.dataKey(ctx, tenant.ID(state))
	case of == vault.PlatformOwner:
		return w.vaultKey(ctx, nil)
	case of != "":
		e, ok := w.k.store.Index().ByID(tenant.ID(of))
		if !ok {
			return fault.New(fault.Conflict, "%s is of a tenant that this replica does not know", key)
		}
		return w.vaultKey(ctx, e)
	case state == "" && name == "ca/local":
		_, err := certs.RewrapAuthority(ctx, w.k.store.Platform(), w.k.ring)
		return err
	}
	return fault.New(fault.Conflict, "%s is wrapped by a key, and this version does not know how to change that", key)
}

func (w *rekeyWork) vaultKey(ctx context.Context, e *tenant.Entry) error {
	entry, err := w.k.entry(e, "certificates/datakey")
	if err != nil {
		return err
	}
	owner := vault.Owner{}
	if e != nil {
		owner = vault.Of(e.Scope)
	}
	_, err = w.k.keeper.Rewrap(ctx, owner, &entry)
	return err
}

// dataKey has the data key of a tenant's state wrapped anew, here or by its owner.
func (w *rekeyWork) dataKey(ctx context.Context, id tenant.ID) error {
	if o, ok := w.k.store.Index().Owner(id); ok && o.Replica != w.k.self && w.k.caller() != nil {
		w.elsewhere[o.Replica] = append(w.elsewhere[o.Replica], id)
		return nil
	}
	return w.k.rewrapHere(ctx, id)
}

// rewrapHere has a tenant's data key wrapped anew by its gateway here, or by nobody's claim if it has no owner. Where the owner
// changed meanwhile, it is left for the next pass.
func (k *rekeyer) rewrapHere(ctx context.Context, id tenant.ID) error {
	e, ok := k.store.Index().ByID(id)
	if !ok {
		return nil // deleted; if it is still there, the next pass finds it
	}
	if open, err := k.mux.Rewrap(ctx, e); open {
		return err
	}
	entry, err := k.entry(e, vgw.DataKeyKind+"/"+vgw.DataKeyID)
	if err != nil {
		return err
	}
	_, err = k.store.EditUnowned(ctx, e.Scope, vgw.DataKeyKind, vgw.DataKeyID, entry, func(envelope []byte) ([]byte, error) {
		next, changed, err := vgw.RewrapDataKey(k.ring, e.Scope, envelope)
		if !changed {
			return nil, err
		}
		return next, err
	})
	if errors.Is(err, registry.ErrOwned) || fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// The calls between replicas.
const (
	opPrepare = "prepare" // read kek_file again: is the key there?
	opUse     = "use"     // wrap with the key from now on
	opTenants = "tenants" // wrap the data keys of tenants that are served there anew
)

// callTenants bounds the tenants of one call.
const callTenants = 500

// rekeyCall is the body of a call.
type rekeyCall struct {
	V       int         `json:"v"`
	Op      string      `json:"op"`
	Key     string      `json:"key"`
	Tenants []tenant.ID `json:"tenants,omitempty"`
}

// tellAll calls every other live replica. All have to answer: one that goes on with the old key would undo the change.
func (k *rekeyer) tellAll(ctx context.Context, c rekeyCall) error {
	live, err := k.store.LiveReplicas(ctx)
	if err != nil {
		return err
	}
	for _, name := range live {
		if name == k.self {
			continue
		}
		if err := k.tell(ctx, name, c); err != nil {
			return err
		}
	}
	return nil
}

// tellPatience bounds how long a replica that does not answer is waited for: one that died is live until its lease ends, one that
// starts does not answer yet.
const tellPatience = 20 * time.Second

// tellAllSoon is tellAll for when the change has begun and has to go on.
func (k *rekeyer) tellAllSoon(ctx context.Context, c rekeyCall) error {
	for until := time.Now().Add(tellPatience); ; {
		err := k.tellAll(ctx, c)
		if !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.NotFound) || time.Now().After(until) {
			return err
		}
		if stopped := sleep(ctx, passPause); stopped != nil {
			return err
		}
	}
}

func (k *rekeyer) tell(ctx context.Context, replica string, c rekeyCall) error {
	caller := k.caller()
	if caller == nil {
		return fault.New(fault.Unavailable, "replica %s cannot be told: this one has no listen.peer", replica)
	}
	c.V = 1
	for first := true; first || len(c.Tenants) > 0; first = false {
		part := c
		n := min(len(c.Tenants), callTenants)
		part.Tenants, c.Tenants = c.Tenants[:n], c.Tenants[n:]
		body, err := json.Marshal(part)
		if err != nil {
			return err
		}
		if _, err := caller.Call(ctx, replica, peer.Rekey, body); err != nil {
			f := fault.From(err)
			return fault.Wrap(f.Kind, err, "replica %s: %s", replica, f.Detail).After(f.RetryAfter)
		}
	}
	return nil
}

// handle implements peer.Handler.
func (k *rekeyer) handle(ctx context.Context, _ string, body []byte) ([]byte, error) {
	var c rekeyCall
	if err := json.Unmarshal(body, &c); err != nil || c.V < 1 || c.V > 2 {
		return nil, fault.New(fault.Invalid, "the call cannot be read")
	}
	var err error
	switch c.Op {
	case opPrepare, opUse:
		err = k.take(c)
	case opTenants:
		err = k.rewrapAll(ctx, c)
	default:
		err = fault.New(fault.NotImplemented, "this version knows no %.64q: upgrade the replica", c.Op)
	}
	if err != nil {
		return nil, err
	}
	return []byte(`{"v":1}`), nil
}

// take reads the file again, and wraps with the key if that is asked.
func (k *rekeyer) take(c rekeyCall) error {
	if err := k.ring.Reload(); err != nil {
		return fault.Wrap(fault.Conflict, err, "%s", err.Error())
	}
	if !k.ring.Has(c.Key) {
		return fault.New(fault.Conflict, "its kek_file holds no key %.64q, only %s: put the line of the new key there too", c.Key, fmt.Sprint(k.ring.IDs()))
	}
	if c.Op == opUse {
		return k.ring.Use(c.Key)
	}
	return nil
}

func (k *rekeyer) rewrapAll(ctx context.Context, c rekeyCall) error {
	if k.ring.ID() != c.Key { // asked before it was told, or told otherwise since
		return fault.New(fault.Conflict, "this replica wraps with the key %s and not with %.64q", k.ring.ID(), c.Key)
	}
	var first error
	for _, id := range c.Tenants {
		if err := k.rewrapHere(ctx, id); err != nil && first == nil {
			first = err
		}
	}
	return first
}
