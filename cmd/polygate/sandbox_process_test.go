package main

import (
	"bytes"
	"crypto/rand"
	"encoding/csv"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// newSandboxGateway is a gateway whose sandboxes are processes of this machine.
func newSandboxGateway(t *testing.T) *gateway {
	t.Helper()
	g := newGateway(t, twoTenants)
	g.write("polygate.yaml", string(must(os.ReadFile(filepath.Join(g.dir, "polygate.yaml"))))+"sandboxes: {driver: process}\n")
	return g
}

// withKey returns the environment of a command that is run with a key of team-a.
func (g *gateway) withKey(key string) []string {
	return []string{"POLYGATE_CA=" + g.env["POLYGATE_CA"], "POLYGATE_URL=" + g.env["TEAM_A_URL"], "POLYGATE_KEY=" + key, "XDG_CONFIG_HOME=" + filepath.Join(g.dir, "xdg")}
}

// exits runs a command that must end with a code and print want.
func (g *gateway) exits(t *testing.T, code int, want string, args ...string) (stdout string) {
	t.Helper()
	stdout, stderr, got := execute(t, g.withKey(g.env["TEAM_A_KEY"]), args...)
	if got != code || !strings.Contains(stdout+stderr, want) {
		t.Errorf("polygate %s: exit %d, want %d and %q\n%s%s", strings.Join(args, " "), got, code, want, stdout, stderr)
	}
	return stdout
}

// state returns a sandbox as it is now.
func (g *gateway) state(t *testing.T, name string) (one sandboxInfo) {
	t.Helper()
	if err := json.Unmarshal([]byte(g.exits(t, 0, name, "sandbox", "get", name, "-o", "json")), &one); err != nil {
		t.Fatal(err)
	}
	return one
}

// key makes a key of team-a and returns it with its id.
func (g *gateway) key(t *testing.T, name, role string) (key, id string) {
	t.Helper()
	var k struct{ Key, ID string }
	out, stderr, code := g.cli(t, "key", "create", "team-a", "--name", name, "--role", role, "-o", "json")
	if err := json.Unmarshal([]byte(out), &k); err != nil || code != 0 {
		t.Fatalf("exit %d, %v\n%s%s", code, err, out, stderr)
	}
	return k.Key, k.ID
}

// TestSandboxesOnTheRunningProduct uses each command for sandboxes as a member of a tenant would, with the driver of the demo.
func TestSandboxesOnTheRunningProduct(t *testing.T) {
	g := newSandboxGateway(t)
	g.start()
	ok := func(want string, args ...string) string { t.Helper(); return g.exits(t, 0, want, args...) }
	ok("sandbox web: Running", "sandbox", "create", "web", "--env", "GREETING=hello there", "--label", "team=a", "--wait", "--", "sh", "-c", "echo begun; echo late >&2; exec sleep 3600")
	g.exits(t, 1, "409", "sandbox", "create", "web")
	g.exits(t, 1, "400", "sandbox", "create", "--cpu", "lots")
	ok("web", "sandbox", "list", "-l", "team in (a,b)", "--state", "Running", "--mine")
	if out := ok("NAME", "sandbox", "list", "-l", "team!=a"); strings.Contains(out, "web") {
		t.Errorf("a list without it:\n%s", out)
	}
	ok("hello there", "sandbox", "get", "web", "-o", "yaml")
	ok("CONDITION", "sandbox", "get", "web")
	ok("", "sandbox", "events", "web")
	id := g.state(t, "web").ID
	ok("web", "sandbox", "get", id)

	t.Run("exec", func(t *testing.T) { g.execCodes(t) })
	t.Run("pipes", func(t *testing.T) { g.execPipes(t) })
	t.Run("terminal", func(t *testing.T) { g.execTerminal(t) })
	t.Run("sharing", func(t *testing.T) { g.sharing(t) })
	t.Run("logs", func(t *testing.T) { g.sandboxLogs(t) })

	g.exits(t, 1, "is not stopped after 1s: Running", "sandbox", "wait", "web", "--for", "stopped", "--timeout", "1s")
	ok("Stopped", "sandbox", "stop", "web", "--wait")
	ok("Stopped", "sandbox", "wait", "web", "--for", "settled")
	g.exits(t, 1, "will not be running", "sandbox", "wait", "web", "--for", "running", "--timeout", "1m")
	g.exits(t, 125, "409", "sandbox", "exec", "web", "--", "true")
	ok("Running", "sandbox", "start", "web", "--wait")
	if run := g.state(t, "web").Run.Number; run != 2 {
		t.Errorf("run %d after a start, want 2", run)
	}
	ok("made", "sandbox", "create", "broken", "--", "sh", "-c", "exit 3")
	ok("Failed: Error (exit 3)", "sandbox", "wait", "broken", "--for", "stopped")
	ok("made", "sandbox", "create", "job", "--", "true")
	ok("Completed", "sandbox", "wait", "job", "--for", "stopped")
	ok("deleted", "sandbox", "delete", "web", "job", "broken", "--wait")
	g.exits(t, 1, "404", "sandbox", "get", "web")
	ok("is not there", "sandbox", "wait", "web", "--for", "deleted")
	ok("made", "sandbox", "create", "web", "--", "true")
	t.Run("usage", func(t *testing.T) { g.sandboxUsage(t) })
}

// sandboxUsage reads what the sandboxes before used, as a table, as CSV and as JSON.
func (g *gateway) sandboxUsage(t *testing.T) {
	if out := g.exits(t, 0, "OWNER", "usage", "--from", "1h", "--group-by", "owner"); strings.Contains(out, "AUTHENTICATOR") || !strings.Contains(out, "SANDBOX SECONDS") || !strings.Contains(out, "key:") {
		t.Errorf("a table:\n%s", out)
	}
	rows, err := csv.NewReader(strings.NewReader(g.exits(t, 0, "", "usage", "--from", "1h", "--group-by", "owner,day", "-o", "csv"))).ReadAll()
	if err != nil || len(rows) < 2 || rows[0][0] != "from" {
		t.Errorf("CSV: %v, %v", rows, err)
	}
	var report struct {
		Items []struct {
			Seconds  float64 `json:"sandbox_seconds"`
			Sessions int     `json:"sessions"`
		}
	}
	out := g.exits(t, 0, "", "usage", "--group-by", "owner", "-o", "json")
	if err := json.Unmarshal([]byte(out), &report); err != nil || len(report.Items) == 0 || report.Items[0].Seconds <= 0 || report.Items[0].Sessions == 0 {
		t.Errorf("JSON: %v\n%s", err, out)
	}
	g.exits(t, 0, "Requests:", "usage")
	g.exits(t, 1, "400", "usage", "--group-by", "sandbox")
}

func (g *gateway) execCodes(t *testing.T) {
	for _, tt := range []struct {
		code int
		want string
		line []string
	}{
		{0, "hello there", []string{"sh", "-c", "echo $GREETING"}},
		{0, "a b|c", []string{"sh", "-c", `printf '%s|' "$@"`, "x", "a b", "c"}},
		{3, "", []string{"sh", "-c", "exit 3"}},
		{125, "", []string{"sh", "-c", "exit 125"}},
		{255, "", []string{"sh", "-c", "exit 255"}},
		{137, "", []string{"sh", "-c", "kill -9 $$"}},
		{143, "", []string{"sh", "-c", "kill $$"}},
	} {
		g.exits(t, tt.code, tt.want, append([]string{"sandbox", "exec", "web", "--"}, tt.line...)...)
	}
	if _, stderr, code := execute(t, g.withKey(g.env["TEAM_A_KEY"]), "sandbox", "exec", "web", "--", "/no/such/program"); code == 0 || code == 2 {
		t.Errorf("a program that is not there: exit %d\n%s", code, stderr)
	}
	g.exits(t, 125, "403", "sandbox", "exec", "nothing", "--", "true")
	stdout, stderr, code := execute(t, g.withKey(g.env["TEAM_A_KEY"]), "sandbox", "exec", "web", "--", "sh", "-c", "echo out; echo err >&2")
	if code != 0 || stdout != "out\n" || stderr != "err\n" {
		t.Errorf("exit %d, %q, %q: the two outputs are not apart", code, stdout, stderr)
	}
}

// execPipes sends 10 MB through a command and back, and through one that does not read.
func (g *gateway) execPipes(t *testing.T) {
	sent := make([]byte, 10<<20)
	_, _ = rand.Read(sent)
	pipe := func(line ...string) ([]byte, int) {
		cmd := exec.Command(bin(t, "polygate"), append([]string{"sandbox", "exec", "web", "-i", "--"}, line...)...)
		cmd.Env = append(os.Environ(), g.withKey(g.env["TEAM_A_KEY"])...)
		cmd.Stdin = bytes.NewReader(sent)
		out, _ := cmd.Output()
		return out, cmd.ProcessState.ExitCode()
	}
	began := time.Now()
	if out, code := pipe("cat"); code != 0 || !bytes.Equal(out, sent) {
		t.Errorf("cat: exit %d, and %d bytes came back that are not the %d that were sent", code, len(out), len(sent))
	}
	t.Logf("10 MiB there and back in %s", time.Since(began))
	if out, code := pipe("wc", "-c"); code != 0 || strings.TrimSpace(string(out)) != "10485760" {
		t.Errorf("wc -c: exit %d, %q", code, out)
	}
	if _, code := pipe("true"); code != 0 {
		t.Errorf("a command that does not read: exit %d", code)
	}
}

// execTerminal works in a shell as a user would.
func (g *gateway) execTerminal(t *testing.T) {
	o := startOnTerminal(t, g.withKey(g.env["TEAM_A_KEY"]), "sandbox", "exec", "web", "-it", "--", "sh")
	o.untilRaw()
	o.types("echo si''ze $(stty size)\r")
	o.shows("size 30 100")
	if err := pty.Setsize(o.master, &pty.Winsize{Rows: 50, Cols: 160}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the size goes over", func() bool {
		o.types("echo si''ze $(stty size)\r")
		<-time.After(100 * time.Millisecond)
		return strings.Contains(o.shown.String(), "size 50 160")
	})
	o.types("test -t 0 && test -t 1 && test -t 2 && echo all th''ree\r")
	o.shows("all three")
	o.types("echo sle''eps; sleep 3600; echo wo''ke $?\r")
	o.shows("sleeps")
	o.types("\x03")
	o.types("echo aft''er\r")
	o.shows("after")
	if strings.Contains(o.shown.String(), "woke 0") {
		t.Errorf("Ctrl-C did not reach the command:\n%s", o.shown.String())
	}
	o.types("exit 5\r")
	if code := o.ends(); code != 5 {
		t.Errorf("exit %d, want 5\n%s", code, o.shown.String())
	}
	// Its end of input ends a shell, and a terminal that goes away what runs in it.
	o = startOnTerminal(t, g.withKey(g.env["TEAM_A_KEY"]), "sandbox", "exec", "web", "-it", "--", "cat")
	o.untilRaw()
	o.types("\x04")
	if code := o.ends(); code != 0 {
		t.Errorf("Ctrl-D: exit %d\n%s", code, o.shown.String())
	}
	o = startOnTerminal(t, g.withKey(g.env["TEAM_A_KEY"]), "sandbox", "exec", "web", "-it", "--", "sleep", "7654")
	o.untilRaw()
	_ = o.cmd.Process.Signal(syscall.SIGHUP)
	if code := o.ends(); code != 125 {
		t.Errorf("SIGHUP: exit %d, want 125\n%s", code, o.shown.String())
	}
	eventually(t, "the command has ended with its terminal", func() bool {
		out, _, _ := execute(t, g.withKey(g.env["TEAM_A_KEY"]), "sandbox", "exec", "web", "--", "sh", "-c", "ps ax | grep -c '[s]leep 7654'")
		return strings.TrimSpace(out) == "0"
	})
}

