package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// X10: what nobody reads while no request runs is given up: after HeaderTime, or when the phase as a whole is over, however
// many writes got through before; and the connection is reset, or the kernel would keep it, and offer the rest for minutes.
func TestX10IdleWritesAreGivenUp(t *testing.T) {
	const long, short = 30 * time.Second, 200 * time.Millisecond
	for _, tc := range []struct {
		name  string
		each  time.Duration
		phase func(c net.Conn, t time.Time) error // sets the deadline of the phase
		reset bool                                // without a word from net/http
	}{
		{"each", short, func(net.Conn, time.Time) error { return nil }, true},
		{"a header's", long, net.Conn.SetReadDeadline, true},
		{"close_notify's", long, net.Conn.SetWriteDeadline, true},
		{"of an answer", 0, net.Conn.SetWriteDeadline, false},
	} {
		client, server := tcpPair(t)
		_ = server.SetWriteBuffer(1 << 10)
		_ = client.SetReadBuffer(1 << 10)
		d := newDoor(nil, 1)
		d.slots <- struct{}{}
		d.idleWrite = tc.each
		c := &helloConn{Conn: server, door: d}
		c.terminate(nil)
		_ = c.SetWriteDeadline(time.Time{}) // net/http, after the handshake
		began := time.Now()
		if err := tc.phase(c, began.Add(short)); err != nil {
			t.Fatal(err)
		}
		var err error
		for err == nil {
			_, err = c.Write(make([]byte, 1<<10))
		}
		if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took < short || took > 5*time.Second {
			t.Errorf("%s: given up after %v: %v", tc.name, took, err)
		}
		if closed := c.state.Load() == helloClosed; closed != tc.reset {
			t.Errorf("%s: closed: %v, want %v", tc.name, closed, tc.reset)
		}
		_ = c.Close()
		if _, err := io.Copy(io.Discard, client); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: the client finds %v, want a reset", tc.name, err)
		}
	}
}
