package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"time"
)

// Times of the upkeep.
const (
	defaultCheckpoint = 10 * time.Minute
	minCheckpoint     = time.Second
	pruneEvery        = time.Hour
	rotateAgain       = time.Minute // after a rotation that failed
)

// ActionPruned is the action of the log's own entry, in the platform's chain, that a segment is removed because its time
// has come; the resource names it. It is written before the segment goes, so that a segment which is gone without it was
// removed by somebody else.
const ActionPruned = "audit.pruned"

// upkeep is the drain's state of checkpoints, rotation and retention. It belongs to the goroutine that runs.
type upkeep struct {
	rotator   Rotator   // nil without rotation and retention
	closing   bool      // the process ends: this is the last round
	bare      bool      // the file holds nothing but its header
	begun     time.Time // when the file was
	uncovered int       // lines since the last checkpoint
	signedAt  time.Time // the last checkpoint
	header    *batch    // of a rotation whose end is not known
	notBefore time.Time // of the next rotation
	prunedAt  time.Time
	removing  []string // segments whose removal is being recorded
}

// checkUpkeep checks the part of the configuration that concerns checkpoints, rotation and retention.
func (d *Drain) checkUpkeep() error {
	c := &d.cfg
	if c.Rotation.MaxBytes < 0 || c.Rotation.MaxAge < 0 || c.Retention.MaxBytes < 0 || c.Retention.MaxAge < 0 {
		return errors.New("audit: Rotation and Retention: use 0 or more")
	}
	if c.Checkpoint == 0 {
		c.Checkpoint = defaultCheckpoint
	}
	if c.Checkpoint < minCheckpoint {
		return fmt.Errorf("audit: Checkpoint %v: use 0 for %v, or at least %v", c.Checkpoint, defaultCheckpoint, minCheckpoint)
	}
	r, ok := c.Sink.(Rotator)
	if !ok && (c.Rotation != Rotation{} || c.Retention != Retention{}) {
		return errors.New("audit: this Sink cannot rotate: leave Rotation and Retention empty")
	}
	if c.Rotation != (Rotation{}) || c.Retention != (Retention{}) {
		d.upkeep.rotator = r
	}
	return nil
}

// checkpoints says whether they are written at all.
func (d *Drain) checkpoints() bool { return d.cfg.Signer != nil || d.cfg.Rotation != Rotation{} }

func (d *Drain) scribe() scribe {
	return scribe{signer: d.cfg.Signer, note: d.note, chain: d.checkpointChain()}
}

func (d *Drain) checkpointChain() string { return ChainName(CheckpointChain, d.writer) }

// beginUpkeep takes the state from the file that a start found.
func (d *Drain) beginUpkeep() {
	u := &d.upkeep
	u.begun, u.uncovered, u.bare, u.signedAt = d.cfg.Now(), 0, false, d.cfg.Now()
	if e, ok := lineAt(d.cfg.Sink, 0); ok {
		u.begun = e.Time
	}
	if last, ok := lastLine(d.cfg.Sink); ok && !isCheckpoints(last.Chain) {
		u.uncovered, u.signedAt = 1, time.Time{} // some: a crash left no last checkpoint, so it is due now
	}
}

// lineAt returns the entry of the line that begins at an offset.
func lineAt(s Sink, offset int64) (e Entry, ok bool) {
	b := make([]byte, min(MaxLine, max(s.Size()-offset, 0)))
	n, _ := s.ReadAt(b, offset)
	text, _, whole := bytes.Cut(b[:n], []byte("\n"))
	l, err := ParseLine(text)
	if !whole || err != nil {
		return e, false
	}
	e, err = l.Decode()
	return e, err == nil
}

// firstLine returns the line that the file begins with.
func firstLine(s io.ReaderAt) (Line, bool) {
	b := make([]byte, MaxLine)
	n, _ := s.ReadAt(b, 0)
	text, _, whole := bytes.Cut(b[:n], []byte("\n"))
	l, err := ParseLine(text)
	return l, whole && err == nil
}

// lastLine returns the line that the file ends with.
func lastLine(s Sink) (Line, bool) {
	size := s.Size()
	b := make([]byte, min(MaxLine, size))
	n, _ := s.ReadAt(b, size-int64(len(b)))
	text, ok := bytes.CutSuffix(b[:n], []byte("\n"))
	l, err := ParseLine(text[bytes.LastIndexByte(text, '\n')+1:])
	return l, ok && err == nil
}

// wrote takes note of a batch that was appended.
func (u *upkeep) wrote(b *batch, now time.Time) {
	u.bare = false
	u.uncovered += b.lines
	if b.checkpoint {
		u.uncovered, u.signedAt = 0, now
	}
}

