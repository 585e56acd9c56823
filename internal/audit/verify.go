package audit

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
)

// maxChains bounds the memory of Verify against a file made of ever new names.
const maxChains = 1 << 20

var errTooLong = fmt.Errorf("%w: longer than %d bytes", ErrMalformed, MaxLine)

// Report is what Verify found.
type Report struct {
	OK        bool                   `json:"ok"` // nothing is altered, dropped, reordered, repeated, inserted or cut
	Lines     int64                  `json:"lines"`
	Chains    map[string]ChainReport `json:"chains"`
	Malformed *Bad                   `json:"malformed,omitempty"`  // the first line that is no record, of whatever chain it was
	TornBytes int64                  `json:"torn_bytes,omitempty"` // behind the last newline: a write that a crash cut short, if all chains reach their heads

	Checkpoints CheckpointReport `json:"checkpoints"`
	Start       *Start           `json:"start,omitempty"` // where the log begins, if that is not its first record
}

// ChainReport is what Verify found of one chain.
type ChainReport struct {
	Lines      int64  `json:"lines"`
	Last       Head   `json:"last"`               // of the last line in the file
	Anchored   Head   `json:"anchored"`           // as given to Verify
	Unanchored uint64 `json:"unanchored"`         // lines beyond the anchored head: they chain on, and nothing vouches for them yet
	NoAnchor   bool   `json:"no_anchor"`          // heads were given and none is of this chain: a chain seconds old, or a forged one
	Bad        *Bad   `json:"bad,omitempty"`      // the first thing wrong
	BadLines   int64  `json:"bad_lines,omitzero"` // how many things are wrong
}

// Bad is one thing wrong.
type Bad struct {
	File string `json:"file,omitempty"` // the name, without its folder; empty if it was given as a stream
	Line int64  `json:"line"`           // of that file, from 1; 0 where a line is missing at the end
	Seq  uint64 `json:"seq"`            // of the record; 0 if unknown
	Why  string `json:"why"`
}

// where returns the place as text.
func (b *Bad) where() string {
	if b.File == "" {
		return fmt.Sprintf("line %d", b.Line)
	}
	return fmt.Sprintf("%s line %d", b.File, b.Line)
}

// Problems returns a line of text for each thing that makes the report not OK, in the order of the chains' names.
func (r *Report) Problems() []string {
	var out []string
	if r.Malformed != nil {
		out = append(out, fmt.Sprintf("%s: %s", r.Malformed.where(), r.Malformed.Why))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Chains)) {
		switch c := r.Chains[name]; {
		case c.Bad == nil:
		case c.Bad.Line == 0:
			out = append(out, fmt.Sprintf("chain %s, at the end: %s", name, c.Bad.Why))
		default:
			out = append(out, fmt.Sprintf("chain %s, %s, record %d: %s", name, c.Bad.where(), c.Bad.Seq, c.Bad.Why))
		}
	}
	return out
}

// Verify checks every chain of a log from its first record, and against the anchored heads unless heads is nil. Where a
// daemon is writing the log, read the heads first: what is anchored is always in the file already. The error is only
// for a failed read. Lines of different chains may be interleaved in any way; the order between chains is not checked.
// A log that begins with a checkpoint is checked from there on: see VerifyFiles, which can check signatures, too.
func Verify(r io.Reader, heads map[string]Head) (*Report, error) {
	v := newVerifier(VerifyOptions{Heads: heads})
	if err := v.read(r, ""); err != nil {
		return nil, err
	}
	return v.finish(), nil
}

type verifier struct {
	opts   VerifyOptions
	heads  map[string]Head
	chains map[string]*chainState
	report *Report
	file   string // the one being read
	marks  checkpointState
}

func newVerifier(opts VerifyOptions) *verifier {
	return &verifier{opts: opts, heads: opts.Heads, chains: make(map[string]*chainState), report: &Report{Chains: make(map[string]ChainReport)}}
}

