package process

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/vgw/sandbox"
)

// apart runs a test in each way in which sandboxes are kept apart: as root, who becomes another user, and in a user namespace.
func apart(t *testing.T, test func(t *testing.T, r *rig)) {
	needBwrap(t)
	t.Run("as it is here", func(t *testing.T) { test(t, newRig(t, nil)) })
	if os.Geteuid() == 0 {
		t.Run("user namespace", func(t *testing.T) {
			r := newRig(t, nil)
			m := mode{Bwrap: r.drivers.mode.Bwrap, User: true, Disable: true}
			if m.works() != nil {
				t.Skip("user namespaces are forbidden here")
			}
			r.drivers.mode = m
			test(t, r)
		})
	}
}

func waiting() sandbox.Task { return task("/bin/sh", "-c", "sleep 1000") }

func TestEscapeFiles(t *testing.T) {
	apart(t, func(t *testing.T, r *rig) {
		canary := filepath.Join(r.drivers.cfg.Dir, "canary")
		if err := os.WriteFile(canary, []byte("CANARY"), 0o644); err != nil {
			t.Fatal(err)
		}
		first, second := r.run(waiting()), r.run(waiting())
		r.sh(first, "echo MINE > /workspace/mine; echo MINE > /tmp/mine")
		for _, c := range []struct{ line, never, want string }{
			{"cat " + canary, "CANARY", ""},
			{"ls " + r.drivers.cfg.Dir, "canary", ""},
			{"cat /proc/1/root" + canary + " /proc/1/cwd" + canary, "CANARY", ""},
			{"ls /proc/1/fd/ /proc/self/fd/ -l", r.drivers.cfg.Dir, ""},
			{"cat /etc/shadow ~root/.ssh/* ~root/.bashrc /home/*/.bashrc; ls /var /root /home /srv /mnt", "root:", ""},
			{"cat /workspace/mine /tmp/mine", "MINE", ""},
			{"for f in /x /usr/x /etc/x /dev/x /run/x /run/polygate/x; do touch $f && echo WROTE; done", "WROTE", ""},
			{"echo x > /run/polygate/sandbox-init && echo WROTE", "WROTE", ""},
			{"mount -t tmpfs none /mnt && echo MOUNTED; unshare -Ur id && echo UNSHARED", "MOUNTED", ""},
			{"unshare -U true && echo UNSHARED", "UNSHARED", ""},
			{"mknod /tmp/disk b 254 0 && echo MADE", "MADE", ""},
			{"cat /proc/kcore /proc/1/environ /proc/1/mem > /dev/null && echo READ; [ -w /proc/sys/kernel/panic ] && echo SET", "SET", ""},
			{"cat /proc/1/environ /proc/1/mem > /dev/null && echo READ", "READ", ""},
			{"grep -h NoNewPrivs /proc/self/status", "\t0", "NoNewPrivs:\t1"},
			{"grep CapEff /proc/self/status", "1", "0000000000000000"},
			{"ls /sys/fs && echo SYS", "SYS", ""},
		} {
			out, _ := r.sh(second, c.line)
			if strings.Contains(out, c.never) || !strings.Contains(out, c.want) {
				t.Errorf("%s: printed %q; it must hold %q and never %q", c.line, out, c.want, c.never)
			}
		}
	})
}

