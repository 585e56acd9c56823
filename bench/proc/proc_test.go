//go:build linux

package proc

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain is also the processes that are measured: `<test> burn 300ms`.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || !strings.HasPrefix(os.Args[1], "child-") {
		os.Exit(m.Run())
	}
	args := os.Args[2:]
	switch os.Args[1] {
	case "child-burn": // a time; it tells what the kernel says that it used, and waits
		burn(args[0])
		fmt.Println(own())
		wait()
	case "child-parent": // a time for a child that ends, and one for a child that stays
		_ = again("child-burn-and-end", args[0]).Run()
		c := again("child-burn", args[1])
		in, _ := c.StdinPipe()
		out, _ := c.StdoutPipe()
		_ = c.Start()
		_, _ = bufio.NewReader(out).ReadString('\n')
		fmt.Println("ready")
		wait()
		in.Close()
		_ = c.Wait()
	case "child-burn-and-end":
		burn(args[0])
	case "child-keeper": // of an orphan
		c := again("child-orphan", args[0])
		c.Stdin, c.Stdout = os.Stdin, os.Stdout
		_ = c.Run()
		fmt.Println("gone")
		wait()
	case "child-orphan": // its child stays behind, and outlives it
		c := again("child-burn", args[0])
		c.Stdin, c.Stdout = os.Stdin, os.Stdout
		_ = c.Start()
	case "child-cores":
		fmt.Println(affinity(0), runtime.NumCPU())
		wait()
	case "child-pin": // it pins itself with threads running, and tells what its threads have
		pinMany()
	case "child-hold": // bytes
		n, _ := strconv.Atoi(args[0])
		b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
		if err != nil || len(b) != n {
			fmt.Println(err)
		}
		fmt.Println("ready")
		wait()
	case "child-starts": // starts a process by Start that waits, and tells its number
		c := exec.Command("sleep", "60") // ends by itself for no other reason
		if err := Start(c, nil); err != nil {
			fmt.Println(err)
		}
		fmt.Println(c.Process.Pid)
		wait()
	}
}

func again(args ...string) *exec.Cmd { return exec.Command(os.Args[0], args...) }

// wait returns when the standard input closes.
func wait() { _, _ = io.Copy(io.Discard, os.Stdin) }

// burn uses the processor until it has used that much.
func burn(d string) {
	want, _ := time.ParseDuration(d)
	for begin := own(); own()-begin < want; {
		for range 10000 {
			_ = strconv.Itoa(os.Getpid())
		}
	}
}

func own() time.Duration {
	d, err := Self()
	if err != nil {
		panic(err)
	}
	return d
}

func affinity(thread int) string {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(thread, &set); err != nil {
		return err.Error()
	}
	return fmt.Sprint(numbersOf(set))
}

func pinMany() {
	done := make(chan struct{})
	for range 10 {
		go func() {
			runtime.LockOSThread()
			<-done
		}()
	}
	if err := Pin([]int{0}); err != nil {
		fmt.Println(err)
		return
	}
	threads, _ := os.ReadDir("/proc/self/task")
	seen := map[string]bool{}
	for _, t := range threads {
		id, _ := strconv.Atoi(t.Name())
		seen[affinity(id)] = true
	}
	fmt.Println(len(seen), Cores() > 0, affinity(0))
	close(done)
}

// child is a started one of the above.
type child struct {
	*exec.Cmd
	out *bufio.Reader
}

// run starts a child on the cores and returns it with its first line; it ends with the test.
func run(t *testing.T, cores []int, args ...string) (child, string) {
	t.Helper()
	c := again(args...)
	c.Stderr = os.Stderr
	in, _ := c.StdinPipe()
	out, _ := c.StdoutPipe()
	if err := Start(c, cores); err != nil {
		t.Fatalf("Start: %v", err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = c.Wait()
	})
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("%v said nothing: %v", args, err)
	}
	return child{c, r}, strings.TrimSpace(line)
}

// near tells whether a duration is that of the wanted one, with a margin for what a process uses to begin and to wait.
func near(got, want time.Duration) bool {
	return got >= want-30*time.Millisecond && got <= want+150*time.Millisecond
}

