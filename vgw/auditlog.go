package vgw

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
)

// AuditLog answers queries of the audit log.
type AuditLog interface {
	// Flush returns once what was recorded here before the call can be read.
	Flush(ctx context.Context) error
	// Query returns a page of records, newest first.
	Query(ctx context.Context, q audit.Query) (*audit.Page, error)
	// Each calls f with every record that matches, newest first, until f fails.
	Each(ctx context.Context, q audit.Query, f func(audit.Record) error) error
}

// Bounds of audit queries.
const (
	flushIn     = 2 * time.Second
	maxExport   = 100_000          // records of an export
	exportIn    = 10 * time.Minute // of an export
	exportChunk = 32 << 10         // bytes written at a time
)

func reportRoutes() []route {
	return []route{
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/usage", Action: authz.UsageRead, Summary: "what the tenant uses, against its limits"}, handle: usage},
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/audit", Action: authz.AuditList, Summary: "audit records: one's own, everybody's for an admin; as JSON, JSON lines or CSV"}, handle: queryAudit},
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/openapi.json", Owner: exchange.OwnerAny, Action: authz.OpenAPIRead, Summary: "this API, described (OpenAPI 3.1)"}, handle: openAPI},
	}
}

// auditView is a page of records.
type auditView struct {
	Items      []audit.Record `json:"items"`
	NextCursor string         `json:"next_cursor,omitzero"`
	Partial    bool           `json:"partial,omitzero"`     // the page is short since its time was up: ask on
	Damaged    int            `json:"damaged,omitzero"`     // lines of the log that are not what was written
	Incomplete []string       `json:"incomplete,omitempty"` // replicas that are away, whose records are missing
}

func queryAudit(ctx context.Context, c *call) (exchange.Decision, error) {
	form, err := auditForm(c.r.Header["Accept"])
	if err != nil {
		return nil, err
	}
	q, err := c.auditQuery(form != "json")
	if err != nil {
		return nil, err
	}
	permit, ok, err := c.admitAudit(&q)
	if err != nil {
		return nil, err
	}
	if !ok {
		return decision(reply(200, auditView{Items: []audit.Record{}}))
	}
	if c.cfg.Audit == nil {
		err := fault.New(fault.Unavailable, "this replica keeps no audit log: set audit.dir")
		permit.Done(err)
		return nil, err
	}
	c.flushAudit(ctx)
	if form != "json" {
		return c.exportAudit(permit, q, form), nil
	}
	d, err := c.pageAudit(ctx, q)
	permit.Done(err)
	return decision(d, err)
}

// flushAudit has what the caller just did be found. What cannot be flushed in time is found later.
func (c *call) flushAudit(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushIn)
	defer cancel()
	if err := c.cfg.Audit.Flush(ctx); err != nil {
		c.cfg.Logger.WarnContext(ctx, "the audit log could not be flushed before a query", "tenant", c.e.Scope.String(), "err", err)
	}
}

// admitAudit admits the query to all records, or narrows it to the caller's own; ok is false if it may see none. Which it
// is hangs on the admission: a policy may deny an admin the others' records.
func (c *call) admitAudit(q *audit.Query) (permit *guard.Permit, ok bool, err error) {
	q.Tenant, q.TenantUID = c.e.Scope.ID(), c.e.Scope.UID() // never a predecessor's
	if c.roleMay(authz.AuditListAll) {
		permit, ok, err = admitList(c, authz.AuditListAll, "audit")
		if err != nil || ok {
			return permit, ok, err
		}
	}
	permit, ok, err = admitList(c, authz.AuditList, "audit/own")
	if err != nil || !ok {
		return permit, ok, err
	}
	me := c.r.Visit.Principal().Ref()
	if q.Principal != "" && q.Principal != me { // of others there are none that it may see
		permit.Done(nil)
		return nil, false, nil
	}
	q.Principal = me
	if made, err := epoch(c.e.Record, me); err == nil { // before that, the name was somebody else's
		q.From = later(q.From, made)
	}
	return permit, true, nil
}

// auditForm chooses the form of the answer.
func auditForm(accept []string) (string, error) {
	if len(accept) == 0 {
		return "json", nil
	}
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		t, _, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil {
			continue
		}
		switch t {
		case "text/csv":
			return "csv", nil
		case "application/jsonl", "application/x-ndjson":
			return "jsonl", nil
		case "application/json", "application/*", "*/*":
			return "json", nil
		}
	}
	return "", fault.New(fault.NotAcceptable, "Accept must be application/json, application/jsonl or text/csv")
}

