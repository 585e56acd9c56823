//go:build race

package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// unwatched builds this program without the race detector, for what is in sandboxes: the detector's memory is more than a sandbox
// may have, where RLIMIT_DATA bounds it. So the detector watches the driver, not the shim.
func unwatched() (remove func(), err error) {
	dir, err := os.MkdirTemp("", "polygate-process-")
	if err != nil {
		return nil, err
	}
	program := filepath.Join(dir, "process.test")
	cmd := exec.Command("go", "test", "-c", "-race=false", "-o", program, ".")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("the program without the race detector does not build: %w\n%s", err, out)
	}
	return func() { _ = os.RemoveAll(dir) }, os.Setenv(selfVariable, program)
}
