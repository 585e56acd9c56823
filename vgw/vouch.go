package vgw

import (
	"encoding/pem"
	"net/netip"
	"slices"
	"strings"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// mayReplace refuses a change by which others could come in as members to whom the caller may not give their role:
// an admin who has its own address, certificates or audience believed is every admin of the authenticator, and can make
// more of them, also after its own role was taken away.
func (c *call) mayReplace(r *tenant.Record, next *tenant.Authenticator) error {
	have, ok := r.AuthenticatorByName(next.Name)
	if !ok || have.Source == tenant.SourceFile {
		return nil // refused anyhow
	}
	field := widened(have, next)
	if field == "" {
		return nil
	}
	for i := range r.Members {
		m := &r.Members[i]
		if m.Authenticator != have.Name || authz.MayGrant(c.r.Visit.Principal(), m.Role) {
			continue
		}
		e := fault.New(fault.Forbidden, "authenticator %q has members of the role %s, and with this %s others could come in as them: change their roles first, and have a platform operator give them again", have.Name, m.Role, field)
		e.Reason = e.Detail
		return e
	}
	return nil
}

// widened returns the field of next by which it believes something that have does not; "" if there is none. The two have
// the same naming, or next is refused for that.
func widened(have, next *tenant.Authenticator) string {
	switch {
	case have.OIDC != nil && next.OIDC != nil:
		return widenedOIDC(have.OIDC, next.OIDC)
	case have.MTLS != nil && next.MTLS != nil:
		return first(condition{"mtls.ca", otherRoots(have.MTLS.CA, next.MTLS.CA)}, condition{"mtls.groups", next.MTLS.Groups && !have.MTLS.Groups})
	case have.Upstream != nil && next.Upstream != nil:
		return widenedUpstream(have.Upstream, next.Upstream)
	case have.Kubernetes != nil && next.Kubernetes != nil:
		return first(condition{"kubernetes.audiences", otherChoice(have.Kubernetes.Audiences, next.Kubernetes.Audiences)})
	}
	return ""
}

// widenedOIDC: a token for another audience is one that another service was sent, and can send on.
func widenedOIDC(have, next *tenant.OIDC) string {
	clients := len(have.ClientIDs) > 0 && otherChoice(have.ClientIDs, next.ClientIDs) // none are any client
	return first(
		condition{"oidc.audiences", otherChoice(have.Audiences, next.Audiences)}, condition{"oidc.client_ids", clients},
		condition{"oidc.claims.groups", have.Claims.Groups != next.Claims.Groups}, condition{"oidc.ca", otherRoots(have.CA, next.CA)},
	)
}

func widenedUpstream(have, next *tenant.UpstreamUsers) string {
	sources := slices.ContainsFunc(next.Sources, func(p netip.Prefix) bool {
		return !slices.ContainsFunc(have.Sources, func(h netip.Prefix) bool { return h.Bits() <= p.Bits() && h.Contains(p.Addr()) })
	})
	roots := next.CA != "" && otherRoots(have.CA, next.CA) // none believe no certificate
	groups := next.Groups != "" && !strings.EqualFold(have.Groups, next.Groups)
	return first(
		condition{"upstream.sources", sources}, condition{"upstream.ca", roots},
		condition{"upstream.names", others(have.Names, next.Names)}, condition{"upstream.groups_header", groups},
	)
}

// condition is a field, and whether it is one that is looked for.
type condition struct {
	field string
	holds bool
}

// first returns the field of the first condition that holds.
func first(list ...condition) string {
	for _, c := range list {
		if c.holds {
			return c.field
		}
	}
	return ""
}

// others says whether next holds anything that have does not.
func others(have, next []string) bool {
	return slices.ContainsFunc(next, func(s string) bool { return !slices.Contains(have, s) })
}

// otherChoice is others for lists of which an empty one stands for a choice of its own.
func otherChoice(have, next []string) bool {
	return (len(have) == 0) != (len(next) == 0) || others(have, next)
}

// otherRoots says whether next holds a certificate that have does not; no certificates stand for others, the system's.
func otherRoots(have, next string) bool { return otherChoice(certificates(have), certificates(next)) }

// certificates returns those of a PEM text, each as its bytes.
func certificates(text string) (list []string) {
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		list = append(list, string(block.Bytes))
	}
	return list
}
