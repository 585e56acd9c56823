package admin

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
)

// healthPath answers without a token: it says that the listener is up and nothing else.
const healthPath = "/healthz"

// platformCertificates is where the certificates of the platform's own hosts are.
const platformCertificates = "/api/v1/certificates"

// Route is one operation of the surface. Routes are data, so that tests and documents are made from them.
type Route struct {
	Method  string
	Pattern string       // segments; {name} stands for exactly one
	Action  authz.Action // what it admits; empty = open to everyone
	Summary string       // one line for people

	do func(*call) (*answer, error)
}

// Routes returns the surface.
func (s *Server) Routes() []Route { return slices.Clone(s.routes) }

func (s *Server) table() []Route {
	const (
		tenants = "/api/v1/tenants"
		one     = tenants + "/{id}"
		keys    = one + "/keys"
		members = one + "/members"
	)
	return slices.Concat([]Route{
		{http.MethodGet, healthPath, "", "whether the listener is up", func(*call) (*answer, error) { return nil, notFound() }},
		{http.MethodGet, tenants, authz.TenantList, "list tenants", s.listTenants},
		{http.MethodPost, tenants, authz.TenantCreate, "create a tenant", s.createTenant},
		{http.MethodGet, one, authz.TenantRead, "read a tenant", s.getTenant},
		{http.MethodPut, one, authz.TenantUpdate, "replace a tenant's declared fields", s.putTenant},
		{http.MethodDelete, one, authz.TenantDelete, "erase a tenant with all its state", s.deleteTenant},
		{http.MethodPost, one + "/suspend", authz.TenantSuspend, "stop serving a tenant, keeping its state", s.suspendTenant},
		{http.MethodPost, one + "/resume", authz.TenantResume, "serve a suspended tenant again", s.resumeTenant},
		{http.MethodPost, one + "/harden", authz.TenantHarden, "bring a tenant's adopted namespace in the shape of one of ours", s.hardenTenant},
		{http.MethodGet, keys, authz.KeyList, "list a tenant's API keys", s.listKeys},
		{http.MethodPost, keys, authz.KeyCreate, "create an API key, shown once", s.createKey},
		{http.MethodGet, keys + "/{key}", authz.KeyList, "read an API key's name, role and hash", s.getKey},
		{http.MethodDelete, keys + "/{key}", authz.KeyRevoke, "revoke an API key by id or name", s.revokeKey},
		{http.MethodGet, members, authz.MemberList, "list a tenant's members", s.listMembers},
		{http.MethodPost, members, authz.MemberCreate, "give a user or a group a role", s.createMember},
		{http.MethodGet, members + "/{member}", authz.MemberRead, "read a member", s.getMember},
		{http.MethodPatch, members + "/{member}", authz.MemberUpdate, "change a member's role", s.updateMember},
		{http.MethodDelete, members + "/{member}", authz.MemberDelete, "take a member's role away", s.deleteMember},
		{http.MethodGet, one + "/usage", authz.UsageRead, "read what a tenant uses, and its limits", s.usage},
		{http.MethodGet, "/api/v1/audit", authz.AuditRead, "query the platform's own audit records", s.auditQuery},
		{http.MethodGet, "/api/v1/openapi.json", authz.OpenAPIRead, "read the description of this API", s.openAPI},
		{http.MethodGet, "/api/v1/audit/heads", authz.AuditRead, "read the anchored heads of all audit chains", s.auditHeads},
		{http.MethodGet, one + "/hosts", authz.HostList, "list a tenant's hosts, and those that it asked for", s.listHosts},
	}, s.replicaRoutes(one), s.archiveRoutes(one), s.secretRoutes(), s.storeRoutes(), s.certificateRoutes(one+"/certificates", "a tenant's certificate"), s.certificateRoutes(platformCertificates, "a certificate of the platform's own"))
}

// certificateRoutes are the same for those of a tenant and the platform's own.
func (s *Server) certificateRoutes(all, what string) []Route {
	one := all + "/{host}"
	return []Route{
		{http.MethodGet, all, authz.CertificateList, "list " + what + " of each host, without keys", s.listCertificates},
		{http.MethodGet, one, authz.CertificateRead, "read " + what + ", with its chain", s.getCertificate},
		{http.MethodPut, one, authz.CertificateUpdate, "provide " + what + " with its key", s.putCertificate},
		{http.MethodDelete, one, authz.CertificateDelete, "take back " + what + " that is stored", s.deleteCertificate},
		{http.MethodPost, one + "/renew", authz.CertificateRenew, "have " + what + " ordered anew", s.renewCertificate},
		{http.MethodPost, one + "/revoke", authz.CertificateRevoke, "revoke " + what + ", which is not served any more", s.revokeCertificate},
	}
}

func notFound() error { return fault.New(fault.NotFound, "no such path") }

// route finds the operation of a request. path is escaped, so that an escaped slash cannot make a segment.
func (s *Server) route(method, path string) (*Route, map[string]string, error) {
	var allow []string
	for i := range s.routes {
		args, ok := match(s.routes[i].Pattern, path)
		if !ok {
			continue
		}
		if want := s.routes[i].Method; method == want || method == http.MethodHead && want == http.MethodGet {
			return &s.routes[i], args, nil
		}
		allow = append(allow, s.routes[i].Method)
		if s.routes[i].Method == http.MethodGet {
			allow = append(allow, http.MethodHead)
		}
	}
	if allow == nil {
		return nil, nil, notFound()
	}
	allowed := strings.Join(allow, ", ")
	return nil, nil, &fault.Error{Kind: fault.MethodNotAllowed, Detail: "this path allows " + allowed, Allow: allowed}
}

// match compares an escaped path with a pattern, segment by segment, and returns the values of its {names}.
func match(pattern, path string) (map[string]string, bool) {
	want, got := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return nil, false
	}
	args := make(map[string]string, 2)
	for i, w := range want {
		name, isVar := strings.CutPrefix(w, "{")
		if !isVar {
			if w != got[i] {
				return nil, false
			}
			continue
		}
		value, err := url.PathUnescape(got[i])
		if err != nil || value == "" {
			return nil, false
		}
		args[strings.TrimSuffix(name, "}")] = value
	}
	return args, true
}
