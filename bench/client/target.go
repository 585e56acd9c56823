package client

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// GuardTarget returns an error if a host:port has an address that is neither loopback, nor private, nor link-local, nor a unique local
// one, unless whoever runs this owns the target. It is for saying so early: the dialler checks each address that it connects to, so a
// name that changes its mind afterwards gains nothing.
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
		if !own && !near(ip) {
			return fmt.Errorf("target %q: %w", addr, &refused{addr: ip.String()})
		}
	}
	return nil
}

// near says whether an address cannot be of a stranger on the Internet.
func near(ip netip.Addr) bool {
	ip = ip.Unmap()
	return ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast()
}

// guard returns a dialler's check of the very address that is about to be connected to.
func guard(own bool) func(context.Context, string, string, syscall.RawConn) error {
	return func(_ context.Context, _, addr string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(addr)
		if err != nil {
			return fmt.Errorf("address %q: %w", addr, err)
		}
		if !own && !near(ap.Addr()) {
			return &refused{addr: ap.Addr().String()}
		}
		return nil
	}
}
