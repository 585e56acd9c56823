package peer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeGo puts a program named go on the PATH that runs a script.
func fakeGo(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "go"), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
}

// TestInstallCommand shows what is built and where to, without building it.
func TestInstallCommand(t *testing.T) {
	fakeGo(t, `echo "$@" > "$GOBIN/asked"`)
	cache := t.TempDir()
	var said []string
	if err := Install(t.Context(), cache, func(s string) { said = append(said, s) }); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(filepath.Dir(caddyFile(cache)), "asked"))
	if got, want := strings.TrimSpace(string(b)), "install -trimpath github.com/caddyserver/caddy/v2/cmd/caddy@v2.11.9"; err != nil || got != want {
		t.Errorf("go %s, %v, want go %s", got, err, want)
	}
	if len(said) != 2 {
		t.Errorf("progress %q, want two lines", said)
	}
}

func TestInstallFails(t *testing.T) {
	fakeGo(t, `echo "no such module" >&2; exit 1`)
	if err := Install(t.Context(), t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "no such module") {
		t.Errorf("Install = %v, want what go said", err)
	}
}

// TestInstallOnce shows that what is there is not built again.
func TestInstallOnce(t *testing.T) {
	cache, err := cacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := caddyBuilt(cache); err != nil {
		t.Skip(err)
	}
	fakeGo(t, "exit 1")
	if err := Install(t.Context(), cache, nil); err != nil {
		t.Error(err)
	}
}

// TestNoBinary shows that a file that is no program of Go is not taken for a Caddy.
func TestNoBinary(t *testing.T) {
	cache := t.TempDir()
	if err := os.MkdirAll(filepath.Dir(caddyFile(cache)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(caddyFile(cache), []byte("x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := caddyBuilt(cache); err == nil || Skippable(err) {
		t.Errorf("caddyBuilt = %v, want an error that is no reason to skip it", err)
	}
}
