package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/polygate/polygate/vgw/sandbox"
)

// gatewayMain is a gateway as a process of its own: it makes one run in a folder, prints its task, and waits to be killed.
func gatewayMain(args []string) {
	d, err := New(Config{Dir: args[0], Self: self(), Cgroup: true})
	if err != nil {
		panic(err)
	}
	driver, err := d.Open(someTenant("a"))
	if err != nil {
		panic(err)
	}
	t := task("/bin/sh", "-c", "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.1; done")
	if t.UID, err = driver.Create(context.Background(), t); err != nil {
		panic(err)
	}
	fmt.Println(t.Sandbox, t.Nonce, t.UID)
	<-time.After(time.Hour)
}

// TestGatewayKilled kills a gateway with -9, and has the next find its run as if nothing had been.
func TestGatewayKilled(t *testing.T) {
	needBwrap(t)
	dir := t.TempDir()
	old := exec.Command(os.Args[0], gatewayCommand, dir)
	out, err := old.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	old.Stderr = os.Stderr
	if err := old.Start(); err != nil {
		t.Fatal(err)
	}
	var run sandbox.Task
	if _, err := fmt.Fscan(out, &run.Sandbox, &run.Nonce, &run.UID); err != nil {
		t.Fatal(err)
	}
	_ = old.Process.Kill()
	_ = old.Wait()

	r := newRig(t, func(c *Config) { c.Dir = dir })
	if o := r.until(run, sandbox.PhaseRunning); o.UID != run.UID {
		t.Errorf("UID = %s, want %s", o.UID, run.UID)
	}
	if out, _ := r.sh(run, "echo still here"); out != "still here\n" {
		t.Errorf("exec = %q", out)
	}
	ticks := strings.Count(r.log(run), "tick")
	for end := time.Now().Add(10 * time.Second); strings.Count(r.log(run), "tick") <= ticks; pause(r.ctx, 20*time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the log does not go on")
		}
	}
	if uid, err := r.driver.Create(r.ctx, run); err != nil || uid != run.UID {
		t.Errorf("Create again = %q, %v", uid, err)
	}
	if err := r.driver.Remove(r.ctx, run, time.Second); err != nil {
		t.Fatal(err)
	}
	if o := r.until(run, sandbox.PhaseEnded); o.Reason != sandbox.ReasonStopped {
		t.Errorf("end = %+v", o)
	}
}

