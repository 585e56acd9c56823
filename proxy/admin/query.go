package admin

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// maxFilter bounds a filter of the audit query, in bytes. The cursor, which names every log, may be longer.
const (
	maxFilter      = 512
	maxAuditCursor = 8 << 10
)

// auditFilter reads the query of GET /api/v1/audit. It is always about the platform's own chain: what is recorded of a
// tenant is for its members, and an operator is none.
func auditFilter(values url.Values) (audit.Query, error) {
	q := audit.Query{Platform: true}
	for name, list := range values {
		most := maxFilter
		if name == "cursor" {
			most = maxAuditCursor
		}
		if len(list) != 1 || len(list[0]) > most {
			return q, fault.New(fault.Invalid, "query parameter %.64q: use it once, with at most %d bytes", name, most)
		}
		if err := setFilter(&q, name, list[0]); err != nil {
			return q, err
		}
	}
	return q, nil
}

func setFilter(q *audit.Query, name, value string) (err error) {
	switch name {
	case "from":
		q.From, err = time.Parse(time.RFC3339, value)
	case "to":
		q.To, err = time.Parse(time.RFC3339, value)
	case "limit":
		if q.Limit, err = strconv.Atoi(value); err != nil || q.Limit < 1 || q.Limit > maxLimit {
			return fault.New(fault.Invalid, "limit %.64q is no number from 1 to %d", value, maxLimit)
		}
	case "principal":
		q.Principal = value
	case "action":
		q.Action = value
	case "outcome":
		q.Outcome = value
	case "decision":
		q.Decision = value
	case "request_id":
		q.RequestID = value
	case "cursor":
		q.Cursor = value
	default:
		return fault.New(fault.Invalid, "query parameter %.64q is unknown: use from, to, principal, action, outcome, decision, request_id, limit and cursor", name)
	}
	if err != nil {
		return fault.New(fault.Invalid, "%s %.64q is no time such as 2026-01-31T12:00:00Z", name, value)
	}
	return nil
}

// auditQuery answers with a page of the platform's chain.
func (s *Server) auditQuery(c *call) (*answer, error) {
	q, err := auditFilter(c.http.URL.Query())
	if err != nil {
		return nil, err
	}
	var page *audit.Page
	err = c.read(authz.AuditRead, "audit", tenant.Scope{}, func() error {
		if s.cfg.Audits == nil {
			return fault.New(fault.NotFound, "this gateway keeps no audit log that can be asked")
		}
		if err := s.cfg.Audits.Flush(c.ctx); err != nil {
			return fault.Wrap(fault.Unavailable, err, "the audit log cannot be read now")
		}
		page, err = s.cfg.Audits.Query(c.ctx, q)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusOK, body: RecordList{Items: append([]audit.Record{}, page.Records...), NextCursor: page.Next, Partial: page.Partial, Damaged: page.Damaged, Incomplete: page.Incomplete}}, nil
}

// openAPI answers with the description of this surface.
func (s *Server) openAPI(c *call) (*answer, error) {
	err := c.read(authz.OpenAPIRead, "openapi", tenant.Scope{}, func() error {
		if len(s.cfg.OpenAPI) == 0 {
			return notFound()
		}
		return nil
	})
	return &answer{status: http.StatusOK, raw: s.cfg.OpenAPI}, err
}
