// Package process runs sandboxes as processes of this machine, for development: each a process tree in its own Linux namespaces,
// through bubblewrap where it is installed, and in a plain process group with a warning where it is not. A shim (a hidden command of
// our own binary) is the parent of each run and outlives the gateway, which finds its runs again by their folders. What it does not
// do: images, GPUs, egress by address, more than one machine. See DESIGN.md.
package process

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// Command is the hidden command of our binary under which a shim and what it starts run. Whoever builds a binary that uses this
// package gives it that command, and calls Main in it.
const Command = "sandbox-init"

// Config says where and how.
type Config struct {
	Dir string // holds a folder for each run; made if it is missing, with mode 0700. Never visible in a sandbox
	// Bwrap is the path of bubblewrap; "" = look for it; "none" = do without.
	Bwrap string
	Self  string   // the path of the binary that knows Command; "" = this one
	Paths []string // further folders and files of this machine that sandboxes may read; none = the system's (/usr, …) alone
	// Cgroup says whether limits may be put in force by control groups; off, or where they cannot be made, rlimits stand in, which
	// bound each process and not the whole.
	Cgroup bool
	// HostNetwork lets the sandboxes of tenants whose egress holds "internet" share this machine's network, its loopback included.
	// Without it every sandbox has a loopback of its own and nothing else: egress by address cannot be held here.
	HostNetwork bool
	Pids        int // processes and threads of one sandbox; 0 = 512
	Logger      *slog.Logger
	Now         func() time.Time // nil = time.Now
}

// DefaultPids is how many processes and threads a sandbox may have.
const DefaultPids = 512

// Drivers makes a driver for each tenant. It implements sandbox.Drivers and sandbox.Eraser.
type Drivers struct {
	cfg    Config
	mode   mode
	groups *groups // nil = none
	starts chan struct{}

	mu       sync.Mutex        // guards what follows
	used     map[string]sample // what was read of a run last, by UID
	children map[int]struct{}  // shims of ours that were not waited for
}

// New looks at what this machine can do, and makes Config.Dir.
func New(cfg Config) (*Drivers, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	m, err := probe(cfg.Bwrap)
	if err != nil {
		return nil, err
	}
	d := &Drivers{cfg: cfg, mode: m, starts: make(chan struct{}, 4), used: map[string]sample{}, children: map[int]struct{}{}}
	if cfg.Cgroup {
		d.groups = findGroups()
	}
	return d, nil
}

func (c *Config) complete() (err error) {
	if c.Dir == "" {
		return fault.New(fault.Invalid, "the process driver has no folder: set sandboxes.process.dir")
	}
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return fault.Wrap(fault.Unavailable, err, "the folder of sandboxes cannot be made: see that its parent can be written")
	}
	// Others of this machine could read what the sandboxes print, or be asked by a socket of theirs.
	if err := os.Chmod(c.Dir, 0o700); err != nil { //nolint:gosec // G302: a folder needs its x bit
		return fault.Wrap(fault.Unavailable, err, "the folder of sandboxes cannot be made private: it must be ours")
	}
	if c.Self == "" {
		if c.Self, err = os.Executable(); err != nil {
			return err
		}
	}
	if c.Self, err = filepath.EvalSymlinks(c.Self); err != nil {
		return err
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Pids == 0 {
		c.Pids = DefaultPids
	}
	return c.checkPaths()
}

// checkPaths refuses to show what holds the gateway's own data.
func (c *Config) checkPaths() error {
	real, err := filepath.EvalSymlinks(c.Dir)
	if err != nil {
		return err
	}
	for i, p := range c.Paths {
		if !filepath.IsAbs(p) {
			return fault.New(fault.Invalid, "sandboxes.process.paths[%d]: %q does not begin with /", i, p)
		}
		at, err := filepath.EvalSymlinks(p)
		if err != nil {
			return fault.Wrap(fault.Invalid, err, "sandboxes.process.paths[%d]: %q cannot be read", i, p)
		}
		for _, own := range []string{insideTmp, insideWorkspace, "/proc", "/dev", "/etc", "/run/polygate"} {
			if within(own, p) {
				return fault.New(fault.Invalid, "sandboxes.process.paths[%d]: %q would hide the sandbox's own %s: name a folder within", i, p, own)
			}
		}
		if within(at, real) || within(real, at) {
			return fault.New(fault.Invalid, "sandboxes.process.paths[%d]: %q holds the sandboxes' own folder or lies in it", i, p)
		}
	}
	return nil
}

// within says whether path is dir or lies in it. Both are clean.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// Name implements sandbox.Drivers.
func (d *Drivers) Name() string { return "process" }

// Warn returns what operators are to be told at the start: what this machine does not hold a sandbox to. "" = nothing.
func (d *Drivers) Warn() string {
	var w []string
	if d.mode.Bwrap == "" {
		w = append(w, d.mode.warning())
	}
	if lacks := d.groups.lacks(); len(lacks) > 0 {
		w = append(w, "no control group can be made for "+strings.Join(lacks, ", ")+
			" (run the gateway with a delegated cgroup, or as root): limits of memory hold for each process alone, and CPU is not limited")
	}
	return strings.Join(w, "; ")
}

// Open implements sandbox.Drivers.
func (d *Drivers) Open(t sandbox.Tenant) (sandbox.Driver, error) {
	if t.Scope.UID() == "" {
		return nil, fault.New(fault.Internal, "a driver needs a tenant")
	}
	return &driver{all: d, tenant: t, dir: filepath.Join(d.cfg.Dir, tenantFolder(t.Scope.UID())), woken: make(chan struct{})}, nil
}

var _ interface {
	sandbox.Drivers
	sandbox.Eraser
} = (*Drivers)(nil)

// gone says whether an error tells that a file is not there.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }
