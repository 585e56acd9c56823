// Package audit keeps the record of who did what: entries, the hash chain of each tenant that makes any flip, drop,
// reordering or cut of them visible, the drain that moves entries from the registry's outbox and from a bounded buffer
// into the chains, and the check of a chain against its anchored head. What is worth an entry is decided by package
// guard; where outbox and heads are stored, by package registry.
package audit

import (
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/tenant"
)

// PlatformChain is the chain of what concerns no tenant. It is no tenant id, and no tenant id can equal it.
const PlatformChain = "_platform"

// The decisions and outcomes of an entry.
const (
	Allow     = "allow"
	Deny      = "deny"
	OutcomeOK = "ok" // every other outcome is the name of a fault.Kind
)

// Entry is one audit record. It names things and outcomes, and never holds a secret, an argument or a payload.
type Entry struct {
	ID        string    `json:"id"`                   // UUIDv7: unique, sorts roughly by time
	Time      time.Time `json:"time"`                 // of the decision, UTC
	Tenant    tenant.ID `json:"tenant,omitempty"`     // whose chain it is in; empty = PlatformChain
	TenantUID string    `json:"tenant_uid,omitempty"` // tells a tenant from an earlier one of the same id
	Replica   string    `json:"replica,omitempty"`    // which replica decided
	Principal string    `json:"principal"`            // "kind:id", see tenant.Principal.Ref
	Name      string    `json:"name,omitempty"`       // the principal's name
	Role      string    `json:"role,omitempty"`       // its role in the tenant
	Action    string    `json:"action"`               // see package authz
	Resource  string    `json:"resource,omitempty"`   // what it was done to, such as "server/everything"
	Decision  string    `json:"decision"`             // Allow or Deny
	Rule      string    `json:"rule,omitempty"`       // which rule decided
	Outcome   string    `json:"outcome,omitempty"`    // OutcomeOK or the name of a fault.Kind
	RequestID string    `json:"request_id,omitempty"` // as in X-Request-Id and the log
	Millis    int64     `json:"ms,omitempty"`         // from admission to the end, milliseconds
	Issuer    string    `json:"issuer,omitempty"`     // who vouched for the principal: the issuer of its token or certificate
	KeyID     string    `json:"key_id,omitempty"`     // which key, token or certificate it came with: its id, never itself
	Via       string    `json:"via,omitempty"`        // how it was authenticated, one of the Via constants
	Bundle    string    `json:"bundle,omitempty"`     // digest of the policy bundle that took part in the decision
	Remote    string    `json:"remote,omitempty"`     // the client's address
}

// How a principal was authenticated.
const (
	ViaAPIKey      = "apikey"
	ViaOIDC        = "oidc"
	ViaCookie      = "cookie"
	ViaMTLS        = "mtls"
	ViaUpstream    = "upstream" // by the headers of a trusted proxy
	ViaTokenReview = "tokenreview"
	ViaToken       = "token" // the operators' token
)

// Chain returns the name of the chain that e belongs to.
func (e *Entry) Chain() string {
	if e.Tenant == "" {
		return PlatformChain
	}
	return string(e.Tenant)
}

// NewID returns an id for an entry made at this moment.
func NewID() string {
	id, err := uuid.NewV7()
	if err != nil { // only if the system's randomness fails, where nothing else works either
		return uuid.NewString()
	}
	return id.String()
}
