package audit

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// VerifyOptions says what a log is verified against.
type VerifyOptions struct {
	Heads      map[string]Head     // the anchored heads; nil = none are known
	PublicKeys []ed25519.PublicKey // every checkpoint must be signed with one of them; none = signatures are not looked at
	Part       bool                // the files are known to be a part of the log: what came before them need not be accounted for

	owns bool // only the heads of chains that the log has are its own
}

// CheckpointReport is what Verify found of the checkpoints.
type CheckpointReport struct {
	Count      int64     `json:"count"`
	Signed     int64     `json:"signed"`                // with one of the given keys
	Last       time.Time `json:"last,omitzero"`         // of the last good one
	LinesAfter int64     `json:"lines_after,omitempty"` // lines behind it, which it does not vouch for
}

// Start is the checkpoint that a log begins with, where its first records are gone.
type Start struct {
	Seq      uint64    `json:"seq"`      // of the checkpoint, in its chain
	Time     time.Time `json:"time"`     // when it was made
	Previous string    `json:"previous"` // the segment before, which is gone
	Signed   bool      `json:"signed"`   // it is signed with one of the given keys
	Recorded bool      `json:"recorded"` // the log says that retention removed that segment
}

// LogFiles returns the files of the log whose active file is path, in the order to verify them: its segments, then the
// active one.
func LogFiles(path string) ([]string, error) {
	all, err := segments(path)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	out := make([]string, 0, len(all)+1)
	for _, s := range all {
		out = append(out, s.path)
	}
	return append(out, path), nil
}

// VerifyFiles checks the files of one log, in order, as one: every chain from its first record, and against what opts
// knows. Where the log begins with a checkpoint since retention removed what was before, the chains are checked from the
// heads that it lists; with keys or heads given, these must vouch for it, and the log must say that the segment before
// was removed. The error is only for a failed read.
func VerifyFiles(paths []string, opts VerifyOptions) (*Report, error) {
	v := newVerifier(opts)
	for _, p := range paths {
		if err := v.open(p); err != nil {
			return nil, err
		}
	}
	return v.finish(), nil
}

// VerifyLog checks the log whose active file is path, while it is written and rotated. Read the heads before. An active
// file that is missing counts as empty if there are segments: it may be in the midst of a rotation.
func VerifyLog(path string, opts VerifyOptions) (*Report, error) {
	active, err := os.Open(path) // before the segments are listed, so that none is missed
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	if err == nil {
		defer func() { _ = active.Close() }()
	}
	all, bad := segments(path)
	if bad == nil && len(all) == 0 {
		bad = err
	}
	if bad != nil {
		return nil, fmt.Errorf("audit log: %w", bad)
	}
	v := newVerifier(opts)
	if err := v.readSegments(all, active); err != nil {
		return nil, err
	}
	if active != nil {
		if err := v.read(active, filepath.Base(path)); err != nil {
			return nil, err
		}
	}
	return v.finish(), nil
}

