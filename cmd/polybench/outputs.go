package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/polygate/polygate/bench/lab"
	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/proc"
	"github.com/polygate/polygate/bench/report"
	"github.com/polygate/polygate/bench/result"
)

// outputs are the files that a measurement writes beside the text.
type outputs struct{ json, html, markdown string }

func (o *outputs) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.json, "json", "", "also write the report as JSON to this `file`")
	c.Flags().StringVar(&o.html, "html", "", "also write the report as one HTML page with plots to this `file`")
	c.Flags().StringVar(&o.markdown, "markdown", "", "also write the report as Markdown to this `file`, if all was measured")
}

// write writes the report as text to w and to the files that were asked for.
func (o *outputs) write(w io.Writer, r *result.Report) error {
	err := report.Text(w, r)
	for _, f := range []struct {
		path string
		as   func(io.Writer, *result.Report) error
	}{{o.json, result.Write}, {o.html, report.HTML}, {o.markdown, report.Markdown}} {
		if f.path != "" {
			err = errors.Join(err, writeFile(f.path, r, f.as))
		}
	}
	return err
}

// check finds out before a measurement of minutes whether its report can be written.
func (o *outputs) check() error {
	for _, path := range []string{o.json, o.html, o.markdown} {
		if path == "" {
			continue
		}
		f, err := os.CreateTemp(filepath.Dir(path), ".polybench-*")
		if err != nil {
			return fmt.Errorf("%s cannot be written: %w", path, err)
		}
		_ = f.Close()
		_ = os.Remove(f.Name())
	}
	return nil
}

// writeFile replaces a file as a whole: an interrupted write leaves the one that was there.
func writeFile(path string, r *result.Report, as func(io.Writer, *result.Report) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := errors.Join(as(f, r), f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

// bench is what the commands that measure have in common.
type bench struct {
	out      outputs
	polygate string
	keep     string
	quiet    bool

	wrong    []error // what went wrong without ending the measurement
	lab      *lab.Lab
	report   *result.Report
	progress *report.Progress
	dir      string
	before   proc.Host
}

func (b *bench) flags(c *cobra.Command) {
	b.out.flags(c)
	c.Flags().StringVar(&b.polygate, "polygate", "", "the gateway's `program` (default: polygate beside this one, or on the path)")
	c.Flags().StringVar(&b.keep, "keep", "", "keep configurations and logs of what is started in this `folder`")
	c.Flags().BoolVarP(&b.quiet, "quiet", "q", false, "do not show how it goes")
}

// open prepares a measurement. close has to be called.
func (b *bench) open(cmd *cobra.Command) (err error) {
	if err := b.out.check(); err != nil {
		return err
	}
	if b.dir = b.keep; b.dir == "" {
		b.dir, err = os.MkdirTemp("", "polybench-*")
	} else {
		err = os.MkdirAll(b.dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("make a folder to work in: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	to := cmd.ErrOrStderr()
	if b.quiet {
		to = io.Discard
	}
	b.before = proc.Now()
	b.progress = report.NewProgress(to, isTerminal(to))
	b.report = &result.Report{
		V: result.Version, Command: commandLine(os.Args), Started: time.Now().UTC(), Machine: proc.Machine(), Versions: map[string]string{"polybench": version()},
	}
	b.lab, err = lab.New(lab.Config{Dir: b.dir, Self: self, Keep: b.keep != "", Watcher: &watcher{to: b.progress}})
	return err
}

func (b *bench) close() {
	if b.keep == "" {
		_ = os.RemoveAll(b.dir)
	}
}

// finish prints what was measured, be it all or not. The Markdown, which the project keeps, is written of whole measurements only.
func (b *bench) finish(ctx context.Context, cmd *cobra.Command, err error) error {
	b.progress.Done()
	b.report.Seconds = time.Since(b.report.Started).Seconds()
	b.report.Machine.Stolen = proc.Now().Stolen(b.before)
	b.report.Complete = err == nil && ctx.Err() == nil
	err = errors.Join(append([]error{err}, b.wrong...)...)
	switch {
	case b.empty() && len(b.report.Skipped) > 0 && ctx.Err() == nil:
		return errors.Join(fmt.Errorf("nothing was measured, all of it was skipped: %s", whys(b.report.Skipped)), err)
	case b.empty() && err == nil:
		return errors.New("nothing was measured")
	case b.empty():
		return err
	case !b.report.Complete && b.out.markdown != "":
		fmt.Fprintf(cmd.ErrOrStderr(), "polybench: %s is left as it was, as not all was measured\n", b.out.markdown)
		b.out.markdown = ""
	}
	if err != nil && ctx.Err() == nil {
		b.report.Reason = err.Error()
	}
	return errors.Join(err, b.out.write(cmd.OutOrStdout(), b.report))
}

// whys tells why each was skipped.
func whys(skipped []result.Skipped) string {
	var out []string
	for _, s := range skipped {
		out = append(out, s.Subject+" ("+s.Why+")")
	}
	return strings.Join(out, "; ")
}

func (b *bench) empty() bool {
	return len(b.report.Scenarios)+len(b.report.Capacity)+len(b.report.Tenants)+len(b.report.Ceilings) == 0
}

// gateway returns the program to measure.
func (b *bench) gateway() (string, error) {
	if b.polygate != "" {
		return filepath.Abs(b.polygate)
	}
	if self, err := os.Executable(); err == nil {
		if beside := filepath.Join(filepath.Dir(self), "polygate"); isProgram(beside) {
			return beside, nil
		}
	}
	found, err := exec.LookPath("polygate")
	if err != nil {
		return "", errors.New("there is no polygate beside polybench or on the path: build it (make build), or name it with --polygate")
	}
	return filepath.Abs(found)
}

func isProgram(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// commandLine is the command as it can be pasted, without the folder that this program lies in.
func commandLine(args []string) string {
	words := []string{"polybench"}
	for _, a := range args[min(1, len(args)):] {
		if strings.ContainsAny(a, " \t'\"$*?&;|<>()") || a == "" {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

// watcher shows on the terminal how it goes.
type watcher struct {
	to    *report.Progress
	what  string
	began time.Time
	about time.Duration
}

// Begin implements lab.Watcher.
func (w *watcher) Begin(what string, about time.Duration) {
	w.what, w.began, w.about = what, time.Now(), about
	w.to.Update(report.Live{Step: what, Left: about})
}

// Live implements lab.Watcher.
func (w *watcher) Live(name string, l load.Live) {
	out := report.Live{
		Step: w.what + ", " + name, Seconds: l.Seconds, Requests: l.Requests, Errors: l.Errors, P50: l.P50, P99: l.P99, InFlight: l.InFlight,
	}
	if gone := time.Since(w.began); w.about > 0 {
		out.Done, out.Left = min(1, float64(gone)/float64(w.about)), max(0, w.about-gone)
	}
	w.to.Update(out)
}

// End implements lab.Watcher.
func (*watcher) End() {}
