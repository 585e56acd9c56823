package kube

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"k8s.io/client-go/tools/remotecommand"

	"github.com/polygate/polygate/vgw/sandbox"
)

// input returns what a command reads, and has its signals delivered until ctx ends.
func (d *driver) input(ctx context.Context, pod string, command []string, x sandbox.Exec, errs io.Writer) io.Reader {
	if x.Signals == nil {
		return x.Stdin
	}
	keys := io.Writer(nil)
	in := x.Stdin
	if x.TTY {
		r, w := io.Pipe()
		context.AfterFunc(ctx, func() { _ = r.Close() })
		both := &typed{w: w}
		keys, in = both, r
		if x.Stdin != nil {
			go both.copyFrom(x.Stdin)
		}
	}
	go d.deliver(ctx, pod, command, x.Signals, keys, errs)
	return in
}

// typed is the keyboard of a terminal: what its user types, and the control characters of signals between.
type typed struct {
	mu sync.Mutex // guards w against two writers
	w  *io.PipeWriter
}

// Write implements io.Writer.
func (k *typed) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.w.Write(p)
}

func (k *typed) copyFrom(r io.Reader) {
	_, err := io.Copy(k, r)
	_ = k.w.CloseWithError(err) // nil = io.EOF
}

func (d *driver) deliver(ctx context.Context, pod string, command []string, signals <-chan string, keys, errs io.Writer) {
	for {
		select {
		case <-ctx.Done():
			return
		case name, ok := <-signals:
			if !ok {
				return
			}
			if err := d.signal(ctx, pod, command, name, keys); err != nil && ctx.Err() == nil {
				fmt.Fprintf(errs, "polygate: the signal %s was not delivered: %v\n", clip(name), err)
			}
		}
	}
}

// control returns the character that has a terminal send a signal; 0 = there is none.
func control(name string) byte {
	switch name {
	case "INT":
		return 0x03
	case "QUIT":
		return 0x1c
	case "TSTP":
		return 0x1a
	}
	return 0
}

func (d *driver) signal(ctx context.Context, pod string, command []string, name string, keys io.Writer) error {
	if !isSignal(name) {
		return fmt.Errorf("it has no such signal")
	}
	if c := control(name); keys != nil && c != 0 {
		_, err := keys.Write([]byte{c})
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, signalWithin)
	defer cancel()
	var said bytes.Buffer
	g := &gate{w: &said}
	defer g.shut()
	kill := []string{"sh", "-c", killScript, "sh", name, printable(command)}
	exit, err := exitOf("send a signal", io.Discard, d.stream(ctx, pod, kill, remotecommand.StreamOptions{Stdout: g, Stderr: g}))
	return killed(exit, err)
}

// killScript finds the command among those that came by an exec, which have no parent within the container, and signals its process
// group, or itself if it leads none. It ends with 3 if it found none and with 4 if it cannot tell two apart.
const killScript = `found=
for d in /proc/[0-9]*; do
  p=${d#/proc/}
  [ "$p" = 1 ] || [ "$p" = $$ ] && continue
  parent=
  while read -r k v; do [ "$k" = PPid: ] && parent=$v && break; done 2>/dev/null <$d/status
  [ "$parent" = 0 ] || continue
  [ "$(tr '\0' ' ' 2>/dev/null <$d/cmdline)" = "$2 " ] || continue
  [ -n "$found" ] && exit 4
  found=$p
done
[ -n "$found" ] || exit 3
kill -s "$1" -- "-$found" 2>/dev/null || kill -s "$1" "$found"`

// printable returns a command as /proc shows it, its parts joined by spaces.
func printable(command []string) string { return strings.Join(command, " ") }

func killed(exit sandbox.Exit, err error) error {
	switch {
	case err != nil:
		return err
	case exit.Code == 126 || exit.Code == 127:
		return fmt.Errorf("it takes a shell (sh, tr, kill), and the image has none")
	case exit.Code == 3:
		return fmt.Errorf("the command is not there any more, or has renamed itself")
	case exit.Code == 4:
		return fmt.Errorf("the same command runs twice: end one of them")
	case exit.Code != 0:
		return fmt.Errorf("kill ended with %d", exit.Code)
	}
	return nil
}

// isSignal says whether a name is one that may be sent.
func isSignal(name string) bool {
	return slices.Contains([]string{"HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM", "TSTP", "STOP", "CONT", "WINCH"}, name)
}

// gate lets writes through until it is shut: a stream that was broken off may still write for a moment, and its caller's buffer is no
// longer its own then.
type gate struct {
	mu   sync.Mutex // held while w is written to
	w    io.Writer  // nil = nowhere
	done bool
}

// Write implements io.Writer.
func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.done:
		return 0, io.ErrClosedPipe
	case g.w == nil:
		return len(p), nil
	}
	return g.w.Write(p)
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.done = true
}