// auditQuery reads the query string.
func (c *call) auditQuery(export bool) (q audit.Query, err error) {
	values, err := url.ParseQuery(c.r.Query)
	if err != nil {
		return q, fault.Wrap(fault.Invalid, err, "the query is malformed")
	}
	for name, given := range values {
		if len(given) > 1 {
			return q, fault.New(fault.Invalid, "the query parameter %.64s is given %d times", name, len(given))
		}
		if err := c.auditFilter(&q, name, given[0], export); err != nil {
			return q, err
		}
	}
	if !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To) {
		return q, fault.New(fault.Invalid, "from is not before to")
	}
	return q, nil
}

func (c *call) auditFilter(q *audit.Query, name, value string, export bool) (err error) {
	if len(value) > 8*maxParam {
		return fault.New(fault.Invalid, "the query parameter %.64q is too long", name)
	}
	switch name {
	case "from":
		q.From, err = moment(name, value)
	case "to":
		q.To, err = moment(name, value)
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
	case "limit":
		most := 1000
		if export {
			most = maxExport
		}
		if q.Limit, err = strconv.Atoi(value); err != nil || q.Limit < 1 || q.Limit > most {
			err = fault.New(fault.Invalid, "limit must be 1 to %d", most)
		}
	case "cursor":
		q.Cursor, err = c.auditCursor(value, export)
	default:
		err = fault.New(fault.Invalid, "the query parameter %.64q is unknown: use from, to, principal, action, outcome, decision, request_id, limit and cursor", name)
	}
	return err
}

func moment(name, value string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return t, fault.New(fault.Invalid, "%s must be a time such as 2026-01-31T15:04:05Z", name)
	}
	return t, nil
}

// auditCursor opens a cursor, which is sealed as those of lists are: it tells of files and places in them.
func (c *call) auditCursor(sealed string, export bool) (string, error) {
	if export {
		return "", fault.New(fault.Invalid, "an export has no cursor: narrow it with from and to")
	}
	plain, err := c.gw.cursors.OpenToken(sealed, c.cursorContext()...)
	if err != nil || len(plain) == 0 {
		return "", fault.New(fault.Invalid, "cursor is none that this list gave to this credential")
	}
	return string(plain), nil
}

func (c *call) pageAudit(ctx context.Context, q audit.Query) (*exchange.Reply, error) {
	p, err := c.cfg.Audit.Query(ctx, q)
	if err != nil {
		return nil, err
	}
	v := auditView{Items: slices.Concat([]audit.Record{}, p.Records), Partial: p.Partial, Damaged: p.Damaged, Incomplete: p.Incomplete}
	if p.Next != "" {
		v.NextCursor = c.gw.cursors.SealToken([]byte(p.Next), c.cursorContext()...)
	}
	return reply(200, v)
}

var errEnough = errors.New("vgw: the export is as long as it may be")

// exportAudit streams what matches.
func (c *call) exportAudit(permit *guard.Permit, q audit.Query, form string) *exchange.Serve {
	limit := q.Limit
	if q.Limit = 0; limit == 0 {
		limit = maxExport
	}
	return &exchange.Serve{Handle: func(ctx context.Context, s exchange.Stream) (err error) {
		defer func() { permit.Done(err) }()
		ctx, cancel := context.WithTimeout(ctx, exportIn)
		defer cancel()
		h := exchange.Header{}
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		out := &chunked{to: s}
		var enc audit.Encoder
		if form == "csv" {
			h.Set("Content-Type", "text/csv; charset=utf-8; header=present")
			h.Set("Content-Disposition", `attachment; filename="audit.csv"`)
			enc = audit.NewCSV(out)
		} else {
			h.Set("Content-Type", "application/jsonl")
			enc = audit.NewJSONLines(out)
		}
		s.Start(200, h)
		n := 0
		err = c.cfg.Audit.Each(ctx, q, func(r audit.Record) error {
			if n++; n > limit {
				return errEnough
			}
			return enc.Encode(r)
		})
		if errors.Is(err, errEnough) {
			err = nil
		}
		return errors.Join(err, enc.Close(), out.flush())
	}}
}

// chunked gathers small writes, each of which a stream would send by itself.
type chunked struct {
	to  io.Writer
	buf []byte
}

// Write implements io.Writer.
func (c *chunked) Write(p []byte) (int, error) {
	c.buf = append(c.buf, p...)
	if len(c.buf) < exportChunk {
		return len(p), nil
	}
	return len(p), c.flush()
}

func (c *chunked) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	_, err := c.to.Write(c.buf)
	c.buf = c.buf[:0]
	return err
}
