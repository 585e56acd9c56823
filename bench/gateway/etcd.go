package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/polygate/polygate/bench/peer"
)

// FindEtcd returns etcd's program: the one on the path, or the one that this module builds.
func FindEtcd(ctx context.Context) (string, error) {
	if path, err := exec.LookPath("etcd"); err == nil {
		return path, nil
	}
	out, err := exec.CommandContext(ctx, "go", "tool", "-n", "go.etcd.io/etcd/server/v3").Output()
	if err != nil {
		return "", fmt.Errorf("etcd: %w: several replicas, and capacity, need one. Install it (apt install etcd-server), or run this inside the repository, where go tool has it", peer.ErrMissing)
	}
	return strings.TrimSpace(string(out)), nil
}

// etcdQuota is the size of its database at which etcd refuses writes: out of the way.
const etcdQuota = 8 << 30

// startEtcd starts an etcd of one member in a new folder. Its writes wait for no disk: nothing that is measured survives anyhow, and
// the disk of a machine for measurements is not what is measured.
func startEtcd(ctx context.Context, program, dir string) (*child, string, error) {
	var client, member string
	if err := freeAddrs(&client, &member); err != nil {
		return nil, "", err
	}
	client, member = "http://"+client, "http://"+member
	c := &child{what: "etcd", log: filepath.Join(filepath.Dir(dir), "etcd.log"), args: []string{
		program, "--name=bench", "--data-dir=" + dir, "--log-level=error", "--unsafe-no-fsync",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + member, "--initial-advertise-peer-urls=" + member, "--initial-cluster=bench=" + member,
		"--quota-backend-bytes=" + strconv.Itoa(etcdQuota), "--max-txn-ops=1024",
	}}
	if err := c.start(); err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("it does not answer after a minute"))
	defer cancel()
	hc := &http.Client{Timeout: callLimit, Transport: &http.Transport{DisableKeepAlives: true}}
	err := c.awaitUp(ctx, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, client+"/health", nil)
		if err == nil {
			_, err = send(hc, req)
		}
		return err
	})
	if err != nil {
		c.kill()
		return nil, "", err
	}
	return c, client, nil
}
