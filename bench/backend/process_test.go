package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain is also `polybench upstream`, for Command.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "upstream" {
		if err := Main(context.Background(), os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func self() (string, error) { return os.Executable() }

// launch starts this program as the upstream.
func launch(t *testing.T, ctx context.Context, cfg Config, cores []int) (*Process, error) {
	t.Helper()
	path, err := self()
	if err != nil {
		t.Fatal(err)
	}
	return Launch(ctx, path, cfg, cores)
}

func TestProcess(t *testing.T) {
	dir, _ := certificatesFor(t, "a.example")
	cfg := Config{Seed: seed, AnswerBytes: 100, TLS: &TLS{CertDir: dir}, Control: "127.0.0.1:0"}
	p, err := launch(t, t.Context(), cfg, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	c := web(t, &http.Transport{})
	_, body := get(t, c, "http://"+Addr(3, p.Plain))
	check(t, "/", body, 3)
	_, body = get(t, c, "http://"+p.Control+"/healthz")
	var got Ports
	if err := json.Unmarshal([]byte(body), &got); err != nil || got != p.Ports || got.TLS == 0 {
		t.Errorf("healthz: got %s, want %+v", body, p.Ports)
	}
	if err := p.Stall(t.Context(), -time.Second); err == nil || !strings.Contains(err.Error(), "-1s") {
		t.Errorf("a stall of -1s: got %v, want an error that names it", err)
	}
	const length = 300 * time.Millisecond
	began := time.Now()
	if err := p.Stall(t.Context(), length); err != nil {
		t.Errorf("stall: %v", err)
	}
	get(t, c, "http://"+Addr(3, p.Plain))
	if took := time.Since(began); took < length {
		t.Errorf("an answer in a stall of %s came after %s", length, took)
	}
	if err := p.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func TestProcessEndsAtSIGTERM(t *testing.T) {
	p, err := launch(t, t.Context(), Config{Seed: seed}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stall(t.Context(), time.Second); err == nil || !strings.Contains(err.Error(), "control") {
		t.Errorf("stall without control: got %v, want an error that says so", err)
	}
	if err := syscall.Kill(p.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// What goes wrong in the process is in the error.
func TestLaunchSaysWhy(t *testing.T) {
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = launch(t, t.Context(), Config{Seed: seed, Port: portOf(l)}, nil)
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v, want that the port is in use", err)
	}
	if _, err = Launch(t.Context(), "/nowhere/polybench", Config{Seed: seed}, nil); err == nil || !strings.Contains(err.Error(), "/nowhere/polybench") {
		t.Errorf("got %v, want the missing file's name", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = launch(t, ctx, Config{Seed: seed}, nil); err == nil {
		t.Error("a launch with an ended context is no error")
	}
}

func TestArguments(t *testing.T) {
	cfg := Config{Seed: "s", AnswerBytes: 99, Port: 1, TLS: &TLS{CertDir: "/d", Port: 2}, Control: "127.0.0.1:3"}
	got, err := parseArgs(Command("polybench", cfg).Args[2:])
	if err != nil || got.TLS == nil || *got.TLS != *cfg.TLS {
		t.Fatalf("got %+v, %v", got, err)
	}
	got.TLS = cfg.TLS
	if got != cfg {
		t.Errorf("got %+v, want %+v", got, cfg)
	}
	for want, args := range map[string][]string{"-unknown": {"--unknown"}, `"more"`: {"--seed", "s", "more"}, "invalid": {"--port", "x"}} {
		if _, err := parseArgs(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %s", args, err, want)
		}
	}
}
