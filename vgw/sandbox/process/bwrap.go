package process

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// Where things are inside.
const (
	insideSelf      = "/run/polygate/sandbox-init"
	insideWorkspace = "/workspace"
	insideTmp       = "/tmp"
	insideUser      = 10001 // in a user namespace
	insidePath      = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// share is how much of a run's storage goes where. The parts are fixed, so that each is a hard bound of its own.
type share struct{ log, tmp, workspace int64 }

// defaultStorage is for a task that names none.
const defaultStorage = 1 << 30

func divide(storage int64) share {
	if storage <= 0 {
		storage = defaultStorage
	}
	s := share{log: min(max(storage/16, 64<<10), 16<<20)}
	s.tmp = max((storage-s.log)/4, 4096)
	s.workspace = max(storage-s.log-s.tmp, 4096)
	return s
}

// namespaces returns the arguments that keep a sandbox apart.
func (m mode) namespaces() []string {
	args := []string{"--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try", "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv", "--cap-drop", "ALL"}
	if !m.User {
		// Real root makes the mounts; the first process then becomes the sandbox's own user, for which it needs these two, and loses
		// them by it.
		return append(args, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
	}
	args = append(args, "--unshare-user", "--uid", strconv.Itoa(insideUser), "--gid", strconv.Itoa(insideUser))
	if m.Disable {
		args = append(args, "--disable-userns")
	}
	return args
}

// system returns the arguments that show the machine's programs and libraries, read-only. The rest of its file system is not there:
// /home, /root, /var, /srv, /mnt and most of /etc may hold what is the gateway's, or its operator's, which no sandbox is to read.
func system(lstat func(string) (os.FileInfo, error), readlink func(string) (string, error)) []string {
	args := []string{"--ro-bind", "/usr", "/usr"}
	for _, dir := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/gnu"} {
		info, err := lstat(dir)
		if err != nil {
			continue
		}
		if info.Mode()&os.ModeSymlink != 0 {
			if to, err := readlink(dir); err == nil {
				args = append(args, "--symlink", to, dir)
			}
			continue
		}
		args = append(args, "--ro-bind", dir, dir)
	}
	for _, file := range []string{"alternatives", "ca-certificates", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types",
		"nsswitch.conf", "pki/ca-trust", "pki/tls/certs", "protocols", "services", "ssl/certs", "ssl/openssl.cnf", "terminfo"} {
		args = append(args, "--ro-bind-try", "/etc/"+file, "/etc/"+file)
	}
	return args
}

// arguments returns bubblewrap's whole command line. dir holds the files that stand for /etc/passwd and the like; info is the number of
// the file to which bubblewrap tells the first process's pid; the one after it is the filter of system calls, if there is one.
func (o *order) arguments(dir string, shown []string, info int, filtered bool) []string {
	s := divide(o.Task.Spec.Resources.Storage)
	args := append(o.Mode.namespaces(), folders("/etc", "/etc/pki", "/etc/pki/ca-trust", "/etc/pki/tls", "/etc/ssl")...)
	if o.Network {
		args = without(args, "--unshare-net")
		shown = append(shown, "--ro-bind-try", "/etc/resolv.conf", "/etc/resolv.conf")
	}
	args = append(args, shown...)
	for _, name := range []string{"passwd", "group", "hosts"} {
		args = append(args, "--ro-bind", filepath.Join(dir, name), "/etc/"+name)
	}
	args = append(args, "--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev",
		"--perms", "1777", "--size", strconv.FormatInt(min(s.tmp, 64<<20), 10), "--tmpfs", "/dev/shm",
		"--perms", "1777", "--size", strconv.FormatInt(s.tmp, 10), "--tmpfs", insideTmp,
		"--perms", "0777", "--size", strconv.FormatInt(s.workspace, 10), "--tmpfs", insideWorkspace)
	args = append(args, o.shows()...) // over /tmp, in which some of it may be
	args = append(args,
		"--ro-bind", o.Self, insideSelf, "--hostname", o.hostname(),
		// The first two are small file systems in memory without a bound of their own.
		"--remount-ro", "/dev", "--remount-ro", "/",
		"--setenv", "PATH", insidePath, "--setenv", "GOMAXPROCS", "2", "--chdir", "/", "--info-fd", strconv.Itoa(info))
	for _, name := range []string{"bus", "irq", "sysrq-trigger"} { // as container runtimes do: the machine's own
		args = append(args, "--ro-bind-try", "/proc/"+name, "/proc/"+name)
	}
	if filtered {
		args = append(args, "--seccomp", strconv.Itoa(info+1))
	}
	return append(args, "--", insideSelf, Command, stageInit)
}

// shows returns the arguments for what is shown beside the system. What holds the sandboxes' own folder is covered.
func (o *order) shows() []string {
	var args []string
	for _, p := range o.Paths {
		args = append(args, folders(above(p)...)...)
		args = append(args, "--ro-bind", p, p)
	}
	for _, p := range append([]string{"/usr"}, o.Paths...) {
		if within(o.Hide, p) {
			return append(args, "--size", "4096", "--tmpfs", o.Hide, "--remount-ro", o.Hide)
		}
	}
	return args
}

// folders returns the arguments that make folders above what is shown, as far as there are none. bubblewrap itself makes them for their
// owner alone, who is root where the sandbox is a user of its own: it could read nothing in /etc.
func folders(names ...string) []string {
	var args []string
	for _, name := range names {
		args = append(args, "--perms", "0755", "--dir", name)
	}
	return args
}

// above returns the folders above a path, the topmost first.
func above(path string) []string {
	var names []string
	for dir := filepath.Dir(path); dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		names = append(names, dir)
	}
	slices.Reverse(names)
	return names
}

// hostname is the sandbox's name, if it is one that a host can have.
func (o *order) hostname() string {
	name := o.Task.Name
	if name == "" || len(name) > 63 {
		return "sandbox"
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '-' || i == 0) {
			return "sandbox"
		}
	}
	return name
}

func without(list []string, what string) []string {
	var left []string
	for _, s := range list {
		if s != what {
			left = append(left, s)
		}
	}
	return left
}
