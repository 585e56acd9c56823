package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// Exec implements sandbox.Driver: by WebSocket, and by SPDY where the API server, or a proxy before it, knows no WebSocket.
//
// Not all of sandbox.Exec is the cluster's to give. Variables are set by env, which the image has to have. INT, QUIT and TSTP go
// through a terminal as its control characters, which takes nothing; other signals, and those without a terminal, take a second exec
// of the image's sh, and where there is none a line on the standard error says so. A command whose caller goes away loses its
// streams and, if it has a terminal, gets HUP; without one it goes on.
func (d *driver) Exec(ctx context.Context, t sandbox.Task, x sandbox.Exec) (sandbox.Exit, error) {
	const what = "run the command"
	if len(x.Command) == 0 {
		return sandbox.Exit{}, fault.New(fault.Invalid, "a command is missing")
	}
	p, err := d.find(ctx, what, t)
	if err != nil {
		return sandbox.Exit{}, err
	}
	if c := containerStatus(p); c == nil || c.State.Running == nil {
		return sandbox.Exit{}, notRunning(what, p)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the goroutines of sizes and signals
	command := withEnv(x.Command, x.Env)
	out, errs := &gate{w: x.Stdout}, &gate{w: x.Stderr}
	defer out.shut()
	defer errs.shut()
	if x.TTY {
		errs = out
	}
	in := d.input(ctx, p.Name, x.Command, x, errs)
	return exitOf(what, errs, d.stream(ctx, p.Name, command, streams(ctx, x, in, out, errs)))
}

// withEnv puts env before a command that is to have variables.
func withEnv(command []string, vars []sandbox.Var) []string {
	if len(vars) == 0 {
		return command
	}
	out := []string{"env"}
	for _, v := range vars {
		out = append(out, v.Name+"="+v.Value)
	}
	return append(out, command...)
}

func streams(ctx context.Context, x sandbox.Exec, in io.Reader, out, errs *gate) remotecommand.StreamOptions {
	o := remotecommand.StreamOptions{Stdin: in, Stdout: out, Tty: x.TTY}
	if !x.TTY {
		o.Stderr = errs
	}
	if x.TTY && x.Resize != nil {
		o.TerminalSizeQueue = sizes{ctx, x.Resize}
	}
	return o
}

// stream runs a command in a pod. Its connection is bounded in time, the command is not.
func (d *driver) stream(ctx context.Context, pod string, command []string, o remotecommand.StreamOptions) error {
	ctx, answered, cancel := d.cluster.until(ctx)
	defer cancel()
	url := d.cluster.core.RESTClient().Post().Resource("pods").Namespace(d.namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Container: containerName, Command: command,
			Stdin: o.Stdin != nil, Stdout: o.Stdout != nil, Stderr: o.Stderr != nil, TTY: o.Tty,
		}, scheme.ParameterCodec).URL()
	c := rest.CopyConfig(d.cluster.rest)
	c.Wrap(func(rt http.RoundTripper) http.RoundTripper { return answers{rt, answered} })
	ws, err := remotecommand.NewWebSocketExecutor(c, http.MethodGet, url.String())
	if err != nil {
		return fault.Wrap(fault.Internal, err, "cannot make a WebSocket")
	}
	spdy, err := remotecommand.NewSPDYExecutor(c, http.MethodPost, url)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "cannot make a SPDY connection")
	}
	both, err := remotecommand.NewFallbackExecutor(ws, spdy, noWebSocket)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "cannot make an executor")
	}
	// The zero logger says nothing: client-go would report streams that broke off, which callers do all the time, on the standard error.
	return causeOf(ctx, both.StreamWithContext(klog.NewContext(ctx, klog.Logger{}), o))
}

// noWebSocket says whether a connection failed for its protocol. What the API server refuses with a status of its own it would
// refuse by SPDY too, but for the few that it answers to an upgrade that it does not know.
func noWebSocket(err error) bool {
	return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
}

// answers tells when a connection stands.
type answers struct {
	http.RoundTripper
	answered func()
}

// RoundTrip implements http.RoundTripper.
func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := a.RoundTripper.RoundTrip(r)
	if err == nil {
		a.answered()
	}
	return resp, err
}

// WrappedRoundTripper lets the SPDY executor find the TLS settings beneath.
func (a answers) WrappedRoundTripper() http.RoundTripper { return a.RoundTripper }

var _ utilnet.RoundTripperWrapper = answers{}

// exitOf says how a command ended by what its stream ended with.
func exitOf(what string, errs io.Writer, err error) (sandbox.Exit, error) {
	var code utilexec.CodeExitError
	switch {
	case err == nil:
		return sandbox.Exit{}, nil
	case errors.As(err, &code):
		return sandbox.Exit{Code: code.Code, Signal: signalOf(code.Code)}, nil
	case errors.Is(err, errSlow), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return sandbox.Exit{}, classify(what, err)
	}
	text := err.Error()
	switch {
	case containsAny(text, "executable file not found", "no such file or directory"):
		fmt.Fprintf(errs, "polygate: the command was not found in the image\n")
		return sandbox.Exit{Code: 127}, nil
	case containsAny(text, "permission denied", "is a directory", "exec format error"):
		fmt.Fprintf(errs, "polygate: the command cannot be executed\n")
		return sandbox.Exit{Code: 126}, nil
	case containsAny(text, "container not running", "not in running state", "stopped container", "container not found", "task not found", "process already finished", "no running task"):
		return sandbox.Exit{}, fault.Wrap(fault.Conflict, errors.Join(sandbox.ErrNotRunning, err), "cannot %s: the sandbox does not run any more", what)
	}
	var upgrade *httpstream.UpgradeFailureError
	if errors.As(err, &upgrade) && upgrade.Cause != nil {
		err = upgrade.Cause
	}
	return sandbox.Exit{}, classify(what, err)
}

func containsAny(s string, words ...string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(s, w) })
}

// signalOf names the signal of a code above 128, as shells and container runtimes write them. A program that ends itself with such a
// code cannot be told apart.
func signalOf(code int) string {
	switch code - 128 {
	case 1:
		return "HUP"
	case 2:
		return "INT"
	case 3:
		return "QUIT"
	case 4:
		return "ILL"
	case 6:
		return "ABRT"
	case 8:
		return "FPE"
	case 9:
		return "KILL"
	case 10:
		return "USR1"
	case 11:
		return "SEGV"
	case 12:
		return "USR2"
	case 13:
		return "PIPE"
	case 14:
		return "ALRM"
	case 15:
		return "TERM"
	}
	return ""
}

// sizes hands on the sizes of a terminal.
type sizes struct {
	ctx context.Context //nolint:containedctx // of one stream: its interface has no context
	ch  <-chan sandbox.Size
}

// Next implements remotecommand.TerminalSizeQueue.
func (s sizes) Next() *remotecommand.TerminalSize {
	select {
	case <-s.ctx.Done():
		return nil
	case z, ok := <-s.ch:
		if !ok {
			return nil
		}
		return &remotecommand.TerminalSize{Width: z.Columns, Height: z.Rows}
	}
}

const signalWithin = 5 * time.Second // of delivering one signal by a second exec
