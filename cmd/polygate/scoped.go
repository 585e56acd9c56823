package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// scoped is what commands share that a tenant's own callers use on the tenant's host, and some of which operators use, too.
type scoped struct {
	settings settings
	member   *connection
	operator *connection // nil if the operators' API has none of it
	tenant   string
	out      printer
}

// newScoped returns the base of commands that are for a tenant's callers and, with operators, for these too.
func newScoped(operators bool) *scoped {
	s := &scoped{}
	s.member = tenantConnection(&s.settings)
	if operators {
		s.operator = adminConnection(&s.settings)
	}
	return s
}

func (s *scoped) bind(cmd *cobra.Command) {
	s.settings.bind(cmd)
	s.member.bind(cmd)
	if s.operator != nil {
		s.operator.bind(cmd)
		cmd.PersistentFlags().StringVar(&s.tenant, "tenant", "", "as an operator, this tenant's (default $POLYGATE_TENANT, if there is no tenant's URL)")
		_ = cmd.RegisterFlagCompletionFunc("tenant", s.completeTenant)
	}
	s.out.bind(cmd)
}

// run opens the client for one command: the operators' if a tenant is named, else the tenant's own.
func (s *scoped) run(cmd *cobra.Command, do func(ctx context.Context, c *client) error) error {
	if err := s.out.check(); err != nil {
		return err
	}
	c, err := s.open(cmd)
	if err != nil {
		return err
	}
	defer c.close()
	return do(cmd.Context(), c)
}

func (s *scoped) open(cmd *cobra.Command) (*client, error) {
	if s.operator == nil {
		return s.member.open(cmd.InOrStdin())
	}
	p, err := s.settings.load()
	if err != nil {
		return nil, err
	}
	id := s.tenant
	if id == "" && !s.member.given() {
		if id = os.Getenv("POLYGATE_TENANT"); id == "" && p.URL == "" {
			id = p.Tenant
		}
		if id == "" && p.URL == "" {
			return nil, usage("%v", errNoTenant)
		}
	}
	if id == "" {
		return s.member.open(cmd.InOrStdin())
	}
	return s.openFor(cmd, id)
}

// openFor opens the operators' client for one tenant.
func (s *scoped) openFor(cmd *cobra.Command, id string) (*client, error) {
	path, err := tenantPath(id)
	if err != nil {
		return nil, err
	}
	c, err := s.operator.open(cmd.InOrStdin())
	if err != nil {
		return nil, err
	}
	c.api, c.operator = path, true
	return c, nil
}

// answered is what a server answered, as it answered it: what this version of the command does not know is printed too.
type answered[T any] struct {
	raw json.RawMessage
	is  T
}

func (o *answered[T]) UnmarshalJSON(b []byte) error {
	o.raw = append(json.RawMessage(nil), b...)
	return json.Unmarshal(b, &o.is)
}

func (o answered[T]) MarshalJSON() ([]byte, error) { return o.raw, nil }

// listing is all items of a list.
type listing[T any] struct {
	Items []answered[T] `json:"items"`
}

// pageSize is how many items are asked for at a time: the most that the servers give.
const pageSize = 500

// all reads every page of a list.
func all[T any](ctx context.Context, c *client, parts ...string) (*listing[T], error) {
	return allOf[T](ctx, c, nil, parts...)
}

// allOf is all with a query.
func allOf[T any](ctx context.Context, c *client, query url.Values, parts ...string) (*listing[T], error) {
	out := &listing[T]{Items: []answered[T]{}}
	for cursor := ""; ; {
		var page struct {
			listing[T]
			NextCursor string `json:"next_cursor"`
		}
		q := url.Values{"limit": {strconv.Itoa(pageSize)}}
		maps.Copy(q, query)
		if cursor != "" {
			q.Set("cursor", cursor)
		}
		if err := c.do(ctx, http.MethodGet, c.path(parts...)+"?"+q.Encode(), nil, &page); err != nil {
			return nil, err
		}
		out.Items = append(out.Items, page.Items...)
		if page.NextCursor == "" || page.NextCursor == cursor {
			return out, nil
		}
		cursor = page.NextCursor
	}
}

// column is one of a table: its head, and the cell of a row.
type column[T any] struct {
	head string
	cell func(*T) string
}

// printList writes a list as data or as a table.
func printList[T any](cmd *cobra.Command, out *printer, list *listing[T], columns []column[T]) error {
	head := make([]string, len(columns))
	for i, c := range columns {
		head[i] = c.head
	}
	rows := make([][]string, len(list.Items))
	for i := range list.Items {
		for _, c := range columns {
			rows[i] = append(rows[i], c.cell(&list.Items[i].is))
		}
	}
	return out.print(cmd.OutOrStdout(), list, head, rows)
}

// printOne writes one object as data, or its columns one below the other.
func printOne[T any](cmd *cobra.Command, out *printer, o *answered[T], columns []column[T]) error {
	if out.isData() {
		return out.data(cmd.OutOrStdout(), o)
	}
	fields := make([][2]string, len(columns))
	for i, c := range columns {
		name := c.head[:1] + strings.ToLower(c.head[1:])
		fields[i] = [2]string{strings.Replace(name, "Id", "ID", 1), c.cell(&o.is)}
	}
	return printFields(cmd.OutOrStdout(), fields)
}

// said writes a change as data, or the one line that tells of it.
func said[T any](cmd *cobra.Command, out *printer, o *answered[T], format string, args ...any) error {
	if out.isData() {
		return out.data(cmd.OutOrStdout(), o)
	}
	return tell(cmd, format, args...)
}

// tell writes one line for people.
func tell(cmd *cobra.Command, format string, args ...any) error {
	_, err := fmt.Fprintln(cmd.ErrOrStderr(), clean(fmt.Sprintf(format, args...)))
	return err
}

// expiry is the moment at which something ends, as the API takes it: one of the two.
type expiry struct {
	In *int64     `json:"expires_in_seconds,omitempty"`
	At *time.Time `json:"expires,omitempty"`
}

// parseExpiry reads 90d, 24h or 2027-01-31T00:00:00Z. Nothing is the server's default.
func parseExpiry(flag, text string) (e expiry, err error) {
	if text == "" {
		return e, nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		at = at.UTC()
		return expiry{At: &at}, nil
	}
	d, err := parseSpan(text)
	if err != nil || d <= 0 {
		return e, usage("--%s %q is neither a span such as 90d or 12h nor a time such as 2027-01-31T00:00:00Z", flag, text)
	}
	seconds := int64(d / time.Second)
	return expiry{In: &seconds}, nil
}

// parseSpan reads a duration that may be in days, which have 24 hours here.
func parseSpan(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(text)
}

// stampOr is stamp with a word for none.
func stampOr(t time.Time, otherwise string) string { return cmp.Or(stamp(t), otherwise) }
