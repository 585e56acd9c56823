package admin

import (
	"cmp"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
)

// ReasonRemoved is the suspend_reason of a tenant that vanished from the file that declared it. Such a tenant may be
// deleted here, and is resumed only by the file.
const ReasonRemoved = "removed from tenants.yaml"

// defaultReason is the suspend_reason where the operator gives none.
const defaultReason = "suspended by an operator"

// change admits a change, has it committed together with its audit record, and records the attempt if it fails.
func (c *call) change(a authz.Action, resource string, subject tenant.Scope, commit func(audit.Entry) error) error {
	p, err := c.visit.Admit(guard.Effect{Action: a, Resource: resource, Subject: subject})
	if err != nil {
		return err
	}
	return p.Settle(commit(p.Entry(audit.OutcomeOK)))
}

// read admits a look and records it.
func (c *call) read(a authz.Action, resource string, subject tenant.Scope, look func() error) error {
	p, err := c.visit.Admit(guard.Effect{Action: a, Resource: resource, Subject: subject})
	if err != nil {
		return err
	}
	err = look()
	p.Done(err)
	return err
}

// subject finds the tenant of the path. An absent one is an entry without scope and fault.NotFound, which the caller
// returns from within its permit, so that the attempt is in the platform's chain.
func (s *Server) subject(c *call) (id tenant.ID, scope tenant.Scope, e *tenant.Entry, missing, err error) {
	if id, err = tenant.ParseID(c.args["id"]); err != nil {
		return "", tenant.Scope{}, nil, nil, err
	}
	e, ok := s.cfg.Index.ByID(id)
	if !ok {
		return id, tenant.Scope{}, nil, fault.New(fault.NotFound, "no tenant %q", id), nil
	}
	return id, e.Scope, e, nil, nil
}

// edit runs one change of a tenant's record and answers with the record as it is then. prepare, if not nil, may refuse
// before the transaction begins; apply decides on the very record that is replaced.
func (s *Server) edit(c *call, a authz.Action, sub string, prepare func(*tenant.Record) error, apply func(*tenant.Record) error) (*tenant.Entry, error) {
	id, scope, e, missing, err := s.subject(c)
	if err != nil {
		return nil, err
	}
	var after *tenant.Entry
	err = c.change(a, "tenant/"+string(id)+sub, scope, func(record audit.Entry) error {
		if missing != nil {
			return missing
		}
		rev, err := ifMatch(c.http, e.Record.Revision)
		if err != nil {
			return err
		}
		if prepare != nil {
			if err := prepare(e.Record); err != nil {
				return err
			}
		}
		after, err = s.cfg.Tenants.UpdateTenant(c.ctx, id, rev, apply, record)
		return err
	})
	return after, err
}

func (s *Server) listTenants(c *call) (*answer, error) {
	after, limit, err := page(c.http.URL.Query())
	if err != nil {
		return nil, err
	}
	list := TenantList{Items: []Tenant{}}
	err = c.read(authz.TenantList, "tenant", tenant.Scope{}, func() error {
		entries := s.cfg.Index.List(after, limit+1)
		if len(entries) > limit {
			entries = entries[:limit]
			list.NextCursor = cursor(entries[limit-1].Scope.ID())
		}
		for _, e := range entries {
			list.Items = append(list.Items, renderTenant(e.Record))
		}
		return nil
	})
	return &answer{status: http.StatusOK, body: list}, err
}

func (s *Server) getTenant(c *call) (*answer, error) {
	id, scope, e, missing, err := s.subject(c)
	if err != nil {
		return nil, err
	}
	if err := c.read(authz.TenantRead, "tenant/"+string(id), scope, func() error { return missing }); err != nil {
		return nil, err
	}
	return shown(http.StatusOK, e), nil
}

func shown(status int, e *tenant.Entry) *answer {
	return &answer{status: status, body: renderTenant(e.Record), etag: e.Record.Revision}
}

