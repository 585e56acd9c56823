package vgw

import (
	"context"
	"errors"
	"fmt"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
)

// DataKeyKind and DataKeyID name the object that is a tenant's data key, for who changes it where no gateway is open.
const (
	DataKeyKind = kindDataKey
	DataKeyID   = idDataKey
)

// errOneKey says that the Mux was made with a key-encryption key that knows no other.
var errOneKey = errors.New("vgw: Config.Keys holds one key: there is nothing to change to")

// Rewrap has a tenant's data key wrapped by the key-encryption key that is in force now, by the claim of the tenant's gateway. open
// is false where none is open here: then nothing was done. The gateway serves on: the data key is the same.
func (m *Mux) Rewrap(ctx context.Context, e *tenant.Entry) (open bool, err error) {
	if !m.hasOpen(e) {
		return false, nil
	}
	in, err := m.enter(ctx, e)
	if err != nil {
		return true, err
	}
	defer in.leave()
	return true, m.rewrap(ctx, in.gw)
}

// hasOpen says whether a tenant's gateway is open here, or being opened.
func (m *Mux) hasOpen(e *tenant.Entry) bool {
	m.mu.RLock()
	s := m.slots[e.Scope.ID()]
	m.mu.RUnlock()
	if s == nil || s.scope != e.Scope {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.op != nil || s.gw != nil && s.gw.ctx.Err() == nil
}

func (m *Mux) rewrap(ctx context.Context, gw *Gateway) error {
	objects, err := gw.claim.Load(ctx, kindDataKey)
	if err != nil {
		return fmt.Errorf("load the data key: %w", err)
	}
	for _, o := range objects {
		if o.ID != idDataKey {
			continue
		}
		envelope, changed, err := RewrapDataKey(m.cfg.Keys, gw.scope, o.Value)
		if err != nil || !changed {
			return err
		}
		return m.commitDataKey(ctx, gw, envelope)
	}
	return nil
}

// RewrapDataKey wraps the stored data key of a tenant by the key-encryption key that is in force now.
func RewrapDataKey(w seal.Wrapper, s tenant.Scope, envelope []byte) (next []byte, changed bool, err error) {
	ring, ok := w.(seal.Rewrapper)
	if !ok {
		return nil, false, fault.Wrap(fault.Internal, errOneKey, "")
	}
	next, changed, err = ring.Rewrap(envelope, s.UID(), kindDataKey, idDataKey)
	if err != nil {
		return nil, false, fmt.Errorf("wrap the data key of %s anew: %w", s, err)
	}
	return next, changed, nil
}

func (m *Mux) commitDataKey(ctx context.Context, gw *Gateway, envelope []byte) error {
	visit, err := m.cfg.Guards.Platform().Enter(tenant.System("rekey"), guard.Request{})
	if err != nil {
		return err
	}
	defer visit.Leave()
	permit, err := visit.Admit(guard.Effect{Action: authz.SecretRekey, Resource: kindDataKey + "/" + idDataKey, Subject: gw.scope})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitIn)
	defer cancel()
	return permit.Settle(gw.claim.Commit(ctx, permit.Entry(audit.OutcomeOK), tenant.Write{Kind: kindDataKey, ID: idDataKey, Value: envelope}))
}
