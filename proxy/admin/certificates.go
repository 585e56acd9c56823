package admin

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Certificates keeps the certificates of hosts: a tenant's, or the platform's own where the entry is nil. It is safe for
// concurrent use. Its answers hold no key. A host that is not the tenant's, or the platform's, is fault.NotFound. A change
// commits the entry with what it changes, or neither; ifRevision is the Revision of the certificate that it is of, else
// fault.PreconditionFailed, and 0 any. Errors are shown to operators, so they say what is wrong and where, and nothing of a
// key.
type Certificates interface {
	// List returns the state of each host.
	List(ctx context.Context, e *tenant.Entry) ([]tenant.Certificate, error)
	// Get returns the state of one host, with the chain.
	Get(ctx context.Context, e *tenant.Entry, host string) (tenant.Certificate, error)
	// Import checks chain and key, both PEM, against each other and the host, and serves them from then on; fault.Invalid.
	Import(ctx context.Context, e *tenant.Entry, host string, chain, key []byte, ifRevision int64, entry audit.Entry) (tenant.Certificate, error)
	// Renew has a new one ordered, and does not wait for it.
	Renew(ctx context.Context, e *tenant.Entry, host string, entry audit.Entry) (tenant.Certificate, error)
	// Revoke stops serving what there is, and tells its issuer, for a reason of RFC 5280 §5.3.1.
	Revoke(ctx context.Context, e *tenant.Entry, host string, reason int, entry audit.Entry) (tenant.Certificate, error)
	// Remove takes back what is stored.
	Remove(ctx context.Context, e *tenant.Entry, host string, ifRevision int64, entry audit.Entry) error
}

// maxPair bounds a chain and its key together, in bytes.
const maxPair = 128 << 10

// Certificate is the certificate of a host as operators see it. There is no field that a key could be in.
type Certificate struct {
	tenant.Certificate
	ResourceVersion string `json:"resource_version,omitempty"` // also the ETag; none where nothing is stored
}

// CertificateList is all certificates of a tenant, or of the platform, sorted by host.
type CertificateList struct {
	Items []Certificate `json:"items"`
}

// CertificateRequest is a chain, leaf first, and its private key, both PEM. It is handed to Certificates and nobody else, and
// has no place in an error, a log or a record.
type CertificateRequest struct {
	Chain string `json:"chain"`
	Key   string `json:"key"`
}

// RevocationRequest is the body of a revocation.
type RevocationRequest struct {
	Reason int `json:"reason,omitzero"` // of RFC 5280 §5.3.1; default: 0, unspecified
}

func renderCertificate(c tenant.Certificate) Certificate {
	v := Certificate{Certificate: c}
	if c.Revision > 0 {
		v.ResourceVersion = strconv.FormatInt(c.Revision, 10)
	}
	return v
}

func shownCertificate(status int, c tenant.Certificate) *answer {
	return &answer{status: status, body: renderCertificate(c), etag: c.Revision}
}

// holding is whose certificates a request is about: those of the tenant that the path names, or the platform's own.
type holding struct {
	keeper   Certificates
	entry    *tenant.Entry // nil = the platform
	scope    tenant.Scope
	resource string
	missing  error // returned from within the permit, so that the attempt is recorded
}

func (s *Server) holding(c *call) (holding, error) {
	h := holding{keeper: s.cfg.Certificates}
	if c.args["id"] != "" {
		id, scope, e, missing, err := s.subject(c)
		if err != nil {
			return h, err
		}
		h.entry, h.scope, h.missing, h.resource = e, scope, missing, "tenant/"+string(id)+"/"
	}
	h.resource += "certificate"
	if host := c.args["host"]; host != "" {
		if tenant.CheckSubject("host", host) != nil || strings.Contains(host, "/") {
			host = "?"
		}
		h.resource += "/" + host
	}
	if h.missing == nil && h.keeper == nil {
		h.missing = fault.New(fault.Unavailable, "this gateway is not configured to keep certificates")
	}
	return h, nil
}

func (s *Server) listCertificates(c *call) (*answer, error) {
	h, err := s.holding(c)
	if err != nil {
		return nil, err
	}
	list := CertificateList{Items: []Certificate{}}
	err = c.read(authz.CertificateList, h.resource, h.scope, func() error {
		if h.missing != nil {
			return h.missing
		}
		all, err := h.keeper.List(c.ctx, h.entry)
		for _, cert := range all {
			cert.Chain = ""
			list.Items = append(list.Items, renderCertificate(cert))
		}
		slices.SortFunc(list.Items, func(a, b Certificate) int { return strings.Compare(a.Host, b.Host) })
		return err
	})
	return &answer{status: http.StatusOK, body: list}, err
}

func (s *Server) getCertificate(c *call) (*answer, error) {
	h, err := s.holding(c)
	if err != nil {
		return nil, err
	}
	var cert tenant.Certificate
	err = c.read(authz.CertificateRead, h.resource, h.scope, func() error {
		if h.missing != nil {
			return h.missing
		}
		cert, err = h.keeper.Get(c.ctx, h.entry, c.args["host"])
		return err
	})
	if err != nil {
		return nil, err
	}
	return shownCertificate(http.StatusOK, cert), nil
}

