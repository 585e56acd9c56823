//go:build !linux

package main

import (
	"os/exec"
	"syscall"
)

// detach puts cmd into a process group of its own, so that a terminal's Ctrl-C leaves it to us to stop.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}
