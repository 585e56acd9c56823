package process

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// X52: no path is made of anything but ids.
func TestX52RunFolder(t *testing.T) {
	const id = "3f9a2b10-1111-4222-8333-444455556666"
	if got, err := runFolder(id, "ab12"); err != nil || got != id+".ab12" {
		t.Errorf("runFolder = %q, %v", got, err)
	}
	for _, c := range [][2]string{
		{"", "ab"}, {"..", "ab"}, {"../" + id, "ab"}, {strings.ToUpper(id), "ab"}, {"{" + id + "}", "ab"}, {id, ""}, {id, ".."}, {id, "a/b"}, {id, "a.b"},
		{id, "A"}, {id, "a\x00"}, {id, strings.Repeat("a", 65)}, {"urn:uuid:" + id, "a"}, {strings.ReplaceAll(id, "-", ""), "a"},
	} {
		if got, err := runFolder(c[0], c[1]); err == nil {
			t.Errorf("runFolder(%q, %q) = %q", c[0], c[1], got)
		}
	}
	if a, b := tenantFolder("x"), tenantFolder("../x"); a == b || filepath.Base(b) != b || strings.Contains(b, ".") {
		t.Errorf("tenantFolder = %q, %q", a, b)
	}
}

func TestRefusedSpecs(t *testing.T) {
	for _, s := range []sandbox.Spec{
		{Image: "nginx"}, {RuntimeClass: "gvisor"}, {Resources: sandbox.Resources{GPUs: map[string]int64{"nvidia.com/gpu": 1}}},
	} {
		if err := refuseSpec(s); !errors.Is(err, sandbox.ErrRefused) || !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	if err := refuseSpec(sandbox.Spec{Image: HostImage}); err != nil {
		t.Error(err)
	}
}

func TestConfigPaths(t *testing.T) {
	dir := t.TempDir()
	inner := filepath.Join(dir, "data", "sandboxes")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/", "/tmp", "/etc", "/proc", "relative", "/no/such/folder", dir, link, inner, filepath.Join(dir, "data")} {
		if _, err := New(Config{Dir: inner, Bwrap: NoBwrap, Paths: []string{p}}); !fault.Is(err, fault.Invalid) {
			t.Errorf("Paths %q: %v, want it refused", p, err)
		}
	}
	if _, err := New(Config{Dir: inner, Bwrap: "/no/such/bwrap"}); !fault.Is(err, fault.Invalid) {
		t.Errorf("a bubblewrap that is not there: %v", err)
	}
	if _, err := New(Config{}); !fault.Is(err, fault.Invalid) {
		t.Errorf("no folder: %v", err)
	}
}

// TestHostNetwork shares the network with those alone to whom both the machine's operator and the tenant's settings give it.
func TestHostNetwork(t *testing.T) {
	for _, c := range []struct {
		config bool
		egress []string
		want   bool
	}{{false, []string{"internet"}, false}, {true, nil, false}, {true, []string{"10.0.0.0/8"}, false}, {true, []string{"internet:443"}, false}, {true, []string{"internet"}, true}} {
		d := driver{all: &Drivers{cfg: Config{HostNetwork: c.config}}}
		d.tenant.Settings.Egress = c.egress
		if got := d.network(); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
		o := order{Mode: mode{Bwrap: "bwrap"}, Network: d.network(), Self: "/self"}
		if got := !slices.Contains(o.arguments("/x", nil, 5, false), "--unshare-net"); got != c.want {
			t.Errorf("%+v: the arguments share the network: %v", c, got)
		}
	}
}

func TestDefaultCommand(t *testing.T) {
	sh, none := func() string { return "/bin/sh" }, func() string { return keeper }
	for _, c := range []struct {
		spec  sandbox.Spec
		shell func() string
		want  []string
		hold  bool
	}{
		{sandbox.Spec{}, sh, []string{"/bin/sh"}, true},
		{sandbox.Spec{}, none, []string{keeper}, true},
		{sandbox.Spec{Args: []string{"-c", "x"}}, sh, []string{"/bin/sh", "-c", "x"}, false},
		{sandbox.Spec{Args: []string{"x"}}, none, []string{"x"}, false},
		{sandbox.Spec{Command: []string{"a"}, Args: []string{"b"}}, sh, []string{"a", "b"}, false},
	} {
		if got, hold := defaultCommand(c.spec, c.shell); !slices.Equal(got, c.want) || hold != c.hold {
			t.Errorf("%+v = %q, %v", c.spec, got, hold)
		}
	}
}

