package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/result"
)

// TestMain lets this program be polybench itself, which a lab starts as its upstream.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") {
		main()
	}
	os.Exit(m.Run())
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCommandLine: what cannot be done is said at once, with the exit code that README and --help give.
func TestCommandLine(t *testing.T) {
	unknown := file(t, "unknown.yaml", "name: x\nabout: A test.\nloads: [{name: a, speed: 9}]\nphases: [{name: p, duration: 1s}]\n")
	empty := file(t, "empty.key", "\n")
	demand := file(t, "demand.yaml", "tenants: many\n")
	for _, c := range []struct {
		args []string
		code int
		out  string // on stdout
		err  string // on stderr
	}{
		{[]string{"--help"}, exitOK, "Exit codes", ""},
		{[]string{"version"}, exitOK, "polybench", ""},
		{[]string{"scenarios"}, exitOK, "noisy-neighbour", ""},
		{[]string{"scenarios", "throughput"}, exitOK, "name: throughput", ""},
		{[]string{"scenarios", "nothing"}, exitUsage, "", "there is no scenario"},
		{[]string{"plan", "--example"}, exitOK, "tenants:", ""},
		{[]string{"plan"}, exitUsage, "", "it takes a file"},
		{[]string{"plan", demand}, exitUsage, "", "demand.yaml:1"},
		{[]string{"nothing"}, exitUsage, "", "no command"},
		{[]string{"run"}, exitUsage, "", "a scenario"},
		{[]string{"run", "nothing"}, exitUsage, "", "there is no scenario"},
		{[]string{"run", unknown}, exitUsage, "", "unknown.yaml:3"},
		{[]string{"run", "throughput", "--rate", "x"}, exitUsage, "", "--rate"},
		{[]string{"run", "throughput", "--ca", "x"}, exitUsage, "", "there is no target"},
		{[]string{"run", "throughput", "--max-rate", "5"}, exitUsage, "", "there is no target"},
		{[]string{"run", "throughput", "--jwt-subject", "x", "--target", "https://127.0.0.1:1"}, exitUsage, "", "--jwt-key"},
		{[]string{"run", "throughput", "--oidc-scope", "x", "--target", "https://127.0.0.1:1"}, exitUsage, "", "--oidc-issuer"},
		{[]string{"run", "throughput", "--key-file", "x", "--tenants", "y"}, exitUsage, "", "key_file"},
		{[]string{"run", "throughput", "--key-file", empty, "--target", "https://127.0.0.1:1"}, exitFailure, "", "is empty"},
		{[]string{"run", "throughput", "--credential", "key", "--target", "https://127.0.0.1:1"}, exitFailure, "", "--key-file"},
		{[]string{"run", "throughput", "--max-rate", "0", "--target", "https://127.0.0.1:1"}, exitUsage, "", "above 0"},
		{[]string{"run", "throughput", "--target", "https://team-a.localhost:1"}, exitFailure, "", "refused"},
		{[]string{"run", "throughput", "--target", "http://a.example.com"}, exitUsage, "", "not the URL"},
		{[]string{"run", "throughput", "--target", "https://192.0.2.1"}, exitFailure, "", "--i-own-this-target"},
		{[]string{"run", "reload", "--target", "https://127.0.0.1:1"}, exitFailure, "", "leave out --target"},
		{[]string{"run", "throughput", "--target", "https://127.0.0.1:1"}, exitFailure, "", "refused"},
		{[]string{"run", "throughput", "--credential", "jwt", "--target", "https://127.0.0.1:1"}, exitFailure, "", "--jwt-key"},
		{[]string{"compare", "capacity"}, exitUsage, "", "of Polygate alone"},
		{[]string{"compare", "--peers", "apache"}, exitUsage, "", "no peer \"apache\""},
		{[]string{"compare", "--variants", "http3"}, exitUsage, "", "no protocol"},
		{[]string{"compare", "--variants", "http1+password"}, exitUsage, "", "no credential"},
		{[]string{"run", "latency-at-rate", "--rate", "300", "--concurrency", "7", "--target", "https://127.0.0.1:1"}, exitFailure, "", "refused"},
		{[]string{"run", "latency-at-rate", "--target", "https://127.0.0.1:1"}, exitFailure, "", "raise --max-rate"},
		{[]string{"run", "latency-at-rate", "--rate", "100", "--concurrency", "1000", "--target", "https://127.0.0.1:1"}, exitFailure, "", "raise --max-concurrency"},
		{[]string{"run", "throughput", "--concurrency", "-1"}, exitUsage, "", "not below 0"},
		{[]string{"run", "throughput", "--warmup", "0s"}, exitUsage, "", "--warmup has to be above 0"},
		{[]string{"compare", "--rate", "0"}, exitUsage, "", "--rate has to be above 0"},
		{[]string{"run", "throughput", "--turns", "0"}, exitUsage, "", "--turns"},
		{[]string{"run", "throughput", "--max-errors", "NaN"}, exitUsage, "", "--max-errors"},
		{[]string{"run", "throughput", "--target", "https://me:secret@127.0.0.1:1"}, exitUsage, "", "not the URL"},
		{[]string{"run", "throughput", "--json", "/nothing/r.json"}, exitFailure, "", "cannot be written"},
		{[]string{"compare", "--turns", "0"}, exitUsage, "", "--turns"},
		{[]string{"compare", "--tenants", "1", "--variants", "http1"}, exitUsage, "", "leave out --variants"},
		{[]string{"compare", "--peers", "httputil", "--no-ceiling", "--variants", "http1+jwt"}, exitFailure, "", "all of it was skipped: httputil (throughput, http1, jwt: "},
		{[]string{"report", "nothing.json"}, exitFailure, "", "nothing.json"},
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), c.args, strings.NewReader(""), &out, &errs)
		if code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errs.String(), c.err) {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q; want %d, %q, %q", c.args, code, out.String(), errs.String(), c.code, c.out, c.err)
		}
		if strings.Contains(errs.String(), "panic") || c.code == exitOK && errs.Len() > 0 {
			t.Errorf("%q: stderr %q", c.args, errs.String())
		}
	}
}

