package proxy

import (
	"errors"
	"io"
	"net"
	"syscall"
	"time"
)

// Pieces in which bytes pass.
const (
	smallPiece = 16 << 10  // read into memory: what most messages fit into
	largePiece = 256 << 10 // moved within the kernel, counted when it has passed
)

// The longest waits of one read, after which it begins anew.
const (
	maxLook  = 30 * time.Second       // between two counts of a connection that trickles
	bulkWait = 100 * time.Millisecond // with splice(2), which holds a pipe, and two descriptors, while it waits
)

// pump passes bytes one way. A pump that waits holds neither memory nor a pipe: most connections are idle most of the time,
// and 10,000 of them would keep 320 MiB, or 40,000 descriptors.
type pump struct {
	x        *splice
	from, to net.Conn
	inward   bool // from the client
	raw      syscall.RawConn
	fast     io.ReaderFrom    // to, if bytes can be moved within the kernel; else nil
	rest     io.LimitedReader // of from, for fast
	try      func(fd uintptr) bool
	buf      *[]byte // what the last try read, n bytes; nil = nothing
	n        int
	err      error
}

func newPump(x *splice, from, to net.Conn) *pump {
	p := &pump{x: x, from: from, to: to}
	f, ok := from.(*net.TCPConn)
	if !ok {
		return p
	}
	if raw, err := f.SyscallConn(); err == nil {
		p.raw, p.try = raw, p.tryRead
	}
	if t, ok := to.(*net.TCPConn); ok {
		p.fast = t
	}
	return p
}

// run passes bytes until the source ends, and then ends the sink's side (RFC 9293 §3.6: the other way goes on). An error
// means that the connection broke; before the upstream's first byte, its silence and its end are one too, and its failure.
func (p *pump) run() error {
	look := min(maxLook, max(p.x.s.cfg.Passthrough.Idle/4, time.Millisecond))
	total, wait := int64(0), p.x.s.cfg.Passthrough.HandshakeTime
	if p.inward {
		wait = look
	}
	for {
		if p.inward && p.x.answered.Load() {
			wait = min(look, p.x.s.cfg.Passthrough.HandshakeTime)
		}
		_ = p.from.SetReadDeadline(time.Now().Add(wait)) // fails where Read will
		n, err := p.piece()
		total += n
		p.count(n)
		switch {
		case err == nil:
			wait = look
		case isTimeout(err):
			if total == 0 && !p.inward {
				return errSilent
			}
			if p.inward && p.x.abandoned() {
				return p.finish(total)
			}
			wait = look
		case errors.Is(err, io.EOF):
			return p.finish(total)
		case errors.Is(err, errBroken):
			return p.broken()
		case total == 0 && !p.inward:
			return errMute
		default:
			return p.broken()
		}
	}
}

func (p *pump) count(n int64) {
	if p.inward {
		p.x.passed(n, 0)
		return
	}
	p.x.passed(0, n)
}

// finish passes the end on.
func (p *pump) finish(total int64) error {
	if total == 0 && !p.inward {
		return errMute
	}
	if p.inward {
		p.x.ended.Store(true)
	} else { // the client may go on, but not be silent: it may be in a read that would last
		p.x.answered.Store(true)
		_ = p.to.SetReadDeadline(time.Now().Add(p.x.s.cfg.Passthrough.HandshakeTime)) // fails if it has gone
	}
	if c, ok := p.to.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite() // fails if the sink has gone: then nobody waits for the end
	}
	return nil
}

// broken says what it is that a side broke off.
func (p *pump) broken() error {
	if !p.inward && p.x.ended.Load() { // such as the gateway's close_notify to a client that has gone after its own
		return errLeft
	}
	return errBroken
}

// piece passes what there is, after waiting for it. A full piece announces more: that is moved within the kernel.
func (p *pump) piece() (int64, error) {
	n, err := p.small()
	if err != nil || n < smallPiece || p.fast == nil {
		return int64(n), err
	}
	_ = p.from.SetReadDeadline(time.Now().Add(bulkWait))
	p.rest = io.LimitedReader{R: p.from, N: largePiece}
	m, err := p.fast.ReadFrom(&p.rest) // the end is no error: the next small piece finds it again
	return int64(n) + m, err
}

// small passes one read.
func (p *pump) small() (n int, err error) {
	p.buf, p.n, p.err = nil, 0, nil
	if p.raw != nil {
		if err := p.raw.Read(p.try); err != nil {
			return 0, err
		}
	} else {
		p.buf = p.x.s.splices.buffer()
		p.n, p.err = p.from.Read(*p.buf)
	}
	if p.buf == nil {
		return 0, p.err
	}
	defer p.x.s.splices.release(p.buf)
	if p.n > 0 {
		if _, err := p.to.Write((*p.buf)[:p.n]); err != nil {
			return 0, errBroken // the sink, not the source
		}
	}
	return p.n, p.err
}

// tryRead reads from a socket that does not block; false = there is nothing yet.
func (p *pump) tryRead(fd uintptr) bool {
	p.buf = p.x.s.splices.buffer()
	for {
		p.n, p.err = syscall.Read(int(fd), *p.buf)
		if !errors.Is(p.err, syscall.EINTR) {
			break
		}
	}
	if p.err != nil || p.n <= 0 {
		p.x.s.splices.release(p.buf)
		p.buf, p.n = nil, 0
	}
	if errors.Is(p.err, syscall.EAGAIN) {
		p.err = nil
		return false
	}
	if p.err == nil && p.buf == nil {
		p.err = io.EOF
	}
	return true
}
