package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// JSON writes the plan for programs.
func (p *Plan) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(p)
}

// Text writes the plan for people.
func (p *Plan) Text(w io.Writer) error {
	b := new(bytes.Buffer)
	if p.About != "" {
		fmt.Fprintf(b, "%s\n\n", p.About)
	}
	r := p.Replicas
	fmt.Fprintf(b, "Replicas   %d: %d for the peak, %d spare; each with %.3g cores and %s, of which the peak takes at most %.0f %%\n",
		r.Total, r.Serving, r.Spare, p.Machine.Cores, bytesText(float64(p.Machine.Memory)), 100*p.Machine.Headroom)
	fmt.Fprintf(b, "Binds      %s\n", r.Binds)
	fmt.Fprintf(b, "Each       %.2f cores, %s\n", p.CPU.Total, bytesText(p.Memory.Total))
	fmt.Fprintf(b, "etcd       %s, of which %s in force; %s transactions and %s keys written a second\n",
		bytesText(p.Etcd.Size.Total), bytesText(p.Etcd.Live.Total), number(p.Etcd.Writes.Total), number(p.Etcd.Puts.Total))
	fmt.Fprintf(b, "Costs      %s\n\n", p.Source)
	p.limits(b)
	section(b, "CPU of one serving replica", "cores", p.CPU)
	section(b, "Memory of one serving replica", "bytes", p.Memory)
	section(b, "etcd: in force", "bytes", p.Etcd.Live)
	section(b, "etcd: size", "bytes", p.Etcd.Size)
	section(b, "etcd: transactions", "a second", p.Etcd.Writes)
	section(b, "etcd: keys put and deleted", "a second", p.Etcd.Puts)
	list(b, "Do something about", p.Warnings)
	list(b, "Taken for granted", p.Assumptions)
	_, err := w.Write(b.Bytes())
	return err
}

func (p *Plan) limits(b *bytes.Buffer) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LIMIT\tNEEDED\tTHERE\tTAKEN\tREPLICAS")
	for _, l := range p.Limits {
		replicas := "no matter"
		if l.Replicas > 0 {
			replicas = fmt.Sprint(l.Replicas)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%.0f %%\t%s\n", l.Name, amount(l.Need, l.Unit), amount(l.Have, l.Unit), 100*l.Share, replicas)
	}
	_ = t.Flush() // into memory
}

// least is the part of a sum below which a term is not shown to people.
const least = 0.005

func section(b *bytes.Buffer, title, unit string, s Sum) {
	fmt.Fprintf(b, "\n%s: %s\n", title, amount(s.Total, unit))
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, term := range s.Terms {
		if term.Amount >= least*s.Total {
			fmt.Fprintf(t, "  %s\t%s\t%s\n", term.Name, amount(term.Amount, unit), term.How)
		}
	}
	_ = t.Flush() // into memory
}

func list(b *bytes.Buffer, title string, items []string) {
	if len(items) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s:\n", title)
	for _, i := range items {
		fmt.Fprintf(b, "  - %s\n", i)
	}
}
