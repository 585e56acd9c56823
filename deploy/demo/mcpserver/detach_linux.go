package main

import (
	"os/exec"
	"syscall"
)

// detach puts cmd into a process group of its own, so that a terminal's Ctrl-C leaves it to us to stop, and has the
// kernel end it if we die without doing so.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