// addFirstHeader begins a log that has no record yet. A file that is empty although chains have records gets none: it was
// moved away or emptied, and a checkpoint at its start would vouch for the gap.
func (d *Drain) addFirstHeader(b *batch) {
	if !d.checkpoints() || d.cfg.Sink.Size() > 0 || len(d.tips) > 0 {
		return
	}
	lines, err := d.scribe().header(Head{}, nil, "")
	if d.noteSigner(err); err != nil {
		return // a log that begins with the first record of every chain can do without
	}
	for _, l := range lines {
		b.put(l)
	}
	d.upkeep.begun, d.upkeep.signedAt = d.cfg.Now(), d.cfg.Now()
}

// addCheckpoint ends a batch with a checkpoint when one is due. What cannot be signed is tried again with the next batch.
func (d *Drain) addCheckpoint(b *batch) {
	u := &d.upkeep
	if !d.checkpoints() || u.uncovered+b.lines == 0 || b.checkpoint {
		return
	}
	if !u.closing && d.cfg.Now().Sub(u.signedAt) < d.cfg.Checkpoint {
		return
	}
	heads := maps.Clone(d.tips)
	maps.Copy(heads, b.next)
	l, err := d.scribe().checkpoint(b.tip(d.checkpointChain()), heads, false, "")
	d.noteSigner(err)
	if err == nil {
		b.put(l)
	}
}

func (d *Drain) noteSigner(err error) {
	d.mu.Lock()
	was := d.signErr
	d.signErr = err
	d.mu.Unlock()
	d.logChange(was, err, "audit log cannot be signed", "audit log is signed again")
}

// rotate closes the file if that is due and every line of it is anchored: so a start needs to read no file but the last.
func (d *Drain) rotate() {
	u, now := &d.upkeep, d.cfg.Now()
	if u.rotator == nil || d.unanchored > 0 || len(d.dirty) > 0 || len(d.unsettled) > 0 || u.bare || u.header != nil {
		return
	}
	size := d.cfg.Sink.Size()
	if size == 0 || !d.cfg.Rotation.due(size, u.begun, now) || now.Before(u.notBefore) {
		return
	}
	segment, err := d.rotateTo(now)
	if err != nil {
		u.notBefore = now.Add(rotateAgain)
		d.cfg.Logger.Error("audit log cannot be rotated", "error", err.Error())
		return // resolveRotation looks what there is
	}
	d.rotated()
	d.cfg.Logger.Info("audit log rotated", "segment", segment, "bytes", size)
}

func (d *Drain) rotateTo(now time.Time) (segment string, err error) {
	u := &d.upkeep
	if segment, err = u.rotator.NextSegment(now); err != nil {
		return "", err
	}
	lines, err := d.scribe().header(d.tips[d.checkpointChain()], d.tips, segment)
	if d.noteSigner(err); err != nil {
		return "", err
	}
	u.header = &batch{tips: d.tips, next: make(map[string]Head)}
	for _, l := range lines {
		u.header.put(l)
	}
	return segment, u.rotator.Rotate(segment, u.header.text)
}

// rotated makes the state that of a file with nothing but the header.
func (d *Drain) rotated() {
	u, now := &d.upkeep, d.cfg.Now()
	d.mark.settled = placeAt(d.cfg.Sink, 0, d.mark.anchored)
	d.advance(u.header)
	u.header, u.bare, u.begun, u.uncovered, u.signedAt, u.prunedAt = nil, true, now, 0, now, time.Time{}
}

// resolveRotation finds out how a rotation ended that returned an error.
func (d *Drain) resolveRotation() {
	h := d.upkeep.header
	if h == nil {
		return
	}
	size := d.cfg.Sink.Size()
	have := make([]byte, len(h.text))
	n, err := d.cfg.Sink.ReadAt(have, 0)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return // nothing is appended meanwhile; the next write asks again
	case size == int64(n) && bytes.Equal(have[:n], h.text):
		d.rotated()
	default:
		d.upkeep.header = nil
	}
}

// planRemoval looks once an hour, and after a rotation, for segments whose time has come, and records that they go.
func (d *Drain) planRemoval() {
	u, now := &d.upkeep, d.cfg.Now()
	if u.rotator == nil || d.cfg.Retention == (Retention{}) || len(u.removing) > 0 || now.Sub(u.prunedAt) < pruneEvery {
		return
	}
	u.prunedAt = now
	paths, err := u.rotator.Expired(d.cfg.Retention, now)
	if err != nil {
		d.cfg.Logger.Error("audit log: segments cannot be listed", "error", err.Error())
		return
	}
	for _, p := range paths {
		u.removing = append(u.removing, p)
		d.notes = append(d.notes, d.note(ActionPruned, "segment/"+filepath.Base(p)))
	}
}

// removeExpired removes the segments whose removal is in the log now.
func (d *Drain) removeExpired() {
	u := &d.upkeep
	if len(u.removing) == 0 {
		return
	}
	if err := u.rotator.Remove(u.removing); err != nil {
		d.cfg.Logger.Error("audit log: segments cannot be removed", "error", err.Error())
	} else {
		d.cfg.Logger.Info("audit log: segments removed", "count", len(u.removing))
	}
	u.removing = nil
}
