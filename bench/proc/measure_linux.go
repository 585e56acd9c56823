package proc

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Measure sums what the processes and all their descendants have used and hold. Descendants are found by their parents and by the
// process groups that Start made, so that one whose parent has ended is counted too. Children that have ended count from when their
// parent waited for them. Reading memory walks the page tables and holds up the process for some milliseconds per GiB: within a
// measured span use CPU. A process of pids that is gone is an error.
func Measure(pids []int) (Usage, error) {
	return sum(pids, true)
}

// CPU is the processor time of Measure alone, read without disturbing the processes.
func CPU(pids []int) (time.Duration, error) {
	u, err := sum(pids, false)
	return u.CPU, err
}

// Self is the processor time of this process alone, without its children.
func Self() (time.Duration, error) {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return 0, fmt.Errorf("read our own processor time: %w", err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()), nil
}

func sum(pids []int, memory bool) (Usage, error) {
	table, err := processes()
	if err != nil {
		return Usage{}, err
	}
	for _, pid := range pids {
		if s, ok := table[pid]; !ok || s.zombie {
			return Usage{}, fmt.Errorf("process %d is not running (any more): see its log", pid)
		}
	}
	var u Usage
	for _, pid := range family(table, pids) {
		u.CPU += cpuOf(table[pid])
		if table[pid].zombie {
			continue
		}
		u.Processes++
		if !memory {
			continue
		}
		if err := u.addMemory(pid); err != nil {
			return u, err
		}
	}
	return u, nil
}

// stat is what /proc/<pid>/stat says of a process.
type stat struct {
	pid, parent, group int
	zombie             bool
	own, children      time.Duration // in clock ticks; children = those that ended and were waited for
}

// tick is the unit of /proc's times: USER_HZ is 100 on every architecture of Linux that Go runs on.
const tick = 10 * time.Millisecond

func processes() (map[int]stat, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	table := make(map[int]stat, len(entries))
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		s, err := parseStat(b)
		if err != nil {
			return nil, fmt.Errorf("process %d: %w", pid, err)
		}
		table[pid] = s
	}
	return table, nil
}

// parseStat reads one line of proc(5): "pid (name) state ppid pgrp …". The name may hold spaces and parentheses, so the fields are
// counted from behind the last one.
func parseStat(b []byte) (stat, error) {
	begin, end := bytes.IndexByte(b, ' '), bytes.LastIndexByte(b, ')')
	if begin < 1 || end < begin {
		return stat{}, errors.New("its stat has no name in parentheses")
	}
	f := bytes.Fields(b[end+1:])
	if len(f) < 15 || len(f[0]) != 1 {
		return stat{}, fmt.Errorf("its stat has %d fields", len(f))
	}
	n, err := numbers(b[:begin], f[1], f[2], f[11], f[12], f[13], f[14])
	if err != nil {
		return stat{}, err
	}
	return stat{
		pid: n[0], parent: n[1], group: n[2],
		zombie: f[0][0] == 'Z' || f[0][0] == 'X',
		own:    time.Duration(n[3]+n[4]) * tick, children: time.Duration(n[5]+n[6]) * tick,
	}, nil
}

func numbers(fields ...[]byte) ([]int, error) {
	n := make([]int, len(fields))
	for i, f := range fields {
		v, err := strconv.Atoi(string(f))
		if err != nil {
			return nil, fmt.Errorf("its stat has %q for a number", f)
		}
		n[i] = v
	}
	return n, nil
}

// family is pids with all that descend from them or are in a group that one of these leads, each once. Zombies are among them: a
// zombie's time is its parent's as soon as that waits for it, and until then it is read from its own line.
func family(table map[int]stat, pids []int) []int {
	children := map[int][]int{}
	for pid, s := range table {
		children[s.parent] = append(children[s.parent], pid)
		if s.group != pid && s.group != s.parent {
			children[s.group] = append(children[s.group], pid)
		}
	}
	seen := map[int]bool{}
	var all []int
	for queue := append([]int(nil), pids...); len(queue) > 0; queue = queue[1:] {
		pid := queue[0]
		if seen[pid] {
			continue
		}
		seen[pid] = true
		all = append(all, pid)
		queue = append(queue, children[pid]...)
	}
	return all
}

// cpuOf is the time of a process and of its ended children. The kernel's clock of a process has nanoseconds where stat has ticks
// of 10 ms, and says the same otherwise.
func cpuOf(s stat) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(clockOf(s.pid), &ts); err != nil {
		return s.own + s.children
	}
	return time.Duration(ts.Nano()) + s.children
}

// clockOf is clock_getcpuclockid(3) of a process: the complement of its number, and CPUCLOCK_SCHED.
func clockOf(pid int) int32 { return int32(^pid)<<3 | 2 }

func (u *Usage) addMemory(pid int) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil // it has ended
	}
	if err != nil {
		return fmt.Errorf("read the memory of process %d (it has to run as our user): %w", pid, err)
	}
	u.RSS += kilobytes(b, "Rss:")
	u.PSS += kilobytes(b, "Pss:")
	return nil
}

// kilobytes is the value in bytes of a line such as "Rss:  1234 kB"; 0 if it is not there.
func kilobytes(b []byte, name string) int64 {
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) < 2 || string(f[0]) != name {
			continue
		}
		n, err := strconv.ParseInt(string(f[1]), 10, 64)
		if err != nil {
			return 0
		}
		return n * 1024
	}
	return 0
}