// sharing lets another key of the tenant in, and out again.
func (g *gateway) sharing(t *testing.T) {
	key, id := g.key(t, "guest", "editor")
	guest := func(code int, want string, args ...string) {
		t.Helper()
		stdout, stderr, got := execute(t, g.withKey(key), args...)
		if got != code || !strings.Contains(stdout+stderr, want) {
			t.Errorf("the guest: polygate %s: exit %d, want %d and %q\n%s%s", strings.Join(args, " "), got, code, want, stdout, stderr)
		}
	}
	denied := func() {
		t.Helper()
		guest(1, "404", "sandbox", "get", "web")
		guest(125, "403", "sandbox", "exec", "web", "--", "true")
		guest(1, "404", "sandbox", "logs", "web")
		guest(1, "403", "sandbox", "stop", "web")
		if out, _, _ := execute(t, g.withKey(key), "sandbox", "list", "-o", "json"); strings.Contains(out, "web") {
			t.Errorf("the guest sees it:\n%s", out)
		}
	}
	denied()
	g.exits(t, 0, "may sandbox.exec on sandbox/web", "sandbox", "share", "web", "key:guest", "--allow", "exec,logs", "--until", "1h")
	g.exits(t, 0, "sandbox.logs.read", "grant", "list")
	guest(0, "web", "sandbox", "list")
	guest(7, "", "sandbox", "exec", "web", "--", "sh", "-c", "exit 7")
	guest(0, "begun", "sandbox", "logs", "web")
	guest(1, "403", "sandbox", "stop", "web")
	if out, _, _ := execute(t, g.withKey(key), "sandbox", "get", "web", "-o", "json"); strings.Contains(out, "hello there") || !strings.Contains(out, "GREETING") {
		t.Errorf("the guest sees the environment:\n%s", out)
	}
	session := exec.Command(bin(t, "polygate"), "sandbox", "exec", "web", "--", "sh", "-c", "echo in; sleep 3600")
	session.Env = append(os.Environ(), g.withKey(key)...)
	var out, errs output
	session.Stdout, session.Stderr = &out, &errs
	if err := session.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the guest is in", func() bool { return out.String() == "in\n" })
	g.exits(t, 0, "key:"+id+" may no longer sandbox.exec", "sandbox", "unshare", "web", "key:guest")
	began := time.Now()
	if _ = session.Wait(); session.ProcessState.ExitCode() != 125 || time.Since(began) > 10*time.Second {
		t.Errorf("the guest's session: exit %d after %s, want 125 soon\n%s", session.ProcessState.ExitCode(), time.Since(began), errs.String())
	}
	denied()
	g.exits(t, 1, "nothing of sandbox web is shared", "sandbox", "unshare", "web", "key:guest")
}

