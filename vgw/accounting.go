package vgw

import (
	"bytes"
	"encoding/csv"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/vgw/sandbox"
)

// maxLines bounds the lines of a report.
const maxLines = 20_000

// accountView is what sandboxes used over a time. Lines are of what is stored: what runs used since is in a later report.
type accountView struct {
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	GroupBy []string  `json:"group_by"`
	Own     bool      `json:"own"` // it is of the caller's own sandboxes alone
	// AccountedUntil is until when all is added up: sums of before do not change any more.
	AccountedUntil time.Time `json:"accounted_until"`
	// Hours are kept for 8 days and days for 400, fewer where they would take too much room: from when on there are some.
	HourlyFrom time.Time     `json:"hourly_from,omitzero"`
	DailyFrom  time.Time     `json:"daily_from,omitzero"`
	Items      []accountLine `json:"items"`
}

// accountLine is one sum. Amounts are of what was requested, and of what was used: measured in measured_seconds, and taken to be as
// requested in the others.
type accountLine struct {
	From  time.Time `json:"from"`
	To    time.Time `json:"to"`
	Owner string    `json:"owner,omitempty"`
	// Epoch tells users of one name apart: when their authenticator was made.
	Epoch time.Time `json:"authenticator_created,omitzero"`

	Seconds         float64 `json:"sandbox_seconds"`
	Measured        float64 `json:"measured_seconds"`
	CPURequested    float64 `json:"cpu_core_seconds_requested"`
	CPUUsed         float64 `json:"cpu_core_seconds_used"`
	MemoryRequested float64 `json:"memory_gib_seconds_requested"`
	MemoryUsed      float64 `json:"memory_gib_seconds_used"`
	GPU             float64 `json:"gpu_seconds"`
	Storage         float64 `json:"storage_gib_seconds"`
	Sessions        int64   `json:"sessions"`
	Bytes           int64   `json:"session_bytes"`
}

// columns are those of the CSV, in the order of accountLine's fields.
func columns() []string {
	return []string{
		"from", "to", "owner", "authenticator_created", "sandbox_seconds", "measured_seconds", "cpu_core_seconds_requested", "cpu_core_seconds_used",
		"memory_gib_seconds_requested", "memory_gib_seconds_used", "gpu_seconds", "storage_gib_seconds", "sessions", "session_bytes",
	}
}

// asksForReport says whether a request for the usage is for a report over a time, and not for what is used now.
func (c *call) asksForReport() bool {
	if c.r.Query != "" {
		return true
	}
	form, err := reportForm("", c.r.Header["Accept"])
	return err == nil && form == "csv"
}

// accounting answers with a report of what sandboxes used: of everybody's for those who may read all of the audit, else of one's own.
func accounting(c *call) (exchange.Decision, error) {
	q, form, err := c.reportQuery()
	if err != nil {
		return nil, err
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.UsageRead, Resource: "usage"})
	if err != nil {
		return nil, err
	}
	d, err := c.report(q, form)
	permit.Done(err)
	return decision(d, err)
}

func (c *call) report(q sandbox.Query, form string) (*exchange.Reply, error) {
	manager, err := c.sandboxes()
	if err != nil {
		return nil, err
	}
	all := manager.Snapshot()
	own := !c.r.Visit.MayDo(guard.Effect{Action: authz.AuditListAll, Resource: "audit"})
	if own {
		q.Only = c.payer()
		all = slices.DeleteFunc(slices.Clone(all), func(s *sandbox.Sandbox) bool { return sandbox.PayerOf(s) != *q.Only })
	}
	r, err := c.gw.boxes.books.meter().Report(q)
	if err != nil {
		return nil, err
	}
	v := accountView{
		From: q.From, To: q.To, GroupBy: groups(q), Own: own, AccountedUntil: sandbox.AccountedUntil(all, c.now().UTC()),
		HourlyFrom: r.HourlyFrom, DailyFrom: r.DailyFrom, Items: make([]accountLine, 0, len(r.Lines)),
	}
	for _, l := range r.Lines {
		v.Items = append(v.Items, viewLine(l))
	}
	if form == "csv" {
		return v.csv()
	}
	return reply(200, v)
}

// payer is whom the caller's own use is of.
func (c *call) payer() *sandbox.Payer {
	p := &sandbox.Payer{Owner: c.r.Visit.Principal().Ref()}
	if made, err := epoch(c.e.Record, p.Owner); err == nil && !made.IsZero() {
		p.Epoch = made.Unix()
	}
	return p
}

