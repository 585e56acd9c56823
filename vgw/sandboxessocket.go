package vgw

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/go-json-experiment/json"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// execProtocol is what is spoken on the WebSocket of an exec: binary messages, the first byte of which is the channel.
const execProtocol = "polygate.exec.v1"

// The channels.
const (
	channelStdin   = 0
	channelStdout  = 1
	channelStderr  = 2
	channelExit    = 3
	channelControl = 4
)

// Bounds of the protocol.
const (
	maxExecMessage = 64 << 10
	stdinAhead     = 16 // messages of standard input that wait for the command to read, so that a signal overtakes them
)

// closeUnsupported is the close code of a kind of message that is not spoken (RFC 6455 §7.4.1).
const closeUnsupported = 1003

// exitView is the last message.
type exitView struct {
	Code   int    `json:"code"`
	Signal string `json:"signal"`
}

// control is what a client says beside its input: one thing at a time.
type control struct {
	Resize *sandboxSize `json:"resize"`
	Signal string       `json:"signal"`
	EOF    bool         `json:"eof"`
}

type sandboxSize struct {
	Columns uint16 `json:"columns"`
	Rows    uint16 `json:"rows"`
}

func parseControl(p []byte) (c control, err error) {
	if err := json.Unmarshal(p, &c, json.RejectUnknownMembers(true)); err != nil {
		return c, fault.Wrap(fault.Invalid, err, "a control message is no valid JSON: send resize, signal or eof")
	}
	said := 0
	for _, one := range []bool{c.Resize != nil, c.Signal != "", c.EOF} {
		if one {
			said++
		}
	}
	switch {
	case said != 1:
		return c, fault.New(fault.Invalid, "a control message says one thing: resize, signal or eof")
	case c.Resize != nil && (c.Resize.Columns < 1 || c.Resize.Columns > maxTerminal || c.Resize.Rows < 1 || c.Resize.Rows > maxTerminal):
		return c, fault.New(fault.Invalid, "columns and rows must be 1 to %d", maxTerminal)
	case c.Signal != "" && !slices.Contains(signalNames(), c.Signal):
		return c, fault.New(fault.Invalid, "signal %.16q is unknown: use a name such as INT, TERM or KILL", c.Signal)
	}
	return c, nil
}

func signalNames() []string {
	return []string{"HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM", "CONT", "STOP", "TSTP", "WINCH"}
}

// execSession is one command over a WebSocket.
type execSession struct {
	conn exchange.Conn
	exec sandbox.Exec

	stdin   chan []byte
	resize  chan sandbox.Size
	signals chan string
}

func newExecSession(conn exchange.Conn, command []string, tty bool, size sandbox.Size) *execSession {
	s := &execSession{conn: conn, stdin: make(chan []byte, stdinAhead), resize: make(chan sandbox.Size, 1), signals: make(chan string, stdinAhead)}
	s.exec = sandbox.Exec{Command: command, TTY: tty, Signals: s.signals}
	if tty {
		s.exec.Resize = s.resize
		s.resize <- size
	}
	return s
}

// run runs the command and returns when it has ended, or the client has gone, which ends it.
func (s *execSession) run(ctx context.Context, exec func(context.Context, sandbox.Exec) (sandbox.Exit, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel(nil)
	reading.Go(func() {
		cancel(s.listen(ctx))
	})
	s.exec.Stdin = &execStdin{ctx: ctx, from: s.stdin}
	s.exec.Stdout = &execOutlet{ctx: ctx, conn: s.conn, channel: channelStdout}
	s.exec.Stderr = &execOutlet{ctx: ctx, conn: s.conn, channel: channelStderr}
	exit, err := exec(ctx, s.exec)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	p, err := json.Marshal(exitView{exit.Code, exit.Signal})
	if err != nil {
		return err
	}
	return s.conn.Write(ctx, true, append([]byte{channelExit}, p...))
}

// listen takes what the client sends, until it has gone or ctx ends. The error is never nil.
func (s *execSession) listen(ctx context.Context) error {
	ended := false // standard input
	for {
		binary, p, err := s.conn.Read(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return fault.New(fault.Canceled, "the client closed the connection")
		case err != nil:
			return err
		case !binary:
			_ = s.conn.Close(closeUnsupported, "send binary messages: the first byte is the channel")
			return fault.New(fault.Invalid, "a text message")
		}
		if ended, err = s.take(ctx, p, ended); err != nil {
			return err
		}
	}
}

// take carries one message out.
func (s *execSession) take(ctx context.Context, p []byte, ended bool) (bool, error) {
	if len(p) == 0 {
		return ended, fault.New(fault.Invalid, "a message without a channel")
	}
	switch p[0] {
	case channelStdin:
		if ended || len(p) == 1 {
			return ended, nil
		}
		select {
		case s.stdin <- p[1:]:
		case <-ctx.Done():
		}
		return ended, nil
	case channelControl:
		c, err := parseControl(p[1:])
		if err == nil {
			s.obey(c)
		}
		if c.EOF && !ended {
			close(s.stdin)
			ended = true
		}
		return ended, err
	}
	return ended, fault.New(fault.Invalid, "channel %d is not the client's: use 0 for input and 4 for control", p[0])
}

// obey never waits: of sizes the last one counts, and of more signals than a command has taken the rest is dropped.
func (s *execSession) obey(c control) {
	switch {
	case c.Resize != nil && s.exec.TTY:
		select {
		case <-s.resize:
		default:
		}
		s.resize <- sandbox.Size{Columns: c.Resize.Columns, Rows: c.Resize.Rows} // this goroutine alone sends: there is room
	case c.Signal != "":
		select {
		case s.signals <- c.Signal:
		default:
		}
	}
}

// execStdin is the command's standard input. It ends with the session too: a driver that reads ahead is not kept waiting.
type execStdin struct {
	ctx  context.Context
	from <-chan []byte
	rest []byte
}

// Read implements io.Reader.
func (r *execStdin) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		select {
		case next, ok := <-r.from:
			if !ok {
				return 0, io.EOF
			}
			r.rest = next
		case <-r.ctx.Done():
			return 0, io.EOF
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// execOutlet is one of the command's outputs.
type execOutlet struct {
	ctx     context.Context
	conn    exchange.Conn
	channel byte
}

// Write implements io.Writer.
func (w *execOutlet) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		n := min(len(p)-sent, maxExecMessage-1)
		message := make([]byte, 1, n+1)
		message[0] = w.channel
		if err := w.conn.Write(w.ctx, true, append(message, p[sent:sent+n]...)); err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}
