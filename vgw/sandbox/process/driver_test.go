package process

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
)

const gatewayCommand = "test-gateway"

// rig is a driver under test with what it has told.
type rig struct {
	t       *testing.T
	drivers *Drivers
	driver  sandbox.Driver
	ctx     context.Context

	mu   sync.Mutex
	seen map[string]sandbox.Observation // by nonce
	news chan struct{}
}

// needBwrap skips where bubblewrap is not installed.
func needBwrap(t *testing.T) {
	t.Helper()
	if m, _ := probe(""); m.Bwrap == "" {
		t.Skip("needs bubblewrap, which keeps sandboxes apart: apt-get install bubblewrap")
	}
}

func someTenant(uid string) sandbox.Tenant {
	return sandbox.Tenant{Scope: tenant.Confine("team-"+tenant.ID(uid), uid)}
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	cfg := Config{Dir: t.TempDir(), Self: self(), Cgroup: true, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if change != nil {
		change(&cfg)
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return watchRig(t, d, "a")
}

func watchRig(t *testing.T, d *Drivers, who string) *rig {
	t.Helper()
	driver, err := d.Open(someTenant(who))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &rig{t: t, drivers: d, driver: driver, ctx: ctx, seen: map[string]sandbox.Observation{}, news: make(chan struct{}, 1)}
	if err := driver.Prepare(ctx); err != nil {
		t.Fatal(err)
	}
	done, synced := make(chan error, 1), make(chan struct{})
	go func() { done <- driver.Watch(ctx, r.note, func() { close(synced) }) }()
	<-synced
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch = %v, want that it was canceled", err)
		}
		for end := time.Now().Add(20 * time.Second); ; {
			ok, err := d.Erase(context.Background(), "", who)
			if ok {
				break
			}
			if time.Now().After(end) {
				t.Errorf("Erase = %v, %v", ok, err)
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		driver.Close()
	})
	return r
}

func (r *rig) note(o sandbox.Observation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[o.Nonce] = o
	select {
	case r.news <- struct{}{}:
	default:
	}
}

// until waits for an observation.
func (r *rig) until(t sandbox.Task, phase sandbox.Phase) sandbox.Observation {
	r.t.Helper()
	end := time.After(30 * time.Second)
	for {
		r.mu.Lock()
		o, ok := r.seen[t.Nonce]
		r.mu.Unlock()
		if ok && o.Phase == phase {
			return o
		}
		select {
		case <-r.news:
		case <-end:
			r.t.Fatalf("the run is %+v after 30 s, want phase %d\n%s", o, phase, r.log(t))
		}
	}
}

func task(argv ...string) sandbox.Task {
	b := make([]byte, 4)
	_, _ = rand.Read(b)
	id := uuid.NewString()
	return sandbox.Task{Sandbox: id, Nonce: hex.EncodeToString(b), Name: "box-" + id[:8], Spec: sandbox.Spec{Command: argv,
		Resources: sandbox.Resources{CPU: 500, Memory: 256 << 20, Storage: 64 << 20}}}
}

// run makes a run and waits until it runs.
func (r *rig) run(t sandbox.Task) sandbox.Task {
	r.t.Helper()
	t = r.create(t)
	r.until(t, sandbox.PhaseRunning)
	return t
}

func (r *rig) create(t sandbox.Task) sandbox.Task {
	r.t.Helper()
	uid, err := r.driver.Create(r.ctx, t)
	if err != nil {
		r.t.Fatalf("Create: %v", err)
	}
	t.UID = uid
	return t
}

func (r *rig) log(t sandbox.Task) string {
	rc, err := r.driver.Logs(context.Background(), t, sandbox.LogQuery{Tail: -1})
	if err != nil {
		return err.Error()
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	return fmt.Sprint(string(b), "", orNil(err))
}

func orNil(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// sh runs a shell's line in a run.
func (r *rig) sh(t sandbox.Task, line string) (out string, exit sandbox.Exit) {
	r.t.Helper()
	var b bytes.Buffer
	ctx, cancel := context.WithTimeout(r.ctx, 60*time.Second)
	defer cancel()
	exit, err := r.driver.Exec(ctx, t, sandbox.Exec{Command: []string{"/bin/sh", "-c", line}, Stdout: &b, Stderr: &b})
	if err != nil {
		r.t.Fatalf("Exec(%s): %v\n%s", line, err, b.String())
	}
	return b.String(), exit
}

func TestRunExecLogsEnd(t *testing.T) {
	needBwrap(t)
	r := newRig(t, nil)
	run := r.run(task("/bin/sh", "-c", "echo hello; echo bad >&2; sleep 1000"))
	out, exit := r.sh(run, "id -u; pwd; echo $HOME; exit 3")
	if exit.Code != 3 || !strings.Contains(out, "/workspace\n/workspace") {
		t.Errorf("exec = %q, %+v; want exit 3 in /workspace", out, exit)
	}
	if got := r.log(run); got != "hello\nbad\n" {
		t.Errorf("log = %q", got)
	}
	if err := r.driver.Remove(r.ctx, run, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	o := r.until(run, sandbox.PhaseEnded)
	if o.Exit == nil || *o.Exit != 143 || o.Reason != sandbox.ReasonStopped {
		t.Errorf("end = %+v", o)
	}
	if err := r.driver.Release(r.ctx, run); err != nil {
		t.Fatal(err)
	}
	r.until(run, sandbox.PhaseAbsent)
}

// TestShortCommands: of a command that ends at once it is told that it ran, and of one that cannot be started why.
func TestShortCommands(t *testing.T) {
	needBwrap(t)
	r := newRig(t, nil)
	for range 10 {
		short := r.until(r.create(task("/bin/sh", "-c", "exit 7")), sandbox.PhaseEnded)
		if short.Started.IsZero() || short.Exit == nil || *short.Exit != 7 || short.Message != "" {
			t.Errorf("a command that ends at once: %+v, want that it ran", short)
		}
		missing := r.until(r.create(task("/no/such/program")), sandbox.PhaseEnded)
		if !missing.Started.IsZero() || missing.Exit == nil || *missing.Exit != 127 || !strings.Contains(missing.Message, "its command could not be started: ") {
			t.Errorf("a command that is not there: %+v, want why", missing)
		}
	}
}
