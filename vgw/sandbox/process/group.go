package process

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// groups are the folders under which control groups can be made, by controller; with version 2 all are one. It is found once and
// given to the shims.
type groups struct {
	V2      bool              `json:"v2,omitempty"`
	Parents map[string]string `json:"parents"` // by controller
}

// controllers are those that limits need.
func controllers() []string { return []string{"cpu", "memory", "pids"} }

// wanted says whether a controller of version 1 is of use here: to limit, or to count. Others are left alone: a group of cpuset, for one,
// takes no process before it is told of processors.
func wanted(controller string) bool {
	return controller == "cpuacct" || slices.Contains(controllers(), controller)
}

// findGroups looks for where this process may make groups: below its own.
func findGroups() *groups {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	g := parseGroups(string(mounts), string(own))
	if g.V2 && !g.enable() {
		return nil
	}
	for name, parent := range g.Parents {
		if !tryGroup(parent) {
			delete(g.Parents, name)
		}
	}
	return g
}

// tryGroup makes a group and removes it.
func tryGroup(parent string) bool {
	dir := filepath.Join(parent, "polygate-try-"+newUID())
	if os.Mkdir(dir, 0o755) != nil { //nolint:gosec // G301: a control group is read by others
		return false
	}
	return syscall.Rmdir(dir) == nil
}

// parseGroups reads /proc/self/mountinfo and /proc/self/cgroup. With both versions mounted, version 1 has the controllers that are
// listed there. Pure.
func parseGroups(mounts, own string) *groups {
	one, two := map[string][2]string{}, [2]string{} // controller -> mount's root, mount point
	for line := range strings.Lines(mounts) {
		before, after, ok := strings.Cut(line, " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(head) < 5 || len(tail) < 3 {
			continue
		}
		switch tail[0] {
		case "cgroup2":
			two = [2]string{head[3], head[4]}
		case "cgroup":
			for _, c := range strings.Split(tail[2], ",") {
				one[c] = [2]string{head[3], head[4]}
			}
		}
	}
	g := &groups{Parents: map[string]string{}}
	for line := range strings.Lines(own) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		for _, c := range strings.Split(f[1], ",") {
			if m, ok := one[c]; ok && wanted(c) {
				g.Parents[c] = join(m, f[2])
			}
		}
		if f[0] == "0" && f[1] == "" && two[1] != "" && len(one) == 0 {
			g.V2 = true
			for _, c := range controllers() {
				g.Parents[c] = join(two, f[2])
			}
		}
	}
	return g
}

// join returns the folder of a group: its path is told from the hierarchy's root, of which the mount may show a part.
func join(mount [2]string, path string) string {
	if rel, ok := strings.CutPrefix(path, mount[0]); ok && (mount[0] == "/" || rel == "" || rel[0] == '/') {
		path = rel
	} else {
		path = "/"
	}
	return filepath.Join(mount[1], path)
}

// enable has the groups below ours have the controllers. A group with processes of its own cannot (the "no internal processes" rule),
// so that ours moves one down, if it is alone there.
func (g *groups) enable() bool {
	parent := g.Parents["memory"]
	if g.enabled(parent) {
		return true
	}
	procs, err := os.ReadFile(filepath.Join(parent, "cgroup.procs"))
	if err != nil || strings.TrimSpace(string(procs)) != strconv.Itoa(os.Getpid()) {
		return g.turnOn(parent)
	}
	leaf := filepath.Join(parent, "polygate-gateway")
	if err := os.Mkdir(leaf, 0o755); err != nil && !os.IsExist(err) { //nolint:gosec // G301: a control group
		return false
	}
	if put(leaf, "cgroup.procs", strconv.Itoa(os.Getpid())) != nil {
		return false
	}
	return g.turnOn(parent)
}

func (g *groups) turnOn(parent string) bool {
	return put(parent, "cgroup.subtree_control", "+cpu +memory +pids") == nil && g.enabled(parent)
}

func (g *groups) enabled(parent string) bool {
	b, _ := os.ReadFile(filepath.Join(parent, "cgroup.subtree_control"))
	on := strings.Fields(string(b))
	return !slices.ContainsFunc(controllers(), func(c string) bool { return !slices.Contains(on, c) })
}

// lacks returns the controllers that are not there.
func (g *groups) lacks() []string {
	var lacks []string
	for _, c := range controllers() {
		if g == nil || g.Parents[c] == "" {
			lacks = append(lacks, c)
		}
	}
	return lacks
}

// of returns the group of one run.
func (g *groups) of(uid string) *group {
	w := &group{dirs: map[string]string{}}
	if g != nil && validUID(uid) {
		w.v2 = g.V2
		for c, parent := range g.Parents {
			w.dirs[c] = filepath.Join(parent, "polygate-"+uid)
		}
	}
	return w
}

// group is the control group of one run.
type group struct {
	v2   bool
	dirs map[string]string // by controller
}