func TestEscapeEnvironment(t *testing.T) {
	needBwrap(t)
	t.Setenv("POLYGATE_CANARY", "CANARY-SECRET")
	r := newRig(t, nil)
	run := task("/bin/sh", "-c", "env; cat /proc/*/environ /proc/*/cmdline; sleep 1000")
	run.Spec.Env = []sandbox.Var{{Name: "B", Value: "two words"}, {Name: "A", Value: "1"}, {Name: "HOME", Value: "/tmp"}}
	run = r.run(run)
	out, _ := r.sh(run, "env; cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'")
	for _, text := range []string{out, r.log(run)} {
		if strings.Contains(text, "CANARY") || strings.Contains(text, "POLYGATE") || strings.Contains(text, r.drivers.cfg.Dir) {
			t.Errorf("the environment holds what is the gateway's:\n%s", text)
		}
	}
	for _, want := range []string{"B=two words\n", "A=1\n", "HOME=/tmp\n", "PATH=" + insidePath} {
		if !strings.Contains(out, want) {
			t.Errorf("the environment lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "HOME=/workspace") {
		t.Error("HOME is there twice")
	}
}

func TestEscapeProcesses(t *testing.T) {
	apart(t, func(t *testing.T, r *rig) {
		victim := exec.Command("sleep", "1000")
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = victim.Process.Kill(); _ = victim.Wait() }()
		other, run := r.run(waiting()), r.run(waiting())
		_, _, st, err := r.driver.(*driver).find(other)
		if err != nil {
			t.Fatal(err)
		}
		// Processes by name alone, and never all (kill -9 -1): were a sandbox not apart, that would be the whole machine's.
		targets := itoa(victim.Process.Pid) + " " + itoa(st.First.PID)
		out, _ := r.sh(run, "echo SEES $(ls -d /proc/[0-9]* | wc -l); for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; done; for p in "+targets+"; do kill -9 $p && echo KILLED; done")
		var n int
		if _, err := fmt.Sscanf(out, "SEES %d", &n); err != nil || n > 8 || strings.Contains(out, "test.") || strings.Contains(out, "KILLED\n") {
			t.Errorf("it sees %d processes, %v:\n%s", n, err, out)
		}
		if st, err := readStat(victim.Process.Pid); err != nil || st.state == 'Z' {
			t.Error("a process outside was killed")
		}
		if out, _ := r.sh(other, "echo alive"); out != "alive\n" {
			t.Errorf("the other sandbox says %q", out)
		}
	})
}

func TestEscapeNetwork(t *testing.T) {
	apart(t, func(t *testing.T, r *rig) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		abstract, err := net.Listen("unix", "@polygate-test-"+newUID())
		if err != nil {
			t.Fatal(err)
		}
		defer abstract.Close()
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		run := r.run(waiting())
		out, _ := r.sh(run, "cat /proc/net/dev /proc/net/unix; exec 3<>/dev/tcp/127.0.0.1/"+port+" && echo REACHED")
		if strings.Contains(out, "eth") || strings.Contains(out, "REACHED") || strings.Contains(out, "@polygate-test") || !strings.Contains(out, "lo:") {
			t.Errorf("the network is not its own:\n%s", out)
		}
	})
}

func TestEscapeForkBomb(t *testing.T) {
	apart(t, func(t *testing.T, r *rig) {
		r.drivers.cfg.Pids = 64
		run := r.run(waiting())
		out, _ := r.sh(run, "i=0; while [ $i -lt 300 ]; do sleep 77 > /dev/null 2>&1 & i=$((i+1)); done; echo all of them")
		_, _, st, err := r.driver.(*driver).find(run)
		if err != nil {
			t.Fatal(err)
		}
		below := len(descendants(processes(), st.Shim.PID))
		if strings.Contains(out, "all of them") || below > 64 || below < 32 {
			t.Errorf("%d processes of it, want at most 64; the shell says %q", below, out)
		}
		if out, exit := r.sh(r.run(waiting()), "echo fine"); out != "fine\n" {
			t.Errorf("another sandbox: %q, %+v", out, exit)
		}
		if err := r.driver.Remove(r.ctx, run, 0); err != nil {
			t.Fatal(err)
		}
		r.until(run, sandbox.PhaseEnded)
	})
}

func TestEscapeDisk(t *testing.T) {
	apart(t, func(t *testing.T, r *rig) {
		run := waiting()
		run.Spec.Resources.Storage = 8 << 20
		run = r.run(run)
		out, _ := r.sh(run, "for d in /workspace /tmp /dev/shm; do for i in 1 2 3; do head -c 20000000 /dev/zero > $d/f$i; done; done; du -cb /workspace /tmp | tail -1")
		f := strings.Fields(out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:])
		if n, err := strconv.Atoi(f[0]); err != nil || n > 8<<20 || n < 6<<20 {
			t.Errorf("it wrote %d bytes, %v, within a storage of 8 MiB:\n%s", n, err, out)
		}
		if left, err := os.ReadDir("/tmp"); err != nil || func() bool {
			for _, e := range left {
				if e.Name() == "f1" {
					return true
				}
			}
			return false
		}() {
			t.Error("it wrote to the machine's /tmp")
		}
	})
}

func TestEscapeLog(t *testing.T) {
	needBwrap(t)
	r := newRig(t, nil)
	run := task("/bin/sh", "-c", "head -c 8000000 /dev/zero | tr '\\0' x; i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo end; sleep 1000")
	run.Spec.Resources.Storage = 8 << 20 // 512 KiB of log
	run = r.run(run)
	for end := time.Now().Add(30 * time.Second); !strings.HasSuffix(r.log(run), "end\n") && time.Now().Before(end); {
		pause(r.ctx, 20*time.Millisecond)
	}
	path, _, _, err := r.driver.(*driver).find(run)
	if err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, name := range []string{logFile, logOldFile} {
		info, err := os.Stat(filepath.Join(path, name))
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 600<<10 {
		t.Errorf("the log has %d bytes, want at most 512 KiB and a chunk", total)
	}
	if log := r.log(run); !strings.HasSuffix(log, "line 19999\nend\n") {
		t.Errorf("the log ends with %q", log[max(0, len(log)-60):])
	}
}
