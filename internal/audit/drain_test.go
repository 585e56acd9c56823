package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// rig is a log on disk with what drains into it.
type rig struct {
	t    *testing.T
	path string
	out  *memOutbox
	buf  *Buffer
	file *File
	sink *faultySink
	log  *lockedBuffer
	d    *Drain
	edit func(*DrainConfig) // changes the configuration of the processes to come; may be nil
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "audit.log"), out: newOutbox(), log: new(lockedBuffer)}
	r.open()
	return r
}

// open starts a new process: nothing but the file and the outbox remains.
func (r *rig) open() {
	r.t.Helper()
	if r.file != nil {
		_ = r.file.Close()
	}
	f, err := OpenFile(r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = f.Close() })
	r.file, r.buf = f, NewBuffer(64)
	sink := &faultySink{File: f, path: r.path, step: func(string) {}}
	f.step = func(name string) { sink.step(name) }
	r.sink = sink
	cfg := DrainConfig{Outbox: r.out, Buffer: r.buf, Sink: r.sink, Replica: "r1", Logger: slog.New(slog.NewTextHandler(r.log, nil))}
	if r.edit != nil {
		r.edit(&cfg)
	}
	r.d, err = NewDrain(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
}

// text returns the whole log: its segments and its active file.
func (r *rig) text() []byte {
	r.t.Helper()
	files, err := LogFiles(r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	var all []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			r.t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

// sound checks that the log verifies to its last line, and returns how often each entry id is in it.
func (r *rig) sound() map[string]int {
	r.t.Helper()
	rep := verify(r.t, r.text(), r.out.heads)
	for name, c := range rep.Chains {
		if name != CheckpointChain && (c.Unanchored != 0 || c.NoAnchor) { // a header's lines are anchored with those that follow
			r.t.Fatalf("chain %s: %d lines are not anchored", name, c.Unanchored)
		}
	}
	if !rep.OK || rep.TornBytes != 0 {
		r.t.Fatalf("log does not verify: %v, %d torn bytes", rep.Problems(), rep.TornBytes)
	}
	return r.ids()
}

func (r *rig) ids() map[string]int {
	ids := make(map[string]int)
	for _, e := range r.read() {
		ids[e.ID]++
	}
	return ids
}

// read returns the entries of the log but those of the checkpoints.
func (r *rig) read() (out []Entry) {
	r.t.Helper()
	for text := range bytes.Lines(r.text()) {
		l, err := ParseLine(bytes.TrimSuffix(text, []byte("\n")))
		if err != nil {
			r.t.Fatal(err)
		}
		e, err := l.Decode()
		if err != nil {
			r.t.Fatal(err)
		}
		if !isCheckpoints(l.Chain) {
			out = append(out, e)
		}
	}
	return out
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

// faultySink is a File that fails or crashes on demand.
type faultySink struct {
	*File
	path string
	step func(name string) // called around each effect; may panic, as a crash
	torn func() int        // how many bytes of a write arrive before a crash in its midst; nil = none
	read int64             // bytes read

	mu   sync.Mutex
	fail error // guarded by mu
}

func (s *faultySink) setFail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

func (s *faultySink) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.File.ReadAt(p, off)
	s.read += int64(n)
	return n, err
}

func (s *faultySink) Append(text []byte) error {
	s.mu.Lock()
	err := s.fail
	s.mu.Unlock()
	if err != nil {
		return err
	}
	s.step("before write")
	if s.torn != nil {
		f, _ := os.OpenFile(s.path, os.O_WRONLY|os.O_APPEND, 0)
		_, _ = f.Write(text[:min(s.torn(), len(text))])
		_ = f.Close()
		s.step("torn write")
		_ = os.Truncate(s.path, s.Size())
	}
	err = s.File.Append(text)
	s.step("after write")
	return err
}

func (s *faultySink) SetMark(b []byte) error {
	s.step("before mark")
	err := s.File.SetMark(b)
	s.step("after mark")
	return err
}

func (s *faultySink) Truncate(size int64) error {
	s.step("before truncate")
	err := s.File.Truncate(size)
	s.step("after truncate")
	return err
}

func TestDrainWritesAndAnchors(t *testing.T) {
	r := newRig(t)
	a := r.out.commit("team-a", "server.create")
	p := r.out.commit("", "tenant.create")
	d := entry("team-b", "mcp.call")
	r.buf.Record(d)
	r.d.round(t.Context(), true)
	ids := r.sound()
	for _, id := range []string{a, p, d.ID} {
		if ids[id] != 1 {
			t.Errorf("entry %s is %d times in the log, want once", id, ids[id])
		}
	}
	if r.out.left() != 0 || r.d.Written() != 3 || r.d.Lag() != 0 || r.d.Err() != nil {
		t.Errorf("left %d, written %d, lag %v, err %v; want 0, 3, 0, nil", r.out.left(), r.d.Written(), r.d.Lag(), r.d.Err())
	}
}

func TestDrainRunAnchorsWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.d.Run(ctx) }()
		time.Sleep(300 * time.Millisecond) // in the bubble's time
		for range 10 {
			r.out.commit("team-a", "server.create")
			r.buf.Record(entry("team-b", "mcp.call"))
			time.Sleep(210 * time.Millisecond)
			synctest.Wait()
			if lag := r.d.Lag(); lag > time.Second {
				t.Errorf("lag %v, want at most 1s", lag)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := r.d.Written(); n != 20 || r.out.left() != 0 {
			t.Errorf("written %d, left %d; want 20, 0", n, r.out.left())
		}
		r.sound()
		last := r.out.commit("team-a", "server.delete")
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
		if r.sound()[last] != 1 {
			t.Error("what was committed before the end is not in the log")
		}
	})
}

func TestDrainIsIdleWithoutWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.d.Run(ctx) }()
		time.Sleep(60 * time.Second)
		synctest.Wait()
		if r.out.calls > 14 { // one every 5 s
			t.Errorf("the outbox was asked %d times in a minute without a commit", r.out.calls)
		}
		cancel()
		<-ended
	})
}

// TestDrainFindsUnannouncedCommits: another replica's commits do not come through our channel.
func TestDrainFindsUnannouncedCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.d.Run(ctx) }()
		time.Sleep(time.Second)
		r.out.commit("team-a", "server.create")
		<-r.out.committed
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if r.out.left() != 0 {
			t.Error("not drained")
		}
		cancel()
		<-ended
	})
}

func TestDrainLargeBacklog(t *testing.T) {
	r := newRig(t)
	for i := range 3*outboxBatch + 7 {
		r.out.commit(tenant.ID(fmt.Sprintf("team-%d", i%9)), "server.create")
	}
	r.d.round(t.Context(), true)
	if ids := r.sound(); len(ids) != 3*outboxBatch+7 || r.out.left() != 0 {
		t.Errorf("%d entries in the log, %d left; want %d, 0", len(ids), r.out.left(), 3*outboxBatch+7)
	}
}

func TestDropsAreInThePlatformsChain(t *testing.T) {
	r := newRig(t)
	for range 64 + 5 {
		r.buf.Record(entry("team-a", "mcp.call"))
	}
	r.d.round(t.Context(), true)
	r.d.round(t.Context(), true)
	r.sound()
	all := r.read()
	last := all[len(all)-1]
	if len(all) != 65 || last.Action != ActionDropped || last.Resource != "records/5" || last.Chain() != PlatformChain {
		t.Errorf("%d entries, last %+v; want 64 and one that says that 5 were dropped", len(all), last)
	}
}

// TestDiskFull: changes wait in the outbox, traffic is dropped visibly, and all goes on by itself (X56).
func TestDiskFull(t *testing.T) {
	r := newRig(t)
	r.d.round(t.Context(), true)
	full := fmt.Errorf("write: %w", syscall.ENOSPC)
	r.sink.setFail(full)
	id := r.out.commit("team-a", "server.create")
	for range 70 {
		r.buf.Record(entry("team-b", "mcp.call"))
	}
	for range 5 {
		r.d.round(t.Context(), true)
	}
	if err := r.d.Err(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Err = %v, want ENOSPC", err)
	}
	if r.out.left() != 1 || r.buf.Dropped() != 6 || r.buf.Len() != 64 {
		t.Errorf("left %d, dropped %d, held %d; want 1, 6, 64", r.out.left(), r.buf.Dropped(), r.buf.Len())
	}
	if n := r.log.count("cannot be written"); n != 1 {
		t.Errorf("the failure was logged %d times, want once", n)
	}
	r.sink.setFail(nil)
	r.d.round(t.Context(), true)
	if r.sound()[id] != 1 || r.out.left() != 0 || r.d.Err() != nil || r.log.count("written again") != 1 {
		t.Errorf("after: left %d, Err %v", r.out.left(), r.d.Err())
	}
	all := r.read()
	if last := all[len(all)-1]; len(all) != 66 || last.Resource != "records/6" {
		t.Errorf("%d entries, last %+v; want 66, the last of the drops", len(all), last)
	}
}

