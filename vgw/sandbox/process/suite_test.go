package process

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/polygate/polygate/vgw/sandbox"
	"github.com/polygate/polygate/vgw/sandbox/sandboxtest"
)

// buildTool builds the test program of all drivers, into a folder that sandboxes can read.
func buildTool(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "tools"), "../../../test/kube/images/tools")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the test program does not build: %v\n%s", err, out)
	}
	return dir
}

// TestSuite is the suite of all drivers, in each way in which this one can work here.
func TestSuite(t *testing.T) {
	tools := buildTool(t)
	for _, c := range []struct{ name, bwrap string }{{"apart", ""}, {"plain", NoBwrap}} {
		t.Run(c.name, func(t *testing.T) {
			if c.bwrap == "" {
				needBwrap(t)
			}
			dir, at := t.TempDir(), tools
			if c.bwrap == NoBwrap {
				at = openTo(t, tools)
			}
			open := func(t *testing.T) sandbox.Drivers {
				cfg := Config{Dir: dir, Self: self(), Bwrap: c.bwrap, Cgroup: true, Logger: slog.New(slog.DiscardHandler)}
				if c.bwrap == "" {
					cfg.Paths = []string{at}
				}
				d, err := New(cfg)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(d.reap)
				return d
			}
			d := open(t).(*Drivers)
			sandboxtest.Run(t, open, sandboxtest.Caps{
				Tenant: someTenant("a"), Other: someTenant("b"), Tool: []string{filepath.Join(at, "tools")}, TTY: true, Signals: true, Since: true,
				OOM: d.groups.lacks() == nil, Release: true, Events: true,
			})
			for _, who := range []string{"a", "b"} {
				if ok, err := d.Erase(t.Context(), "", who); !ok {
					t.Errorf("Erase(%s) = %v, %v", who, ok, err)
				}
			}
		})
	}
}

// openTo copies the test program to where a user of its own can run it: a plain sandbox sees this machine's folders by their modes.
func openTo(t *testing.T, dir string) string {
	t.Helper()
	to, err := os.MkdirTemp("/tmp", "polygate-tools-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(to) })
	b, err := os.ReadFile(filepath.Join(dir, "tools"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(to, "tools"), b, 0o755), os.Chmod(to, 0o755)); err != nil {
		t.Fatal(err)
	}
	return to
}