func TestStorageIsDivided(t *testing.T) {
	for _, n := range []int64{1 << 20, 8 << 20, 1 << 30, 1 << 40} {
		if s := divide(n); s.log+s.tmp+s.workspace > n || s.workspace < n/2 {
			t.Errorf("divide(%d) = %+v", n, s)
		}
	}
}

func TestFreeUser(t *testing.T) {
	uid := newUID()
	for _, c := range []struct {
		uidMap   string
		from, to int
	}{
		{"         0          0 4294967295\n", 1_000_000_000, 1_900_000_000},
		{"0 100000 65536\n", 60_100, 65_000},
		{"0 1000 1\n", 65534, 65534}, {"", 65534, 65534}, {"nonsense\n", 65534, 65534},
	} {
		if got := freeUser(c.uidMap, uid); got < c.from || got > c.to || got != freeUser(c.uidMap, uid) {
			t.Errorf("freeUser(%q) = %d", c.uidMap, got)
		}
	}
}

func TestParseGroups(t *testing.T) {
	const one = `30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 25 0:28 /docker/abc /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
33 25 0:29 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
`
	const two = "34 25 0:30 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
	for _, c := range []struct {
		mounts, own string
		v2          bool
		want        map[string]string
	}{
		{one, "3:cpu:/\n4:memory:/a/b\n5:pids:/docker/abc/x\n6:cpuset:/\n1:name=systemd:/\n", false,
			map[string]string{"cpu": "/sys/fs/cgroup/cpu", "memory": "/sys/fs/cgroup/memory/a/b", "pids": "/sys/fs/cgroup/pids/x"}},
		{one, "5:pids:/docker/abcdef\n", false, map[string]string{"pids": "/sys/fs/cgroup/pids"}},
		{two, "0::/system.slice/polygate.service\n", true, map[string]string{"cpu": "/sys/fs/cgroup/system.slice/polygate.service",
			"memory": "/sys/fs/cgroup/system.slice/polygate.service", "pids": "/sys/fs/cgroup/system.slice/polygate.service"}},
		{one + two, "3:cpu:/\n0::/\n", false, map[string]string{"cpu": "/sys/fs/cgroup/cpu"}},
		{"", "", false, map[string]string{}},
	} {
		if got := parseGroups(c.mounts, c.own); got.V2 != c.v2 || !reflect.DeepEqual(got.Parents, c.want) {
			t.Errorf("parseGroups(%q) = %+v", c.own, got)
		}
	}
}

