package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/audit"
)

// auditPage is how many records are asked for at a time: the most that the servers give.
const auditPage = 1000

// The formats of audit records beside the common ones.
const (
	formatCSV   = "csv"
	formatLines = "jsonl"
)

// auditFilter is what the flags of a query say.
type auditFilter struct {
	since, until                                    string
	principal, action, outcome, decision, requestID string
	limit                                           int
}

// auditAnswer is a page of records: a tenant's API and the operators' name its parts differently.
type auditAnswer struct {
	Items   []answered[audit.Record] `json:"items"`
	Next    string                   `json:"next_cursor"`
	Records []answered[audit.Record] `json:"records"`
	After   string                   `json:"next"`
	Damaged int                      `json:"damaged"`

	Incomplete []string `json:"incomplete"`
}

func auditQuery() *cobra.Command {
	s := newScoped(false)
	s.out.more = []string{formatCSV, formatLines}
	var f auditFilter
	var platform bool
	cmd := &cobra.Command{
		Use: "query", Short: "Find audit records: a tenant's, or the platform's",
		Long: `Find records of a tenant's audit log, newest first: all for its admins, one's own for everybody else. With --platform, as an
operator, those of the platform itself. A query covers all replicas, past and present, whose logs the gateway can read.

Times are RFC 3339, or spans before now, such as 90m or 7d. Of an action, the end may be left open: key.*`,
		Example: "  polygate audit query --since 1h --decision deny\n  polygate audit query --principal user:corp/248289761001 --action 'server.*' -o csv --limit 0 > audit.csv\n  polygate audit query --platform --since 24h",
		Args:    cobra.NoArgs,
	}
	operators := adminConnection(&s.settings)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		q, err := f.values(time.Now())
		if err != nil {
			return err
		}
		if platform {
			s.member = operators
		}
		return s.run(cmd, func(ctx context.Context, c *client) error { return s.query(ctx, cmd, c, q, f.limit) })
	}
	flags := cmd.Flags()
	flags.StringVar(&f.since, "since", "", "not before: a time, or a span before now")
	flags.StringVar(&f.until, "until", "", "before: a time, or a span before now")
	flags.StringVar(&f.principal, "principal", "", "of this principal, such as user:corp/248289761001")
	flags.StringVar(&f.action, "action", "", "with this action, such as server.create or key.*")
	flags.StringVar(&f.outcome, "outcome", "", "with this outcome: ok, or a kind of error such as forbidden")
	flags.StringVar(&f.decision, "decision", "", "allow or deny")
	flags.StringVar(&f.requestID, "request-id", "", "of this request")
	flags.IntVar(&f.limit, "limit", 100, "at most this many; 0 = all")
	flags.BoolVar(&platform, "platform", false, "the platform's own records, as an operator")
	_ = cmd.RegisterFlagCompletionFunc("decision", completeWords(audit.Allow, audit.Deny))
	s.bind(cmd)
	operators.bind(cmd)
	return cmd
}

// values returns the query of a request.
func (f *auditFilter) values(now time.Time) (url.Values, error) {
	q := url.Values{}
	for _, p := range []struct{ name, value string }{
		{"principal", f.principal}, {"action", f.action}, {"outcome", f.outcome}, {"decision", f.decision}, {"request_id", f.requestID},
	} {
		if p.value != "" {
			q.Set(p.name, p.value)
		}
	}
	for _, p := range []struct{ name, flag, value string }{{"from", "since", f.since}, {"to", "until", f.until}} {
		if p.value == "" {
			continue
		}
		at, err := moment(p.value, now)
		if err != nil {
			return nil, usage("--%s %q is neither a time such as 2027-01-31T12:00:00Z nor a span such as 90m or 7d", p.flag, p.value)
		}
		q.Set(p.name, at.UTC().Format(time.RFC3339Nano))
	}
	if f.limit < 0 {
		return nil, usage("--limit %d is negative: use 0 for all", f.limit)
	}
	return q, nil
}

// moment reads a time, or a span before now.
func moment(text string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	d, err := parseSpan(text)
	if err == nil && d < 0 {
		err = fmt.Errorf("%s is negative", text)
	}
	return now.Add(-d), err
}

// query follows the pages, and hands each record on as it comes.
func (s *scoped) query(ctx context.Context, cmd *cobra.Command, c *client, q url.Values, limit int) error {
	out, err := s.recordWriter(cmd)
	if err != nil {
		return err
	}
	left, damaged := limit, 0
	var more bool
	away := make(map[string]bool)
	for {
		q.Set("limit", strconv.Itoa(auditPage))
		if limit > 0 {
			q.Set("limit", strconv.Itoa(min(left, auditPage)))
		}
		var page auditAnswer
		if err := c.do(ctx, http.MethodGet, c.path("audit")+"?"+q.Encode(), nil, &page); err != nil {
			return fmt.Errorf("query the audit log: %w", err)
		}
		records, next := append(page.Items, page.Records...), page.Next+page.After
		for i := range records {
			if err := out.write(&records[i]); err != nil {
				return err
			}
		}
		for _, name := range page.Incomplete {
			away[name] = true
		}
		left, damaged, more = left-len(records), damaged+page.Damaged, next != ""
		if !more || next == q.Get("cursor") || limit > 0 && left <= 0 {
			break
		}
		q.Set("cursor", next)
	}
	if err := out.close(); err != nil {
		return err
	}
	if damaged > 0 {
		_ = tell(cmd, "polygate: %d lines of the log are not what was written: an operator finds them with \"polygate audit verify\"", damaged)
	}
	if len(away) > 0 {
		_ = tell(cmd, "polygate: records are missing: these replicas are away: %s", strings.Join(slices.Sorted(maps.Keys(away)), ", "))
	}
	if more {
		_ = tell(cmd, "there are more: raise --limit, or use --limit 0 for all")
	}
	return nil
}

// recordWriter writes audit records in the format that was asked for.
type recordWriter struct {
	write func(*answered[audit.Record]) error
	close func() error
}

func (s *scoped) recordWriter(cmd *cobra.Command) (*recordWriter, error) {
	out := cmd.OutOrStdout()
	encode := func(e audit.Encoder) *recordWriter {
		return &recordWriter{func(r *answered[audit.Record]) error { return e.Encode(r.is) }, e.Close}
	}
	switch s.out.format {
	case formatCSV:
		return encode(audit.NewCSV(out)), nil
	case formatLines:
		return encode(audit.NewJSONLines(out)), nil
	}
	list := &listing[audit.Record]{Items: []answered[audit.Record]{}}
	return &recordWriter{
		write: func(r *answered[audit.Record]) error { list.Items = append(list.Items, *r); return nil },
		close: func() error { return printList(cmd, &s.out, list, recordColumns()) },
	}, nil
}

func recordColumns() []column[audit.Record] {
	return []column[audit.Record]{
		{"TIME", func(r *audit.Record) string { return stamp(r.Time) }}, {"PRINCIPAL", func(r *audit.Record) string { return r.Principal }},
		{"ACTION", func(r *audit.Record) string { return r.Action }}, {"RESOURCE", func(r *audit.Record) string { return r.Resource }},
		{"DECISION", func(r *audit.Record) string { return r.Decision }}, {"OUTCOME", func(r *audit.Record) string { return r.Outcome }},
		{"RULE", func(r *audit.Record) string { return r.Rule }}, {"REQUEST ID", func(r *audit.Record) string { return r.RequestID }},
	}
}
