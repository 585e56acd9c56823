package audit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// running starts a rig's drain and returns what ends it.
func (r *rig) running(ctx context.Context) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.d.Run(ctx) }()
	return func() error { cancel(); return <-ended }
}

// TestCheckpointsInTime: one every interval while there are records, one at the end, none of an idle log.
func TestCheckpointsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signer, keys := testSigner(t, 1)
		r := newRig(t)
		r.edit = func(c *DrainConfig) { c.Signer, c.Checkpoint = signer, time.Minute }
		r.open()
		stop := r.running(t.Context())
		count := func() int64 {
			synctest.Wait()
			rep := verify(t, r.text(), nil)
			return rep.Checkpoints.Count
		}
		time.Sleep(10 * time.Minute)
		if n := count(); n != 0 {
			t.Errorf("%d checkpoints in a log without a record", n)
		}
		for range 5 { // a record each 30 s
			r.buf.Record(entry("team-a", "mcp.call"))
			time.Sleep(30 * time.Second)
		}
		if n := count(); n != 3 { // the first line, and after 1 and 2 min
			t.Errorf("%d checkpoints in 150 s, want 3", n)
		}
		time.Sleep(time.Hour)
		idle := count()
		time.Sleep(time.Hour)
		if n := count(); n != idle || n > 4 {
			t.Errorf("%d checkpoints, then %d in an idle hour", idle, n)
		}
		r.buf.Record(entry("team-a", "mcp.call"))
		time.Sleep(2 * time.Second)
		r.buf.Record(entry("team-b", "mcp.call"))
		time.Sleep(2 * time.Second)
		if count() != idle+1 {
			t.Error("the last record is not left without a checkpoint")
		}
		if err := stop(); err != nil {
			t.Errorf("Run = %v", err)
		}
		rep := r.verifyFiles(VerifyOptions{Heads: r.out.heads, PublicKeys: keys})
		if !rep.OK || rep.Checkpoints.LinesAfter != 0 || rep.Checkpoints.Signed != rep.Checkpoints.Count {
			t.Errorf("after the end: %+v %v", rep.Checkpoints, rep.Problems())
		}
	})
}

// TestCheckpointAfterACrash: lines that a dead process left behind its last checkpoint get one at once.
func TestCheckpointAfterACrash(t *testing.T) {
	signer, keys := testSigner(t, 1)
	r := newRig(t)
	r.edit = func(c *DrainConfig) { c.Signer = signer }
	r.open()
	r.out.commit("team-a", "server.create")
	r.d.round(t.Context(), true)
	if rep := r.verifyFiles(VerifyOptions{PublicKeys: keys}); rep.Checkpoints.LinesAfter != 1 {
		t.Fatalf("%d lines behind the checkpoint, want 1", rep.Checkpoints.LinesAfter)
	}
	r.open()
	r.d.round(t.Context(), true)
	if rep := r.verifyFiles(VerifyOptions{Heads: r.out.heads, PublicKeys: keys}); !rep.OK || rep.Checkpoints.LinesAfter != 0 {
		t.Errorf("%d lines behind the checkpoint, want 0: %v", rep.Checkpoints.LinesAfter, rep.Problems())
	}
}

// TestSignerAway: records are written without checkpoints, which is visible, and comes right by itself.
func TestSignerAway(t *testing.T) {
	signer, keys := testSigner(t, 1)
	r := newRig(t)
	r.edit = func(c *DrainConfig) { c.Signer = brokenSigner{signer} }
	r.open()
	r.out.commit("team-a", "server.create")
	r.d.upkeep.closing = true
	r.d.round(t.Context(), true)
	if r.d.SignErr() == nil || r.d.Err() != nil || r.log.count("cannot be signed") != 1 || len(r.read()) != 1 {
		t.Errorf("SignErr %v, Err %v, %d records; want a failure of the first and the record", r.d.SignErr(), r.d.Err(), len(r.read()))
	}
	r.d.cfg.Signer = signer
	r.d.round(t.Context(), true)
	if rep := r.verifyFiles(VerifyOptions{Heads: r.out.heads, PublicKeys: keys}); !rep.OK || r.d.SignErr() != nil {
		t.Errorf("SignErr %v, %v", r.d.SignErr(), rep.Problems())
	}
}

