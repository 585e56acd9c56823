package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// newCluster lays out three gateways that are the members of one etcd.
func newCluster(t *testing.T) []*gateway {
	t.Helper()
	kek := filepath.Join(t.TempDir(), "kek")
	if err := os.WriteFile(kek, []byte("polygate-kek-v1:"+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var members, peers []string
	for i := range 3 {
		members = append(members, fmt.Sprintf("{name: r%d, address: %q}", i+1, freePort(t)))
		peers = append(peers, freePort(t))
	}
	all := make([]*gateway, 3)
	for i := range all {
		g := newGateway(t, "tenants: []\n")
		g.flags = []string{"--cluster"}
		old, err := os.ReadFile(filepath.Join(g.dir, "polygate.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(string(old), "telemetry:", fmt.Sprintf("peer: %q, telemetry:", peers[i]), 1)
		text = text[:strings.Index(text, "tenants_file:")] + "egress: {allow: [127.0.0.0/8]}\n"
		g.write("polygate.yaml", text+fmt.Sprintf("demo: {env_file: %s/demo/env}\nkek_file: %s\nreplica: {name: r%d, ttl: 2s, advertise: %q}\netcd: {embedded: {cluster: {members: [%s]}}}\n",
			g.dir, kek, i+1, peers[i], strings.Join(members, ", ")))
		all[i] = g
	}
	return all
}

// TestClusterProcess: three `serve --cluster` form one etcd; one is killed, and the other two go on, what was written before
// and after is there; then it comes back.
func TestClusterProcess(t *testing.T) {
	t.Parallel()
	all := newCluster(t)
	for _, g := range all { // none is ready before a majority is there
		g.launch()
	}
	for _, g := range all {
		g.waitReady(60 * time.Second)
		g.env = readEnv(t, filepath.Join(g.dir, "demo", "env"))
	}
	create := func(g *gateway, id string) {
		t.Helper()
		await(t, 20*time.Second, "tenant "+id, func() error {
			got := g.operator(g.client(), "POST", "/api/v1/tenants", map[string]string{"id": id})
			if got.Err != nil || got.Status != http.StatusCreated && got.Status != http.StatusConflict {
				return fmt.Errorf("%d %s: %w", got.Status, got.Body, got.Err)
			}
			return nil
		})
	}
	sees := func(g *gateway, id string) {
		t.Helper()
		await(t, 20*time.Second, "sight of tenant "+id, func() error {
			if got := g.operator(g.client(), "GET", "/api/v1/tenants/"+id, nil); got.Status != http.StatusOK {
				return fmt.Errorf("%d %s: %w", got.Status, got.Body, got.Err)
			}
			return nil
		})
	}
	create(all[0], "before")
	all[0].kill()
	create(all[1], "after")
	sees(all[2], "before")
	sees(all[2], "after")
	all[0].launch()
	all[0].waitReady(60 * time.Second)
	sees(all[0], "after")
	all[0].must("backup", "--file", "all.backup")
	all[1].must("tenant", "delete", "before", "--yes")
	restoreCluster(t, all)
	sees(all[1], "before")
}

// restoreCluster stops all members, and restores a backup at the first while the others lend theirs.
func restoreCluster(t *testing.T, all []*gateway) {
	t.Helper()
	for _, g := range all {
		g.kill()
	}
	args := []string{"restore", "--config", "polygate.yaml"}
	lenders := make(chan error, 2)
	for _, g := range all[1:] {
		cmd := g.command(args...)
		said := &output{}
		cmd.Stdout, cmd.Stderr = said, said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		go func() {
			err := cmd.Wait()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, said)
			}
			lenders <- err
		}()
	}
	out := all[0].must(append(args, "--force", "--file", "all.backup")...)
	if !strings.Contains(out, "waiting for the lease of replica r") { // of those that were killed a moment ago
		t.Errorf("the restore waited for nobody:\n%s", out)
	}
	for range 2 {
		select {
		case err := <-lenders:
			if err != nil {
				t.Errorf("a member that was lent ended with %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("a member that was lent has not ended, after the restore said:\n%s", out)
		}
	}
	for _, g := range all {
		g.launch()
	}
	for _, g := range all {
		g.waitReady(60 * time.Second)
	}
}
