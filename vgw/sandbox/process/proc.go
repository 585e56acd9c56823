package process

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// identity names a process for good: a pid alone may be another's by the time it is used.
type identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in ticks since the boot
	Boot  string `json:"boot"`  // id of the boot
}

// identify returns the identity of a process that runs.
func identify(pid int) (identity, error) {
	st, err := readStat(pid)
	if err != nil {
		return identity{}, err
	}
	return identity{PID: pid, Start: st.start, Boot: bootID()}, nil
}

// alive says whether the process still runs. One that ended and was not waited for does not.
func (i identity) alive() bool {
	if i.PID <= 0 || i.Boot != bootID() {
		return false
	}
	st, err := readStat(i.PID)
	return err == nil && st.start == i.Start && st.state != 'Z' && st.state != 'X'
}

// kill ends the process by force, if it is still the one that was meant: the handle is taken first and the identity read after, so
// that a pid which is given to another in between is not hit.
func (i identity) kill() error {
	p, err := os.FindProcess(i.PID)
	if err != nil {
		return nil //nolint:nilerr // it is gone
	}
	defer p.Release() //nolint:errcheck // a handle
	if !i.alive() {
		return nil
	}
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// stat is what we read of /proc/<pid>/stat (proc_pid_stat(5)).
type stat struct {
	state   byte
	parent  int
	start   uint64 // ticks since the boot
	cpu     uint64 // ticks used, of children that were waited for too
	memory  int64  // bytes resident
	session int
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

var errStat = errors.New("/proc tells nothing that makes sense")

// parseStat reads a line of /proc/<pid>/stat. The name in parentheses is the process's own to choose, parentheses included: what counts
// begins after the last.
func parseStat(b []byte) (stat, error) {
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return stat{}, errStat
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 22 || len(f[0]) != 1 {
		return stat{}, errStat
	}
	num := func(i int) uint64 {
		n, err := strconv.ParseUint(f[i], 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	return stat{
		state: f[0][0], parent: int(num(1)), session: int(num(3)), start: num(19),
		cpu: num(11) + num(12) + num(13) + num(14), memory: int64(num(21)) * int64(os.Getpagesize()),
	}, nil
}

// processes returns the parent of each process of this machine that can be seen.
func processes() map[int]stat {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	all := make(map[int]stat, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if st, err := readStat(pid); err == nil {
			all[pid] = st
		}
	}
	return all
}

// descendants returns the pids below root. Pure.
func descendants(all map[int]stat, root int) []int {
	children := make(map[int][]int, len(all))
	for pid, st := range all {
		children[st.parent] = append(children[st.parent], pid)
	}
	var found []int
	seen := map[int]bool{root: true}
	for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
		for _, c := range children[queue[0]] {
			if !seen[c] {
				seen[c] = true
				found, queue = append(found, c), append(queue, c)
			}
		}
	}
	return found
}
