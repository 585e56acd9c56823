package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Bounds of a page.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// Query says which records are wanted. Zero fields match everything, but the chain must be named: by Tenant and
// TenantUID, or by Platform.
type Query struct {
	Tenant    tenant.ID // whose records
	TenantUID string    // required with Tenant: an earlier tenant of the same id is another one, whose records are not shown
	AnyUID    bool      // for operators: TenantUID is not asked for
	Platform  bool      // the platform's chain in place of a tenant's

	From      time.Time // at or after
	To        time.Time // before
	Principal string    // "kind:id"
	Action    string    // exact, or a prefix that ends in "*"
	Outcome   string
	Decision  string
	RequestID string

	Limit  int    // of a page: 1 to 1000; 0 = 100
	Cursor string // Page.Next of the page before; "" = the newest
}

// Record is an entry with its place in the log.
type Record struct {
	Entry
	Seq uint64 `json:"seq"` // in its chain
}

// Page is a part of the answer to a query, newest first. Within one log the order is that of writing; logs of several
// replicas are merged by time.
type Page struct {
	Records []Record `json:"records"`
	Next    string   `json:"next,omitempty"`    // where the next page begins; "" = there is none
	Partial bool     `json:"partial,omitempty"` // the budget was spent before the limit was reached: ask on with Next
	Damaged int      `json:"damaged,omitempty"` // lines in the way that are not what was written: see Verify

	// Incomplete names replicas whose records are missing: they have written some of this chain, and are away. "-" is the one
	// replica of a platform that had no other; "?" says that it could not be found out.
	Incomplete []string `json:"incomplete,omitempty"`

	start   string   // the cursor before the first record, if asked for
	after   []string // the cursor behind each record, likewise
	writers []string // of the logs in this folder; "" = chains without a replica's name
}

// filter is a query made ready to be applied to lines.
type filter struct {
	q        Query
	chain    string   // without the name of its writer
	from, to int64    // unix nanoseconds, to is excluded
	prefix   string   // of the action
	needles  [][]byte // texts that every matching line contains
}

// newFilter checks q. The faults are Invalid.
func newFilter(q Query) (*filter, error) {
	f := &filter{q: q, chain: string(q.Tenant), from: math.MinInt64, to: math.MaxInt64}
	switch {
	case q.Platform && q.Tenant != "":
		return nil, fault.New(fault.Invalid, "the query names a tenant and the platform: use one of them")
	case q.Platform:
		f.chain = PlatformChain
	case q.Tenant == "":
		return nil, fault.New(fault.Invalid, "the query names no tenant")
	case q.TenantUID == "" && !q.AnyUID:
		return nil, fault.New(fault.Invalid, "the query does not say which tenant of the id %s: use its uid", q.Tenant)
	case q.Limit < 0 || q.Limit > maxLimit:
		return nil, fault.New(fault.Invalid, "limit %d: use 1 to %d", q.Limit, maxLimit)
	}
	if c := (cursor{rest: []byte(f.chain), ok: true}); c.name() != f.chain || baseOf(f.chain) != f.chain {
		return nil, fault.New(fault.Invalid, "the query names a tenant that cannot be: use a-z, 0-9 and -")
	}
	if !q.From.IsZero() {
		f.from = nanos(q.From)
	}
	if !q.To.IsZero() {
		f.to = nanos(q.To)
	}
	if f.q.Limit == 0 {
		f.q.Limit = defaultLimit
	}
	if q.AnyUID || q.Platform {
		f.q.TenantUID = ""
	}
	f.search()
	return f, nil
}

// search makes the needles. They are in the form in which EncodeEntry writes them, so that a line without one cannot match.
func (f *filter) search() {
	exact := map[string]string{"tenant_uid": f.q.TenantUID, "principal": f.q.Principal, "outcome": f.q.Outcome,
		"decision": f.q.Decision, "request_id": f.q.RequestID, "action": f.q.Action}
	if prefix, ok := strings.CutSuffix(f.q.Action, "*"); ok {
		f.prefix, f.q.Action = prefix, ""
		exact["action"] = ""
		if prefix != "" {
			f.needles = append(f.needles, bytes.TrimSuffix(needle("action", prefix), []byte(`"`)))
		}
	}
	for key, value := range exact {
		if value != "" {
			f.needles = append(f.needles, needle(key, value))
		}
	}
}

func needle(key, value string) []byte {
	b, err := json.Marshal(value)
	if err != nil { // a string always can
		return nil
	}
	return append([]byte(`"`+key+`":`), ascii(b)...)
}

// may says whether the text of a line can match.
func (f *filter) may(text []byte) bool {
	for _, n := range f.needles {
		if !bytes.Contains(text, n) {
			return false
		}
	}
	return true
}

