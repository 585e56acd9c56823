//go:build unix

package seal

import (
	"os"
	"syscall"
)

// Private says whether a file with a secret is one that nobody else can read: its owner alone may read or write it, or it is
// root's, of this process's own group, which may read it. So are files that Kubernetes mounts from a Secret into a pod that does not
// run as root: none of them can be owned by the pod's user.
func Private(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return info.Mode().Perm()&0o077 == 0
	}
	return private(info.Mode().Perm(), int(st.Uid), int(st.Gid), os.Geteuid(), os.Getegid())
}

// private is the rule: mode, owner and group of the file, then who this process is.
func private(mode os.FileMode, owner, group, user, userGroup int) bool {
	others := mode & 0o077
	return others == 0 || others == 0o040 && owner == 0 && user != 0 && group == userGroup
}