// changeCertificate has f make an admitted change of the certificate that the path names. It goes on when the caller leaves:
// a revocation that an issuer was told of is one.
func (s *Server) changeCertificate(c *call, a authz.Action, f func(ctx context.Context, h holding, host string, e audit.Entry) error) error {
	h, err := s.holding(c)
	if err != nil {
		return err
	}
	return c.change(a, h.resource, h.scope, func(e audit.Entry) error {
		if h.missing != nil {
			return h.missing
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), requestTimeout)
		defer cancel()
		return f(ctx, h, c.args["host"], e)
	})
}

// revision returns the revision that an If-Match binds a change to; 0 = none. A tag never fits where nothing is stored.
func (h holding) revision(ctx context.Context, r *http.Request, host string) (int64, error) {
	if rev, err := ifMatch(r, 0); rev == 0 || err != nil {
		return 0, err
	}
	have, err := h.keeper.Get(ctx, h.entry, host)
	if err != nil {
		return 0, err
	}
	rev, err := ifMatch(r, have.Revision)
	if err != nil {
		return 0, err
	}
	if rev != have.Revision {
		return 0, fault.New(fault.PreconditionFailed, "the certificate of %s has changed since: read it again", host)
	}
	return rev, nil
}

func (s *Server) putCertificate(c *call) (*answer, error) {
	pair, err := decodePair(c.http)
	if err != nil {
		return nil, err
	}
	var cert tenant.Certificate
	err = s.changeCertificate(c, authz.CertificateUpdate, func(ctx context.Context, h holding, host string, e audit.Entry) error {
		rev, err := h.revision(ctx, c.http, host)
		if err != nil {
			return err
		}
		cert, err = h.keeper.Import(ctx, h.entry, host, []byte(pair.Chain), []byte(pair.Key), rev, e)
		return pair.without(err)
	})
	if err != nil {
		return nil, err
	}
	return shownCertificate(http.StatusOK, cert), nil
}

func (s *Server) deleteCertificate(c *call) (*answer, error) {
	err := s.changeCertificate(c, authz.CertificateDelete, func(ctx context.Context, h holding, host string, e audit.Entry) error {
		rev, err := h.revision(ctx, c.http, host)
		if err != nil {
			return err
		}
		return h.keeper.Remove(ctx, h.entry, host, rev, e)
	})
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusNoContent}, nil
}

func (s *Server) renewCertificate(c *call) (*answer, error) {
	if err := decode(c.http, &struct{}{}, true); err != nil {
		return nil, err
	}
	var cert tenant.Certificate
	err := s.changeCertificate(c, authz.CertificateRenew, func(ctx context.Context, h holding, host string, e audit.Entry) (err error) {
		cert, err = h.keeper.Renew(ctx, h.entry, host, e)
		return err
	})
	if err != nil {
		return nil, err
	}
	return shownCertificate(http.StatusAccepted, cert), nil
}

func (s *Server) revokeCertificate(c *call) (*answer, error) {
	var req RevocationRequest
	if err := decode(c.http, &req, true); err != nil {
		return nil, err
	}
	switch req.Reason {
	case 0, 1, 3, 4, 5:
	default: // the others of RFC 5280 are for issuers alone
		return nil, fault.New(fault.Invalid, "reason must be 0 (unspecified), 1 (the key is compromised), 3 (affiliation changed), 4 (superseded) or 5 (cessation of operation)")
	}
	var cert tenant.Certificate
	err := s.changeCertificate(c, authz.CertificateRevoke, func(ctx context.Context, h holding, host string, e audit.Entry) (err error) {
		cert, err = h.keeper.Revoke(ctx, h.entry, host, req.Reason, e)
		return err
	})
	if err != nil {
		return nil, err
	}
	return shownCertificate(http.StatusOK, cert), nil
}

// decodePair reads a chain and its key.
func decodePair(r *http.Request) (pair CertificateRequest, err error) {
	switch err = decode(r, &pair, false); {
	case fault.Is(err, fault.Invalid):
		return CertificateRequest{}, discreet(err)
	case err != nil:
		return CertificateRequest{}, err
	case pair.Chain == "" || pair.Key == "":
		return CertificateRequest{}, fault.New(fault.Invalid, "chain or key is missing: send both, as PEM")
	case len(pair.Chain)+len(pair.Key) > maxPair:
		return CertificateRequest{}, fault.New(fault.TooLarge, "chain and key are over %d bytes together", maxPair)
	}
	return pair, nil
}

// discreet says what is wrong with a body that holds a key. Its cause, which goes to the log, may quote a value; and what
// stands in the place of a field's name may be anything, as where somebody sends PEM for JSON.
func discreet(err error) error {
	var at jsontext.Pointer
	var syntax *jsontext.SyntacticError
	var semantic *json.SemanticError
	if errors.As(err, &syntax) {
		at = syntax.JSONPointer
	} else if errors.As(err, &semantic) {
		at = semantic.JSONPointer
	}
	name := at.LastToken()
	if name != "" && len(name) <= 32 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") == "" {
		return fault.New(fault.Invalid, "the field %q is unknown, repeated or no text: send chain and key, each once, as PEM in a JSON string", name)
	}
	return fault.New(fault.Invalid, "the body is not a JSON object with chain and key, each once, as PEM in a string")
}

// without returns err without what it may quote of the key.
func (p CertificateRequest) without(err error) error {
	return fault.Hide(err, "chain or key is not what it should be; what is wrong would show the key, so it is not told", p.Key)
}
