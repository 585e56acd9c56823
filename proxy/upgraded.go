package proxy

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// upgraded is a WebSocket's connection, which a handler took over. What passes over it counts against the tenant's share of
// bandwidth as bodies do: else an upgrade would be the way around it.
//
// It can be told to end: then, between two frames, the client gets a close frame 1012 (service restart: come again) and the
// upstream, through Read, one of 1001 (going away), as if the client had sent it; nothing else passes any more.
type upgraded struct {
	net.Conn
	f       *flight
	begun   chan struct{} // closed when frames may pass: the response's header is out
	once    sync.Once     // closes begun
	leaving atomic.Bool
	out     toClient
	in      fromClient
}

type toClient struct {
	sync.Mutex               // held in writing
	frames     socketFraming // guarded by it
	over       bool          // guarded by it: the last frame was written
}

type fromClient struct {
	sync.Mutex               // not held in reading
	frames     socketFraming // guarded by it: of what was read
	over       bool          // guarded by it: the last frame of the client's that is passed on has been
	told       bool          // guarded by it: rest was set
	rest       []byte        // guarded by it: what is left of the close frame for the upstream
}

func newUpgraded(c net.Conn, f *flight) *upgraded {
	return &upgraded{Conn: c, f: f, begun: make(chan struct{})}
}

func (u *upgraded) begin() { u.once.Do(func() { close(u.begun) }) }

// Close implements net.Conn.
func (u *upgraded) Close() error {
	u.begin() // who waits for that has to end
	return u.Conn.Close()
}

// Read implements io.Reader.
func (u *upgraded) Read(p []byte) (int, error) {
	u.begin()
	if u.leaving.Load() {
		if n, err, over := u.farewell(p); over {
			return n, err
		}
	}
	n, err := u.Conn.Read(p)
	u.f.account(n, 0)
	n = u.received(p[:n])
	if u.leaving.Load() && isTimeout(err) { // depart has woken us
		_ = u.SetReadDeadline(time.Now().Add(farewellTime)) // fails where Read will
		err = nil
	}
	return n, err
}

// received returns how much of what was read is passed on.
func (u *upgraded) received(p []byte) int {
	u.in.Lock()
	defer u.in.Unlock()
	before := u.in.frames.whole()
	last := u.in.frames.pass(p)
	switch {
	case !u.leaving.Load():
		return len(p)
	case before: // the frame was not begun yet
		u.in.over = true
		return 0
	case last == 0:
		return len(p)
	}
	u.in.over = true
	return last
}

// errLeaving ends the copying of a WebSocket that has said goodbye to both sides.
var errLeaving = errors.New("the WebSocket was closed: its client is to come again")

// farewell reads the close frame for the upstream, then waits for the client's and ends; over is false while a frame of the
// client's is still on its way.
func (u *upgraded) farewell(p []byte) (n int, err error, over bool) {
	u.in.Lock()
	defer u.in.Unlock()
	if !u.in.over && !u.in.frames.whole() {
		return 0, nil, false
	}
	u.in.over = true
	if !u.in.told {
		u.in.told = true
		u.in.rest = u.goodbyeUpstream()
	}
	if len(u.in.rest) > 0 {
		n = copy(p, u.in.rest)
		u.in.rest = u.in.rest[n:]
		return n, nil, true
	}
	_ = u.SetReadDeadline(time.Now().Add(messageWait)) // fails where Read will
	for !u.in.frames.closed && err == nil {
		n, err = u.Conn.Read(p)
		u.in.frames.pass(p[:n])
	}
	return 0, errLeaving, true
}

// goodbyeUpstream returns the upstream's close frame; nothing if the client has sent one.
func (u *upgraded) goodbyeUpstream() []byte {
	if u.in.frames.closed {
		return nil
	}
	key := make([]byte, 4)
	_, _ = rand.Read(key) // never fails
	return closeFrame(1001, "the gateway gives the connection up", key)
}

// Write implements io.Writer.
func (u *upgraded) Write(p []byte) (int, error) {
	u.begin()
	n, err := u.send(p)
	u.f.account(0, n)
	return n, err
}

func (u *upgraded) send(p []byte) (int, error) {
	u.out.Lock()
	defer u.out.Unlock()
	if u.leaving.Load() && u.out.frames.whole() {
		u.goodbyeClient()
	}
	if u.out.over {
		return len(p), nil
	}
	last := u.out.frames.pass(p)
	if !u.leaving.Load() || last == 0 {
		return u.Conn.Write(p)
	}
	if n, err := u.Conn.Write(p[:last]); err != nil {
		return n, err
	}
	u.goodbyeClient()
	return len(p), nil
}

// goodbyeClient is called with out locked, between two frames.
func (u *upgraded) goodbyeClient() {
	if u.out.over {
		return
	}
	u.out.over = true
	if !u.out.frames.closed {
		_, _ = u.Conn.Write(closeFrame(1012, "the gateway moves: connect again", nil)) // who has gone needs no goodbye
	}
}

// depart asks the connection to end. It may wait for a client that does not read.
func (u *upgraded) depart() {
	<-u.begun
	u.leaving.Store(true)
	u.in.Lock()
	if u.in.frames.whole() {
		_ = u.SetReadDeadline(past) // fails where Read will
	}
	u.in.Unlock()
	u.out.Lock()
	defer u.out.Unlock()
	if u.out.frames.whole() {
		u.goodbyeClient()
	}
}

// departWith makes u depart when ctx ends for that cause.
func (u *upgraded) departWith(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		if departing(ctx) != nil {
			u.depart()
		}
	})
}

// CloseWrite passes on that one side has ended.
func (u *upgraded) CloseWrite() error {
	if c, ok := u.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return u.Conn.Close()
}