// readSegments checks all segments but the one that is the active file by now: it comes last.
func (v *verifier) readSegments(all []segment, active *os.File) error {
	for _, s := range all {
		if active != nil {
			have, err := os.Stat(s.path)
			if is, bad := active.Stat(); err == nil && bad == nil && os.SameFile(have, is) {
				continue
			}
		}
		err := v.open(s.path)
		if errors.Is(err, fs.ErrNotExist) && v.report.Lines == 0 {
			continue // its time came just now
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) open(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	defer func() { _ = f.Close() }()
	return v.read(io.Reader(f), filepath.Base(path))
}

// checkpointState is the verifier's state of the checkpoints' chain.
type checkpointState struct {
	listed map[string]Head // by the lines of heads since the last checkpoint
	start  bool            // the log begins with a checkpoint that was not met yet
	chain  string          // of the checkpoint that is being checked
}

// begin takes the first line of the log as that of a segment: the lines before it in its chain are gone with the segments
// before. Whether it may be so is judged when its checkpoint comes, and at the end.
func (v *verifier) begin(c *chainState, l Line) {
	c.last = Head{l.Seq - 1, l.Prev}
	v.marks.start, v.marks.chain = true, l.Chain
}

func (v *verifier) badCheckpoint(number int64, seq uint64, why string) {
	v.chains[v.marks.chain].bad(Bad{v.file, number, seq, why})
}

// checkpoint checks an intact line of the checkpoints' chain, which follows before.
func (v *verifier) checkpoint(number int64, l Line, before Head) {
	v.marks.chain = l.Chain
	e, err := parseCheckpoint(l.Entry)
	if err != nil {
		v.badCheckpoint(number, l.Seq, err.Error())
		return
	}
	if e.Checkpoint == nil {
		v.list(number, l.Seq, e.Heads)
		return
	}
	r := &v.report.Checkpoints
	r.Count++
	why := ""
	if len(v.opts.PublicKeys) > 0 {
		if why = e.judge(v.opts.PublicKeys, before); why == "" {
			r.Signed++
		}
	}
	signed := len(v.opts.PublicKeys) > 0 && why == ""
	if why == "" {
		why = v.compare(e.Checkpoint)
	}
	if v.marks.start {
		v.marks.start = false
		v.report.Start = &Start{Seq: l.Seq, Time: e.Time, Previous: e.Checkpoint.Previous, Signed: signed}
		if why == "" {
			why = v.adopt(e.Checkpoint)
		}
	}
	v.marks.listed = nil
	if why != "" {
		v.badCheckpoint(number, l.Seq, why)
		return
	}
	r.Last, r.LinesAfter = e.Time, 0
}

// list takes the heads of a line. There can be no more of them than a log has chains.
func (v *verifier) list(number int64, seq uint64, heads map[string]Head) {
	if v.marks.listed == nil {
		v.marks.listed = make(map[string]Head, len(heads))
	}
	for name, h := range heads {
		if len(v.marks.listed) >= maxChains+len(v.heads) {
			v.badCheckpoint(number, seq, fmt.Sprintf("it lists more than %d chains", maxChains))
			return
		}
		v.marks.listed[name] = h
	}
}

// compare says what is wrong with the content of a checkpoint; "" if nothing is.
func (v *verifier) compare(c *checkpoint) string {
	switch {
	case c.Listed && !c.covers(v.marks.listed, v.marks.chain):
		return "it does not fit the heads that the lines before it list"
	case !c.Listed && len(v.marks.listed) > 0:
		return "lines before it list heads, and it does not begin a segment"
	case v.marks.start:
		return ""
	case c.covers(v.tips(), v.marks.chain):
		return ""
	}
	for name, h := range v.marks.listed {
		if s := v.chains[name]; s == nil || s.last != h {
			return fmt.Sprintf("the records before it are not those it vouches for: chain %s had %d", name, h.Seq)
		}
	}
	return "the records before it are not those it vouches for"
}

// adopt makes the listed heads those that the chains go on from.
func (v *verifier) adopt(c *checkpoint) string {
	if !c.Listed {
		return "the log begins with it, and it lists no heads: the lines before it were removed"
	}
	for name, h := range v.marks.listed {
		s, err := v.chain(name)
		if err != nil {
			return err.Error()
		}
		if s.last == (Head{}) && s.out.Lines == 0 {
			s.last = h
		}
	}
	return ""
}

// tips returns the last records of all chains at this point.
func (v *verifier) tips() map[string]Head {
	out := make(map[string]Head, len(v.chains))
	for name, c := range v.chains {
		out[name] = c.last
	}
	return out
}

// covers says whether the checkpoint is over exactly these heads.
func (c *checkpoint) covers(heads map[string]Head, own string) bool {
	root, n := headsRoot(heads, own)
	return n == c.Chains && hex.EncodeToString(root[:]) == c.Root
}

// pruned takes note of the records that segments are removed. Only those that can matter are kept: there are few.
func (v *verifier) pruned(l Line) {
	if !isPlatforms(l.Chain) || v.report.Start == nil || v.report.Start.Recorded || !strings.Contains(string(l.Entry), ActionPruned) {
		return
	}
	var e struct{ Action, Resource string }
	if json.Unmarshal(l.Entry, &e) == nil && e.Action == ActionPruned && e.Resource == "segment/"+v.report.Start.Previous {
		v.report.Start.Recorded = true
	}
}

// finishCheckpoints judges the start and whether there are checkpoints at all.
func (v *verifier) finishCheckpoints() {
	start, r := v.report.Start, &v.report.Checkpoints
	c := v.chains[v.marks.chain]
	switch {
	case v.marks.start:
		c.bad(Bad{Why: "the log begins with a list of heads whose checkpoint is missing"})
	case start != nil && !start.Recorded && !v.opts.Part:
		c.bad(Bad{Why: fmt.Sprintf("cut at the start: the log begins with checkpoint %d, and no record says that retention removed %q before it", start.Seq, clip(start.Previous, 128))})
	case len(v.opts.PublicKeys) > 0 && r.Count == 0 && v.report.Lines > 0:
		c, _ = v.chain(CheckpointChain)
		if c != nil {
			c.bad(Bad{Why: "there is no checkpoint at all, and keys to check them are given"})
		}
	}
}
