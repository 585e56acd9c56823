package client

import (
	"context"
	"fmt"
	"net"

	"github.com/polygate/polygate/bench/credential"
)

// GuardTarget returns an error if a host:port has an address that is neither loopback nor private, as credential.Allow says, unless
// whoever runs this owns the target. It is for saying so early: the dialler checks each address that it connects to, so a name that
// changes its mind afterwards gains nothing.
func GuardTarget(ctx context.Context, addr string, own bool) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || port == "" {
		return fmt.Errorf("target %q: write it as host:port", addr)
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return fmt.Errorf("target %q: its name has no address: look whether it is spelled right: %w", addr, err)
	}
	for _, ip := range addrs {
		if err := credential.Allow(ip, own); err != nil {
			return fmt.Errorf("target %q: %w", addr, err)
		}
	}
	return nil
}
