package gateway

import (
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/polygate/polygate/bench/peer"
)

// FindEtcd returns etcd's program: the one on the path, or the one that this module builds.
func FindEtcd(ctx context.Context) (string, error) {
	if path, err := exec.LookPath("etcd"); err == nil {
		return path, nil
	}
	out, err := exec.CommandContext(ctx, "go", "tool", "-n", "go.etcd.io/etcd/server/v3").Output()
	if err != nil {
		return "", fmt.Errorf("etcd: %w: several replicas need one. Install it (apt install etcd-server), or run this inside the repository, where go tool has it", peer.ErrMissing)
	}
	return strings.TrimSpace(string(out)), nil
}