// TestGroupFiles has version 2 be what a kernel would make, a folder of files: this machine may have version 1.
func TestGroupFiles(t *testing.T) {
	parent := t.TempDir()
	g := &groups{V2: true, Parents: map[string]string{"cpu": parent, "memory": parent, "pids": parent}}
	w := g.of(newUID())
	l := limits{CPU: 250, Memory: 64 << 20, Pids: 99}
	want := []knob{{"cpu", "cpu.max", "25000 100000"}, {"memory", "memory.max", "67108864"}, {"pids", "pids.max", "99"}}
	if got := w.knobs(l); !slices.Equal(got, want) {
		t.Errorf("knobs = %+v", got)
	}
	dir := w.each()
	if len(dir) != 1 {
		t.Fatalf("groups %q, want one", dir)
	}
	files := map[string]string{"cpu.stat": "usage_usec 1500000\nuser_usec 1\n", "memory.current": "1000\n", "memory.stat": "anon 1\ninactive_file 300\n",
		"memory.events": "low 0\noom 3\noom_kill 2\n", "cgroup.procs": "", "pids.max": "", "cpu.max": "", "memory.max": "", "memory.swap.max": ""}
	if err := os.Mkdir(dir[0], 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir[0], name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if on := w.make(l); !slices.Equal(on, controllers()) {
		t.Errorf("in force: %q", on)
	}
	if cpu, memory, ok := w.usage(); !ok || cpu != 1500*time.Millisecond || memory != 700 {
		t.Errorf("usage = %v, %d, %v", cpu, memory, ok)
	}
	if n := w.killedForMemory(); n != 2 {
		t.Errorf("killed for memory: %d", n)
	}
	if b, _ := os.ReadFile(filepath.Join(dir[0], "memory.swap.max")); string(b) != "0" {
		t.Errorf("swap = %q", b)
	}
	if lacks := (*groups)(nil).lacks(); len(lacks) != 3 {
		t.Errorf("without groups %q lack", lacks)
	}
	if len((*groups)(nil).of(newUID()).dirs)+len(g.of("../x").dirs) != 0 {
		t.Error("a group was named that must not be")
	}
}

func TestEndReasons(t *testing.T) {
	for _, c := range []struct {
		told string
		code int
		oom  bool
		want string
	}{
		{"", 0, false, sandbox.ReasonCompleted}, {"", 0, true, sandbox.ReasonCompleted}, {"", 1, true, sandbox.ReasonError},
		{"", 137, true, sandbox.ReasonOOM}, {"", 137, false, sandbox.ReasonError}, {sandbox.ReasonStopped, 137, true, sandbox.ReasonStopped},
	} {
		if got := endReason(c.told, c.code, c.oom); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

// TestFilterOfOtherMachines assembles what this machine does not use, too.
func TestFilterOfOtherMachines(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		if b, err := abiOf(arch).program(); err != nil || len(b) < 8*20 || len(b)%8 != 0 {
			t.Errorf("%s: %d bytes, %v", arch, len(b), err)
		}
	}
	if b, err := abiOf("riscv64").program(); b != nil || err != nil {
		t.Errorf("a machine without a list: %v, %v", b, err)
	}
}

// TestNotAFile has what should be files be what keeps a reader waiting, or leads elsewhere.
func TestNotAFile(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := errors.Join(os.WriteFile(secret, []byte("S"), 0o600), os.Symlink(secret, filepath.Join(dir, "link")),
		syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600), os.WriteFile(filepath.Join(dir, "long"), make([]byte, 101), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "pipe", ".", "long"} {
		if b, err := readBounded(filepath.Join(dir, name), 100); err == nil {
			t.Errorf("%s: read %q", name, b)
		}
	}
}

func FuzzStatus(f *testing.F) {
	good, _ := json.Marshal(status{V: 1, UID: newUID(), Phase: sandbox.PhaseRunning, Message: "a\nb"})
	f.Add(good)
	f.Add([]byte(`{"v":1,"uid":"../../etc","phase":2}`))
	f.Add([]byte(`{"v":9,"phase":99,"exit":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := parseStatus(b)
		if err != nil {
			return
		}
		if !validUID(st.UID) || st.Phase == sandbox.PhaseAbsent || st.Phase > sandbox.PhaseStopping || st.Exit != nil && (*st.Exit < 0 || *st.Exit > 255) ||
			len(st.Message) > 4096 || strings.ContainsAny(st.Message+st.Reason, "\n\r\x1b") || !utf8.ValidString(st.Message) {
			t.Errorf("believed: %+v", st)
		}
		_ = events(&order{}, st)
	})
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte("2026-01-02T15:04:05.000000000Z F hello\n"))
	f.Add([]byte("2026-01-02T15:04:05.000000000Z P "))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, ok := parseRecord(b); ok && len(r.text)+logHead > len(b) {
			t.Errorf("%q: %q", b, r.text)
		}
	})
}

func FuzzStat(f *testing.F) {
	f.Add([]byte("12 (a) b) (c) S 1 12 12 0 -1 4194560 1 1 1 1 7 8 9 10 20 0 1 0 12345 1 2 3\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if st, err := parseStat(b); err == nil && st.state == 0 {
			t.Errorf("%q", b)
		}
		parseGroups(string(b), string(b))
		if id, nonce, ok := parseRunFolder(string(b)); ok && (strings.ContainsAny(id+nonce, "/\x00") || id == "" || nonce == "") {
			t.Errorf("a folder of %q", b)
		}
		freeUser(string(b), newUID())
	})
}

// FuzzRelay has the sandbox's side of an Exec say anything. It ends, passes on no more than was said, and no exit that cannot be.
func FuzzRelay(f *testing.F) {
	frame := func(k kind, b string) []byte {
		var out bytes.Buffer
		_ = (&frames{rw: rw{nil, &out}}).write(k, []byte(b))
		return out.Bytes()
	}
	f.Add(slices.Concat(frame(frameOutput, "hello"), frame(frameTaken, "1234"), frame(frameExit, `{"code":3}`)))
	f.Add(frame(frameExit, `{"code":-1}`))
	f.Add(frame(frameExit, `{"code":1,"signal":"\u001b[2J"}`))
	f.Add([]byte{byte(frameOutput), 0xff, 0xff, 0xff, 0xff})
	f.Add(bytes.Repeat(frame(frameTaken, "1234"), 50))
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		exit, err := relay(rw{bytes.NewReader(b), io.Discard}, sandbox.Exec{Command: []string{"x"}, Stdout: &out, Stderr: &out})
		if out.Len() > len(b) {
			t.Errorf("%d bytes of output from %d", out.Len(), len(b))
		}
		if err == nil && (exit.Code < 0 || exit.Code > 255 || exit.Signal != "" && signalNumber(exit.Signal) == 0) {
			t.Errorf("exit = %+v", exit)
		}
	})
}

type rw struct {
	io.Reader
	io.Writer
}
