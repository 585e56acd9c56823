package process

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/polygate/polygate/vgw/sandbox"
)

// first returns what the first process is told. place is the folder of a plain sandbox, "" inside namespaces; held are the controllers
// whose limits are in force.
func (o *order) first(place string, user int, held []string, others int) firstTask {
	spec := o.Task.Spec
	t := firstTask{User: user, Plain: o.Mode.Bwrap == "", Dir: spec.WorkingDir, File: divide(spec.Resources.Storage).workspace}
	t.Command, t.Hold = defaultCommand(spec, hasShell)
	if t.Dir == "" {
		t.Dir = insideWorkspace
	}
	if place != "" && (within(t.Dir, insideWorkspace) || within(t.Dir, insideTmp)) {
		t.Dir = filepath.Join(place, t.Dir)
	}
	t.Env = environment(place, spec.Env)
	if !slices.Contains(held, "memory") {
		t.Data = spec.Resources.Memory
	}
	if !slices.Contains(held, "pids") {
		t.Pids = o.Pids + others
	}
	return t
}

// keeper is the command of a sandbox without one where there is no shell: it waits.
const keeper = ""

// defaultCommand returns what is to be run. Without a command it is a shell, to which args go; without args, too, the shell waits for
// input that never comes, so that the sandbox runs until it is stopped, and Exec is how it is used. hold says so.
func defaultCommand(spec sandbox.Spec, shell func() string) (argv []string, hold bool) {
	if len(spec.Command) > 0 {
		return slices.Concat(spec.Command, spec.Args), false
	}
	sh := shell()
	if sh == "" && len(spec.Args) > 0 {
		return spec.Args, false
	}
	return append([]string{sh}, spec.Args...), len(spec.Args) == 0
}

func hasShell() string {
	for _, sh := range []string{"/bin/sh", "/usr/bin/sh", "/bin/bash"} {
		if info, err := os.Stat(sh); err == nil && info.Mode()&0o111 != 0 {
			return sh
		}
	}
	return keeper
}

// environment is all that a sandbox's processes are told: nothing of the gateway's own, whose environment holds its secrets.
func environment(place string, vars []sandbox.Var) []string {
	env := []string{"PATH=" + insidePath, "HOME=" + filepath.Join("/", place, insideWorkspace), "TMPDIR=" + filepath.Join("/", place, insideTmp),
		"LANG=C.UTF-8", "USER=sandbox", "LOGNAME=sandbox"}
	return merge(env, vars)
}

// merge sets variables over others.
func merge(env []string, vars []sandbox.Var) []string {
	env = slices.Clone(env)
	for _, v := range vars {
		if v.Name == "" || strings.ContainsAny(v.Name, "=\x00") || strings.Contains(v.Value, "\x00") {
			continue // never gets here: a Spec is judged before
		}
		env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, v.Name+"=") })
		env = append(env, v.Name+"="+v.Value)
	}
	return env
}

// freeUser returns a user that nobody on this machine is, for a run: from the upper end of those that our user namespace knows. Two
// runs have the same by a chance of one to many millions (one to thousands in a container), and are still apart by their namespaces.
func freeUser(uidMap, uid string) int {
	seed, _ := strconv.ParseUint(uid[:12], 16, 64)
	for line := range strings.Lines(uidMap) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		from, err1 := strconv.ParseUint(f[0], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		for _, r := range [][2]uint64{{1_000_000_000, 900_000_000}, {60_100, 4_900}} {
			if from <= r[0] && from+count >= r[0]+r[1] {
				return int(r[0] + seed%r[1])
			}
		}
	}
	return 65534 // nobody
}
