package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestStamps: a file counts as changed when it was written, replaced, removed, made again, or reached by another link, and not
// when something else in its folder was.
func TestStamps(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write("v1", "one")
	write("v2", "two")
	do(os.Symlink("v1", path("tenants.yaml")))
	file := path("tenants.yaml")
	s := stamps{}.of([]string{file})
	if !s.changed() {
		t.Error("a file that was not looked at before it was read: unchanged, want changed")
	}
	for _, c := range []struct {
		what string
		do   func()
		want bool
	}{
		{"nothing", func() {}, false},
		{"a file beside it", func() { write("polygate.log", "a line") }, false},
		{"written", func() { write("v1", "longer than it was") }, true},
		{"touched", func() { do(os.Chtimes(file, time.Time{}, time.Now().Add(time.Minute))) }, true},
		{"made readable", func() { do(os.Chmod(file, 0o640)) }, true},
		{"link swapped", func() { do(os.Symlink("v2", path("new"))); do(os.Rename(path("new"), file)) }, true},
		{"removed", func() { do(os.Remove(file)) }, true},
		{"still away", func() {}, false},
		{"back", func() { write("tenants.yaml", "again") }, true},
	} {
		s = s.now().of([]string{file})
		if c.do(); s.changed() != c.want {
			t.Errorf("%s: changed = %t, want %t", c.what, !c.want, c.want)
		}
	}
}

// TestLogBesideTenants: a log that lies beside tenants.yaml, where every line of ours is a change of the folder, causes no reloads.
func TestLogBesideTenants(t *testing.T) {
	g := newGateway(t, twoTenants)
	g.start()
	before := g.reloadCount(t, "ok")
	for range 20 { // more than settleTime apart, so that each would be a reload of its own
		g.write("polygate.log", time.Now().String())
		<-time.After(2 * settleTime)
	}
	// At most the one that makes sure of what was read while it may have been written.
	if n := g.reloadCount(t, "ok") - before; n > 1 {
		t.Errorf("%d reloads for 20 writes to another file, want at most 1", n)
	}
}