// sandboxLogs reads what a sandbox wrote; a follower ends with the run.
func (g *gateway) sandboxLogs(t *testing.T) {
	if out := g.exits(t, 0, "", "sandbox", "logs", "web"); out != "begun\nlate\n" && out != "late\nbegun\n" {
		t.Errorf("logs: %q", out)
	}
	if out := g.exits(t, 0, "", "sandbox", "logs", "web", "--tail", "1", "--timestamps"); strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, "20") {
		t.Errorf("logs --tail 1 --timestamps: %q", out)
	}
	if out := g.exits(t, 0, "", "sandbox", "logs", "web", "--since", "2099-01-01T00:00:00Z"); out != "" {
		t.Errorf("logs --since a time to come: %q", out)
	}
	g.exits(t, 0, "Running", "sandbox", "create", "ticker", "--wait", "--", "sh", "-c", "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.1; done")
	follower := exec.Command(bin(t, "polygate"), "sandbox", "logs", "ticker", "--follow")
	follower.Env = append(os.Environ(), g.withKey(g.env["TEAM_A_KEY"])...)
	var out, errs output
	follower.Stdout, follower.Stderr = &out, &errs
	if err := follower.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log is followed", func() bool { return strings.Contains(out.String(), "tick 5\n") })
	g.exits(t, 0, "Stopped", "sandbox", "stop", "ticker", "--wait")
	done := make(chan error, 1)
	go func() { done <- follower.Wait() }()
	select {
	case err := <-done:
		if err != nil || !strings.HasPrefix(out.String(), "tick 0\ntick 1\ntick 2\n") {
			t.Errorf("the follower: %v\n%s%s", err, out.String(), errs.String())
		}
	case <-time.After(20 * time.Second):
		_ = follower.Process.Kill()
		<-done
		t.Errorf("the follower goes on after the sandbox has stopped\n%s%s", out.String(), errs.String())
	}
	g.exits(t, 0, "tick 5", "sandbox", "logs", "ticker", "--tail", "100")
	g.exits(t, 0, "deleted", "sandbox", "delete", "ticker", "--wait")
}

// TestSandboxesOutliveTheGateway: what is killed is the gateway. A session ends and says so, a follower goes on, and the sandbox runs.
func TestSandboxesOutliveTheGateway(t *testing.T) {
	g := newSandboxGateway(t)
	g.start()
	g.exits(t, 0, "Running", "sandbox", "create", "web", "--wait", "--", "sh", "-c", "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.1; done")
	begin := func(args ...string) (*exec.Cmd, *output, *output) {
		cmd := exec.Command(bin(t, "polygate"), args...)
		cmd.Env = append(os.Environ(), g.withKey(g.env["TEAM_A_KEY"])...)
		var out, errs output
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		return cmd, &out, &errs
	}
	session, in, told := begin("sandbox", "exec", "web", "--", "sh", "-c", "echo in; sleep 3600")
	follower, ticks, followed := begin("sandbox", "logs", "web", "--follow", "--tail", "0")
	watcher, changes, _ := begin("sandbox", "watch", "-o", "json")
	eventually(t, "the session is open", func() bool { return in.String() == "in\n" })
	eventually(t, "the log is followed", func() bool { return strings.Contains(ticks.String(), "tick") })
	eventually(t, "the sandboxes are watched", func() bool { return strings.Contains(changes.String(), `"web"`) })
	g.kill()
	_ = session.Wait()
	if code := session.ProcessState.ExitCode(); code != 125 || strings.Count(told.String(), "\n") != 1 {
		t.Errorf("the session: exit %d, want 125 and one line\n%s", code, told.String())
	}
	before := len(ticks.String())
	g.start()
	g.exits(t, 0, "Running", "sandbox", "wait", "web", "--for", "running")
	if run := g.state(t, "web").Run.Number; run != 1 {
		t.Errorf("run %d, want the first to go on", run)
	}
	eventually(t, "the follower goes on", func() bool { return len(ticks.String()) > before+100 })
	seen := len(changes.String())
	g.exits(t, 0, "deleted", "sandbox", "delete", "web", "--wait")
	eventually(t, "the watcher goes on", func() bool { return strings.Contains(changes.String()[seen:], `"deleted"`) })
	_ = follower.Wait()
	if code := follower.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the follower: exit %d\n%s", code, followed.String())
	}
	_ = watcher.Process.Signal(syscall.SIGINT)
	_ = watcher.Wait()
	if code := watcher.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the watcher: exit %d", code)
	}
}
