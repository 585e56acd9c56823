package audit

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Encoder writes records in one of the export formats. Close writes what is left, and closes nothing below.
type Encoder interface {
	Encode(Record) error
	Close() error
}

// CSVColumns returns the header of the CSV export. New columns come last, so that a reader by position goes on working.
func CSVColumns() []string {
	return []string{"id", "time", "tenant", "principal", "name", "role", "issuer", "key_id", "via", "action", "resource", "decision",
		"rule", "bundle", "outcome", "request_id", "replica", "remote", "ms"}
}

// NewCSV returns an encoder of CSV with a header line. What callers put into a field cannot become a formula in a
// spreadsheet (CWE-1236), and cannot begin a new line or drive a terminal.
func NewCSV(w io.Writer) Encoder { return &csvEncoder{w: csv.NewWriter(w)} }

type csvEncoder struct {
	w     *csv.Writer
	begun bool
}

func (c *csvEncoder) header() error {
	if c.begun {
		return nil
	}
	c.begun = true
	return c.w.Write(CSVColumns())
}

// Encode implements Encoder.
func (c *csvEncoder) Encode(r Record) error {
	if err := c.header(); err != nil {
		return err
	}
	row := []string{r.ID, r.Time.UTC().Format(time.RFC3339Nano), string(r.Tenant), r.Principal, r.Name, r.Role, r.Issuer, r.KeyID, r.Via,
		r.Action, r.Resource, r.Decision, r.Rule, r.Bundle, r.Outcome, r.RequestID, r.Replica, r.Remote, strconv.FormatInt(r.Millis, 10)}
	for i := range row[:len(row)-1] {
		row[i] = cell(row[i])
	}
	return c.w.Write(row)
}

// Close implements Encoder.
func (c *csvEncoder) Close() error {
	if err := c.header(); err != nil {
		return err
	}
	c.w.Flush()
	return c.w.Error()
}

// cell makes s text for every spreadsheet, by an apostrophe before what would begin a formula, also behind spaces and in
// its full-width forms, and one line, by writing out what does not print.
func cell(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == ' ' || unicode.IsGraphic(r) && !unicode.IsSpace(r):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	switch first := strings.TrimLeftFunc(s, unicode.IsSpace); {
	case first != "" && strings.ContainsRune("=+-@＝＋－＠", []rune(first)[0]), strings.HasPrefix(s, "\t"), strings.HasPrefix(s, "\r"), strings.HasPrefix(s, "\n"):
		return "'" + b.String()
	}
	return b.String()
}

// NewJSONLines returns an encoder of one JSON object per line, in printable ASCII.
func NewJSONLines(w io.Writer) Encoder { return &jsonEncoder{w: w} }

type jsonEncoder struct{ w io.Writer }

// Encode implements Encoder.
func (j *jsonEncoder) Encode(r Record) error {
	b, err := json.Marshal(&r)
	if err != nil {
		return fmt.Errorf("audit record %s: %w", r.ID, err)
	}
	_, err = j.w.Write(append(ascii(b), '\n'))
	return err
}

// Close implements Encoder.
func (j *jsonEncoder) Close() error { return nil }