// TestPartialWriteIsTakenBack: a write that failed half way leaves nothing that a later line would be glued to.
func TestPartialWriteIsTakenBack(t *testing.T) {
	r := newRig(t)
	r.out.commit("team-a", "server.create")
	r.d.round(t.Context(), true)
	good := r.file.f
	readOnly, err := os.Open(r.path)
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	r.file.f = readOnly // neither write nor truncate work
	r.out.commit("team-a", "server.delete")
	r.d.round(t.Context(), true)
	if r.d.Err() == nil || !r.file.dirty {
		t.Fatalf("Err %v, dirty %v; want a failure that could not be cleaned up", r.d.Err(), r.file.dirty)
	}
	r.file.f = good
	if _, err := good.WriteAt([]byte(`{"v":1,"cha`), r.file.size); err != nil { // what the failed write left
		t.Fatal(err)
	}
	r.d.round(t.Context(), true)
	if len(r.sound()) != 2 {
		t.Error("want both entries")
	}
}

func TestOutboxAway(t *testing.T) {
	r := newRig(t)
	away := errors.New("etcd is away")
	r.out.setFail(away)
	r.out.commit("team-a", "server.create")
	for range 3 {
		r.d.round(t.Context(), true)
	}
	if !errors.Is(r.d.Err(), away) || r.log.count("cannot be anchored") != 1 {
		t.Errorf("Err = %v, logged %d times; want %v, once", r.d.Err(), r.log.count("cannot be anchored"), away)
	}
	r.out.setFail(nil)
	r.d.round(t.Context(), true)
	r.out.setFail(away)
	r.buf.Record(entry("team-a", "mcp.call"))
	r.d.round(t.Context(), true)
	if rep := verify(t, r.text(), r.out.heads); !rep.OK || rep.Chains["team-a"].Unanchored != 1 {
		t.Errorf("report %+v; want traffic to be written, not anchored", rep.Chains["team-a"])
	}
	r.out.setFail(nil)
	r.d.round(t.Context(), true)
	if r.sound(); r.d.Err() != nil || r.out.left() != 0 {
		t.Errorf("after: Err %v, left %d", r.d.Err(), r.out.left())
	}
}

// TestSettledButNotTold: the transaction was committed and its answer lost. Nothing may be written twice.
func TestSettledButNotTold(t *testing.T) {
	r := newRig(t)
	id := r.out.commit("team-a", "server.create")
	lost := &lostAnswer{memOutbox: r.out, lose: true}
	r.d.cfg.Outbox = lost
	r.d.round(t.Context(), true)
	if r.d.Err() == nil {
		t.Fatal("the lost answer is no error")
	}
	r.out.commit("team-a", "server.delete")
	lost.lose = false
	r.d.round(t.Context(), true)
	if ids := r.sound(); ids[id] != 1 || len(ids) != 2 || r.out.left() != 0 {
		t.Errorf("ids %v, left %d", ids, r.out.left())
	}
}

type lostAnswer struct {
	*memOutbox
	lose bool
}

func (l *lostAnswer) Settle(ctx context.Context, h map[string]Head, p []Pending) error {
	err := l.memOutbox.Settle(ctx, h, p)
	if l.lose {
		return errors.New("timeout")
	}
	return err
}

func TestUnanchoredIsBounded(t *testing.T) {
	r := newRig(t)
	r.d.round(t.Context(), true)
	r.d.unanchored = maxUnanchored
	r.buf.Record(entry("team-a", "mcp.call"))
	r.out.setFail(errors.New("away"))
	r.d.round(t.Context(), true)
	if r.buf.Len() != 1 {
		t.Error("the buffer is drained although nothing can be anchored")
	}
}

func TestNewDrainChecks(t *testing.T) {
	r := newRig(t)
	ok := DrainConfig{Outbox: r.out, Buffer: r.buf, Sink: r.file}
	for name, edit := range map[string]func(*DrainConfig){
		"no outbox": func(c *DrainConfig) { c.Outbox = nil },
		"no buffer": func(c *DrainConfig) { c.Buffer = nil },
		"no sink":   func(c *DrainConfig) { c.Sink = nil },
		"slow":      func(c *DrainConfig) { c.Interval = 2 * time.Second },
		"negative":  func(c *DrainConfig) { c.Interval = -1 },
	} {
		cfg := ok
		edit(&cfg)
		if _, err := NewDrain(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if d, err := NewDrain(ok); err != nil || d.cfg.Interval != defaultInterval {
		t.Errorf("defaults: %v", err)
	}
}

var _ io.ReaderAt = (*faultySink)(nil)
