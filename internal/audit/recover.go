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
	"time"
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
	s, err := d.anchored(ctx)
	if err != nil {
		d.noteOutbox(ctx, err)
		return false
	}
	d.noteOutbox(ctx, nil)
	from := s.narrow(d.cfg.Sink)
	t, err := readTail(d.cfg.Sink, from, s)
	if err == nil {
		err = d.mend(t)
	}
	d.noteSink(err)
	if err != nil {
		return false
	}
	s.drop(t.cut, t.foreign)
	d.reportCut(slices.DeleteFunc(t.cut, func(chain string) bool { _, ok := s.heads[chain]; return !ok }))
	d.adopt(s, t)
	d.beginUpkeep()
	if l, ok := firstLine(d.cfg.Sink); ok && l.Chain != ChainName(baseOf(l.Chain), d.writer) {
		d.upkeep.begun = time.Time{} // a file with names of both kinds is closed soon: a query goes by its first line
	}
	if len(s.taken) > 0 && d.shared.Forget(ctx, s.taken) == nil { // else the next start does
		d.cfg.Logger.Info("audit log: other replicas had taken over entries of this one", "entries", len(s.taken), "taken out", t.dropped)
	}
	return true
}

// standing is what the registry says at a start.
type standing struct {
	heads   map[string]Head // of the chains that are in this log, or can be
	others  map[string]bool // of these, the chains that this replica does not write, by the kind of their names
	pending []Pending
	taken   map[string]bool
}

func (d *Drain) anchored(ctx context.Context) (s *standing, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s = &standing{others: make(map[string]bool)}
	if s.heads, err = d.cfg.Outbox.OwnHeads(ctx); err != nil {
		return nil, fmt.Errorf("read the audit heads: %w", err)
	}
	for chain := range s.heads {
		if chain != ChainName(baseOf(chain), d.writer) {
			s.others[chain] = true
		}
	}
	if s.pending, err = d.cfg.Outbox.Pending(ctx, startBatch); err != nil {
		return nil, fmt.Errorf("read the audit outbox: %w", err)
	}
	if d.shared == nil {
		return s, nil
	}
	unnamed, err := d.shared.Unnamed(ctx, startBatch)
	if err != nil {
		return nil, fmt.Errorf("read the audit outbox: %w", err)
	}
	s.pending = append(s.pending, unnamed...)
	s.taken, err = d.shared.Taken(ctx) // last, or an entry could be missing in both
	return s, err
}

// narrow returns the offset up to which the file is covered. By the mark it is known, too, whether the file holds chains of the
// other kind of names: of the time before there were other replicas, or when there were. No more than one replica has them.
func (s *standing) narrow(sink Sink) int64 {
	if from := scanFrom(sink, digestOf(s.heads)); from > 0 || len(s.others) == 0 {
		return from
	}
	own := maps.Clone(s.heads)
	maps.DeleteFunc(own, func(chain string, _ Head) bool { return s.others[chain] })
	from := scanFrom(sink, digestOf(own))
	if from > 0 {
		s.heads = own
	}
	return from
}

// drop leaves chains of the other kind of names to whoever has them, if none of them is in this log.
func (s *standing) drop(cut []string, here bool) {
	if here {
		return
	}
	maps.DeleteFunc(s.heads, func(chain string, _ Head) bool { return s.others[chain] && slices.Contains(cut, chain) })
}