// decodeSpec reads a body that may hold secrets. What is wrong with it is told without its cause, which may quote a value, and
// would go to the log.
func decodeSpec(r *http.Request) (spec TenantSpec, err error) {
	if err = decode(r, &spec, false); err != nil {
		e := fault.From(err)
		err = fault.New(e.Kind, "%s", e.Detail)
	}
	return spec, err
}

func (s *Server) createTenant(c *call) (*answer, error) {
	spec, err := decodeSpec(c.http)
	if err != nil {
		return nil, err
	}
	id, err := tenant.ParseID(spec.ID)
	if err != nil {
		return nil, err
	}
	r := &tenant.Record{ID: id, State: tenant.StateActive, Source: tenant.SourceAPI}
	var e *tenant.Entry
	err = c.change(authz.TenantCreate, "tenant/"+string(id), tenant.Scope{}, func(record audit.Entry) error {
		if err := cmp.Or(s.checkHosts(spec.Hosts), checkCeilings(spec.Quotas, tenant.Quotas{}, s.cfg.Ceilings), spec.apply(r, s.cfg.Now(), s.cfg.Seal)); err != nil {
			return err
		}
		record.Tenant = id // the tenant has no scope yet; its chain begins with this entry
		if e, err = s.cfg.Tenants.CreateTenant(c.ctx, r, record); err == nil {
			return nil
		}
		if again := s.repeated(c.http, &spec, id); again != nil && fault.Is(err, fault.Conflict) {
			e = again
			return nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	a := shown(http.StatusCreated, e)
	a.location = "/api/v1/tenants/" + string(id)
	return a, nil
}

// repeated returns the tenant that a creation sent again would have made: the request has an idempotency key, and the
// tenant of this id declares just what the request does. So a client that lost the answer learns that it was carried
// out. The idempotency key itself is not kept: equal declarations are the same request.
func (s *Server) repeated(r *http.Request, spec *TenantSpec, id tenant.ID) *tenant.Entry {
	e, ok := s.cfg.Index.ByID(id)
	if !ok || r.Header.Get("Idempotency-Key") == "" || e.Record.Source != tenant.SourceAPI {
		return nil
	}
	want := e.Record.Clone()
	if err := spec.apply(want, s.cfg.Now(), s.cfg.Seal); err != nil || !sameDeclared(want, e.Record) {
		return nil
	}
	return e
}

// sameDeclared compares what a TenantSpec sets.
func sameDeclared(a, b *tenant.Record) bool {
	return a.DisplayName == b.DisplayName && a.Namespace == b.Namespace && a.State == b.State && a.SuspendReason == b.SuspendReason &&
		a.Mode == b.Mode && reflect.DeepEqual(a.Dedicated, b.Dedicated) && slices.Equal(a.Hosts, b.Hosts) &&
		reflect.DeepEqual(a.Passthrough, b.Passthrough) && reflect.DeepEqual(a.TLS, b.TLS) && reflect.DeepEqual(a.Certificates, b.Certificates) &&
		a.Quotas == b.Quotas && reflect.DeepEqual(a.Sandboxes, b.Sandboxes) && slices.Equal(a.AllowedOrigins, b.AllowedOrigins) && slices.Equal(a.Keys, b.Keys)
}

func (s *Server) putTenant(c *call) (*answer, error) {
	spec, err := decodeSpec(c.http)
	if err != nil {
		return nil, err
	}
	if id := c.args["id"]; spec.ID != "" && spec.ID != id {
		return nil, fault.New(fault.Invalid, "the body names tenant %q, the path %q: a tenant cannot be renamed", spec.ID, id)
	}
	e, err := s.edit(c, authz.TenantUpdate, "",
		func(now *tenant.Record) error {
			if err := fromFile(now); err != nil {
				return err
			}
			if err := cmp.Or(s.checkHosts(spec.Hosts), checkCeilings(spec.Quotas, now.Quotas, s.cfg.Ceilings)); err != nil {
				return err
			}
			return s.checkServers(c, spec.Quotas.MaxServers)
		},
		func(r *tenant.Record) error {
			if err := fromFile(r); err != nil {
				return err
			}
			return spec.apply(r, s.cfg.Now(), s.cfg.Seal)
		})
	if err != nil {
		return nil, err
	}
	return shown(http.StatusOK, e), nil
}

// fromFile refuses to change what a file declares: the next reload would undo it.
func fromFile(r *tenant.Record) error {
	if r.Source != tenant.SourceFile {
		return nil
	}
	return fault.New(fault.Conflict, "tenant %s is declared in %s: change it there", r.ID, cmp.Or(r.File, "a file"))
}

// fromFileState refuses to change a state that a file declares.
func (s *Server) fromFileState(r *tenant.Record) error {
	if r.Source != tenant.SourceFile || s.cfg.StateDeclared == nil || !s.cfg.StateDeclared(r.ID) {
		return nil
	}
	return fault.New(fault.Conflict, "the state of tenant %s is declared in %s: change it there", r.ID, cmp.Or(r.File, "a file"))
}

// checkHosts refuses hosts of the platform's own: who has one would be served in place of the platform.
func (s *Server) checkHosts(hosts []string) error {
	for _, h := range hosts {
		if slices.Contains(s.cfg.Reserved, h) {
			return fault.New(fault.Invalid, "host %q is the platform's own: use another", h)
		}
	}
	return nil
}

// removed says whether a tenant vanished from its file. One that is active was just put back, or is about to be suspended.
func (s *Server) removed(r *tenant.Record) bool {
	if r.Source != tenant.SourceFile || r.State != tenant.StateSuspended {
		return false
	}
	return r.SuspendReason == ReasonRemoved || s.cfg.Declared != nil && !s.cfg.Declared(r.ID)
}

// checkServers refuses a quota below what the tenant uses, which would leave it unable to change anything.
func (s *Server) checkServers(c *call, quota int) error {
	e, ok := s.cfg.Index.ByID(tenant.ID(c.args["id"]))
	if !ok || quota <= 0 || quota == e.Record.Quotas.MaxServers {
		return nil
	}
	n, err := s.cfg.Counts.ServerCount(c.ctx, e)
	if err != nil {
		return err
	}
	if quota < n {
		return fault.New(fault.Conflict, "quotas.max_servers is %d, but the tenant has %d servers: remove some first", quota, n)
	}
	return nil
}

// apply sets what the spec declares in r.
func (spec *TenantSpec) apply(r *tenant.Record, now time.Time, seal sealFunc) error {
	if err := spec.applySandboxes(r); err != nil {
		return err
	}
	r.DisplayName, r.Namespace, r.Quotas = spec.DisplayName, spec.Namespace, spec.Quotas
	r.Mode = cmp.Or(spec.Mode, tenant.ModeVirtual)
	r.AllowedOrigins = nil
	if len(spec.Origins) > 0 {
		r.AllowedOrigins = slices.Clone(spec.Origins)
	}
	if err := spec.applyHosts(r); err != nil {
		return err
	}
	if err := spec.applyTLS(r, seal); err != nil {
		return err
	}
	if err := spec.applyState(r); err != nil {
		return err
	}
	return spec.applyKeys(r, now)
}

func (spec *TenantSpec) applyState(r *tenant.Record) error {
	if spec.State != "" {
		r.State, r.SuspendReason = spec.State, spec.SuspendReason
	} else if spec.SuspendReason != "" {
		return fault.New(fault.Invalid, "suspend_reason is set, but state is not suspended")
	}
	if r.State == tenant.StateActive && r.SuspendReason != "" {
		return fault.New(fault.Invalid, "suspend_reason is set, but state is active")
	}
	if r.State == tenant.StateSuspended {
		r.SuspendReason = cmp.Or(r.SuspendReason, defaultReason)
	}
	return nil
}

// applyKeys sets the keys that the API owns to the declared list. A key that stays, by name and hash, keeps its id.
// The keys of bots are the tenant's own affair.
func (spec *TenantSpec) applyKeys(r *tenant.Record, now time.Time) error {
	if spec.APIKeys == nil {
		return nil
	}
	keys := slices.DeleteFunc(slices.Clone(r.Keys), func(k tenant.Key) bool { return k.Source != tenant.SourceFile && k.Bot == "" })
	for i, want := range *spec.APIKeys {
		if want.KeyHash == (tenant.Hash{}) {
			return fault.New(fault.Invalid, "api_keys[%d] has no key_hash: sha256:<64 hex digits> of the key", i)
		}
		k := tenant.Key{ID: uuid.NewString(), Name: want.Name, Hash: want.KeyHash, Source: tenant.SourceAPI, Created: now.UTC()}
		if old, ok := r.KeyByHash(want.KeyHash); ok && old.Name == want.Name && old.Source == tenant.SourceAPI && old.Bot == "" {
			k = *old
		} else if !want.Expires.IsZero() {
			if _, err := end(&want.Expires, nil, now); err != nil {
				return err
			}
		}
		k.Role, k.Expires = cmp.Or(want.Role, tenant.Editor), want.Expires.UTC().Truncate(time.Second)
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		keys = nil
	}
	r.Keys = keys
	return nil
}

func (s *Server) deleteTenant(c *call) (*answer, error) {
	id, scope, e, missing, err := s.subject(c)
	if err != nil {
		return nil, err
	}
	err = c.change(authz.TenantDelete, "tenant/"+string(id), scope, func(record audit.Entry) error {
		if missing != nil {
			return missing
		}
		rev, err := ifMatch(c.http, e.Record.Revision)
		if err != nil {
			return err
		}
		if e.Record.Source == tenant.SourceFile {
			if !s.removed(e.Record) {
				return fault.New(fault.Conflict, "tenant %s is declared in %s: remove it there first", id, cmp.Or(e.Record.File, "a file"))
			}
			rev = cmp.Or(rev, e.Record.Revision) // the file may take it back at this very moment
		}
		return s.cfg.Tenants.DeleteTenant(c.ctx, id, rev, record)
	})
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusNoContent}, nil
}

// suspendTenant is for operation, so it is open to tenants that a file declares too, unless the file declares their state.
func (s *Server) suspendTenant(c *call) (*answer, error) {
	var req SuspendRequest
	if err := decode(c.http, &req, true); err != nil {
		return nil, err
	}
	e, err := s.edit(c, authz.TenantSuspend, "", nil, func(r *tenant.Record) error {
		if r.Source == tenant.SourceFile && r.SuspendReason == ReasonRemoved {
			return nil // the file that declares it again resumes it by this reason: it stays
		}
		if err := s.fromFileState(r); err != nil {
			return err
		}
		r.State, r.SuspendReason = tenant.StateSuspended, cmp.Or(req.Reason, defaultReason)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return shown(http.StatusOK, e), nil
}

func (s *Server) resumeTenant(c *call) (*answer, error) {
	e, err := s.edit(c, authz.TenantResume, "", nil, func(r *tenant.Record) error {
		if s.removed(r) {
			return fault.New(fault.Conflict, "tenant %s was removed from %s: put it back there, or delete it", r.ID, cmp.Or(r.File, "its file"))
		}
		if err := s.fromFileState(r); err != nil {
			return err
		}
		r.State, r.SuspendReason = tenant.StateActive, ""
		return nil
	})
	if err != nil {
		return nil, err
	}
	return shown(http.StatusOK, e), nil
}

func (s *Server) auditHeads(c *call) (*answer, error) {
	body := map[string]any{}
	err := c.read(authz.AuditRead, "audit/heads", tenant.Scope{}, func() error {
		heads, err := s.cfg.Heads.Heads(c.ctx)
		body["heads"] = heads
		return err
	})
	return &answer{status: http.StatusOK, body: body}, err
}