func TestMeasuresTheTimeOfAProcess(t *testing.T) {
	c, line := run(t, nil, "child-burn", "300ms")
	used, err := time.ParseDuration(line)
	if err != nil {
		t.Fatal(err)
	}
	u, err := Measure([]int{c.Process.Pid})
	if err != nil {
		t.Fatal(err)
	}
	if u.CPU < used || u.CPU > used+20*time.Millisecond || u.Processes != 1 {
		t.Errorf("got %+v, want one process that used %s", u, used)
	}
	cpu, err := CPU([]int{c.Process.Pid})
	if err != nil || cpu < u.CPU || cpu > u.CPU+20*time.Millisecond {
		t.Errorf("CPU: got %s, %v, want %s", cpu, err, u.CPU)
	}
}

// Children count whether they live or have ended.
func TestMeasuresDescendants(t *testing.T) {
	c, _ := run(t, nil, "child-parent", "200ms", "300ms")
	u, err := Measure([]int{c.Process.Pid})
	if err != nil {
		t.Fatal(err)
	}
	if !near(u.CPU, 500*time.Millisecond) || u.Processes != 2 {
		t.Errorf("got %+v, want two processes that used 500 ms with the one that ended", u)
	}
}

// A child whose parent has ended belongs to init, and is still found by its process group.
func TestMeasuresOrphans(t *testing.T) {
	c, _ := run(t, nil, "child-keeper", "300ms")
	if _, err := c.out.ReadString('\n'); err != nil { // the orphan has burnt, and its parent has gone, in any order
		t.Fatal(err)
	}
	u, err := Measure([]int{c.Process.Pid})
	if err != nil {
		t.Fatal(err)
	}
	if !near(u.CPU, 300*time.Millisecond) || u.Processes != 2 {
		t.Errorf("got %+v, want two processes, one of them the orphan that used 300 ms", u)
	}
}

// Each process counts once, also if it is asked for twice and with its parent.
func TestCountsEachOnce(t *testing.T) {
	a, _ := run(t, nil, "child-hold", "1")
	b, _ := run(t, nil, "child-hold", "1")
	u, err := Measure([]int{a.Process.Pid, b.Process.Pid, a.Process.Pid})
	if err != nil || u.Processes != 2 {
		t.Errorf("got %+v, %v, want 2 processes", u, err)
	}
}

func TestMeasuresMemory(t *testing.T) {
	const held = 64 << 20
	small, _ := run(t, nil, "child-hold", "1")
	large, _ := run(t, nil, "child-hold", strconv.Itoa(held))
	a, err := Measure([]int{small.Process.Pid})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Measure([]int{large.Process.Pid})
	if err != nil {
		t.Fatal(err)
	}
	if d := b.RSS - a.RSS; d < held-4<<20 || d > held+8<<20 {
		t.Errorf("RSS: %d bytes more, want %d", d, held)
	}
	if a.PSS <= 0 || a.PSS >= a.RSS {
		t.Errorf("PSS: got %d, want less than the RSS of %d: the program is shared with the other", a.PSS, a.RSS)
	}
}

func TestMeasureSaysWhatIsGone(t *testing.T) {
	c := again("child-burn-and-end", "1ms")
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("process %d is not running", c.Process.Pid)
	if _, err := Measure([]int{os.Getpid(), c.Process.Pid}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want that %s", err, want)
	}
}

func TestStartsOnCores(t *testing.T) {
	all := affinity(0)
	given, err := given()
	if err != nil {
		t.Fatal(err)
	}
	numbers := numbersOf(given)
	for i, number := range numbers {
		_, got := run(t, []int{i}, "child-cores")
		if want := fmt.Sprintf("[%d] 1", number); got != want {
			t.Errorf("on core %d: got %s, want %s", i, got, want)
		}
	}
	_, got := run(t, nil, "child-cores")
	if want := fmt.Sprintf("%v %d", numbers, len(numbers)); got != want {
		t.Errorf("on all cores: got %s, want %s", got, want)
	}
	if got := affinity(0); got != all {
		t.Errorf("afterwards we are on %s, want %s", got, all)
	}
}

func TestCoresThatAreNotThere(t *testing.T) {
	for _, cores := range [][]int{{Cores()}, {-1}, {0, 1024}, {}} {
		c := again("child-cores")
		if err := Start(c, cores); err == nil || c.Process != nil {
			t.Errorf("Start on %v: got %v, want an error and no process", cores, err)
		}
		if err := Pin(cores); err == nil {
			t.Errorf("Pin to %v: no error", cores)
		}
	}
}

func TestPinsAllThreads(t *testing.T) {
	given, err := given()
	if err != nil {
		t.Fatal(err)
	}
	_, got := run(t, nil, "child-pin")
	if want := fmt.Sprintf("1 true %v", numbersOf(given)[:1]); got != want {
		t.Errorf("got %q, want %q: one set of cores in all threads", got, want)
	}
}

