package process

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is shown can be read: the folders above it are not their owner's alone.
func TestShownIsReadable(t *testing.T) {
	apart(t, func(t *testing.T, r *rig) {
		deep, err := os.MkdirTemp("/opt", "polygate-shown-") //nolint:usetesting // /tmp has a file system of its own within
		if err != nil {
			t.Skip("no folder can be made that is not hidden within: ", err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(deep) })
		file := filepath.Join(deep, "a", "tool")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("TOOL"), 0o644); err != nil {
			t.Fatal(err)
		}
		r.drivers.cfg.Paths = []string{file}
		run := r.run(waiting())
		for line, want := range map[string]string{
			"id -un":                    "sandbox",
			"grep localhost /etc/hosts": "127.0.0.1",
			"cat " + file:               "TOOL",
		} {
			if out, _ := r.sh(run, line); !strings.Contains(out, want) {
				t.Errorf("%s: printed %q, want %q", line, out, want)
			}
		}
	})
}
