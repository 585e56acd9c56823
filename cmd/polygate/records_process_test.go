package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestAuditSignatures: the key that a start writes beside the data checks the signatures of the log's checkpoints, also after a kill.
func TestAuditSignatures(t *testing.T) {
	g := newGateway(t, twoTenants)
	g.start()
	g.kill()
	g.start()
	for file, want := range map[string]int{"audit.pem": 0, "ca.pem": 1} {
		cmd := exec.Command(bin(t, "polygate"), "audit", "verify", "--file", filepath.Join(g.dir, "data", "audit.jsonl"), "--offline",
			"--public-key", filepath.Join(g.dir, "data", file))
		out, _ := cmd.CombinedOutput()
		got := cmd.ProcessState.ExitCode()
		signed := strings.Contains(string(out), "of them signed") && !strings.Contains(string(out), " 0 of them signed")
		if min(got, 1) != want || want == 0 && !signed {
			t.Errorf("with %s: exit code %d, want %d\n%s", file, got, want, out)
		}
	}
}