// TestShimKilled kills what supervises a run: the run's processes end, too, and its end is told and stored.
func TestShimKilled(t *testing.T) {
	for _, bwrap := range []string{"", NoBwrap} {
		t.Run("bubblewrap="+bwrap, func(t *testing.T) {
			if bwrap == "" {
				needBwrap(t)
			}
			r := newRig(t, func(c *Config) { c.Bwrap = bwrap })
			mark := newUID()
			run := r.run(task("/bin/sh", "-c", "(setsid sleep 1000."+digits(mark)+" &); sleep 1000."+digits(mark)))
			path, _, st, err := r.driver.(*driver).find(run)
			if err != nil {
				t.Fatal(err)
			}
			if err := st.Shim.kill(); err != nil {
				t.Fatal(err)
			}
			o := r.until(run, sandbox.PhaseEnded)
			if o.Reason != sandbox.ReasonReplica || o.Exit != nil || o.Message == "" {
				t.Errorf("end = %+v", o)
			}
			for end := time.Now().Add(5 * time.Second); ; pause(r.ctx, 20*time.Millisecond) {
				left := withArgument(digits(mark))
				if len(left) == 0 {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("left of it: %v", left)
				}
			}
			if st, err := readStatus(path); err != nil || st.Phase != sandbox.PhaseEnded {
				t.Errorf("stored: %+v, %v", st, err)
			}
			if err := r.driver.Release(r.ctx, run); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAllKilled kills what supervises a plain sandbox and its first process at once, so that neither can end what is left.
func TestAllKilled(t *testing.T) {
	for _, groups := range []bool{true, false} {
		t.Run(fmt.Sprint("groups=", groups), func(t *testing.T) {
			r := newRig(t, func(c *Config) { c.Bwrap, c.Cgroup = NoBwrap, groups })
			if !r.drivers.mode.Root && r.drivers.groups.lacks() != nil {
				t.Skip("what is left is found by its control group or its user: run as root")
			}
			mark := digits(newUID())
			run := r.run(task("/bin/sh", "-c", "(setsid sleep 88."+mark+" &); sleep 88."+mark))
			_, _, st, err := r.driver.(*driver).find(run)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(syscall.Kill(st.First.PID, syscall.SIGSTOP), st.Shim.kill(), syscall.Kill(st.First.PID, syscall.SIGKILL)); err != nil {
				t.Fatal(err)
			}
			if o := r.until(run, sandbox.PhaseEnded); o.Reason != sandbox.ReasonReplica {
				t.Errorf("end = %+v", o)
			}
			for end := time.Now().Add(5 * time.Second); len(withArgument(mark)) > 0; pause(r.ctx, 20*time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("left of it: %v", withArgument(mark))
				}
			}
		})
	}
}

// digits makes a number of an id, to find a process by.
func digits(uid string) string {
	return strings.Map(func(r rune) rune { return '0' + r%10 }, uid)
}

func withArgument(text string) (found []string) {
	for pid := range processes() {
		b, _ := os.ReadFile(filepath.Join("/proc", itoa(pid), "cmdline"))
		if bytes.Contains(b, []byte(text)) {
			found = append(found, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}

// TestPidReused has the pid of a dead shim belong to another process, which is not taken for it, and not killed.
func TestPidReused(t *testing.T) {
	needBwrap(t)
	r := newRig(t, nil)
	innocent := exec.Command("sleep", "1000")
	if err := innocent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = innocent.Process.Kill(); _ = innocent.Wait() }()
	run := task()
	name, err := runFolder(run.Sandbox, run.Nonce)
	if err != nil {
		t.Fatal(err)
	}
	d := r.driver.(*driver)
	if err := d.make(filepath.Join(d.dir, name), run); err != nil {
		t.Fatal(err)
	}
	o, err := readOrder(filepath.Join(d.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	who, err := identify(innocent.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	who.Start--
	st := status{V: 1, UID: o.UID, Phase: sandbox.PhaseRunning, Shim: who, First: who, Started: time.Now()}
	if err := st.write(filepath.Join(d.dir, name)); err != nil {
		t.Fatal(err)
	}
	run.UID = o.UID
	if err := d.Remove(r.ctx, run, 0); err != nil {
		t.Fatal(err)
	}
	r.until(run, sandbox.PhaseEnded)
	if st, err := readStat(innocent.Process.Pid); err != nil || st.state == 'Z' {
		t.Error("a process that had the shim's pid was killed")
	}
	who.Start, who.Boot = who.Start+1, "another boot"
	if who.alive() {
		t.Error("a process of another boot is alive")
	}
}

// TestMakerKilled has a gateway die between the folder of a run and its shim: the next one's watch starts it.
func TestMakerKilled(t *testing.T) {
	needBwrap(t)
	r := newRig(t, nil)
	run := waiting()
	name, _ := runFolder(run.Sandbox, run.Nonce)
	d := r.driver.(*driver)
	if err := d.make(filepath.Join(d.dir, name), run); err != nil {
		t.Fatal(err)
	}
	r.until(run, sandbox.PhaseRunning)
}

// TestNeverTwice creates one run from many places at once, and again after its end.
func TestNeverTwice(t *testing.T) {
	needBwrap(t)
	r := newRig(t, nil)
	run := task("/bin/sh", "-c", "echo once; exit 7")
	uids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range uids {
		wg.Go(func() { uids[i], _ = r.driver.Create(r.ctx, run) })
	}
	wg.Wait()
	run.UID = uids[0]
	for _, uid := range uids {
		if uid == "" || uid != run.UID {
			t.Fatalf("UIDs %q, want one", uids)
		}
	}
	if o := r.until(run, sandbox.PhaseEnded); o.Exit == nil || *o.Exit != 7 || o.Reason != sandbox.ReasonError {
		t.Errorf("end = %+v", o)
	}
	if uid, err := r.driver.Create(r.ctx, run); err != nil || uid != run.UID {
		t.Errorf("Create after the end = %q, %v", uid, err)
	}
	if got := r.log(run); got != "once\n" {
		t.Errorf("log = %q, want that it ran once", got)
	}
	path, _, before, err := r.driver.(*driver).find(run)
	if err != nil {
		t.Fatal(err)
	}
	// A shim that comes late, such as one whose gateway was slow.
	if err := exec.Command(r.drivers.cfg.Self, Command, stageShim, path).Run(); err != nil {
		t.Error(err)
	}
	if after, err := readStatus(path); err != nil || !after.Started.Equal(before.Started) {
		t.Errorf("it was run again: %+v, %v", after, err)
	}
	other := run
	other.UID = newUID()
	if err := r.driver.Remove(r.ctx, other, 0); err != nil {
		t.Errorf("Remove of another UID = %v", err)
	}
	if err := r.driver.Release(r.ctx, other); err != nil {
		t.Errorf("Release of another UID = %v", err)
	}
	if _, err := r.driver.Create(r.ctx, other); err == nil {
		t.Error("Create with another UID made or adopted something")
	}
	if r.log(run) != "once\n" {
		t.Error("a run was touched under another UID")
	}
}

// TestFifty makes fifty at once.
func TestFifty(t *testing.T) {
	needBwrap(t)
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	r := newRig(t, nil)
	begun := time.Now()
	runs := make([]sandbox.Task, 50)
	var wg sync.WaitGroup
	for i := range runs {
		runs[i] = waiting()
		wg.Go(func() { runs[i] = r.create(runs[i]) })
	}
	wg.Wait()
	for _, run := range runs {
		r.until(run, sandbox.PhaseRunning)
	}
	t.Logf("50 run after %v", time.Since(begun).Round(time.Millisecond))
	for i := range runs {
		wg.Go(func() {
			if out, _ := r.sh(runs[i], "hostname; ls /workspace; echo x > /workspace/"+runs[i].Nonce); out != runs[i].Name+"\n" {
				t.Errorf("%s says %q", runs[i].Name, out)
			}
		})
	}
	wg.Wait()
	used, err := r.driver.Used(r.ctx)
	if err != nil || len(used) != len(runs) {
		t.Errorf("Used tells of %d, %v", len(used), err)
	}
	for _, run := range runs {
		if err := r.driver.Remove(r.ctx, run, time.Second); err != nil {
			t.Error(err)
		}
	}
	for _, run := range runs {
		r.until(run, sandbox.PhaseEnded)
	}
	t.Logf("and have ended after %v", time.Since(begun).Round(time.Millisecond))
}