// matches says whether an entry is wanted.
func (f *filter) matches(e *Entry) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	t := nanos(e.Time)
	return is(f.q.TenantUID, e.TenantUID) && is(f.q.Principal, e.Principal) && is(f.q.Action, e.Action) &&
		strings.HasPrefix(e.Action, f.prefix) && is(f.q.Outcome, e.Outcome) && is(f.q.Decision, e.Decision) &&
		is(f.q.RequestID, e.RequestID) && t >= f.from && t < f.to
}

// Query returns a page of records, newest first. What was recorded within the drain's last interval may not be in it: see
// Drain.Flush. The work of one call is bounded: a page may be short, or empty, and Partial.
func (r *Reader) Query(ctx context.Context, q Query) (*Page, error) { return r.query(ctx, q, false) }

// query is Query; with marks, the page has the cursor behind each of its records.
func (r *Reader) query(ctx context.Context, q Query, marks bool) (*Page, error) {
	f, err := newFilter(q)
	if err != nil {
		return nil, err
	}
	at, err := parsePosition(q.Cursor, q.digest())
	if err != nil {
		return nil, err
	}
	logs, err := r.list()
	if err != nil {
		return nil, err
	}
	m := &merge{page: &Page{Records: []Record{}}, budget: r.budget(), marks: marks}
	defer m.close()
	for _, l := range logs {
		if err := m.add(ctx, r, l, f, at); err != nil {
			return nil, err
		}
	}
	err = m.fill(ctx, f)
	if m.page.Partial = errors.Is(err, errSpent); err != nil && !m.page.Partial {
		return nil, err
	}
	if m.page.Next = m.next(at.query); marks && len(m.page.after) > 0 && m.page.Next == "" {
		m.page.after[len(m.page.after)-1] = "" // nothing that matches lies behind it
	}
	m.page.Partial = m.page.Partial && m.page.Next != ""
	return m.page, nil
}

// Each calls f with every record that matches q, newest first, until f returns an error, which it returns. Limit is not
// regarded.
func (r *Reader) Each(ctx context.Context, q Query, f func(Record) error) error {
	q.Limit = maxLimit
	for {
		p, err := r.Query(ctx, q)
		if err != nil {
			return err
		}
		for i := range p.Records {
			if err := f(p.Records[i]); err != nil {
				return err
			}
		}
		if q.Cursor = p.Next; p.Next == "" {
			return nil
		}
	}
}

// merge puts the records of several logs in one order.
type merge struct {
	logs    []*logFiles
	walkers []*walker
	marks   bool // a cursor behind each record is wanted
	page    *Page
	budget  *budget
}

// add adds the chains of a log that are asked for: one for each writer that the log has had.
func (m *merge) add(ctx context.Context, r *Reader, l *logFiles, f *filter, at position) error {
	m.logs = append(m.logs, l)
	writers, err := r.writers(ctx, l, m.budget)
	if err != nil {
		return err
	}
	for _, writer := range writers {
		m.page.writers = append(m.page.writers, writer)
		chain := f.chain
		if writer != "" {
			chain += "@" + writer
		}
		start := logPosition{bound: math.MaxUint64}
		if at.logs != nil {
			p, ok := at.logs[l.id(writer)]
			if !ok { // read to its end, or begun after the first page
				continue
			}
			start = p
		}
		m.walkers = append(m.walkers, &walker{
			r: r, log: l, f: f, budget: m.budget, damaged: &m.page.Damaged, at: start, chain: chain, id: l.id(writer),
		})
	}
	return nil
}

// fill takes the newest of the walkers' records until the page is full.
func (m *merge) fill(ctx context.Context, f *filter) error {
	for len(m.page.Records) < f.q.Limit {
		var newest *walker
		for _, w := range m.walkers {
			if err := w.find(ctx); err != nil {
				return err
			}
			if w.found != nil && (newest == nil || w.found.Time.After(newest.found.Time)) {
				newest = w
			}
		}
		if m.marks && len(m.page.Records) == 0 {
			m.page.start = m.next(f.q.digest())
		}
		if newest == nil {
			return nil
		}
		m.page.Records = append(m.page.Records, *newest.found)
		id := newest.found.ID
		for _, w := range m.walkers { // a copy, or what a dead replica wrote and another one took over
			if w.found != nil && w.found.ID == id {
				w.found = nil
			}
		}
		if m.marks {
			m.page.after = append(m.page.after, m.next(f.q.digest()))
		}
	}
	return nil
}

// next returns the cursor to where the walkers stand, "" if all are at their end.
func (m *merge) next(query [8]byte) string {
	p := position{query: query, logs: make(map[logID]logPosition)}
	for _, w := range m.walkers {
		if w.done {
			continue
		}
		at := w.at
		if w.found != nil {
			at.bound = w.found.Seq + 1
		}
		p.logs[w.id] = at
	}
	if len(p.logs) == 0 {
		return ""
	}
	return p.String()
}

func (m *merge) close() {
	for _, w := range m.walkers {
		w.closeFile()
	}
	for _, l := range m.logs {
		l.close()
	}
}
