package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// reportFlags ask for a report of what was used over a time, in place of what is used now.
type reportFlags struct {
	from, to string
	groupBy  []string
}

func (f *reportFlags) bind(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.from, "from", "", "what sandboxes used from then on: a time such as 2027-01-01T00:00:00Z, or a span before now such as 7d")
	cmd.Flags().StringVar(&f.to, "to", "", "and before then (default: now)")
	cmd.Flags().StringSliceVar(&f.groupBy, "group-by", nil, "a line for each of these: owner, and hour, day or month; several with commas")
	_ = cmd.RegisterFlagCompletionFunc("group-by", completeWords("owner", "hour", "day", "month"))
}

// wanted says whether a report is asked for.
func (f *reportFlags) wanted(format string) bool {
	return f.from != "" || f.to != "" || len(f.groupBy) > 0 || format == formatCSV
}

func (f *reportFlags) values(now time.Time) (url.Values, error) {
	q := url.Values{}
	for _, p := range []struct{ name, value string }{{"from", f.from}, {"to", f.to}} {
		if p.value == "" {
			continue
		}
		at, err := moment(p.value, now)
		if err != nil {
			return nil, usage("--%s %q is neither a time such as 2027-01-31T12:00:00Z nor a span such as 90m or 7d", p.name, p.value)
		}
		q.Set(p.name, at.UTC().Format(time.RFC3339))
	}
	if len(f.groupBy) > 0 {
		q.Set("group_by", strings.Join(f.groupBy, ","))
	}
	return q, nil
}

// usageReport prints what was used. A table is made of the CSV, whose columns are for people, too.
func (s *scoped) usageReport(ctx context.Context, cmd *cobra.Command, c *client, q url.Values) error {
	path := c.path("usage") + "?" + q.Encode()
	out := cmd.OutOrStdout()
	if s.out.isData() {
		var report json.RawMessage
		if err := c.do(ctx, http.MethodGet, path, nil, &report); err != nil {
			return fmt.Errorf("usage: %w", err)
		}
		return s.out.data(out, report)
	}
	resp, err := c.stream(ctx, path, "text/csv", nil)
	if err != nil {
		return fmt.Errorf("usage: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	bounded := io.LimitReader(resp.Body, maxAnswer)
	if s.out.format == formatCSV {
		_, err = io.Copy(out, bounded)
		return err
	}
	rows, err := csv.NewReader(bounded).ReadAll()
	if err == nil && len(rows) == 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("%s answered no report: is this the right URL? (%w)", c.base, err)
	}
	rows = filledColumns(rows)
	for i, head := range rows[0] {
		rows[0][i] = clean(strings.ToUpper(strings.ReplaceAll(head, "_", " ")))
	}
	return printTable(out, rows[0], rows[1:])
}

// filledColumns leaves out the columns in which no row has anything. The first row are their names; all have the same length.
func filledColumns(rows [][]string) [][]string {
	out := make([][]string, len(rows))
	for i := range rows[0] {
		filled := len(rows) == 1
		for _, row := range rows[1:] {
			filled = filled || row[i] != ""
		}
		for n, row := range rows {
			if filled {
				out[n] = append(out[n], row[i])
			}
		}
	}
	return out
}