// TestEmptiedFileGetsNoHeader: a checkpoint at the start of a file whose records were taken away would vouch for the gap.
func TestEmptiedFileGetsNoHeader(t *testing.T) {
	signer, keys := testSigner(t, 1)
	for name, damage := range map[string]func(path string) error{
		"emptied": func(p string) error { return os.Truncate(p, 0) },
		"removed": os.Remove,
	} {
		for _, restart := range []bool{false, true} {
			r := newRig(t)
			r.edit = func(c *DrainConfig) { c.Signer, c.Rotation = signer, DefaultRotation() }
			r.open()
			r.out.commit("team-a", "server.create")
			r.d.round(t.Context(), true)
			if err := damage(r.path); err != nil {
				t.Fatal(err)
			}
			if restart {
				r.open()
			}
			for range 3 {
				r.out.commit("team-a", "server.update")
				r.d.round(t.Context(), true)
			}
			for _, opts := range []VerifyOptions{{Heads: r.out.heads, PublicKeys: keys}, {PublicKeys: keys}, {}} {
				if rep := r.verifyFiles(opts); rep.OK {
					t.Errorf("%s, restart %v: the gap is not seen with %+v", name, restart, opts)
				}
			}
		}
	}
}

func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		stop := r.running(t.Context())
		time.Sleep(time.Second)
		for range 3 {
			began := time.Now()
			id := r.out.commit("team-a", "server.create")
			<-r.out.committed // announced to nobody: Flush asks by itself
			e := entry("team-b", "mcp.call")
			r.buf.Record(e)
			if err := r.d.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if ids := r.ids(); ids[id] != 1 || ids[e.ID] != 1 || time.Since(began) != 0 {
				t.Fatalf("after %v: the change is %d times in the log, the traffic %d times", time.Since(began), ids[id], ids[e.ID])
			}
			time.Sleep(time.Second)
		}
		full := errors.New("full")
		r.sink.setFail(full)
		r.buf.Record(entry("team-b", "mcp.call"))
		if err := r.d.Flush(t.Context()); !errors.Is(err, full) {
			t.Errorf("Flush = %v while the file cannot be written", err)
		}
		r.sink.setFail(nil)
		if err := stop(); err != nil {
			t.Error(err)
		}
		if err := r.d.Flush(t.Context()); err == nil {
			t.Error("Flush after the end is no error")
		}
		idle := newRig(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := idle.d.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Flush without Run = %v", err)
		}
	})
}

