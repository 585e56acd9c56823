package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"

	"github.com/coder/websocket"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// execFlags are those of exec.
type execFlags struct{ stdin, tty bool }

func (s *sandboxes) exec() *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use: "exec <sandbox> [-i] [-t] -- command …", Short: "Run a command in a sandbox",
		Long: `Run a command in a sandbox that runs. What it writes comes here as it is; with -i it reads what this command reads; with -t it has a
terminal, which is this one: its size follows, and keys such as Ctrl-C go to it. Without -t, SIGINT, SIGTERM, SIGQUIT and SIGHUP go
to it; the second one ends this command in any case.

The exit code is that of the command: 128 + n where signal n ended it. It is 125 where the command was not run, or its end is not
known: the gateway refused it or went away, or the command line is wrong. One line on stderr says why.

What comes from a sandbox is written as it is, and can drive the terminal that shows it.`,
		Example: "  polygate sandbox exec web -it -- sh\n  polygate sandbox exec web -- cat /etc/os-release\n  tar c . | polygate sandbox exec web -i -- tar x -C /workspace",
		Args:    nameAndCommand, ValidArgsFunction: s.complete(named("sandboxes")),
		Annotations: map[string]string{passesOn: "exec"},
		RunE: func(cmd *cobra.Command, args []string) error {
			x, err := newExecution(cmd, f)
			if err != nil {
				return err
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				// The signals that end ctx are for the command over there: x judges them.
				code, err := x.run(context.WithoutCancel(ctx), c, args[0], args[1:])
				if err != nil {
					return fmt.Errorf("exec in sandbox %q: %w", args[0], err)
				}
				if code != 0 {
					return &exited{code}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&f.stdin, "stdin", "i", false, "pass on what this command reads")
	cmd.Flags().BoolVarP(&f.tty, "tty", "t", false, "give it a terminal")
	return cmd
}

// nameAndCommand is for commands that take a name, and after -- a command.
func nameAndCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 || cmd.ArgsLenAtDash() == 0 {
		return fmt.Errorf("no sandbox is named")
	}
	if len(args) == 1 {
		return fmt.Errorf("no command: write it after --")
	}
	return nil
}

// execution is one command that runs in a sandbox, seen from here.
type execution struct {
	stdin          io.Reader // nil = none
	stdout, stderr io.Writer
	terminal       *localTerminal // nil = the command has none
}

func newExecution(cmd *cobra.Command, f execFlags) (*execution, error) {
	x := &execution{stdout: cmd.OutOrStdout(), stderr: cmd.ErrOrStderr()}
	if f.stdin {
		x.stdin = cmd.InOrStdin()
	}
	if !f.tty {
		return x, nil
	}
	var end any = x.stdout
	if f.stdin {
		end = x.stdin
	}
	file, ok := end.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return nil, usage("-t is for a terminal, and this is none: leave it out for pipes and scripts")
	}
	x.terminal = &localTerminal{file: file, keys: f.stdin}
	return x, nil
}

// run runs the command and returns its exit code. The terminal is as it was when run returns, whatever happened.
func (x *execution) run(ctx context.Context, c *client, name string, command []string) (int, error) {
	q := url.Values{"command": command}
	if x.terminal != nil {
		q.Set("tty", "1")
		if size, ok := x.terminal.size(); ok {
			q.Set("columns", strconv.Itoa(int(size.Columns)))
			q.Set("rows", strconv.Itoa(int(size.Rows)))
		}
	}
	// Before the connection: a signal while it is made ends the command as it should.
	watch := x.terminal.listen()
	defer watch.stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := watch.during(ctx, cancel, func() (*websocket.Conn, error) {
		return c.webSocket(ctx, c.path("sandboxes", name, "exec")+"?"+q.Encode(), execProtocol)
	})
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.CloseNow() }()
	restore, err := x.terminal.raw()
	if err != nil {
		return 0, err
	}
	defer restore()
	return (&execSession{execution: x, conn: conn, watch: watch}).run(ctx)
}

// webSocket opens a WebSocket with one of our own protocols.
func (c *client) webSocket(ctx context.Context, path, protocol string) (*websocket.Conn, error) {
	head := http.Header{"Authorization": {"Bearer " + c.secret}}
	conn, resp, err := websocket.Dial(ctx, c.base.String()+path, &websocket.DialOptions{HTTPClient: c.http, HTTPHeader: head, Subprotocols: []string{protocol}}) //nolint:bodyclose // the library sees to it
	switch {
	case err == nil && conn.Subprotocol() != protocol:
		_ = conn.CloseNow()
		return nil, fmt.Errorf("%s speaks no %s: is the gateway of another version?", c.base, protocol)
	case err == nil:
		conn.SetReadLimit(maxExecMessage)
		return conn, nil
	case resp != nil && resp.StatusCode/100 != 1:
		var body bytes.Buffer
		_, _ = io.Copy(&body, resp.Body) // what Dial kept of it: 1 KiB at most
		return nil, c.refused(resp, body.Bytes())
	}
	return nil, c.unreached(err)
}
