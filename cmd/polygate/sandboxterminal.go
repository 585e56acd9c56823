package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/coder/websocket"
	"golang.org/x/term"
)

// localTerminal is the terminal of whoever uses the command, while it shows one of a sandbox. A nil one is no terminal.
type localTerminal struct {
	file *os.File
	keys bool // what is typed goes to the sandbox, each key as it is

	mu    sync.Mutex
	saved *term.State // guarded by mu: how the terminal was; nil = it is so
}

// termSize is that of a terminal, in characters.
type termSize struct {
	Columns uint16 `json:"columns"`
	Rows    uint16 `json:"rows"`
}

// size returns the size now, if there is one that can be told.
func (t *localTerminal) size() (termSize, bool) {
	if t == nil {
		return termSize{}, false
	}
	columns, rows, err := term.GetSize(int(t.file.Fd()))
	if err != nil || columns <= 0 || rows <= 0 {
		return termSize{}, false
	}
	return termSize{uint16(min(columns, maxTerminal)), uint16(min(rows, maxTerminal))}, true
}

// maxTerminal is the most columns and rows that the gateway takes.
const maxTerminal = 1000

// raw makes the terminal hand over each key as it is. The function that it returns makes it what it was; it can be called again,
// and is to be called on every way out: a terminal that stays raw shows nothing of what its user types.
func (t *localTerminal) raw() (restore func(), err error) {
	if t == nil || !t.keys {
		return func() {}, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved == nil {
		if t.saved, err = term.MakeRaw(int(t.file.Fd())); err != nil {
			return nil, fmt.Errorf("cannot take over the terminal: %w", err)
		}
	}
	return t.restore, nil
}

func (t *localTerminal) restore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved != nil {
		_ = term.Restore(int(t.file.Fd()), t.saved)
		t.saved = nil
	}
}

// signalWatch is told of the signals that matter to a session.
type signalWatch struct{ signals chan os.Signal }

// listen begins to take signals. stop ends it.
func (t *localTerminal) listen() *signalWatch {
	w := &signalWatch{make(chan os.Signal, 16)}
	signal.Notify(w.signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	if t != nil {
		signal.Notify(w.signals, syscall.SIGWINCH, syscall.SIGTSTP)
	}
	return w
}

func (w *signalWatch) stop() { signal.Stop(w.signals) }

// during makes a connection, which a signal gives up.
func (w *signalWatch) during(ctx context.Context, cancel context.CancelFunc, dial func() (*websocket.Conn, error)) (*websocket.Conn, error) {
	type result struct {
		conn *websocket.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := dial()
		done <- result{conn, err}
	}()
	for {
		select {
		case r := <-done:
			return r.conn, r.err
		case sig := <-w.signals:
			if signalName(sig) == "" {
				continue // the size is asked for again once there is somebody to tell
			}
			cancel()
			if r := <-done; r.conn != nil {
				_ = r.conn.CloseNow()
			}
			return nil, fmt.Errorf("given up by a signal (%v)", sig)
		}
	}
}

// signalName is a signal as the gateway takes it; "" = it is not for the command.
func signalName(sig os.Signal) string {
	switch sig {
	case syscall.SIGINT:
		return "INT"
	case syscall.SIGTERM:
		return "TERM"
	case syscall.SIGQUIT:
		return "QUIT"
	case syscall.SIGHUP:
		return "HUP"
	}
	return ""
}

// judgement is what a signal means to a session.
type judgement struct {
	name    string // to pass on; "" = none
	resized bool   // the terminal may have another size
	last    bool   // there is nobody left to work for
}

// judge says what a signal means. Ctrl-Z from elsewhere stops this process, with the terminal as it was, until it is told to go on.
func (t *localTerminal) judge(sig os.Signal) judgement {
	switch sig {
	case syscall.SIGWINCH:
		return judgement{resized: true}
	case syscall.SIGTSTP:
		t.restore()
		stopUntilContinued()
		_, _ = t.raw()
		return judgement{resized: true}
	}
	return judgement{name: signalName(sig), last: sig == syscall.SIGHUP}
}

// stopUntilContinued stops this process. A stop takes effect some time after it was asked for: only what tells of its end says that
// it is over.
func stopUntilContinued() {
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGCONT)
	defer signal.Stop(again)
	if syscall.Kill(syscall.Getpid(), syscall.SIGSTOP) == nil {
		<-again
	}
}