// A process that Start started ends with the one that started it, however that ends.
func TestEndsWithItsStarter(t *testing.T) {
	c, line := run(t, nil, "child-starts")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatalf("it said %q", line)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if !ends(fd, 10*time.Second) {
		t.Error("it has not ended")
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// ends waits for the end of a process.
func ends(pidfd int, within time.Duration) bool {
	for deadline := time.Now().Add(within); time.Now().Before(deadline); {
		polled := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		if n, err := unix.Poll(polled, int(time.Until(deadline).Milliseconds())); n == 1 || err != nil && !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
	return false
}

func TestParseStat(t *testing.T) {
	const rest = " S 10 20 30 0 -1 4194560 1 2 3 4 150 50 7 3 20 0 1 0 100 0 0"
	for name, c := range map[string]struct {
		in   string
		want stat
		ok   bool
	}{
		"plain":        {"42 (nginx)" + rest, stat{pid: 42, parent: 10, group: 20, own: 2 * time.Second, children: 100 * time.Millisecond}, true},
		"a bad name":   {"42 (a) R 1 1 (b)" + rest, stat{pid: 42, parent: 10, group: 20, own: 2 * time.Second, children: 100 * time.Millisecond}, true},
		"zombie":       {"42 (x) Z 1 42 42 0 -1 0 0 0 0 0 1 0 0 0 20", stat{pid: 42, parent: 1, group: 42, zombie: true, own: tick}, true},
		"empty":        {"", stat{}, false},
		"no name":      {"42 nginx S 1", stat{}, false},
		"short":        {"42 (nginx) S 1 2 3", stat{}, false},
		"not a number": {"42 (nginx) S x" + rest[5:], stat{}, false},
	} {
		if got, err := parseStat([]byte(c.in)); got != c.want || (err == nil) != c.ok {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, c.want)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (nginx) S 10 20 30 0 -1 4194560 1 2 3 4 150 50 7 3 20 0 1 0 100 0 0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseStat(b); err != nil && s != (stat{}) {
			t.Errorf("got %+v beside %v", s, err)
		}
	})
}

func TestMachine(t *testing.T) {
	m := Machine()
	if !strings.Contains(m.OS, "Linux") || m.CPU == "" || m.Cores < 1 || m.Cores != Cores() || m.Memory < 64<<20 || m.Load < 0 {
		t.Errorf("got %+v", m)
	}
}

func TestMachineFromFiles(t *testing.T) {
	if got, want := osName([]byte("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n"), "Linux 6"), "Debian GNU/Linux 13 (trixie), Linux 6"; got != want {
		t.Errorf("system: got %q, want %q", got, want)
	}
	if got, want := osName(nil, "Linux 6"), "Linux 6"; got != want {
		t.Errorf("system without a release: got %q, want %q", got, want)
	}
	for in, want := range map[string]string{
		"processor\t: 0\nmodel name\t: Xeon: 3\nprocessor\t: 1\nmodel name\t: other\n": "Xeon: 3",
		"processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n":                 "ARM implementer 0x41 part 0xd0c",
		"": "unknown",
	} {
		if got := cpuName([]byte(in)); got != want {
			t.Errorf("CPU: got %q, want %q", got, want)
		}
	}
	for _, c := range []struct {
		meminfo, limit string
		want           int64
	}{
		{"MemTotal:  1000 kB\nMemFree: 1 kB\n", "", 1_024_000}, {"MemTotal:  1000 kB\n", "max\n", 1_024_000},
		{"MemTotal:  1000 kB\n", "512000\n", 512_000}, {"", "512000\n", 512_000}, {"", "", 0},
	} {
		if got := memory([]byte(c.meminfo), []byte(c.limit)); got != c.want {
			t.Errorf("memory of %q, %q: got %d, want %d", c.meminfo, c.limit, got, c.want)
		}
	}
	if got := loadAverage([]byte("0.25 0.1 0.1 1/2 3\n")); got != 0.25 {
		t.Errorf("load: got %g", got)
	}
}

func TestChoose(t *testing.T) {
	var given unix.CPUSet
	given.Set(4)
	given.Set(7)
	set, err := choose(given, []int{1})
	if got := fmt.Sprint(numbersOf(set)); got != "[7]" || err != nil {
		t.Errorf("core 1 of 4 and 7: got %s, %v, want 7", got, err)
	}
}
