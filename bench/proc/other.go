//go:build !linux

package proc

import (
	"errors"
	"os/exec"
	"runtime"
	"time"

	"github.com/polygate/polygate/bench/result"
)

// errLinux is why nothing here works.
func errLinux(what string) error {
	return errors.New(what + " works on Linux only: run polybench there, or load a target that runs there with --target")
}

// Start cannot choose cores here.
func Start(*exec.Cmd, []int) error { return errLinux("starting the processes to be measured") }

// Pin cannot choose cores here; nil asks for nothing.
func Pin(cores []int) error {
	if cores == nil {
		return nil
	}
	return errLinux("pinning a process to cores")
}

// Measure has no /proc here.
func Measure([]int) (Usage, error) { return Usage{}, errLinux("measuring processes") }

// CPU has no /proc here.
func CPU([]int) (time.Duration, error) { return 0, errLinux("measuring processes") }

// Self has no getrusage here.
func Self() (time.Duration, error) { return 0, errLinux("measuring processes") }

// Machine says what the Go runtime knows.
func Machine() result.Machine {
	return result.Machine{OS: runtime.GOOS, CPU: runtime.GOARCH, Cores: runtime.NumCPU()}
}

// Now knows nothing.
func Now() Host { return Host{} }

// Cores is how many the machine gives us.
func Cores() int { return runtime.NumCPU() }
