package credential

import (
	"context"
	"fmt"
	"net/netip"
	"syscall"
)

// Refused is an address that must not be connected to. It ends the run, since a name that turns public in the middle of one is no
// ordinary error.
type Refused struct{ Addr string }

// Error says why and what to do.
func (r *Refused) Error() string {
	return fmt.Sprintf("%s is neither a loopback nor a private address: load only what you own, and say so with --i-own-this-target", r.Addr)
}

// StopsRun ends the run.
func (r *Refused) StopsRun() bool { return true }

// Class is for counting.
func (r *Refused) Class() string { return "target refused" }

// Guard returns a dialler's check (net.Dialer.ControlContext) of the very address that is about to be connected to: it is Refused, unless
// it is near or whoever runs this owns what is there. bench/client has the same guard before tenants.
func Guard(own bool) func(context.Context, string, string, syscall.RawConn) error {
	return func(_ context.Context, _, addr string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(addr)
		if err != nil {
			return fmt.Errorf("address %q: %w", addr, err)
		}
		return Allow(ap.Addr(), own)
	}
}

// Allow returns Refused for an address that may be of a stranger: one that is neither loopback nor private (RFC 1918, RFC 4193).
// Link-local ones are refused too: clouds serve a machine's own credentials at 169.254.169.254.
func Allow(ip netip.Addr, own bool) error {
	if ip = ip.Unmap(); own || ip.IsLoopback() || ip.IsPrivate() {
		return nil
	}
	return &Refused{Addr: ip.String()}
}
