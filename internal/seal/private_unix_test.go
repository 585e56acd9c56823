//go:build unix

package seal

import (
	"os"
	"testing"
)

func TestPrivate(t *testing.T) {
	const pod = 10001
	for _, c := range []struct {
		name                          string
		mode                          os.FileMode
		owner, group, user, userGroup int
		want                          bool
	}{
		{"its owner's", 0o600, pod, pod, pod, pod, true},
		{"its owner's to read", 0o400, pod, pod, pod, pod, true},
		{"of a Secret, in a pod", 0o440, 0, pod, pod, pod, true},
		{"root's with a group, for root", 0o440, 0, 0, 0, 0, false},
		{"root's with another group", 0o440, 0, 5, pod, pod, false},
		{"another's with our group", 0o440, 7, pod, pod, pod, false},
		{"our own, with a group", 0o640, pod, pod, pod, pod, false},
		{"that the group may write", 0o660, 0, pod, pod, pod, false},
		{"that all may read", 0o444, 0, pod, pod, pod, false},
	} {
		if got := private(c.mode, c.owner, c.group, c.user, c.userGroup); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
