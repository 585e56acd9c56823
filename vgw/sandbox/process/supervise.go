package process

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/polygate/polygate/vgw/sandbox"
)

// supervise waits for the end of what was started, and brings it about when it is asked to or its time is over.
func (s *shim) supervise(ctx context.Context) (code int) {
	var over, force <-chan time.Time
	if until := s.order.Task.Until; !until.IsZero() {
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		over = t.C
	}
	stop := func(reason string, grace time.Duration) {
		force = time.After(max(grace, 0))
		s.end(reason)
	}
	done, began := ctx.Done(), s.began
	for {
		select {
		case code := <-s.exited:
			if began != nil {
				s.noteLateBegin()
			}
			return code
		case err := <-began:
			began = nil
			s.noteBegin(err)
		case c := <-s.calls:
			stop(sandbox.ReasonStopped, c.grace)
			close(c.done)
		case <-over:
			over = nil
			stop(sandbox.ReasonLifetime, 10*time.Second)
		case <-done: // the machine, or the service that we belong to, is being shut down
			done = nil
			stop(sandbox.ReasonReplica, 5*time.Second)
		case <-force:
			force = nil
			s.kill()
		}
	}
}

// noteLateBegin hears how a command began that has ended already: of two words on two ways, the later may come first. The wait ends at
// once where nobody holds the other end any more.
func (s *shim) noteLateBegin() {
	select {
	case err := <-s.began:
		s.noteBegin(err)
	case <-time.After(time.Second):
	}
}

// errSilent is a first process that ended without a word. How it ended tells more.
var errSilent = errors.New("it said nothing")

func (s *shim) noteBegin(err error) {
	if err != nil {
		if !errors.Is(err, errSilent) && s.status.Message == "" && s.reason == "" {
			s.status.Message = "its command could not be started: " + err.Error()
		}
		return
	}
	s.status.Started = time.Now().UTC()
	if s.status.Phase == sandbox.PhaseWaiting {
		s.status.Phase = sandbox.PhaseRunning
	}
	_ = s.tell()
}

// end asks politely. The first reason counts.
func (s *shim) end(reason string) {
	if s.reason == "" {
		s.reason = reason
		s.status.Phase = sandbox.PhaseStopping
		_ = s.tell()
	}
	go s.control.write(frameEnd, nil) //nolint:errcheck // by force, after
}

// kill ends all of it by force. Without namespaces what the first process leaves behind falls to us (becomeReaper).
func (s *shim) kill() {
	if s.first.PID != 0 {
		_ = s.first.kill()
	}
	_ = s.cmd.Process.Kill()
}

// sweep kills what is left below us, and waits for it.
func sweep(self int, most time.Duration) {
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		left := descendants(processes(), self)
		if len(left) == 0 {
			return
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}

// finish removes what is left and stores the end.
func (s *shim) finish(failed error, code int) {
	if s.order.Mode.Bwrap == "" && s.cmd != nil && s.cmd.Process != nil {
		if failed != nil {
			_ = s.cmd.Process.Kill()
		}
		sweep(os.Getpid(), 5*time.Second)
	} else if failed != nil && s.cmd != nil && s.cmd.Process != nil {
		s.kill()
	}
	if s.cmd != nil && s.cmd.Process != nil {
		select { // what it printed last
		case <-s.logged:
		case <-time.After(2 * time.Second):
		}
	}
	outOfMemory := false
	if s.group != nil {
		outOfMemory = s.group.killedForMemory() > 0
		s.group.remove()
	}
	if s.status.Place != "" {
		_ = os.RemoveAll(s.status.Place)
	}
	s.status.Phase, s.status.Ended = sandbox.PhaseEnded, time.Now().UTC()
	if failed != nil {
		s.status.Reason, s.status.Message = sandbox.ReasonError, printable("the sandbox could not be made: "+failed.Error(), 512)
	} else {
		s.status.Exit = &code
		s.status.Reason = endReason(s.reason, code, outOfMemory)
		s.status.Message = s.explain(code)
	}
	_ = s.tell()
	for _, c := range s.closing {
		_ = c.Close()
	}
	s.subs.close()
}

// endReason says why a run ended. Pure.
func endReason(told string, code int, outOfMemory bool) string {
	switch {
	case told != "":
		return told
	case code == 0:
		return sandbox.ReasonCompleted
	case code == 128+int(syscall.SIGKILL) && outOfMemory:
		return sandbox.ReasonOOM
	}
	return sandbox.ReasonError
}

// explain says it to people.
func (s *shim) explain(code int) string {
	switch {
	case s.status.Message != "":
		return s.status.Message
	case s.status.Reason == sandbox.ReasonOOM:
		return "it used more memory than it may; what it writes to /workspace and /tmp counts: ask for more memory"
	case s.status.Started.IsZero() && s.reason == "" && code != 0:
		return "its first process did not start: see its log"
	}
	return ""
}

// answer serves the gateways that call, a few at a time.
func (s *shim) answer(ln *net.UnixListener) {
	slots := make(chan struct{}, 64)
	for {
		conn, err := ln.AcceptUnix()
		if err != nil {
			return
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			s.serve(conn)
		}()
	}
}

func (s *shim) serve(conn *net.UnixConn) {
	defer conn.Close() //nolint:errcheck // done
	f := &frames{rw: conn}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	k, b, err := f.read(maxFrame)
	if err != nil {
		return
	}
	switch k {
	case frameStop:
		var q stopCall
		if json.Unmarshal(b, &q) != nil || q.Grace < 0 || q.Grace > int64(time.Hour/time.Millisecond) {
			return
		}
		c := call{grace: time.Duration(q.Grace) * time.Millisecond, done: make(chan struct{})}
		s.calls <- c
		<-c.done
		_ = f.write(frameDone, nil)
	case frameNews:
		s.subs.add(conn)
		_ = f.write(frameNews, nil)
		_ = conn.SetDeadline(time.Time{})
		_, _, _ = f.read(0) // until the caller goes
		s.subs.drop(conn)
	}
}

// subscribers are the gateways that want to hear of changes.
type subscribers struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (s *subscribers) add(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, c)
}

func (s *subscribers) drop(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = slices.DeleteFunc(s.conns, func(x net.Conn) bool { return x == c })
}

// wake tells all; who does not listen is left out.
func (s *subscribers) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_ = (&frames{rw: c}).write(frameNews, nil)
	}
}

func (s *subscribers) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.Close()
	}
}

// lastLine returns the end of what was printed, for a message.
func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return printable(lines[len(lines)-1], 256)
}