// adopt makes the state of the drain from what was found.
func (d *Drain) adopt(s *standing, t *tail) {
	base := digestOf(s.heads)
	d.tips = maps.Clone(s.heads)
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
	for _, p := range s.pending {
		if chain, ok := t.found[p.Entry.ID]; ok {
			p.Chain = chain
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

// mend removes an unfinished write. Nobody was told that it is durable: entries of changes are still in the outbox, others
// count as lost with the process. It also takes out what other replicas took over. Each has an entry of its own.
func (d *Drain) mend(t *tail) error {
	n := d.cfg.Sink.Size() - t.keep
	if m := t.moved; m != nil {
		if err := d.cfg.Sink.Replace(m.at, m.text); err != nil {
			return err
		}
		t.dropped = m.dropped
		d.notes = append(d.notes, d.note(ActionTaken, "records/"+strconv.Itoa(m.dropped)))
	} else if n > 0 {
		if err := d.cfg.Sink.Truncate(t.keep); err != nil {
			return err
		}
	}
	if n > 0 {
		d.notes = append(d.notes, d.note(ActionTruncated, "bytes/"+strconv.FormatInt(n, 10)))
		d.cfg.Logger.Warn("audit log: an unfinished write of an earlier process was removed", "bytes", n, "reason", t.why)
	}
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
	tips    map[string]Head   // chains with lines behind their anchored head, and the last of these
	found   map[string]string // ids of pending entries among these lines, and the chains they are in
	adopted int               // the number of these lines
	keep    int64             // where the good part of the file ends
	settled int64             // up to where all lines are anchored, at least
	cut     []string          // chains whose anchored head is not there; sorted
	why     string            // why what is behind keep is not good
	foreign bool              // chains of the other kind of names are here
	moved   *moved            // what takes the place of the end of the file; nil = it stays
	dropped int               // lines that were taken out
}

// moved is the end of the file without the entries that other replicas took over: the lines behind them, none of them anchored
// in the same chain, chain on anew.
type moved struct {
	at      int64
	text    []byte
	tips    map[string]Head
	dropped int
	spoilt  bool // there is damage that is not that of a crash: nothing is to be moved
}

// readTail reads the file from an offset. Lines behind the anchored heads that chain on from them are adopted. The first
// line of an unfinished write, and all behind it, are left out of keep: but only if no anchored line follows, or the
// damage is not that of a crash and must stay visible.
func readTail(s Sink, from int64, st *standing) (*tail, error) {
	heads, pending := st.heads, st.pending
	r := tailReader{taken: st.taken, others: st.others, heads: heads, seen: make(map[string]bool), base: make(map[string]Head), pending: make(map[string]bool, len(pending)),
		out: &tail{tips: make(map[string]Head), found: make(map[string]string), keep: from, settled: from}}
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
	r.finishMove()
	for name, h := range r.base {
		if _, ok := r.out.tips[name]; !ok && !isCheckpoints(name) {
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
	taken   map[string]bool
	others  map[string]bool
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
	r.out.foreign = r.out.foreign || r.others[l.Chain]
	r.header(sc, l)
	head := r.heads[l.Chain]
	if l.Seq <= head.Seq {
		r.keepAnchored(sc)
		r.seen[l.Chain] = r.seen[l.Chain] || l.Head() == head
		r.damaged = false
		r.out.keep = sc.end
		if r.out.adopted == 0 && r.out.moved == nil {
			r.out.settled = sc.end
		}
		return
	}
	tip, ok := r.out.tips[l.Chain]
	if !ok {
		tip = r.origin(l.Chain)
	}
	if !l.Follows(tip) {
		r.damage("a line does not continue its chain")
	}
	if r.damaged {
		return
	}
	r.take(sc, l)
}

// origin returns the head from which a chain goes on behind what is anchored.
func (r *tailReader) origin(chain string) Head {
	if h, ok := r.base[chain]; ok {
		return h
	}
	return r.heads[chain]
}

// take adopts a line that is behind the anchored head of its chain.
func (r *tailReader) take(sc *scanner, l Line) {
	var e struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(l.Entry, &e) // what has no id is in no outbox
	out := r.move(sc.start, l, e.ID)
	r.out.tips[l.Chain], r.out.keep = l.Head(), sc.end
	if out {
		return
	}
	r.out.adopted++
	if r.pending[e.ID] {
		r.out.found[e.ID] = l.Chain
	}
}

// move leaves a line out that another replica took over, and chains those behind it on anew. It says whether the line is out.
func (r *tailReader) move(start int64, l Line, id string) (out bool) {
	if r.taken[id] && r.out.moved == nil {
		r.out.moved = &moved{at: start, tips: maps.Clone(r.out.tips)}
	}
	m := r.out.moved
	switch {
	case m == nil:
		return false
	case r.taken[id]:
		m.dropped++
		return true
	case isCheckpoints(l.Chain): // it vouches for what is not there any more; the next one comes soon
		return true
	}
	tip, ok := m.tips[l.Chain]
	if !ok {
		tip = r.origin(l.Chain)
	}
	next := tip.Next(l.Chain, l.Entry)
	m.text, m.tips[l.Chain] = AppendLine(m.text, next), next.Head()
	return false
}

// keepAnchored takes an anchored line along as it is, if the end of the file moves.
func (r *tailReader) keepAnchored(sc *scanner) {
	if m := r.out.moved; m != nil {
		m.spoilt = m.spoilt || r.damaged
		m.text = append(append(m.text, sc.text...), '\n')
	}
}

// finishMove makes the tips those that the file will end with.
func (r *tailReader) finishMove() {
	switch m := r.out.moved; {
	case m == nil:
	case m.spoilt:
		r.out.moved = nil
	default:
		r.out.tips = m.tips
	}
}

// header takes the heads that a segment begins with. What is anchored and not in the file is in a segment before it, if it
// is among them. Heads beyond the anchored ones are those of a registry that came back from a backup: the chains go on
// from them, or the log would hold two records of one number.
func (r *tailReader) header(sc *scanner, l Line) {
	if !isCheckpoints(l.Chain) || r.damaged {
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
			r.out.foreign = r.out.foreign || r.others[name]
			switch head := r.heads[name]; {
			case h == head:
				r.seen[name] = true
			case h.Seq > head.Seq && name != l.Chain:
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