// limits are what a run may use.
type limits struct {
	CPU    int64 // thousandths of a core
	Memory int64 // bytes
	Pids   int
}

// knob is one file of a group.
type knob struct{ controller, file, value string }

// period of the CPU limit, in microseconds.
const period = 100000

// knobs returns what is to be written. Pure.
func (w *group) knobs(l limits) []knob {
	quota := strconv.FormatInt(max(l.CPU*period/1000, 1000), 10)
	memory, pids := strconv.FormatInt(l.Memory, 10), strconv.Itoa(l.Pids)
	var k []knob
	if l.CPU > 0 {
		if w.v2 {
			k = append(k, knob{"cpu", "cpu.max", quota + " " + strconv.Itoa(period)})
		} else {
			k = append(k, knob{"cpu", "cpu.cfs_period_us", strconv.Itoa(period)}, knob{"cpu", "cpu.cfs_quota_us", quota})
		}
	}
	if l.Memory > 0 {
		if w.v2 {
			k = append(k, knob{"memory", "memory.max", memory})
		} else {
			k = append(k, knob{"memory", "memory.limit_in_bytes", memory})
		}
	}
	if l.Pids > 0 {
		k = append(k, knob{"pids", "pids.max", pids})
	}
	return k
}

// swap is written if it can be: a kernel may be without.
func (w *group) swap(l limits) knob {
	if w.v2 {
		return knob{"memory", "memory.swap.max", "0"}
	}
	return knob{"memory", "memory.memsw.limit_in_bytes", strconv.FormatInt(l.Memory, 10)}
}

// make creates the group with its limits. It returns the controllers that hold; the others have been removed.
func (w *group) make(l limits) []string {
	for c, dir := range w.dirs {
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) { //nolint:gosec // G301: a control group
			delete(w.dirs, c)
		}
	}
	for _, k := range w.knobs(l) {
		if dir := w.dirs[k.controller]; dir != "" && put(dir, k.file, k.value) != nil {
			_ = syscall.Rmdir(dir)
			delete(w.dirs, k.controller)
		}
	}
	if k := w.swap(l); l.Memory > 0 && w.dirs[k.controller] != "" {
		_ = put(w.dirs[k.controller], k.file, k.value)
	}
	var on []string
	for _, c := range controllers() {
		if w.dirs[c] != "" {
			on = append(on, c)
		}
	}
	return on
}

// join puts a process with all its threads into the group.
func (w *group) join(pid int) error {
	var errs []error
	for _, dir := range w.each() {
		errs = append(errs, put(dir, "cgroup.procs", strconv.Itoa(pid)))
	}
	return errors.Join(errs...)
}

// each returns the folders, each once.
func (w *group) each() []string {
	var dirs []string
	for _, d := range w.dirs {
		if !slices.Contains(dirs, d) {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

// pids returns the processes in the group.
func (w *group) pids() []int {
	var pids []int
	for _, dir := range w.each() {
		b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 && !slices.Contains(pids, pid) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// remove kills what is in the group, and removes it. It gives up after a while: what hangs in the kernel cannot be helped.
func (w *group) remove() bool {
	for end := time.Now().Add(3 * time.Second); ; {
		left := false
		for _, pid := range w.pids() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		for _, dir := range w.each() {
			if err := syscall.Rmdir(dir); err != nil && !gone(err) {
				left = true
			}
		}
		if !left || time.Now().After(end) {
			return !left
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// killedForMemory says how many processes were killed because the group had too little memory.
func (w *group) killedForMemory() uint64 {
	file := "memory.oom_control"
	if w.v2 {
		file = "memory.events"
	}
	return w.number("memory", file, "oom_kill")
}

// usage returns the CPU time and the memory that the group uses; ok is false where nobody counts.
func (w *group) usage() (cpu time.Duration, memory int64, ok bool) {
	if w.v2 {
		cpu = time.Duration(w.number("cpu", "cpu.stat", "usage_usec")) * time.Microsecond
		memory = int64(w.number("memory", "memory.current", ""))
		memory -= int64(w.number("memory", "memory.stat", "inactive_file"))
	} else {
		cpu = time.Duration(w.number("cpuacct", "cpuacct.usage", ""))
		memory = int64(w.number("memory", "memory.usage_in_bytes", ""))
		memory -= int64(w.number("memory", "memory.stat", "total_inactive_file"))
	}
	return cpu, max(memory, 0), memory > 0 && cpu > 0
}

// number reads a file of one number, or the line of it that begins with key.
func (w *group) number(controller, file, key string) uint64 {
	if w.dirs[controller] == "" {
		return 0
	}
	b, err := os.ReadFile(filepath.Join(w.dirs[controller], file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if key == "" && len(f) == 1 || len(f) == 2 && f[0] == key {
			n, _ := strconv.ParseUint(f[len(f)-1], 10, 64)
			return n
		}
	}
	return 0
}

func put(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
