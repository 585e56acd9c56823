package admin

import (
	"net/http"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// applySandboxes sets what the spec declares of the tenant's sandboxes. A namespace is not exchanged under what runs in it.
func (spec *TenantSpec) applySandboxes(r *tenant.Record) error {
	if r.Awake && spec.Namespace != r.Namespace {
		return fault.New(fault.Conflict, "tenant %s has sandboxes in its namespace: delete or stop them before it gets another one", r.ID)
	}
	next := spec.Sandboxes.Clone()
	had := r.Sandboxes != nil && r.Sandboxes.Hardened
	if next != nil {
		kept := had && next.Adopted && spec.Namespace == r.Namespace
		if next.Hardened && !kept {
			return fault.New(fault.Invalid, "sandboxes.hardened is set by hardening the tenant (polygate tenant harden), not by a declaration")
		}
		next.Hardened = kept
	}
	r.Sandboxes = next
	return nil
}

// hardenTenant ends the observation of an adopted namespace: from now on it is brought in shape, and kept so.
func (s *Server) hardenTenant(c *call) (*answer, error) {
	e, err := s.edit(c, authz.TenantHarden, "", nil, func(r *tenant.Record) error {
		if r.Sandboxes == nil || !r.Sandboxes.Adopted {
			return fault.New(fault.Conflict, "the namespace of tenant %s is not adopted: it is hard from the beginning", r.ID)
		}
		settings := r.Sandboxes.Clone()
		settings.Hardened = true
		r.Sandboxes = settings
		return nil
	})
	if err != nil {
		return nil, err
	}
	return shown(http.StatusOK, e), nil
}