// TestFlushShared: many at once cost few writes.
func TestFlushShared(t *testing.T) {
	r := newRig(t)
	stop := r.running(t.Context())
	before := r.out.asked()
	done := make(chan error)
	for range 200 {
		go func() {
			r.buf.Record(entry("team-a", "mcp.call"))
			done <- r.d.Flush(t.Context())
		}()
	}
	for range 200 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := r.out.asked() - before; n > 190 {
		t.Errorf("200 flushes at once asked the outbox %d times", n)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func (o *memOutbox) asked() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.calls
}

// TestMirrorGetsWhatIsWritten: a writer gets the lines of the file, byte for byte, over rotations.
func TestMirrorGetsWhatIsWritten(t *testing.T) {
	signer, _ := testSigner(t, 1)
	out := new(lockedBuffer)
	m := NewWriterMirror(out, 0)
	r := newRig(t)
	r.edit = func(c *DrainConfig) { rotating(signer)(c); c.Mirrors = []Mirror{m} }
	r.open()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	for range 5 {
		r.out.commit("team-a", "server.create")
		r.d.round(t.Context(), true)
	}
	cancel()
	<-ended
	if !bytes.Equal(out.b.Bytes(), r.text()) || m.Dropped() != 0 {
		t.Errorf("the copy differs from the log; %d dropped", m.Dropped())
	}
}

// TestBlockedWriterHoldsNobody: a standard output that nobody reads costs lines of the copy only.
func TestBlockedWriterHoldsNobody(t *testing.T) {
	pr, pw := io.Pipe()
	m := NewWriterMirror(pw, 2000)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.edit = func(c *DrainConfig) { c.Mirrors = []Mirror{m} }
		r.open()
		for range 50 {
			r.out.commit("team-a", "server.create")
			r.d.round(t.Context(), true)
		}
		if r.d.Err() != nil || len(r.sound()) != 50 || m.Dropped() < 40 {
			t.Errorf("Err %v, dropped %d", r.d.Err(), m.Dropped())
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Run(ctx); err != nil { // its writer never comes back
		t.Error(err)
	}
	_ = pr.CloseWithError(errors.New("gone"))
	for i := 0; m.Dropped() != 50; i++ {
		if i > 1000 {
			t.Fatalf("%d lines are counted as dropped, want 50", m.Dropped())
		}
		time.Sleep(time.Millisecond) // until the writer's goroutine has seen that the pipe is gone
	}
}

func TestQueueTakesWholeLines(t *testing.T) {
	q := NewQueue(30)
	q.Mirror([]byte("one\ntwo\nthree\n"))
	q.Mirror([]byte("a line that is too long for the rest\n"))
	var got []string
	for b := q.Take(9); b != nil; b = q.Take(9) {
		got = append(got, string(b))
	}
	if s := strings.Join(got, "|"); s != "one\ntwo\n|three\n" || q.Dropped() != 1 {
		t.Errorf("got %q, %d dropped", s, q.Dropped())
	}
	q.Mirror([]byte("a line of many bytes\n"))
	if b := q.Take(3); string(b) != "a line of many bytes\n" {
		t.Errorf("a line longer than the limit comes as %q", b)
	}
}

func TestUpkeepChecks(t *testing.T) {
	r := newRig(t)
	plainSink := struct{ Sink }{r.file}
	for name, edit := range map[string]func(*DrainConfig){
		"negative size": func(c *DrainConfig) { c.Rotation.MaxBytes = -1 },
		"negative age":  func(c *DrainConfig) { c.Retention.MaxAge = -1 },
		"often":         func(c *DrainConfig) { c.Checkpoint = time.Millisecond },
		"no rotator":    func(c *DrainConfig) { c.Sink, c.Rotation = plainSink, DefaultRotation() },
	} {
		cfg := DrainConfig{Outbox: r.out, Buffer: r.buf, Sink: r.file}
		edit(&cfg)
		if _, err := NewDrain(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := NewSigner([]byte("short")); err == nil {
		t.Error("a short seed is accepted")
	}
	if DefaultRetention().MaxAge != 400*24*time.Hour || DefaultRotation().MaxBytes != 64<<20 {
		t.Error("the defaults are not those that are documented")
	}
}

// TestSecondProcessDuringARotation: whoever starts beside a running process is refused at every step of its rotation, and
// harms nothing.
func TestSecondProcessDuringARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the wait for the lock, in each of many tries, takes none of ours
		signer, keys := testSigner(t, 1)
		r := newRig(t)
		r.edit = rotating(signer)
		r.open()
		tried := 0
		r.sink.step = func(string) {
			tried++
			if f, err := OpenFile(r.path); err == nil {
				_ = f.Close()
				t.Error("a second process got the log")
			}
		}
		for range 3 {
			r.out.commit("team-a", "server.create")
			r.d.round(t.Context(), true)
		}
		r.sink.step = func(string) {}
		if rep := r.verifyFiles(VerifyOptions{Heads: r.out.heads, PublicKeys: keys}); !rep.OK || tried < 9 || len(r.files()) != 4 {
			t.Errorf("%d tries, %d files, %v", tried, len(r.files()), rep.Problems())
		}
		if left, _ := filepath.Glob(r.path + nextSuffix); len(left) > 0 {
			t.Error("a file of the rotation is left")
		}
	})
}
