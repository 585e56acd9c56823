package process

import "syscall"

// signals are those that may be sent to a command, and named as the cause of an end.
func signals() map[string]syscall.Signal {
	return map[string]syscall.Signal{
		"HUP": syscall.SIGHUP, "INT": syscall.SIGINT, "QUIT": syscall.SIGQUIT, "ILL": syscall.SIGILL, "TRAP": syscall.SIGTRAP,
		"ABRT": syscall.SIGABRT, "BUS": syscall.SIGBUS, "FPE": syscall.SIGFPE, "KILL": syscall.SIGKILL, "USR1": syscall.SIGUSR1,
		"SEGV": syscall.SIGSEGV, "USR2": syscall.SIGUSR2, "PIPE": syscall.SIGPIPE, "ALRM": syscall.SIGALRM, "TERM": syscall.SIGTERM,
		"CONT": syscall.SIGCONT, "STOP": syscall.SIGSTOP, "TSTP": syscall.SIGTSTP, "TTIN": syscall.SIGTTIN, "TTOU": syscall.SIGTTOU,
		"XCPU": syscall.SIGXCPU, "XFSZ": syscall.SIGXFSZ, "WINCH": syscall.SIGWINCH, "SYS": syscall.SIGSYS,
	}
}

// signalNumber returns 0 for a name that is none.
func signalNumber(name string) syscall.Signal { return signals()[name] }

// signalName returns "" for a signal without a name here.
func signalName(s syscall.Signal) string {
	for name, n := range signals() {
		if n == s {
			return name
		}
	}
	return ""
}

// exitOf translates what wait(2) tells: 128 + n for a signal, as shells do.
func exitOf(ws syscall.WaitStatus) ended {
	if ws.Signaled() {
		return ended{Code: 128 + int(ws.Signal()), Signal: signalName(ws.Signal())}
	}
	return ended{Code: ws.ExitStatus()}
}
