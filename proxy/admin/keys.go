package admin

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

func (s *Server) listKeys(c *call) (*answer, error) {
	id, scope, e, missing, err := s.subject(c)
	if err != nil {
		return nil, err
	}
	if err := c.read(authz.KeyList, "tenant/"+string(id)+"/key", scope, func() error { return missing }); err != nil {
		return nil, err
	}
	list := KeyList{Items: renderTenant(e.Record).Keys}
	used := s.lastUsed(c, scope)
	for i := range list.Items {
		list.Items[i].LastUsed = used[list.Items[i].ID]
	}
	return &answer{status: http.StatusOK, body: list}, nil
}

// lastUsed returns when the tenant's keys were last used. Not to know it is no reason to show no keys.
func (s *Server) lastUsed(c *call, scope tenant.Scope) map[string]time.Time {
	if s.cfg.KeyUse == nil {
		return nil
	}
	used, err := s.cfg.KeyUse.LastUsed(c.ctx, scope)
	if err != nil {
		s.cfg.Logger.WarnContext(c.ctx, "the last use of keys cannot be read", "tenant", scope.String(), "error", err)
	}
	return used
}

func (s *Server) getKey(c *call) (*answer, error) {
	id, scope, e, missing, err := s.subject(c)
	if err != nil {
		return nil, err
	}
	var key *tenant.Key
	err = c.read(authz.KeyList, keyResource(id, c.args["key"]), scope, func() error {
		if missing != nil {
			return missing
		}
		k, ok := e.Record.KeyByName(c.args["key"])
		if !ok {
			return fault.New(fault.NotFound, "no such key")
		}
		key = k
		return nil
	})
	if err != nil {
		return nil, err
	}
	shown := renderKey(e.Record, key)
	shown.LastUsed = s.lastUsed(c, scope)[key.ID]
	return &answer{status: http.StatusOK, body: shown}, nil
}

// keyResource names a key in an audit record. A name that no key can have is left out: the record is not the place for it.
func keyResource(id tenant.ID, name string) string {
	if tenant.CheckName("key name", name, false) != nil {
		name = "?"
	}
	return "tenant/" + string(id) + "/key/" + name
}

// createKey makes a key of 256 random bits and answers with it. This answer is the only place where it ever appears, so a
// request that is sent again cannot be answered with the same: with an Idempotency-Key or without, it is a conflict, and
// whoever lost the answer revokes that key and creates another.
func (s *Server) createKey(c *call) (*answer, error) {
	var req KeyRequest
	if err := decode(c.http, &req, false); err != nil {
		return nil, err
	}
	if err := tenant.CheckName("name", req.Name, false); err != nil {
		return nil, err
	}
	expires, err := end(req.Expires, req.ExpiresIn, s.cfg.Now())
	if err != nil {
		return nil, err
	}
	secret, hash := s.cfg.NewKey()
	key := tenant.Key{
		ID: uuid.NewString(), Name: req.Name, Hash: hash, Role: cmp.Or(req.Role, tenant.Editor), Expires: expires,
		Source: tenant.SourceAPI, Created: s.cfg.Now().UTC(),
	}
	e, err := s.edit(c, authz.KeyCreate, "/key/"+key.Name, nil, func(r *tenant.Record) error {
		if taken(r, key.Name) {
			return fault.New(fault.Conflict, "the name %q is in use by another key of this tenant: revoke that one first, or choose another name; if an earlier answer was lost, its key cannot be shown again", key.Name)
		}
		if len(r.Keys) >= tenant.MaxKeys {
			return fault.New(fault.Conflict, "the tenant has %d keys, and may have %d: revoke one first", len(r.Keys), tenant.MaxKeys)
		}
		r.Keys = append(r.Keys, key)
		return nil
	})
	if err != nil {
		return nil, err
	}
	shownOnce := renderKey(e.Record, &key)
	shownOnce.Key = secret
	location := "/api/v1/tenants/" + url.PathEscape(c.args["id"]) + "/keys/" + key.ID
	return &answer{status: http.StatusCreated, body: shownOnce, location: location}, nil
}

// taken says whether a name would be ambiguous: keys are named by name or by id.
func taken(r *tenant.Record, name string) bool {
	_, ok := r.KeyByName(name)
	return ok
}

func (s *Server) revokeKey(c *call) (*answer, error) {
	id, err := tenant.ParseID(c.args["id"])
	if err != nil {
		return nil, err
	}
	name := c.args["key"]
	sub := keyResource(id, name)[len("tenant/"+string(id)):]
	_, err = s.edit(c, authz.KeyRevoke, sub, nil, func(r *tenant.Record) error {
		i := slices.IndexFunc(r.Keys, func(k tenant.Key) bool { return k.ID == name || k.Name == name })
		if i < 0 {
			return fault.New(fault.NotFound, "no such key")
		}
		if r.Keys[i].Source == tenant.SourceFile && !s.removed(r) {
			return fault.New(fault.Conflict, "key %q is declared in %s: remove it there", r.Keys[i].Name, cmp.Or(r.File, "a file"))
		}
		r.Keys = slices.Delete(r.Keys, i, i+1)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusNoContent}, nil
}

// How long a key with an end is good. One without an end has no bound.
const (
	leastKeyLife = time.Minute
	mostKeyLife  = 365 * 24 * time.Hour
)

// end returns when a key shall end, from a time or a number of seconds; zero if neither is given.
func end(at *time.Time, in *int64, now time.Time) (time.Time, error) {
	var until time.Time
	field := "expires_in_seconds"
	switch {
	case at == nil && in == nil:
		return time.Time{}, nil
	case at != nil && in != nil:
		return time.Time{}, fault.New(fault.Invalid, "expires and expires_in_seconds are both given: use one")
	case at != nil:
		until, field = at.UTC(), "expires"
	case *in >= 0 && *in <= int64(mostKeyLife/time.Second):
		until = now.Add(time.Duration(*in) * time.Second).UTC()
	}
	if life := until.Sub(now); life < leastKeyLife || life > mostKeyLife {
		return time.Time{}, fault.New(fault.Invalid, "%s: a key ends between a minute and a year from now, or never if neither is given", field)
	}
	return until.Truncate(time.Second), nil
}