const small = `
name: small
about: A test.
site: {tenants: 2}
loads: [{name: all, concurrency: 4}]
phases: [{name: all, warmup: 100ms, duration: 300ms}]
`

// TestCompareCommand measures two subjects, and writes what it found in every form.
func TestCompareCommand(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{
		"compare", file(t, "small.yaml", small), "--peers", "direct,httputil", "--turns", "2", "--variants", "http1,http2",
		"--json", path("r.json"), "--html", path("r.html"), "--markdown", path("r.md"),
	}, strings.NewReader(""), &out, &errs)
	if code != exitOK {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	f, err := os.Open(path("r.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := result.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Complete || len(r.Scenarios) != 1 || len(r.Scenarios[0].Runs) != 8 || len(r.Ceilings) != 2 || r.Machine.Cores == 0 || r.Versions["polybench"] == "" {
		t.Errorf("report %+v", r)
	}
	for name, want := range map[string]string{"r.html": "<svg", "r.md": "httputil"} {
		if b, err := os.ReadFile(path(name)); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %v, or there is no %q in it", name, err, want)
		}
	}
	if !strings.Contains(out.String(), "httputil") {
		t.Errorf("stdout %q", out.String())
	}
	out.Reset()
	if code := run(t.Context(), []string{"report", path("r.json")}, strings.NewReader(""), &out, &errs); code != exitOK || !strings.Contains(out.String(), "httputil") {
		t.Errorf("report: exit code %d: %s", code, errs.String())
	}
}

// TestInterrupt: Ctrl-C ends a run soon, and prints what was measured.
func TestInterrupt(t *testing.T) {
	dir := t.TempDir()
	long := file(t, "long.yaml", strings.Replace(small, "300ms", "5m", 1))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "compare", long, "--peers", "direct", "--turns", "1", "--no-ceiling", "--json", filepath.Join(dir, "r.json"), "--markdown", filepath.Join(dir, "r.md"))
	var out, errs bytes.Buffer
	cmd.Stdout = &out
	seen, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	buf := make([]byte, 4096)
	for !strings.Contains(errs.String(), "p99") { // the first line with figures
		n, err := seen.Read(buf)
		errs.Write(buf[:n])
		if err != nil {
			t.Fatalf("ended by itself: %s", errs.String())
		}
	}
	began := time.Now()
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := seen.Read(buf)
		errs.Write(buf[:n])
		if err != nil {
			break
		}
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted || time.Since(began) > 15*time.Second {
		t.Errorf("exit code %d after %v: %s", code, time.Since(began), errs.String())
	}
	if !strings.Contains(out.String(), "direct") || !strings.Contains(errs.String(), "interrupted") || !strings.Contains(errs.String(), "r.md is left as it was") {
		t.Errorf("stdout %q, stderr %q", out.String(), errs.String())
	}
	b, err := os.ReadFile(filepath.Join(dir, "r.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r result.Report
	if err := json.Unmarshal(b, &r); err != nil || r.Complete || r.Scenarios[0].Runs[0].Figures.Requests == 0 {
		t.Errorf("report %+v, %v", r, err)
	}
}
