package audit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// digest stands for a whole set of heads: the exclusive or of their hashes, so that it follows a change of one head at
// the cost of one head. It tells states apart that we made ourselves and is no defence against a forger: who forges
// the mark makes a start write lines again, and the verifier shows those.
type digest [sha256.Size]byte

func (d *digest) replace(chain string, from, to Head) {
	d.toggle(chain, from)
	d.toggle(chain, to)
}

func (d *digest) toggle(chain string, h Head) {
	if h.Seq == 0 {
		return
	}
	b := append([]byte(chain), 0)
	b = binary.BigEndian.AppendUint64(b, h.Seq)
	s := sha256.Sum256(append(b, h.Hash[:]...))
	for i := range d {
		d[i] ^= s[i]
	}
}

func digestOf(heads map[string]Head) (d digest) {
	for name, h := range heads {
		d.toggle(name, h)
	}
	return d
}

// markState is what the mark is made from.
type markState struct {
	tip      digest // of the last lines in the file
	anchored digest // of the heads in the registry
	settled  place  // the end of the file when they were anchored
}

// place is an offset in the file, and the hash of the line that ends there, by which it is known again.
type place struct {
	Offset int64  `json:"offset"`
	Heads  string `json:"heads"` // the digest of the heads that cover the file up to Offset
	Line   string `json:"line"`  // sha256 of the line before Offset; "" at 0
}

type markJSON struct {
	V      int   `json:"v"`
	Before place `json:"before"`
	After  place `json:"after"`
}

// save writes the mark for a settlement that is about to begin and returns the place that it leads to. That it cannot
// be written only makes the next start slower.
func (m *markState) save(s Sink) place {
	after := placeAt(s, s.Size(), m.tip)
	b, err := json.Marshal(markJSON{1, m.settled, after})
	if err == nil {
		_ = s.SetMark(b)
	}
	return after
}

func placeAt(s Sink, offset int64, d digest) place {
	return place{Offset: offset, Heads: hex.EncodeToString(d[:]), Line: lineBefore(s, offset)}
}

// lineBefore returns the hash of the line that ends at offset; "" if none does.
func lineBefore(s Sink, offset int64) string {
	from := max(offset-MaxLine, 0)
	b := make([]byte, offset-from)
	if n, err := s.ReadAt(b, from); n < len(b) || len(b) == 0 || b[n-1] != '\n' {
		_ = err // shorter than offset: not our place
		return ""
	}
	line := b[:len(b)-1]
	line = line[strings.LastIndexByte(string(line), '\n')+1:]
	h := sha256.Sum256(line)
	return hex.EncodeToString(h[:])
}

// scanFrom returns the offset up to which the file is covered by the anchored heads, by the mark if it fits both the
// heads and the file, else 0.
func scanFrom(s Sink, heads digest) int64 {
	var m markJSON
	if json.Unmarshal(s.Mark(), &m) != nil || m.V != 1 {
		return 0
	}
	want := hex.EncodeToString(heads[:])
	for _, p := range []place{m.After, m.Before} {
		if p.Heads == want && p.Line != "" && p.Offset > 0 && p.Offset <= s.Size() && lineBefore(s, p.Offset) == p.Line {
			return p.Offset
		}
	}
	return 0
}

// start reads what an earlier process left: lines behind the anchored heads, if it died between writing and settling,
// and a torn write. It says whether the drain can begin.
func (d *Drain) start(ctx context.Context) bool {
	heads, pending, err := d.anchored(ctx)
	if err != nil {
		d.noteOutbox(ctx, err)
		return false
	}
	d.noteOutbox(ctx, nil)
	base := digestOf(heads)
	from := scanFrom(d.cfg.Sink, base)
	t, err := readTail(d.cfg.Sink, from, heads, pending)
	if err == nil && t.keep < d.cfg.Sink.Size() {
		err = d.cutTail(t)
	}
	d.noteSink(err)
	if err != nil {
		return false
	}
	d.reportCut(t.cut)
	d.adopt(heads, base, t, pending)
	d.beginUpkeep()
	return true
}

func (d *Drain) anchored(ctx context.Context) (map[string]Head, []Pending, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	heads, err := d.cfg.Outbox.Heads(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("read the audit heads: %w", err)
	}
	pending, err := d.cfg.Outbox.Pending(ctx, startBatch)
	if err != nil {
		return nil, nil, fmt.Errorf("read the audit outbox: %w", err)
	}
	return heads, pending, nil
}

// adopt makes the state of the drain from what was found.
func (d *Drain) adopt(heads map[string]Head, base digest, t *tail, pending []Pending) {
	d.tips = maps.Clone(heads)
	if d.tips == nil {
		d.tips = make(map[string]Head)
	}
	d.dirty, d.written, d.unsettled = make(map[string]struct{}), make(map[string]struct{}), nil
	d.mark = markState{tip: base, anchored: base}
	for name, tip := range t.tips {
		d.mark.tip.replace(name, d.tips[name], tip)
		d.tips[name] = tip
		d.dirty[name] = struct{}{}
	}
	for _, p := range pending {
		if _, ok := t.found[p.Entry.ID]; ok {
			d.unsettled = append(d.unsettled, p)
			d.written[p.Entry.ID] = struct{}{}
		}
	}
	d.unanchored, d.ask = t.adopted, true
	d.mark.settled = placeAt(d.cfg.Sink, t.settled, base)
	if t.adopted > 0 {
		d.lag.Store(d.cfg.Now().UnixNano())
		d.cfg.Logger.Info("audit log: lines of an earlier process adopted", "lines", t.adopted)
	}
}

