package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLostKeyEncryptionKey holds that data is never opened with another key-encryption key than the one it was sealed with,
// and that none is made beside data that has one.
func TestLostKeyEncryptionKey(t *testing.T) {
	g := newGateway(t, twoTenants)
	g.start()
	g.kill()
	path := filepath.Join(g.dir, "data", "kek")
	refused := func(want string) {
		t.Helper()
		g.launch()
		err := g.wait(20 * time.Second)
		g.cmd = nil
		if err == nil || !strings.Contains(g.log.String(), want) {
			t.Errorf("ended with %v, want a line with %q\n%s", err, want, g.log)
		}
	}
	good := g.read("data/kek")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	refused("put it back, or set kek_file to it")
	if _, err := os.Stat(path); err == nil {
		t.Error("a new key was made beside data that is sealed with another")
	}
	other := newGateway(t, twoTenants)
	other.start()
	g.write("data/kek", other.read("data/kek"))
	refused("restore that key file")
	g.write("data/kek", good)
	g.start()
	g.kill()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	g.write("polygate.yaml", g.read("polygate.yaml")+"etcd: {endpoints: [\"http://127.0.0.1:1\"]}\n")
	refused("copy the kek_file of another replica there; for the very first one, make it")
}
