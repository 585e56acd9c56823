package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/vgw/sandbox"
)

// placePrefix is where the platform keeps which tenant has which namespace.
const placePrefix = "place"

// Times of the janitor.
const (
	janitorEvery = 10 * time.Second
	janitorLock  = "places"
	eraseIn      = 30 * time.Second // one try
)

// place is which tenant has a namespace.
type place struct {
	V       int       `json:"v"`
	Tenant  tenant.ID `json:"tenant"`
	UID     string    `json:"uid"` // of the tenant
	Adopted bool      `json:"adopted,omitempty"`
	Since   time.Time `json:"since"`
}

// places keeps, for the whole platform, which tenant has which namespace: it is stored before a namespace is made, so that a
// tenant that is deleted meanwhile leaves no namespace that nobody knows of, and so that no two tenants share one.
type places struct {
	vault *registry.Vault
	now   func() time.Time
}

func placeKey(namespace string) string { return placePrefix + "/" + namespace }

// Claim implements kube.Places.
func (p *places) Claim(ctx context.Context, namespace string, s tenant.Scope, adopted bool) error {
	for range 3 { // another replica may be at it
		have, revision, err := p.get(ctx, namespace)
		switch {
		case err != nil:
			return err
		case revision != 0 && have.UID == s.UID() && have.Adopted == adopted:
			return nil
		case revision != 0 && have.UID != s.UID():
			return fault.New(fault.Conflict, "namespace %s belongs to another tenant", namespace)
		}
		value, err := json.Marshal(place{V: 1, Tenant: s.ID(), UID: s.UID(), Adopted: adopted, Since: p.now().UTC()})
		if err != nil {
			return err
		}
		key := placeKey(namespace)
		_, err = p.vault.Commit(ctx, vault.Owner{}, vault.Batch{If: []vault.Compare{{Key: key, Revision: revision}}, Puts: []vault.Put{{Key: key, Value: value}}})
		if !fault.Is(err, fault.PreconditionFailed) && !fault.Is(err, fault.Conflict) {
			return err
		}
	}
	return fault.New(fault.Unavailable, "namespace %s is being claimed by others: try again", namespace).After(time.Second)
}

// Release implements kube.Places.
func (p *places) Release(ctx context.Context, namespace string) error {
	_, err := p.vault.Commit(ctx, vault.Owner{}, vault.Batch{Deletes: []string{placeKey(namespace)}})
	return err
}

// get returns what is stored of a namespace; revision 0 = nothing.
func (p *places) get(ctx context.Context, namespace string) (place, int64, error) {
	it, err := p.vault.Get(ctx, vault.Owner{}, placeKey(namespace))
	if fault.Is(err, fault.NotFound) {
		return place{}, 0, nil
	}
	if err != nil {
		return place{}, 0, err
	}
	var v place
	if err := json.Unmarshal(it.Value, &v); err != nil {
		return place{}, 0, fmt.Errorf("read whose namespace %s is: %w", namespace, err)
	}
	return v, it.Revision, nil
}

// janitor removes what deleted tenants left in the cluster. One replica at a time does, and a removal that is broken off goes on
// elsewhere: the place is forgotten last.
type janitor struct {
	places *places
	store  *registry.Store
	eraser sandbox.Eraser
	guards *guard.Set
	wake   chan struct{}
	log    *slog.Logger
}

// hear is called when a tenant changes.
func (j *janitor) hear(_ tenant.ID, e *tenant.Entry) {
	if e == nil {
		select {
		case j.wake <- struct{}{}:
		default:
		}
	}
}

// run works until ctx ends.
func (j *janitor) run(ctx context.Context) error {
	tick := time.NewTicker(janitorEvery)
	defer tick.Stop()
	for {
		if err := j.round(ctx); err != nil && ctx.Err() == nil {
			j.log.Warn("what deleted tenants left could not be removed: it is tried again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-j.wake:
		}
	}
}

func (j *janitor) round(ctx context.Context) error {
	left, err := j.leftovers(ctx)
	if err != nil || len(left) == 0 {
		return err
	}
	lock, ok, err := j.places.vault.TryLock(ctx, janitorLock)
	if err != nil || !ok {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = j.places.vault.Unlock(ctx, lock) // else it ends with our session
	}()
	var all error
	for namespace, p := range left {
		all = errors.Join(all, j.remove(ctx, lock, namespace, p))
	}
	return all
}

// leftovers returns the places whose tenant is gone, by the index: the store is asked before anything is done.
func (j *janitor) leftovers(ctx context.Context) (map[string]place, error) {
	left := make(map[string]place)
	for after := ""; ; {
		items, more, err := j.places.vault.List(ctx, vault.Owner{}, placePrefix, after, 0)
		if err != nil {
			return nil, err
		}
		for _, it := range items {
			after = it.Key
			var p place
			if it.Err != nil || json.Unmarshal(it.Value, &p) != nil {
				continue
			}
			if e, ok := j.store.Index().ByID(p.Tenant); !ok || e.Record.UID != p.UID {
				left[strings.TrimPrefix(it.Key, placePrefix+"/")] = p
			}
		}
		if !more {
			return left, nil
		}
	}
}

func (j *janitor) remove(ctx context.Context, lock vault.Lock, namespace string, p place) error {
	ctx, cancel := context.WithTimeout(ctx, eraseIn)
	defer cancel()
	alive, err := j.store.Exists(ctx, p.Tenant, p.UID)
	if err != nil || alive {
		return err
	}
	done, err := j.eraser.Erase(ctx, namespace, p.UID)
	if err != nil || !done {
		return err
	}
	visit, err := j.guards.Platform().Enter(tenant.System("sandboxes"), guard.Request{ID: "erase-" + audit.NewID()})
	if err != nil {
		return err
	}
	defer visit.Leave()
	permit, err := visit.Admit(guard.Effect{Action: authz.NamespaceDelete, Resource: "namespace/" + namespace})
	if err != nil {
		return err
	}
	entry := permit.Entry(audit.OutcomeOK)
	_, err = j.places.vault.Commit(ctx, vault.Owner{}, vault.Batch{Deletes: []string{placeKey(namespace)}, Fences: []vault.Lock{lock}, Audit: &entry})
	if err := permit.Settle(err); err != nil {
		return err
	}
	j.log.Info("what a deleted tenant left was removed", "tenant", p.Tenant, "namespace", namespace)
	return nil
}