// cutTail removes an unfinished write. Nobody was told that it is durable: entries of changes are still in the outbox,
// others count as lost with the process. The removal has an entry of its own.
func (d *Drain) cutTail(t *tail) error {
	n := d.cfg.Sink.Size() - t.keep
	if err := d.cfg.Sink.Truncate(t.keep); err != nil {
		return err
	}
	d.notes = append(d.notes, d.note(ActionTruncated, "bytes/"+strconv.FormatInt(n, 10)))
	d.cfg.Logger.Warn("audit log: an unfinished write of an earlier process was removed", "bytes", n, "reason", t.why)
	return nil
}

// reportCut names chains whose anchored head is not in the file. They go on from the anchored head, so that the
// verifier shows the gap for ever.
func (d *Drain) reportCut(cut []string) {
	if len(cut) == 0 {
		return
	}
	d.cfg.Logger.Error("audit log: records that were anchored are missing: run polygate audit verify",
		"chains", cut[:min(len(cut), 10)], "count", len(cut))
}

// tail is what a start finds behind the place that the anchored heads cover.
type tail struct {
	tips    map[string]Head     // chains with lines behind their anchored head, and the last of these
	found   map[string]struct{} // ids of pending entries among these lines
	adopted int                 // the number of these lines
	keep    int64               // where the good part of the file ends
	settled int64               // up to where all lines are anchored, at least
	cut     []string            // chains whose anchored head is not there; sorted
	why     string              // why what is behind keep is not good
}

// readTail reads the file from an offset. Lines behind the anchored heads that chain on from them are adopted. The first
// line of an unfinished write, and all behind it, are left out of keep: but only if no anchored line follows, or the
// damage is not that of a crash and must stay visible.
func readTail(s Sink, from int64, heads map[string]Head, pending []Pending) (*tail, error) {
	r := tailReader{heads: heads, seen: make(map[string]bool), base: make(map[string]Head), pending: make(map[string]bool, len(pending)),
		out: &tail{tips: make(map[string]Head), found: make(map[string]struct{}), keep: from, settled: from}}
	for _, p := range pending {
		r.pending[p.Entry.ID] = true
	}
	sc := newScanner(io.NewSectionReader(s, from, s.Size()-from), from)
	for {
		err := sc.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read audit log: %w", err)
		}
		r.line(sc)
	}
	for name, h := range r.base {
		if _, ok := r.out.tips[name]; !ok && name != CheckpointChain {
			r.out.tips[name] = h
		}
	}
	if from == 0 {
		for name, h := range heads {
			if h.Seq > 0 && !r.seen[name] {
				r.out.cut = append(r.out.cut, name)
			}
		}
		slices.Sort(r.out.cut)
	}
	return r.out, nil
}

type tailReader struct {
	heads   map[string]Head
	pending map[string]bool
	seen    map[string]bool // chains whose anchored head was met
	base    map[string]Head // heads that the file says it goes on from, where they are beyond the anchored ones
	damaged bool            // the file is not good from out.keep on
	out     *tail
}

func (r *tailReader) line(sc *scanner) {
	l, err := sc.parse()
	switch {
	case !sc.whole:
		r.damage("torn line")
		return
	case err != nil:
		r.damage(err.Error())
		return
	case !l.Intact():
		r.damage("the hash of a line is not that of its content")
		return
	}
	r.header(sc, l)
	head := r.heads[l.Chain]
	if l.Seq <= head.Seq {
		r.seen[l.Chain] = r.seen[l.Chain] || l.Head() == head
		r.damaged = false
		r.out.keep = sc.end
		if r.out.adopted == 0 {
			r.out.settled = sc.end
		}
		return
	}
	tip, ok := r.out.tips[l.Chain]
	if !ok {
		tip = head
		if h, ok := r.base[l.Chain]; ok {
			tip = h
		}
	}
	if !l.Follows(tip) {
		r.damage("a line does not continue its chain")
	}
	if r.damaged {
		return
	}
	r.out.tips[l.Chain] = l.Head()
	r.out.adopted++
	r.out.keep = sc.end
	var id struct {
		ID string `json:"id"`
	}
	if json.Unmarshal(l.Entry, &id) == nil && r.pending[id.ID] {
		r.out.found[id.ID] = struct{}{}
	}
}

// header takes the heads that a segment begins with. What is anchored and not in the file is in a segment before it, if it
// is among them. Heads beyond the anchored ones are those of a registry that came back from a backup: the chains go on
// from them, or the log would hold two records of one number.
func (r *tailReader) header(sc *scanner, l Line) {
	if l.Chain != CheckpointChain || r.damaged {
		return
	}
	if sc.start == 0 {
		switch before, head := (Head{l.Seq - 1, l.Prev}), r.heads[l.Chain]; {
		case before == head:
			r.seen[l.Chain] = true
		case before.Seq > head.Seq:
			r.base[l.Chain], r.seen[l.Chain] = before, true
		}
	}
	if e, err := parseCheckpoint(l.Entry); err == nil {
		for name, h := range e.Heads {
			switch head := r.heads[name]; {
			case h == head:
				r.seen[name] = true
			case h.Seq > head.Seq && name != CheckpointChain:
				r.base[name], r.seen[name] = h, true
			}
		}
	}
}

func (r *tailReader) damage(why string) {
	if !r.damaged {
		r.damaged, r.out.why = true, why
	}
}