func viewLine(l sandbox.Line) accountLine {
	v := accountLine{
		From: l.From, To: l.To, Owner: l.Payer.Owner, Seconds: l.Seconds(), Measured: l.MeasuredSeconds(), GPU: l.GPUSeconds(), Storage: l.StorageGiBSeconds(),
		Sessions: l.Sessions, Bytes: l.Bytes,
	}
	if l.Payer.Epoch != 0 {
		v.Epoch = time.Unix(l.Payer.Epoch, 0).UTC()
	}
	v.CPURequested, v.CPUUsed = l.CoreSeconds()
	v.MemoryRequested, v.MemoryUsed = l.MemoryGiBSeconds()
	return v
}

func (v *accountView) csv() (*exchange.Reply, error) {
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	rows := [][]string{columns()}
	for i := range v.Items {
		rows = append(rows, v.Items[i].row())
	}
	if err := w.WriteAll(rows); err != nil {
		return nil, err
	}
	h := exchange.Header{}
	h.Set("Content-Type", "text/csv; charset=utf-8; header=present")
	h.Set("Content-Disposition", `attachment; filename="usage.csv"`)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	return &exchange.Reply{Status: 200, Header: h, Body: out.Bytes()}, nil
}

func (l *accountLine) row() []string {
	n := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
	at := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339)
	}
	return []string{
		at(l.From), at(l.To), l.Owner, at(l.Epoch), n(l.Seconds), n(l.Measured), n(l.CPURequested), n(l.CPUUsed), n(l.MemoryRequested), n(l.MemoryUsed),
		n(l.GPU), n(l.Storage), strconv.FormatInt(l.Sessions, 10), strconv.FormatInt(l.Bytes, 10),
	}
}

// reportQuery reads the query string. Without from a report begins with the month, without to it ends now.
func (c *call) reportQuery() (q sandbox.Query, form string, err error) {
	values, err := url.ParseQuery(c.r.Query)
	if err != nil {
		return q, "", fault.Wrap(fault.Invalid, err, "the query is malformed")
	}
	for name, given := range values {
		switch {
		case !slices.Contains([]string{"from", "to", "group_by", "format"}, name):
			return q, "", fault.New(fault.Invalid, "the query parameter %.64q is unknown: use from, to, group_by and format", name)
		case len(given) > 1:
			return q, "", fault.New(fault.Invalid, "the query parameter %s is given %d times", name, len(given))
		case given[0] == "" || len(given[0]) > maxParam:
			return q, "", fault.New(fault.Invalid, "the query parameter %s is empty or too long", name)
		}
	}
	q.Max = maxLines
	if q.From, q.To, err = c.reportTime(values); err != nil {
		return q, "", err
	}
	if q.ByOwner, q.By, err = grouping(values.Get("group_by")); err != nil {
		return q, "", err
	}
	form, err = reportForm(values.Get("format"), c.r.Header["Accept"])
	return q, form, err
}

func (c *call) reportTime(values url.Values) (from, to time.Time, err error) {
	to = c.now().UTC().Truncate(time.Second)
	if values.Has("to") {
		if to, err = moment("to", values.Get("to")); err != nil {
			return from, to, err
		}
	}
	y, m, _ := to.UTC().Date()
	from = time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)
	if values.Has("from") {
		if from, err = moment("from", values.Get("from")); err != nil {
			return from, to, err
		}
	}
	if !from.Before(to) {
		return from, to, fault.New(fault.Invalid, "from is not before to")
	}
	return from.UTC(), to.UTC(), nil
}

// grouping reads group_by: owner, and one of hour, day and month, in any order; or none.
func grouping(text string) (byOwner bool, by string, err error) {
	if text == "" || text == "none" {
		return false, "", nil
	}
	for one := range strings.SplitSeq(text, ",") {
		switch {
		case one == "owner" && !byOwner:
			byOwner = true
		case (one == "hour" || one == "day" || one == "month") && by == "":
			by = one
		default:
			return false, "", fault.New(fault.Invalid, "group_by must be owner, or one of hour, day and month, or both with a comma between; or none")
		}
	}
	return byOwner, by, nil
}

func groups(q sandbox.Query) []string {
	all := []string{}
	if q.ByOwner {
		all = append(all, "owner")
	}
	if q.By != "" {
		all = append(all, q.By)
	}
	return all
}

// reportForm chooses json or csv: what format says, else what is accepted.
func reportForm(format string, accept []string) (string, error) {
	switch format {
	case "json", "csv":
		return format, nil
	case "":
	default:
		return "", fault.New(fault.Invalid, "format must be json or csv")
	}
	form, err := auditForm(accept)
	if err != nil || form == "jsonl" {
		return "", fault.New(fault.NotAcceptable, "Accept must be application/json or text/csv")
	}
	return form, nil
}
