package proxy

import (
	"context"
	"net"
	"sync"
)

// site is a replica at an address.
type site struct{ replica, address string }

// wires are the open connections to a site, whichever link made them. A replica whose session is over serves nothing, and one
// that is frozen says nothing either: what waits for it would wait for the ping to fail, long after others have its tenants.
type wires struct {
	mu  sync.Mutex
	all map[*strand]struct{} // guarded by mu
}

// strand is one connection.
type strand struct {
	net.Conn
	of *wires
}

func (w *wires) add(c net.Conn) net.Conn {
	one := &strand{Conn: c, of: w}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all[one] = struct{}{}
	return one
}

// Close implements net.Conn.
func (w *strand) Close() error {
	w.of.mu.Lock()
	delete(w.of.all, w)
	w.of.mu.Unlock()
	return w.Conn.Close()
}

// cut ends all of them, and what is under way on them.
func (w *wires) cut() {
	w.mu.Lock()
	all := w.all
	w.all = make(map[*strand]struct{})
	w.mu.Unlock()
	for c := range all {
		_ = c.Conn.Close()
	}
}

// wiresOf is called with mu held.
func (l *links) wiresOf(replica, address string) *wires {
	p := site{replica, address}
	if l.wires[p] == nil {
		l.wires[p] = &wires{all: make(map[*strand]struct{})}
	}
	return l.wires[p]
}

// cutGone ends the connections to replicas that are not live at their address any more.
func (l *links) cutGone(address func(replica string) (string, bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p, w := range l.wires {
		if at, live := address(p.replica); live && at == p.address {
			continue
		}
		w.cut()
		delete(l.wires, p)
		if k := l.of[p.replica]; k != nil && k.address == p.address {
			l.drop(k)
			delete(l.of, p.replica)
		}
	}
}

// watchPeers follows which replicas are live, until ctx ends.
func (s *Server) watchPeers(ctx context.Context) {
	for {
		changed := s.peers.Changed() // before the look
		s.peers.links.cutGone(s.peers.Address)
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
