package proc

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Start starts a command that runs on these cores only, as do its children: a process inherits them from the thread that forks
// it. Cores count from 0 among those that the machine gives us, so that a container with cores 4 and 5 has 0 and 1; nil is all of
// them, also in a process that Pin has restricted. The child gets a process group of its own, so that Ctrl-C reaches only us and
// Measure finds orphans, and a SIGTERM should we die (PR_SET_PDEATHSIG): orderly, because a killed master would leave its workers.
func Start(cmd *exec.Cmd, cores []int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("read the cores of this thread: %w", err)
	}
	// The thread goes back to what it was and stays alive: PDEATHSIG is sent as the forking thread ends, not the process, and a
	// goroutine that ends locked takes its thread with it.
	defer func() { _ = unix.SchedSetaffinity(0, &before) }()
	set, err := pick(cores)
	if err != nil {
		return err
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("start %s on cores %v: %w", cmd.Path, cores, err)
	}
	attributes(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return nil
}

func attributes(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if cmd.SysProcAttr.Pdeathsig == 0 {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	}
	cmd.SysProcAttr.Setpgid = !cmd.SysProcAttr.Setsid
}

// Cores is how many the machine gives us, whatever Pin did.
func Cores() int {
	set, err := given()
	if err != nil {
		return runtime.NumCPU()
	}
	return set.Count()
}

// given is the set of cores that the machine, or our container, lets a process have. The kernel cuts a request for all of them
// down to those, so a thread asks and puts its own back.
func given() (unix.CPUSet, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, all, got unix.CPUSet // the kernel fills in only as many bits as it has cores: got starts empty
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return before, fmt.Errorf("read the cores of this thread: %w", err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &before) }()
	all.Fill()
	if err := unix.SchedSetaffinity(0, &all); err != nil {
		return before, nil // a sandbox that forbids it: what we have is what we get
	}
	if err := unix.SchedGetaffinity(0, &got); err != nil {
		return before, fmt.Errorf("read the cores of this thread: %w", err)
	}
	return got, nil
}

// pick is the set of the cores with these numbers among those given.
func pick(cores []int) (unix.CPUSet, error) {
	all, err := given()
	if err != nil || cores == nil {
		return all, err
	}
	return choose(all, cores)
}

func choose(all unix.CPUSet, cores []int) (unix.CPUSet, error) {
	var set unix.CPUSet
	if len(cores) == 0 {
		return set, errors.New("no cores are named: name at least one, or nil for all")
	}
	numbers := numbersOf(all)
	for _, c := range cores {
		if c < 0 || c >= len(numbers) {
			return set, fmt.Errorf("core %d is not there: this machine gives %d, counted from 0", c, len(numbers))
		}
		set.Set(numbers[c])
	}
	return set, nil
}

func numbersOf(set unix.CPUSet) []int {
	var numbers []int
	for n := 0; len(numbers) < set.Count(); n++ {
		if set.IsSet(n) {
			numbers = append(numbers, n)
		}
	}
	return numbers
}
