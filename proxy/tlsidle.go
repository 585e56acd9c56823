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
type idleWrites struct {
	phase atomic.Uint32
	// The deadlines that net/http and crypto/tls have set, Unix nanoseconds; 0 = none.
	read, write atomic.Int64
}

// readDeadline is told of each deadline for reading.
func (i *idleWrites) readDeadline(t time.Time) { i.read.Store(nanos(t)) }

// writeDeadline is told of each deadline for writing. That of the handshake is taken away when it is over.
func (i *idleWrites) writeDeadline(t time.Time) {
	i.write.Store(nanos(t))
	if t.IsZero() {
		i.phase.CompareAndSwap(writesHandshake, writesIdle)
	}
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// arm is called before each write, and says whether that is bounded: by d, and by what ends the phase as a whole, since a
// client that lets each write through late would have d for each of them.
func (i *idleWrites) arm(c net.Conn, d time.Duration) bool {
	if i.phase.Load() != writesIdle || d == 0 {
		return false
	}
	now := time.Now().UnixNano()
	until := now + int64(d)
	for _, t := range [...]int64{i.read.Load(), i.write.Load()} {
		if t > now { // one that is over leaves time for TLS to say goodbye
			until = min(until, t)
		}
	}
	_ = c.SetWriteDeadline(time.Unix(0, until)) // fails for a connection that is closed: so does the write
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
