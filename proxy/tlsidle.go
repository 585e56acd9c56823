package proxy

import (
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// What a connection may write.
const (
	writesHandshake uint32 = iota // net/http has set the deadline
	writesIdle                    // no request runs: only TLS itself has something to say
	writesAnswer                  // a request runs, and its pauses are judged by sweep
)

// idleWrites bounds the writes of a connection on which no request runs. A client that asks for KeyUpdates, with a byte of a
// request in between, and does not read the answers would block TLS in writing them, where no deadline for reading
// counts, and keep the connection for good (case X10). The zero value is for a handshake.
type idleWrites struct{ phase atomic.Uint32 }

// deadline is told of each deadline for writing that net/http sets: it takes it away once, when the handshake is over.
func (i *idleWrites) deadline(t time.Time) {
	if t.IsZero() {
		i.phase.CompareAndSwap(writesHandshake, writesIdle)
	}
}

// arm is called before each write, and says whether that is bounded.
func (i *idleWrites) arm(c net.Conn, d time.Duration) bool {
	if i.phase.Load() != writesIdle || d == 0 {
		return false
	}
	_ = c.SetWriteDeadline(time.Now().Add(d)) // fails for a connection that is closed: so does the write
	return true
}

// follow is the public http.Server's ConnState.
func (s *Server) follow(c net.Conn, state http.ConnState) {
	s.admissions.follow(c, state)
	h, ok := below(c).(*helloConn)
	if !ok {
		return
	}
	switch state {
	case http.StateActive, http.StateHijacked:
		h.idle.phase.Store(writesAnswer)
	case http.StateIdle:
		h.idle.phase.Store(writesIdle)
	}
}