// read checks the lines of one file, which is the next of the log.
func (v *verifier) read(r io.Reader, name string) error {
	if v.report.TornBytes > 0 {
		v.malformed(0, fmt.Errorf("%w: %s ends in the midst of a line, and another file follows", ErrMalformed, v.file))
		v.report.TornBytes = 0
	}
	v.file = name
	s := newScanner(r, 0)
	for {
		err := s.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read audit log: %w", err)
		}
		if !s.whole {
			v.report.TornBytes = s.end - s.start
			continue
		}
		v.report.Lines++
		l, err := s.parse()
		if err != nil {
			v.malformed(s.number, err)
			continue
		}
		if err := v.line(s.number, l); err != nil {
			return err
		}
	}
}

type chainState struct {
	last Head
	out  ChainReport
}

func (v *verifier) malformed(number int64, err error) {
	if v.report.Malformed == nil {
		v.report.Malformed = &Bad{File: v.file, Line: number, Why: err.Error()}
	}
}

func (v *verifier) chain(name string) (*chainState, error) {
	c := v.chains[name]
	if c != nil {
		return c, nil
	}
	if len(v.chains) == maxChains+len(v.heads) {
		return nil, fmt.Errorf("audit log holds more than %d chains", maxChains)
	}
	c = new(chainState)
	v.chains[name] = c
	return c, nil
}

func (v *verifier) line(number int64, l Line) error {
	c, err := v.chain(l.Chain)
	if err != nil {
		return err
	}
	c.out.Lines++
	if isCheckpoints(l.Chain) && v.report.Lines == 1 && l.Seq > 1 {
		v.begin(c, l)
	}
	before := c.last
	why := judge(l, c.last, v.heads[l.Chain])
	if why != "" {
		c.bad(Bad{v.file, number, l.Seq, why})
	}
	v.report.Checkpoints.LinesAfter++
	if isCheckpoints(l.Chain) && why == "" {
		v.checkpoint(number, l, before)
	}
	v.pruned(l)
	if l.Seq >= c.last.Seq { // go on from here, so that one fault is not told for each line that follows
		c.last = l.Head()
	}
	return nil
}

// judge says what is wrong with l as the record after last, in a chain anchored at head; "" if nothing is.
func judge(l Line, last, head Head) string {
	switch {
	case !l.Intact():
		return "altered: its hash is not that of its content"
	case l.Seq == last.Seq:
		return "repeated: the line before has the same number"
	case l.Seq < last.Seq:
		return fmt.Sprintf("out of order: it follows record %d", last.Seq)
	case l.Seq > last.Seq+1:
		return fmt.Sprintf("dropped: records %d to %d before it are missing", last.Seq+1, l.Seq-1)
	case l.Prev != last.Hash:
		return "replaced: it does not continue the record before it"
	case l.Seq == head.Seq && l.Hash != head.Hash:
		return "rewritten: it is not the record that was anchored"
	}
	return ""
}

func (c *chainState) bad(b Bad) {
	c.out.BadLines++
	if c.out.Bad == nil {
		c.out.Bad = &b
	}
}

func (v *verifier) finish() *Report {
	v.finishCheckpoints()
	for name, head := range v.heads {
		if head.Seq > 0 && v.chains[name] == nil && !v.opts.owns {
			v.chains[name] = new(chainState)
		}
	}
	v.report.OK = v.report.Malformed == nil
	for name, c := range v.chains {
		head, anchored := v.heads[name]
		c.out.NoAnchor = v.heads != nil && (!anchored || head.Seq == 0)
		c.out.Last, c.out.Anchored = c.last, head
		if c.last.Seq < head.Seq {
			c.bad(Bad{Seq: c.last.Seq + 1, Why: cutText(c.last.Seq, head.Seq)})
		}
		if v.heads != nil && c.last.Seq > head.Seq {
			c.out.Unanchored = c.last.Seq - head.Seq
		}
		v.report.OK = v.report.OK && c.out.Bad == nil
		v.report.Chains[name] = c.out
	}
	return v.report
}

func cutText(have, want uint64) string {
	if have == 0 {
		return fmt.Sprintf("cut: all of its %d anchored records are missing", want)
	}
	return fmt.Sprintf("cut: it ends with record %d, and record %d was anchored", have, want)
}
