package load

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// kernelAlarm sleeps to within some microseconds. The runtime's own timers round up to a millisecond where nothing else is to be done (its
// poller waits in whole milliseconds), which would be in every percentile of a slow rate; a timer of the kernel that the poller
// waits on, as it does on a socket, is exact and holds no thread.
type kernelAlarm struct {
	file *os.File
	raw  syscall.RawConn
}

func newAlarm() (alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	a := &kernelAlarm{file: os.NewFile(uintptr(fd), "timer")}
	if a.raw, err = a.file.SyscallConn(); err != nil {
		a.close()
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	return a, nil
}

func (a *kernelAlarm) sleep(d time.Duration) {
	if err := a.set(d); err != nil {
		return // closed
	}
	var expirations [8]byte
	_, _ = a.file.Read(expirations[:]) // fails only when interrupted
}

func (a *kernelAlarm) set(d time.Duration) error {
	var failed error
	err := a.raw.Control(func(fd uintptr) {
		spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(d, 1).Nanoseconds())}
		failed = unix.TimerfdSettime(int(fd), 0, &spec, nil)
	})
	if err != nil {
		return err
	}
	return failed
}

func (a *kernelAlarm) interrupt() { _ = a.file.SetReadDeadline(time.Unix(1, 0)) }

func (a *kernelAlarm) close() { _ = a.file.Close() }
