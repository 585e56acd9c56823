package proxy

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// maxHello bounds what is kept of a connection until its ClientHello is whole. crypto/tls takes a hello of 64 KiB; the rest
// is for records that are small. It is a client's to say how small: without a bound of our own, records of one byte make
// 400 KiB of a hello, kept for each connection that dawdles.
const maxHello = 80 << 10

// helloBuffer is what most hellos fit into, those with a post-quantum key share too.
const helloBuffer = 4 << 10

var errHelloTooLong = errors.New("the ClientHello, or the records that it comes in, are too long")

// door is the public listener. It bounds the connections that are open, as netutil.LimitListener does, which is not of use
// here: it hides the TCP connection below, and a spliced one has to keep its place after net/http has let go of it.
type door struct {
	net.Listener
	slots  chan struct{} // one for each open connection
	closed chan struct{}
	// addresses bounds those of one client.
	addresses *addresses
	accepted  atomic.Uint64 // connections, ever
	once      sync.Once     // closes closed
	buffers   sync.Pool     // of *[]byte
	// idleWrite bounds writes while no request runs; 0 = they are not bounded.
	idleWrite time.Duration
}

func newDoor(l net.Listener, n int) *door {
	return &door{Listener: l, slots: make(chan struct{}, n), closed: make(chan struct{}), addresses: newAddresses(n)}
}

// Accept implements net.Listener. It waits while as many connections are open as there may be.
func (d *door) Accept() (net.Conn, error) {
	select {
	case <-d.closed: // select takes any way that is open: this one comes first
		return nil, net.ErrClosed
	default:
	}
	select {
	case d.slots <- struct{}{}:
	case <-d.closed:
		return nil, net.ErrClosed
	}
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			<-d.slots
			return nil, err
		}
		h := &helloConn{Conn: c, door: d}
		if d.let(h) {
			d.accepted.Add(1)
			return h, nil
		}
		abort(c)
	}
}

// let says whether a connection may have its place. Of those that a load balancer announces, the client is known later.
func (d *door) let(h *helloConn) bool {
	if a, ok := h.Conn.(*announced); ok {
		a.admit = func(client netip.Addr) error { return d.addresses.enter(h, client) }
		return true
	}
	return d.addresses.enter(h, addrOf(h.Conn)) == nil
}

// gone gives back the place of a connection that is closed.
func (d *door) gone(h *helloConn) {
	d.addresses.leave(h)
	<-d.slots
}

// Close implements net.Listener.
func (d *door) Close() error {
	err := d.Listener.Close()
	d.once.Do(func() { close(d.closed) })
	return err
}

// open returns how many connections are, one that is being accepted aside.
func (d *door) open() int { return max(len(d.slots)-1, 0) }

func (d *door) buffer() *[]byte {
	if b, ok := d.buffers.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, helloBuffer)
	return &b
}

// release takes a buffer back. Large ones are left to the garbage collector.
func (d *door) release(b *[]byte) {
	if b == nil || cap(*b) > 4*helloBuffer {
		return
	}
	*b = (*b)[:0]
	d.buffers.Put(b)
}

// What a helloConn is.
const (
	helloRecording  uint32 = iota // nobody knows yet whose it is: what is read is kept
	helloTerminated               // TLS ends here
	helloSpliced                  // it is not net/http's any more, though net/http does not know
	helloClosed                   // and its place given back
)

// helloConn is a connection as net/http and crypto/tls have it. Until the hello has named a host, it keeps what is read, of
// which crypto/tls may have taken more than the hello: data of 0-RTT follow at once. Then it either passes everything on,
// or it is taken: the connection below goes on without those two, to whom it now looks as if it took all that they write,
// had no more to read, and could be closed.
type helloConn struct {
	net.Conn
	door  *door
	state atomic.Uint32
	idle  idleWrites
	// The goroutine that does the handshake alone uses hello, and sets entry before the handshake ends.
	hello *[]byte
	entry *tenant.Entry // whose the server name was; nil = no tenant's
	// client is what door.addresses counts it as, by which it is guarded.
	client netip.Addr
}

// Read implements net.Conn.
func (c *helloConn) Read(p []byte) (int, error) {
	switch c.state.Load() {
	case helloTerminated:
		return c.Conn.Read(p)
	case helloSpliced:
		return 0, errSpliced
	}
	n, err := c.Conn.Read(p)
	if n == 0 {
		return n, err
	}
	if c.hello == nil {
		c.hello = c.door.buffer()
	}
	*c.hello = append(*c.hello, p[:n]...)
	if len(*c.hello) > maxHello {
		return 0, errHelloTooLong
	}
	return n, err
}

// Write implements net.Conn. What the handshake that ended says to a client that is not its own is dropped: an alert would
// break the client's handshake with somebody else.
func (c *helloConn) Write(p []byte) (int, error) {
	if c.state.Load() == helloSpliced {
		return len(p), nil
	}
	bounded := c.idle.arm(c.Conn, c.door.idleWrite)
	n, err := c.Conn.Write(p)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	resetOnClose(c.Conn) // the kernel would offer what is left for minutes to a client that does not read
	if bounded {
		_ = c.Close() // TLS would go on with what it has read, and wait for each answer to it
	}
	return n, err
}

// Close implements net.Conn.
func (c *helloConn) Close() error {
	for {
		now := c.state.Load()
		if now == helloSpliced {
			return nil
		}
		if now == helloClosed || c.state.CompareAndSwap(now, helloClosed) {
			err := c.Conn.Close()
			if now != helloClosed {
				c.door.gone(c)
			}
			return err
		}
	}
}

// SetDeadline implements net.Conn.
func (c *helloConn) SetDeadline(t time.Time) error {
	if c.state.Load() == helloSpliced {
		return nil
	}
	c.idle.readDeadline(t)
	c.idle.writeDeadline(t)
	return c.Conn.SetDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *helloConn) SetReadDeadline(t time.Time) error {
	if c.state.Load() == helloSpliced {
		return nil
	}
	c.idle.readDeadline(t)
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *helloConn) SetWriteDeadline(t time.Time) error {
	if c.state.Load() == helloSpliced {
		return nil
	}
	c.idle.writeDeadline(t)
	return c.Conn.SetWriteDeadline(t)
}

// terminate lets the handshake go on, on a host of e's; nil if it is no tenant's.
func (c *helloConn) terminate(e *tenant.Entry) {
	if !c.state.CompareAndSwap(helloRecording, helloTerminated) {
		return
	}
	c.entry = e
	c.forget()
}

// take takes the connection away from net/http and crypto/tls: what was read of it is in hello, and it stays open until
// leave. ok is false if it was closed meanwhile. The deadlines that net/http set for the handshake are lifted.
func (c *helloConn) take() (ok bool) {
	if !c.state.CompareAndSwap(helloRecording, helloSpliced) {
		return false
	}
	_ = c.Conn.SetDeadline(time.Time{}) // fails for a connection that is closed, which shows soon enough
	return true
}

// forget gives back the memory of what was read.
func (c *helloConn) forget() {
	c.door.release(c.hello)
	c.hello = nil
}

// leave gives back the place of a connection that was taken and is closed.
func (c *helloConn) leave() {
	c.forget()
	c.door.gone(c)
}
