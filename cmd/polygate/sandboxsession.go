package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// execProtocol is spoken over the WebSocket of a command. The first byte of each message is its channel.
const execProtocol = "polygate.exec.v1"

// The channels.
const (
	execStdin   = 0 // to the command
	execStdout  = 1
	execStderr  = 2
	execExit    = 3 // execEnd, the last message
	execControl = 4 // one of execOrder, to the command
)

// Bounds of a session.
const (
	maxExecMessage = 1 << 20  // bytes of a message that is read; the gateway's are of 64 KiB at most
	stdinPiece     = 32 << 10 // bytes of standard input in a message
	execPing       = 15 * time.Second
	execAhead      = 256 // messages of output that wait to be written
)

// execEnd is how a command ended.
type execEnd struct {
	Code   *int   `json:"code"`
	Signal string `json:"signal"`
}

// parseEnd returns the exit code. One that no process can have would come out as another, such as 256 as 0.
func parseEnd(p []byte) (code int, err error) {
	var end execEnd
	err = json.Unmarshal(p, &end)
	switch {
	case err != nil:
		return 0, fmt.Errorf("the end of the command cannot be read: %w", err)
	case end.Code == nil || *end.Code < 0 || *end.Code > 255:
		return 0, errors.New("the end of the command has no exit code")
	}
	return *end.Code, nil
}

// execOrder is a message on the control channel: one of its fields.
type execOrder struct {
	Resize *termSize `json:"resize,omitempty"`
	Signal string    `json:"signal,omitempty"`
	EOF    bool      `json:"eof,omitempty"`
}

// execSession is the open connection to a command.
type execSession struct {
	*execution
	conn  *websocket.Conn
	watch *signalWatch

	reading atomic.Bool   // the connection is being read, so that an answer to a ping would be seen
	output  chan []byte   // messages of output, in their order
	written chan struct{} // closed when all output has been written
}

// errLeft is the end of a session that the user left by a second signal.
var errLeft = errors.New("left by a signal: the command may go on for a moment")

// run passes on what there is until the command ends, and returns its exit code. The goroutines that it starts have ended then,
// but for the one that reads standard input, and, where the session did not end in order, the one that writes: nothing can end
// these but more input, or somebody who takes the output.
func (x *execSession) run(ctx context.Context) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel(nil)
	x.output, x.written = make(chan []byte, execAhead), make(chan struct{})
	go x.send(ctx)
	go x.write(cancel)
	helpers.Go(func() { x.control(ctx, cancel) })
	helpers.Go(func() { x.keepAlive(ctx, cancel) })
	code, err := x.receive(ctx)
	if err == nil {
		_ = x.conn.Close(websocket.StatusNormalClosure, "")
	}
	select {
	case <-x.written:
	case <-ctx.Done():
	}
	if cause := context.Cause(ctx); cause != nil {
		return 0, cause
	}
	return code, err
}

// receive takes what comes, until the command has ended and all of its output is written. It reads ahead of a reader of ours that
// pauses, such as a pager: the gateway cuts off who takes nothing and answers no ping.
func (x *execSession) receive(ctx context.Context) (code int, err error) {
	defer close(x.output)
	for {
		x.reading.Store(true)
		kind, p, err := x.conn.Read(ctx)
		x.reading.Store(false)
		if err != nil {
			return 0, brokeOff(err)
		}
		if kind != websocket.MessageBinary || len(p) == 0 {
			return 0, fmt.Errorf("the gateway sent what is none of %s", execProtocol)
		}
		if p[0] == execExit {
			return parseEnd(p[1:])
		}
		select {
		case x.output <- p:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// write writes what the command wrote.
func (x *execSession) write(cancel context.CancelCauseFunc) {
	defer close(x.written)
	for p := range x.output {
		to := x.stdout
		switch p[0] {
		case execStdout:
		case execStderr:
			to = x.stderr
		default:
			continue
		}
		if _, err := to.Write(p[1:]); err != nil {
			cancel(fmt.Errorf("cannot write what the command wrote: %w", err))
			return
		}
	}
}

// send passes on standard input, and its end.
func (x *execSession) send(ctx context.Context) {
	if x.stdin != nil {
		buf := make([]byte, 1+stdinPiece)
		buf[0] = execStdin
		for {
			n, err := x.stdin.Read(buf[1:])
			if n > 0 && x.conn.Write(ctx, websocket.MessageBinary, buf[:1+n]) != nil {
				return // receive says why
			}
			if err != nil {
				break
			}
		}
	}
	_ = x.order(ctx, execOrder{EOF: true})
}

func (x *execSession) order(ctx context.Context, o execOrder) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return x.conn.Write(ctx, websocket.MessageBinary, append([]byte{execControl}, b...))
}

// control passes on signals and the terminal's size. A second signal, or the end of the terminal, ends the session: the command
// over there may ignore what it is sent.
func (x *execSession) control(ctx context.Context, cancel context.CancelCauseFunc) {
	told := false
	for {
		select {
		case <-ctx.Done():
			return
		case sig := <-x.watch.signals:
			what := x.terminal.judge(sig)
			if size, ok := x.terminal.size(); ok && what.resized {
				_ = x.order(ctx, execOrder{Resize: &size})
			}
			if what.name == "" {
				continue
			}
			_ = x.order(ctx, execOrder{Signal: what.name})
			if told || what.last {
				cancel(errLeft)
			}
			told = true
		}
	}
}

// keepAlive asks now and then whether the gateway is there, and ends the session if not: nothing else would, where the network
// went away. While what came is still being written, no answer can be seen, and none is missed.
func (x *execSession) keepAlive(ctx context.Context, cancel context.CancelCauseFunc) {
	for pause(ctx, execPing) == nil {
		once, done := context.WithTimeout(ctx, execPing)
		err := x.conn.Ping(once)
		done()
		if err != nil && ctx.Err() == nil && x.reading.Load() {
			cancel(fmt.Errorf("the gateway has not answered for %s", execPing))
		}
	}
}

// brokeOff says why a connection ended before the command.
func brokeOff(err error) error {
	var closed websocket.CloseError
	if !errors.As(err, &closed) {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.New("the connection broke off before the command ended")
		}
		return fmt.Errorf("the connection broke off before the command ended: %w", err)
	}
	switch {
	case closed.Code == websocket.StatusServiceRestart:
		return errors.New("the gateway is being replaced, and ended the connection before the command ended: try again")
	case closed.Reason != "":
		return errors.New(closed.Reason)
	}
	return fmt.Errorf("the gateway ended the connection before the command ended (%d)", closed.Code)
}
