package process

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"

	"github.com/polygate/polygate/vgw/sandbox"
)

func itoa(n int) string { return strconv.Itoa(n) }

// serve answers Exec, within the sandbox.
func (f *first) serve(ln *net.UnixListener) {
	for {
		conn, err := ln.AcceptUnix()
		if err != nil {
			return
		}
		select {
		case f.slots <- struct{}{}:
			go func() {
				defer func() { <-f.slots }()
				f.session(conn)
			}()
		default:
			refuse(conn, "too many commands run in this sandbox at the same time: at most "+itoa(maxExecs))
		}
	}
}

func refuse(conn net.Conn, why string) {
	out := &frames{rw: conn}
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_ = out.write(frameError, []byte("polygate: "+why+"\n"))
	_ = out.writeJSON(frameExit, ended{Code: 126})
	_ = conn.Close()
}

// session is one command of Exec.
type session struct {
	conn   net.Conn
	frames *frames
	proc   *process
	reaper *reaper
	input  io.WriteCloser // of the command; nil = none
	tty    *os.File       // its terminal's other side; nil = none
	queue  chan []byte    // input that is to be written
	copies sync.WaitGroup // of output
	reads  []*os.File     // that output comes from
}

func (f *first) session(conn net.Conn) {
	defer conn.Close()
	s := &session{conn: conn, frames: &frames{rw: conn}, reaper: f.reaper, queue: make(chan []byte, window+1)}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	var c command
	if err := s.frames.want(frameCommand, maxTaskSize, &c); err != nil || len(c.Command) == 0 {
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	if err := s.begin(f, c); err != nil {
		_ = s.frames.write(frameError, []byte("polygate: "+err.Error()+"\n"))
		_ = s.frames.writeJSON(frameExit, ended{Code: exitOfStart(err)})
		return
	}
	left := make(chan struct{})
	go s.hear(left)
	go s.feed()
	var ws syscall.WaitStatus
	select {
	case ws = <-s.proc.ended:
	case <-left: // the caller went away, and its command with it
		s.hangUp()
		ws = <-s.proc.ended
	}
	s.outputs()
	if s.tty == nil {
		_ = s.input.Close()
	}
	_ = s.frames.writeJSON(frameExit, exitOf(ws))
}

func (s *session) begin(f *first, c command) error {
	env := f.task.Env
	for _, e := range c.Env {
		name, value, _ := strings.Cut(e, "=")
		env = merge(env, []sandbox.Var{{Name: name, Value: value}})
	}
	if c.TTY {
		return s.beginTTY(f, c.Command, merge([]string{"TERM=xterm-256color"}, vars(env)))
	}
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	errRead, errWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	s.proc, err = f.start(c.Command, env, []*os.File{inRead, outWrite, errWrite}, false)
	_, _, _ = inRead.Close(), outWrite.Close(), errWrite.Close()
	if err != nil {
		_, _, _ = inWrite.Close(), outRead.Close(), errRead.Close()
		return err
	}
	s.input = inWrite
	s.copy(frameOutput, outRead)
	s.copy(frameError, errRead)
	return nil
}

func vars(env []string) []sandbox.Var {
	v := make([]sandbox.Var, len(env))
	for i, e := range env {
		v[i].Name, v[i].Value, _ = strings.Cut(e, "=")
	}
	return v
}

func (s *session) beginTTY(f *first, argv, env []string) error {
	ours, theirs, err := pty.Open()
	if err != nil {
		return err
	}
	s.proc, err = f.start(argv, env, []*os.File{theirs, theirs, theirs}, true)
	_ = theirs.Close()
	if err != nil {
		_ = ours.Close()
		return err
	}
	s.tty = ours
	s.input = noClose{ours}
	s.copy(frameOutput, ours)
	return nil
}

// noClose keeps a terminal open when its input has ended: its end would be that of the output, too. An end of input is said by a
// character there.
type noClose struct{ *os.File }

// Close types Ctrl-D.
func (n noClose) Close() error {
	_, err := n.Write([]byte{4})
	return err
}

// copy passes output on until it ends.
func (s *session) copy(k kind, r *os.File) {
	s.reads = append(s.reads, r)
	s.copies.Add(1)
	go func() {
		defer s.copies.Done()
		buf := make([]byte, chunk)
		for {
			n, err := r.Read(buf)
			if n > 0 && s.frames.write(k, buf[:n]) != nil {
				_ = r.Close() // nobody listens: who prints is told, as by a pipe
				return
			}
			if err != nil {
				return
			}
		}
	}()
}

// outputs waits for the output's end. What the command left in the background may keep it open for ever, so that it is waited for only
// while more comes.
func (s *session) outputs() {
	done := make(chan struct{})
	go func() { s.copies.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Second):
		for _, r := range s.reads {
			_ = r.SetReadDeadline(time.Now())
		}
		_ = s.conn.SetWriteDeadline(time.Now().Add(time.Minute))
		<-done
	}
	for _, r := range s.reads {
		_ = r.Close()
	}
}

// hear reads what the caller sends, until it goes.
func (s *session) hear(left chan struct{}) {
	defer close(left)
	defer close(s.queue)
	for {
		k, b, err := s.frames.read(maxFrame)
		if err != nil {
			return
		}
		switch k {
		case frameInput, frameEOF:
			if k == frameEOF {
				b = nil
			}
			select {
			case s.queue <- b:
			default:
				return // more than its window
			}
		case frameResize:
			s.resize(b)
		case frameSignal:
			if n := signalNumber(string(b)); n != 0 {
				s.signal(n)
			}
		}
	}
}

func (s *session) resize(b []byte) {
	var z size
	if s.tty != nil && json.Unmarshal(b, &z) == nil {
		_ = pty.Setsize(s.tty, &pty.Winsize{Cols: z.Columns, Rows: z.Rows})
	}
}

// signal reaches the command and what it started; in a terminal, as a key would, the group in its foreground.
func (s *session) signal(n syscall.Signal) {
	if s.tty != nil {
		if fg := foreground(s.tty); fg > 0 {
			_ = syscall.Kill(-fg, n)
			return
		}
	}
	s.reaper.signal(s.proc, n)
}

// feed writes the input, a frame at a time, and tells the caller of each, who sends no more than a window ahead. So a command that reads
// nothing keeps neither signals nor the rest waiting.
func (s *session) feed() {
	for b := range s.queue {
		if b == nil {
			_ = s.input.Close()
			continue
		}
		if _, err := s.input.Write(b); err != nil && !errors.Is(err, os.ErrClosed) {
			_ = s.input.Close()
		}
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(b)))
		if s.frames.write(frameTaken, n[:]) != nil {
			break
		}
	}
	if s.tty == nil {
		_ = s.input.Close()
	}
}

// hangUp ends a command whose caller is gone.
func (s *session) hangUp() {
	s.reaper.signal(s.proc, syscall.SIGHUP)
	s.reaper.signal(s.proc, syscall.SIGCONT)
	time.AfterFunc(2*time.Second, func() { s.reaper.signal(s.proc, syscall.SIGKILL) })
	for _, r := range s.reads {
		_ = r.SetReadDeadline(time.Now())
	}
}
