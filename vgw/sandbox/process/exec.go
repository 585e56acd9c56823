package process

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"syscall"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// Exec implements sandbox.Driver. The other side of its socket is in the sandbox: what comes from there is bounded and judged, and at
// worst a wrong answer about the sandbox's own command.
func (d *driver) Exec(ctx context.Context, t sandbox.Task, x sandbox.Exec) (sandbox.Exit, error) {
	if len(x.Command) == 0 {
		return sandbox.Exit{}, fault.New(fault.Invalid, "there is no command to run")
	}
	path, _, st, err := d.find(t)
	if err != nil {
		return sandbox.Exit{}, err
	}
	if st == nil || st.Phase != sandbox.PhaseRunning || !st.Shim.alive() {
		return sandbox.Exit{}, fault.Wrap(fault.Conflict, sandbox.ErrNotRunning, "the sandbox does not run: start it first")
	}
	dialing, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := dial(dialing, path, execSocket)
	if err != nil {
		return sandbox.Exit{}, fault.Wrap(fault.Unavailable, err, "the sandbox takes no commands now: try again")
	}
	defer conn.Close() //nolint:errcheck // done
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	exit, err := relay(conn, x)
	switch {
	case err == nil:
		return exit, nil
	case ctx.Err() != nil:
		return sandbox.Exit{}, fault.From(context.Cause(ctx))
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed):
		return sandbox.Exit{Code: 128 + int(syscall.SIGKILL), Signal: "KILL"}, nil // the sandbox has ended, and the command with it
	}
	return sandbox.Exit{}, err
}

// relay runs a command over a connection. It returns when the other side has said how the command ended.
func relay(conn io.ReadWriter, x sandbox.Exec) (sandbox.Exit, error) {
	f := &frames{rw: conn}
	c := command{Command: x.Command, TTY: x.TTY}
	for _, v := range x.Env {
		c.Env = append(c.Env, v.Name+"="+v.Value)
	}
	if err := f.writeJSON(frameCommand, c); err != nil {
		return sandbox.Exit{}, errors.Join(err, io.ErrUnexpectedEOF)
	}
	done := make(chan struct{})
	defer close(done)
	taken := make(chan struct{}, window)
	go steer(f, x, done)
	go send(f, x.Stdin, taken, done)
	for {
		k, b, err := f.read(maxFrame)
		if err != nil {
			return sandbox.Exit{}, err
		}
		switch k {
		case frameOutput:
			err = pass(x.Stdout, b)
		case frameError:
			err = pass(x.Stderr, b)
		case frameTaken:
			select {
			case taken <- struct{}{}:
			default: // more than was sent
			}
		case frameExit:
			var e ended
			if json.Unmarshal(b, &e) != nil {
				return sandbox.Exit{}, errFrame
			}
			e, err = e.check()
			return sandbox.Exit{Code: e.Code, Signal: e.Signal}, err
		default:
			return sandbox.Exit{}, errFrame
		}
		if err != nil {
			return sandbox.Exit{}, err
		}
	}
}

// pass gives output to the caller, whose failure ends the command.
func pass(w io.Writer, b []byte) error {
	if w == nil {
		return nil
	}
	if _, err := w.Write(b); err != nil {
		return fault.Wrap(fault.Canceled, err, "the caller no longer listens")
	}
	return nil
}

// steer sends sizes and signals on.
func steer(f *frames, x sandbox.Exec, done <-chan struct{}) {
	resize, signals := x.Resize, x.Signals
	for {
		var err error
		select {
		case <-done:
			return
		case z, ok := <-resize:
			if !ok {
				resize = nil
				continue
			}
			err = f.writeJSON(frameResize, size{z.Columns, z.Rows})
		case name, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			if signalNumber(name) != 0 {
				err = f.write(frameSignal, []byte(name))
			}
		}
		if err != nil {
			return
		}
	}
}

// send sends the input on, no further ahead than the window. It ends when its reader does, or at the next read after the command's end.
func send(f *frames, in io.Reader, taken, done <-chan struct{}) {
	if in == nil {
		_ = f.write(frameEOF, nil)
		return
	}
	buf := make([]byte, chunk)
	for free := window; ; {
		n, err := in.Read(buf)
		if n > 0 {
			if free == 0 {
				select {
				case <-taken:
					free++
				case <-done:
					return
				}
			}
			if f.write(frameInput, buf[:n]) != nil {
				return
			}
			free--
		}
		for more := true; more; {
			select {
			case <-taken:
				free++
			case <-done:
				return
			default:
				more = false
			}
		}
		if err != nil {
			_ = f.write(frameEOF, nil)
			return
		}
	}
}
