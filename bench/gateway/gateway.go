// Package gateway starts Polygate to be measured: for the same site as its peers, alone or as replicas on an etcd of their own, or as
// a process for each tenant. It knows the product from outside, by its command line, its configuration files and its HTTP APIs, as an
// operator does. It also finds out what tenants cost that are registered, active and connected. Loads are bench/load's.
package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/polygate/polygate/bench/peer"
)

// Options are what a site does not say of the gateway.
type Options struct {
	// Virtual makes the tenants virtual ones with a server "bench", which is the upstream's /mcp: it is at /servers/bench/mcp. Else they
	// are dedicated ones, whose hosts lead to the upstream.
	Virtual bool
	// TLSPort, if not 0, is the port of the upstream's TLS listener. Dedicated tenants are then relayed by TLS, and so by HTTP/2 where
	// the upstream has it, which gRPC needs: the gateway speaks no HTTP/2 without TLS.
	TLSPort int
	// Once has it started once instead of twice, as each of the peers is: for a measurement of the start itself, which is then the time
	// that Start takes, with the taking in of the tenants and their certificates. Several replicas are started as always.
	Once bool
}

// Polygate is the product as a subject.
type Polygate struct {
	Binary   string // the program
	Replicas int    // 0 = 1. Several run on an etcd of their own, behind a TCP balancer in this process
	Etcd     string // etcd's program, with several replicas; "" = the one that FindEtcd finds
	Options
}

var _ peer.Peer = Polygate{}

// Name implements peer.Peer.
func (Polygate) Name() string { return "polygate" }

// Version implements peer.Peer.
func (p Polygate) Version(ctx context.Context) (string, error) { return version(ctx, p.Binary) }

// version asks the program. One that cannot be run is missing.
func version(ctx context.Context, binary string) (string, error) {
	out, err := exec.CommandContext(ctx, binary, "version").Output()
	if err != nil {
		return "", fmt.Errorf("polygate: %q cannot be run (%w): %w: build it with make build, and name it", binary, err, peer.ErrMissing)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	v := strings.TrimSpace(strings.TrimPrefix(line, "Version:"))
	if v != "(devel)" {
		return v, nil
	}
	sum, err := digest(binary) // builds of a working tree have nothing else to be told by
	if err != nil {
		return "", fmt.Errorf("polygate: %w", err)
	}
	return "development build, sha256 " + sum[:12], nil
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
