package process

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// mode is how processes are kept apart on this machine.
type mode struct {
	Bwrap string `json:"bwrap,omitempty"` // "" = plain
	// User says that a user namespace is made, in which case the sandbox is this process's own user outside. As root none is
	// made: the sandbox becomes a user of its own that nobody else on this machine is.
	User    bool `json:"user,omitempty"`
	Disable bool `json:"disable,omitempty"` // user namespaces can be forbidden inside (bubblewrap 0.8)
	Root    bool `json:"root,omitempty"`    // we are root and can become another user

	why string // why there is no bubblewrap
}

// NoBwrap is Config.Bwrap of who wants no bubblewrap.
const NoBwrap = "none"

// probe finds out how bubblewrap works here. One that was named and does not work is an error; one that was looked for is a warning.
func probe(named string) (mode, error) {
	m := mode{Root: os.Geteuid() == 0}
	if named == NoBwrap {
		m.why = "bubblewrap is switched off"
		return m, nil
	}
	path := named
	if path == "" {
		path = "bwrap"
	}
	path, err := exec.LookPath(path)
	if err != nil {
		if named != "" {
			return m, fault.Wrap(fault.Invalid, err, "sandboxes.process.bubblewrap: %q cannot be run", named)
		}
		m.why = "bubblewrap is not installed"
		return m, nil
	}
	tries := []mode{{User: true, Disable: true}, {User: true}}
	if m.Root {
		tries = []mode{{Root: true}}
	}
	for _, try := range tries {
		try.Bwrap, try.Root = path, m.Root
		if err = try.works(); err == nil {
			return try, nil
		}
	}
	if named != "" {
		return m, fault.Wrap(fault.Invalid, err, "sandboxes.process.bubblewrap: %q does not work here: user namespaces may be forbidden", named)
	}
	m.why = "bubblewrap does not work here (" + err.Error() + ")"
	return m, nil
}

// works makes an empty sandbox.
func (m mode) works() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	args := append(m.namespaces(), "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", "65536", "--tmpfs", "/tmp", "--", "/bin/true")
	cmd := exec.CommandContext(ctx, m.Bwrap, args...) //nolint:gosec // G204: the operator's own program
	cmd.Env = []string{}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		if line, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n"); line != "" {
			return fault.New(fault.Unavailable, "%s", line)
		}
		return err
	}
	return nil
}

// warning says what a sandbox is without bubblewrap.
func (m mode) warning() string {
	s := m.why + ": sandboxes are plain processes, which can read this machine's files and reach its network"
	if m.Root {
		return s + ", though as a user of their own (apt-get install bubblewrap)"
	}
	return s + ", and as the gateway's own user, so its data too: run nothing that you do not trust (apt-get install bubblewrap)"
}
