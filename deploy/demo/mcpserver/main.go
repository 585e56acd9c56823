// Command mcpserver runs the demo's MCP server, and then a command that uses it.
//
// The MCP go-sdk ships its conformance fixtures as a program that speaks one era of the protocol at a time: sessions
// (up to 2025-11-25) or stateless requests (2026-07-28). mcpserver starts one of each on ports of its own and answers on
// one address, choosing by the MCP-Protocol-Version header, as a server that speaks both eras would.
//
//	mcpserver -server bin/everything-server [-listen 127.0.0.1:18110] [-- command arg...]
//
// With a command it runs that command once the server answers, passes signals on to it, and ends with its exit code.
// Without one it serves until it is interrupted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:18110", "address to answer on")
	server := flag.String("server", "everything-server", "path of the go-sdk's everything-server program")
	flag.Parse()
	code, err := run(*listen, *server, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "mcpserver:", err)
		code = 1
	}
	os.Exit(code)
}

func run(listen, server string, command []string) (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return 1, fmt.Errorf("cannot listen on %s: %w (is another demo running?)", listen, err)
	}
	sessions, err := startFixture(server, false)
	if err != nil {
		return 1, err
	}
	defer sessions.stop()
	stateless, err := startFixture(server, true)
	if err != nil {
		return 1, err
	}
	defer stateless.stop()

	front := &http.Server{Handler: byEra(sessions.proxy(), stateless.proxy()), ReadHeaderTimeout: 10 * time.Second}
	var serving sync.WaitGroup
	serving.Go(func() { _ = front.Serve(ln) })
	defer serving.Wait()
	defer front.Close()
	if len(command) == 0 {
		<-ctx.Done()
		return 0, nil
	}
	return runCommand(ctx, command)
}

// byEra sends requests of the revision 2026-07-28 and later to stateless and all others to sessions. Revisions are dates,
// so they compare as text.
func byEra(sessions, stateless http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Otherwise net/http closes the request's body once the response begins, and the relay, still looking for the body's
		// end, breaks off the response: about one in two thousand.
		_ = http.NewResponseController(w).EnableFullDuplex()
		if r.Header.Get("Mcp-Protocol-Version") >= "2026-07-28" {
			stateless.ServeHTTP(w, r)
			return
		}
		sessions.ServeHTTP(w, r)
	})
}

// fixture is one running everything-server.
type fixture struct {
	addr string
	cmd  *exec.Cmd
}

func startFixture(server string, stateless bool) (*fixture, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(server, "-http", addr, fmt.Sprintf("-stateless=%t", stateless))
	detach(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the MCP fixtures: %w (build them with: make build)", err)
	}
	f := &fixture{addr: addr, cmd: cmd}
	if err := f.waitReady(10 * time.Second); err != nil {
		f.stop()
		return nil, err
	}
	return f, nil
}

// freeAddr returns a loopback address that nothing listened on a moment ago.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

func (f *fixture) waitReady(limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", f.addr, time.Second)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the MCP fixtures do not answer on %s: %w", f.addr, err)
		}
	}
}

func (f *fixture) stop() {
	_ = f.cmd.Process.Kill()
	_ = f.cmd.Wait()
}

// proxy relays to the fixture under the fixture's own Host, which it checks against DNS rebinding.
func (f *fixture) proxy() http.Handler {
	target := &url.URL{Scheme: "http", Host: f.addr}
	return &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		FlushInterval: -1, // server-sent events
	}
}

// runCommand runs command to its end. The first signal is passed on; a terminal's Ctrl-C reaches the command by itself.
func runCommand(ctx context.Context, command []string) (int, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		return exitCode(err)
	case <-ctx.Done():
		_ = cmd.Process.Signal(syscall.SIGTERM)
		return exitCode(<-done)
	}
}

func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}
