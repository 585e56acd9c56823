package peer

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// TestOrphans shows that a subject and its workers end when whoever measures is killed, so that none serves on with a lab's keys.
func TestOrphans(t *testing.T) {
	each(t, func(t *testing.T, p Peer) {
		holder := exec.Command(os.Args[0], "hold", p.Name(), t.TempDir())
		holder.Stderr = os.Stderr
		out, err := holder.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := holder.Start(); err != nil {
			t.Fatal(err)
		}
		var pids []int
		lines := bufio.NewScanner(out)
		for lines.Scan() && lines.Text() != "ready" {
			pid, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
		if len(pids) == 0 {
			t.Error("the holder started nothing")
		}
		if err := holder.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = holder.Wait() // killed
		deadline := time.Now().Add(10 * time.Second)
		for _, pid := range pids {
			for lives(pid) {
				if time.Now().After(deadline) {
					t.Errorf("the group %d of %s outlives its starter", pid, p.Name())
					_ = syscall.Kill(-pid, syscall.SIGKILL)
					break
				}
				<-time.After(10 * time.Millisecond) // nobody tells when a process ends that is not ours
			}
		}
	})
}
