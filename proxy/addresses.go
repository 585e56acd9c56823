package proxy

import (
	"errors"
	"net/netip"
	"sync"
)

// errAddress refuses a connection of an address that has as many as limits.max_connections_per_address allow.
var errAddress = errors.New("too many connections of one address")

// addresses counts the open connections of each client address, so that no client takes the places of all others (case
// X60). It is safe for concurrent use.
type addresses struct {
	max  int
	mu   sync.Mutex
	open map[netip.Addr]int // guarded by mu
}

func newAddresses(n int) *addresses { return &addresses{max: n, open: make(map[netip.Addr]int)} }

// of returns what is counted: an IPv6 client has a whole /64 to itself.
func (a *addresses) of(client netip.Addr) netip.Addr {
	if client.Is6() {
		if p, err := client.WithZone("").Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return client
}

// enter counts a connection, if there may be one more.
func (a *addresses) enter(c *helloConn, client netip.Addr) error {
	client = a.of(client)
	if !client.IsValid() {
		return nil // no address: not from a network
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.client.IsValid() || c.state.Load() == helloClosed {
		return nil
	}
	if a.open[client] >= a.max {
		return errAddress
	}
	a.open[client]++
	c.client = client
	return nil
}

// leave takes out what enter put in, when the connection has closed.
func (a *addresses) leave(c *helloConn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !c.client.IsValid() {
		return
	}
	if a.open[c.client]--; a.open[c.client] == 0 {
		delete(a.open, c.client)
	}
	c.client = netip.Addr{}
}
