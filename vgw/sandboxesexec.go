package vgw

import (
	"bytes"
	"context"
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// Bounds of an exec.
const (
	maxExecBody   = 2 << 20 // bytes, most of them standard input
	maxExecArgs   = 512
	maxExecText   = 128 << 10 // bytes of a command and its environment together: what every kernel takes
	maxExecEnv    = 128
	execOutput    = 1 << 20 // bytes of each stream that are answered, where the platform does not say
	execFor       = 60      // seconds, where nothing is said
	execMost      = 3600
	exitTimedOut  = 124 // as timeout(1) has it
	maxTerminal   = 1000
	terminalWidth = 80
	terminalRows  = 24
)

// execBody is the body of POST …/exec.
type execBody struct {
	Command        []string      `json:"command"`
	Env            []sandbox.Var `json:"env"`
	Stdin          string        `json:"stdin"`
	StdinBase64    string        `json:"stdin_base64"`
	TimeoutSeconds int64         `json:"timeout_seconds"`
}

// execView is what came of a command.
type execView struct {
	ExitCode     int     `json:"exit_code"`
	Signal       string  `json:"signal,omitzero"`
	Stdout       *string `json:"stdout,omitzero"`
	StdoutBase64 string  `json:"stdout_base64,omitzero"`
	Stderr       *string `json:"stderr,omitzero"`
	StderrBase64 string  `json:"stderr_base64,omitzero"`
	Truncated    bool    `json:"truncated,omitzero"`
	TimedOut     bool    `json:"timed_out,omitzero"`
}

func (b *execBody) read() (x sandbox.Exec, limit time.Duration, err error) {
	if err := checkCommand(b.Command, b.Env); err != nil {
		return x, 0, err
	}
	x.Command, x.Env = b.Command, b.Env
	stdin := []byte(b.Stdin)
	if b.StdinBase64 != "" {
		if b.Stdin != "" {
			return x, 0, fault.New(fault.Invalid, "stdin and stdin_base64 are both given: use one")
		}
		if stdin, err = base64.StdEncoding.DecodeString(b.StdinBase64); err != nil {
			return x, 0, fault.New(fault.Invalid, "stdin_base64 is no base64 (RFC 4648 §4)")
		}
	}
	if len(stdin) > 0 {
		x.Stdin = bytes.NewReader(stdin)
	}
	if b.TimeoutSeconds == 0 {
		b.TimeoutSeconds = execFor
	}
	if b.TimeoutSeconds < 1 || b.TimeoutSeconds > execMost {
		return x, 0, fault.New(fault.Invalid, "timeout_seconds must be 1 to %d", execMost)
	}
	return x, time.Duration(b.TimeoutSeconds) * time.Second, nil
}

// checkCommand refuses what no kernel takes, before a driver has to.
func checkCommand(command []string, env []sandbox.Var) error {
	size := 0
	switch {
	case len(command) == 0 || command[0] == "":
		return fault.New(fault.Invalid, "command is missing: the program and its arguments")
	case len(command) > maxExecArgs:
		return fault.New(fault.Invalid, "command has %d parts: at most %d", len(command), maxExecArgs)
	case len(env) > maxExecEnv:
		return fault.New(fault.Invalid, "env has %d entries: at most %d", len(env), maxExecEnv)
	}
	for i, arg := range command {
		if size += len(arg) + 1; strings.IndexByte(arg, 0) >= 0 {
			return fault.New(fault.Invalid, "command[%d] holds a zero byte", i)
		}
	}
	for i, e := range env {
		size += len(e.Name) + len(e.Value) + 2
		if !variableName(e.Name) || strings.IndexByte(e.Value, 0) >= 0 {
			return fault.New(fault.Invalid, "env[%d]: use a name of letters, digits and _ that begins with no digit, and a value without zero bytes", i)
		}
	}
	if size > maxExecText {
		return fault.New(fault.Invalid, "command and env have %d bytes together: at most %d", size, maxExecText)
	}
	return nil
}

func variableName(s string) bool {
	for i := range len(s) {
		letter := s[i]|0x20 >= 'a' && s[i]|0x20 <= 'z' || s[i] == '_'
		if !letter && (i == 0 || s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return s != "" && len(s) <= maxParam
}

// execResource is what records and policies are told of a command beside the sandbox: its program. Arguments may be secrets.
func execResource(command []string) string { return "/exec/" + label(command[0]) }

func execSandbox(_ context.Context, c *call) (exchange.Decision, error) {
	body, err := decodeUpTo[execBody](c, maxExecBody)
	if err != nil {
		return nil, err
	}
	x, limit, err := body.read()
	if err != nil {
		return nil, err
	}
	if c.r.Query != "" {
		return nil, fault.New(fault.Invalid, "there are no query parameters here")
	}
	a, permit, err := c.aimed(authz.SandboxExec, execResource(x.Command))
	if err != nil {
		return nil, err
	}
	return &exchange.Serve{Handle: func(ctx context.Context, out exchange.Stream) (err error) {
		defer func() { permit.Done(err) }()
		ctx, release, err := c.whileMay(ctx, authz.SandboxExec, a.object)
		if err != nil {
			return err
		}
		defer release()
		v, err := c.execOnce(ctx, a, x, limit)
		if err != nil {
			return err
		}
		d, err := reply(200, v)
		if err != nil {
			return err
		}
		return send(out, d)
	}}, nil
}

// execOnce runs a command to its end, or for as long as it may.
func (c *call) execOnce(ctx context.Context, a *aim, x sandbox.Exec, limit time.Duration) (*execView, error) {
	most := c.cfg.SandboxLimits.MaxExecOutput
	if most <= 0 {
		most = execOutput
	}
	stdout, stderr := &capture{most: most}, &capture{most: most}
	x.Stdout, x.Stderr = stdout, stderr
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	exit, err := a.all.Exec(bounded, a.it.ID, x)
	v := &execView{ExitCode: exit.Code, Signal: exit.Signal}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil && bounded.Err() != nil:
		v.ExitCode, v.TimedOut = exitTimedOut, true
	case err != nil:
		return nil, err
	}
	var cut [2]bool
	v.Stdout, v.StdoutBase64, cut[0] = stdout.end()
	v.Stderr, v.StderrBase64, cut[1] = stderr.end()
	v.Truncated = cut[0] || cut[1]
	return v, nil
}

// capture keeps the beginning of a stream. What comes after is dropped, so that the command goes on.
type capture struct {
	most int64

	mu  sync.Mutex
	buf []byte // guarded by mu
	cut bool   // guarded by mu
}

// Write implements io.Writer.
func (c *capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := min(int64(len(p)), c.most-int64(len(c.buf)))
	c.buf = append(c.buf, p[:keep]...)
	c.cut = c.cut || keep < int64(len(p))
	return len(p), nil
}

// end returns what was kept, as text if it is, and whether it is not all. A character that was cut in two is dropped.
func (c *capture) end() (text *string, encoded string, cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.buf
	if c.cut {
		for i := 1; i < utf8.UTFMax && i <= len(kept); i++ {
			if tail := kept[len(kept)-i:]; utf8.RuneStart(tail[0]) {
				if !utf8.FullRune(tail) {
					kept = kept[:len(kept)-i]
				}
				break
			}
		}
	}
	if !utf8.Valid(kept) {
		return nil, base64.StdEncoding.EncodeToString(kept), c.cut
	}
	s := string(kept)
	return &s, "", c.cut
}

// attachQuery reads the query of an exec over a WebSocket.
func attachQuery(raw string) (command []string, tty bool, size sandbox.Size, err error) {
	v, err := url.ParseQuery(raw)
	if err != nil {
		return nil, false, size, fault.Wrap(fault.Invalid, err, "the query is malformed")
	}
	command = v["command"]
	delete(v, "command")
	if v, err = queryOf(v.Encode(), "tty", "columns", "rows"); err != nil {
		return nil, false, size, err
	}
	if tty, err = flagOf(v, "tty"); err != nil {
		return nil, false, size, err
	}
	if !tty && (v.Has("columns") || v.Has("rows")) {
		return nil, false, size, fault.New(fault.Invalid, "columns and rows are of a terminal: add tty=1")
	}
	if size.Columns, err = cells(v, "columns", terminalWidth); err != nil {
		return nil, false, size, err
	}
	size.Rows, err = cells(v, "rows", terminalRows)
	return command, tty, size, err
}

func cells(v url.Values, name string, otherwise uint16) (uint16, error) {
	if !v.Has(name) {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(v.Get(name), 10, 16)
	if err != nil || n < 1 || n > maxTerminal {
		return 0, fault.New(fault.Invalid, "%s must be 1 to %d", name, maxTerminal)
	}
	return uint16(n), nil
}

func attachSandbox(_ context.Context, c *call) (exchange.Decision, error) {
	command, tty, size, err := attachQuery(c.r.Query)
	if err != nil {
		return nil, err
	}
	if err := checkCommand(command, nil); err != nil {
		return nil, err
	}
	if c.r.Upgrade != "websocket" {
		return nil, fault.New(fault.Invalid, "this is a WebSocket with the subprotocol %s: ask for the upgrade, or use POST", execProtocol)
	}
	a, permit, err := c.aimed(authz.SandboxExec, execResource(command))
	if err != nil {
		return nil, err
	}
	if a.it.State != sandbox.Running { // before the upgrade, where it can be told in an answer
		err := fault.New(fault.Conflict, "sandbox %q does not run: it is %s", a.it.Name, a.it.State)
		permit.Done(err)
		return nil, err
	}
	handle := func(ctx context.Context, conn exchange.Conn) (err error) {
		defer func() { permit.Done(err) }()
		ctx, release, err := c.whileMay(ctx, authz.SandboxExec, a.object)
		if err != nil {
			return err
		}
		defer release()
		return newExecSession(conn, command, tty, size).run(ctx, func(ctx context.Context, x sandbox.Exec) (sandbox.Exit, error) {
			return a.all.Exec(ctx, a.it.ID, x)
		})
	}
	return &exchange.Serve{WebSocket: &exchange.WebSocket{Subprotocols: []string{execProtocol}, MaxMessage: maxExecMessage, Handle: handle}}, nil
}
