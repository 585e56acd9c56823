package result

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

// maxBytes bounds a report that is read. A long one has some 10 MB.
const maxBytes = 256 << 20

// ErrVersion is a report in a form that this polybench does not know, for errors.Is.
var ErrVersion = errors.New("a report in another form")

// Read reads one report, strictly: an unknown field, a figure that cannot be, anything behind it, or another version is an error,
// as a report that is half understood would be compared as if it were whole.
func Read(r io.Reader) (*Report, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the report: %w", err)
	}
	if len(b) > maxBytes {
		return nil, fmt.Errorf("the report is over %d MiB: is this a file that polybench --json wrote?", maxBytes>>20)
	}
	if err := checkVersion(b); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	rep := new(Report)
	if err := d.Decode(rep); err != nil {
		return nil, fmt.Errorf("%w: is this a file that polybench --json wrote, and of this version?", explain(b, err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("byte %d: something follows the report: give one report a file", d.InputOffset())
	}
	if err := rep.Validate(); err != nil {
		return nil, err
	}
	return rep, nil
}

// checkVersion looks at the version alone, so that a later form is told by its number and not by the first field that is new.
func checkVersion(b []byte) error {
	var head struct {
		V *int `json:"v"`
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&head); err != nil {
		return fmt.Errorf("%w: is this a file that polybench --json wrote?", explain(b, err))
	}
	if head.V == nil {
		return errors.New(`no version ("v"): is this a file that polybench --json wrote?`)
	}
	if *head.V != Version {
		return fmt.Errorf("%w: version %d, known is %d: use the polybench that wrote it, or measure again", ErrVersion, *head.V, Version)
	}
	return nil
}

// explain adds to an error of encoding/json where it is.
func explain(b []byte, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("line %d: %w", line(b, syntax.Offset), err)
	case errors.As(err, &kind):
		return fmt.Errorf("line %d: %w", line(b, kind.Offset), err)
	case errors.Is(err, io.EOF):
		return errors.New("the file is empty")
	}
	return err
}

// line returns the line that an offset lies in, from 1.
func line(b []byte, offset int64) int {
	return 1 + bytes.Count(b[:min(max(offset, 0), int64(len(b)))], []byte("\n"))
}

// Write writes a report so that Read takes it back. A figure that is no finite number is an error: it has no form in JSON, and a
// report with it would be lost as a whole.
func Write(w io.Writer, r *Report) error {
	if err := r.Validate(); err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// Validate refuses what no measurement finds, with the place in words.
func (r *Report) Validate() error {
	if r.V != Version {
		return fmt.Errorf("%w: version %d, known is %d", ErrVersion, r.V, Version)
	}
	for _, s := range r.Scenarios {
		for i, run := range s.Runs {
			if err := run.validate(); err != nil {
				return fmt.Errorf("scenario %q, run %d of %q: %w", s.Name, i+1, run.Subject, err)
			}
		}
	}
	for _, p := range r.Capacity {
		if err := p.validate(); err != nil {
			return fmt.Errorf("capacity, %q: %w", p.Subject, err)
		}
	}
	for _, p := range r.Tenants {
		if err := p.validate(); err != nil {
			return fmt.Errorf("tenants, %q: %w", p.Subject, err)
		}
	}
	for _, c := range r.Ceilings {
		if !sane(c.Rate, c.CPUMicros) {
			return fmt.Errorf("ceiling of %q: a figure is below 0, or higher than any can be", c.Protocol)
		}
	}
	return nil
}

// validate lets the cost of one more be below 0: it is a difference of two measurements.
func (p CapacityPoint) validate() error {
	switch {
	case p.Subject == "":
		return errors.New("no subject")
	case !counts(int64(p.Registered), int64(p.Active), int64(p.Connected), int64(p.Streams), p.RSS.Start, p.RSS.Active, p.RSS.Connected, p.RSS.Streams, p.StoreBytes),
		!counts(p.Heap.Start, p.Heap.Active, p.Heap.Connected, p.Heap.Streams),
		!sane(p.StartSecs, math.Abs(p.PerRegistered), math.Abs(p.PerActive), math.Abs(p.PerConnected), math.Abs(p.PerStream)),
		!sane(math.Abs(p.HeapPerRegistered), math.Abs(p.HeapPerActive), math.Abs(p.HeapPerConnected), math.Abs(p.HeapPerStream)):
		return errors.New("a figure is below 0, or higher than any can be")
	}
	return nil
}

func (p TenantsPoint) validate() error {
	switch {
	case p.Subject == "":
		return errors.New("no subject")
	case !counts(int64(p.Tenants), int64(p.Processes), p.RSS, p.PSS, p.Errors), !sane(p.StartSecs, p.CPUMicros, p.IdleCPU):
		return errors.New("a figure is below 0, or higher than any can be")
	}
	return nil
}

func (r Run) validate() error {
	switch f := r.Figures; {
	case r.Subject == "":
		return errors.New("no subject")
	case r.Turn < 1:
		return fmt.Errorf("turn %d: turns count from 1", r.Turn)
	case !counts(f.Requests, f.Late, f.RSS, f.PSS, f.BytesIn), !sane(f.Seconds, f.Rate, f.CPUMicros, f.Generator, r.Asked):
		return errors.New("a figure is below 0, or higher than any can be")
	case f.Handshake != nil:
		if err := f.Handshake.validate(); err != nil {
			return fmt.Errorf("handshake: %w", err)
		}
	}
	for class, n := range r.Figures.Errors {
		if !counts(n) {
			return fmt.Errorf("errors %q: a count below 0", class)
		}
	}
	return r.Figures.Latency.validate()
}

// highest is far above any figure, and far below where sums of them have no meaning.
const highest = 1e15

// sane tells whether figures are what a measurement can find.
func sane(figures ...float64) bool {
	return !slices.ContainsFunc(figures, func(v float64) bool { return !(v >= 0 && v <= highest) })
}

func counts(n ...int64) bool {
	return !slices.ContainsFunc(n, func(v int64) bool { return v < 0 || v > highest })
}

// validate holds what At and plots rely on: a spectrum ascends.
func (l Latency) validate() error {
	if !counts(l.Count) || !sane(l.Mean, l.P50, l.P90, l.P99, l.P999, l.Max) {
		return errors.New("a latency is below 0, or higher than any can be")
	}
	var before Point
	for i, p := range l.Spectrum {
		if p.Quantile < before.Quantile || p.Quantile > 1 || p.Micros < before.Micros || !sane(p.Micros) {
			return fmt.Errorf("spectrum, point %d: quantiles ascend from 0 to 1, and latencies with them", i+1)
		}
		before = p
	}
	return nil
}
