package process

import (
	"os"
	"syscall"
	"unsafe"
)

// foreground returns the process group in the foreground of a terminal, 0 if there is none.
func foreground(tty *os.File) int {
	raw, err := tty.SyscallConn()
	if err != nil {
		return 0
	}
	var group int32
	_ = raw.Control(func(fd uintptr) {
		if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCGPGRP, uintptr(unsafe.Pointer(&group))); e != 0 { //nolint:gosec // G103: ioctl(2)
			group = 0
		}
	})
	return int(group)
}

// noNewPrivileges keeps set-user-id programs from giving rights, for all threads.
func noNewPrivileges() error {
	if _, _, e := syscall.AllThreadsSyscall6(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0, 0, 0, 0); e != 0 {
		if e == syscall.ENOTSUP { // with cgo, in tests alone
			return prctl(prSetNoNewPrivs, 1)
		}
		return e
	}
	return nil
}
