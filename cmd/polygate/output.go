package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/fault"
)

// The output formats that every command knows.
const (
	formatTable = "table"
	formatJSON  = "json"
	formatYAML  = "yaml"
)

// printer writes results for people (a table) or for programs (JSON, YAML).
type printer struct {
	format string
	more   []string // formats that this command has beside the common ones
}

func (p *printer) bind(cmd *cobra.Command) {
	all := append([]string{formatTable, formatJSON, formatYAML}, p.more...)
	cmd.PersistentFlags().StringVarP(&p.format, "output", "o", formatTable, "output format: "+orList(all))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(all, cobra.ShellCompDirectiveNoFileComp))
}

// orList names choices for people.
func orList(all []string) string {
	last := len(all) - 1
	return strings.Join(all[:last], ", ") + " or " + all[last]
}

// check refuses an unknown format before anything is done.
func (p *printer) check() error {
	all := append([]string{formatTable, formatJSON, formatYAML}, p.more...)
	if !slices.Contains(all, p.format) {
		return usage("output format %q is unknown: use %s", p.format, orList(all))
	}
	return nil
}

// isData says whether programs read the result, so that it has to hold all of an object.
func (p *printer) isData() bool { return p.format == formatJSON || p.format == formatYAML }

// data writes v as the format says.
func (p *printer) data(w io.Writer, v any) error {
	if p.format == formatYAML {
		return printYAML(w, v)
	}
	return printJSON(w, v)
}

// print writes v as data, or the table that rows make.
func (p *printer) print(w io.Writer, v any, head []string, rows [][]string) error {
	if p.isData() {
		return p.data(w, v)
	}
	return printTable(w, head, rows)
}

func printTable(w io.Writer, head []string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(head, "\t"))
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			if cells[i] = clean(cell); cell == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	return tw.Flush()
}

// printFields writes one object as two columns.
func printFields(w io.Writer, fields [][2]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range fields {
		if f[1] != "" {
			fmt.Fprintf(tw, "%s:\t%s\n", f[0], clean(f[1]))
		}
	}
	return tw.Flush()
}

func printJSON(w io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(cleanJSON(b), '\n'))
	return err
}

// clean makes text from elsewhere safe for a terminal: control characters, which could recolour, rewrite or retitle it
// (X57), and invisible and direction-changing ones are shown by their code.
func clean(s string) string {
	if strings.IndexFunc(s, hostile) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if hostile(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func hostile(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }

// cleanJSON escapes within strings what encoding/json leaves as it is and a terminal would obey: DEL, C1 controls,
// format characters. Outside of strings JSON holds none of them, but for its own newlines and spaces.
func cleanJSON(b []byte) []byte {
	bad := func(r rune) bool { return r == 0x7f || r >= 0x80 && hostile(r) }
	if bytes.IndexFunc(b, bad) < 0 {
		return b
	}
	var out bytes.Buffer
	for _, r := range string(b) {
		switch {
		case !bad(r):
			out.WriteRune(r)
		case r > 0xffff: // a surrogate pair (RFC 8259 §7)
			r -= 0x10000
			fmt.Fprintf(&out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.Bytes()
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// plain returns an error that shows its detail alone, without its class.
func plain(err error) error {
	if f := fault.From(err); f != nil && f.Detail != "" {
		return errors.New(f.Detail)
	}
	return err
}
