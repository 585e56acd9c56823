package proxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/polygate/polygate/internal/quota"
)

// Bounds of a PROXY protocol header. Version 1 ends within 107 bytes (proxy-protocol.txt §2.1); version 2 has room for fields
// that we do not read.
const (
	maxAnnouncementV1 = 107
	maxAnnouncementV2 = 2 << 10
)

var (
	errNoAnnouncement  = errors.New("the connection is from a load balancer in proxy_protocol_from and does not begin with a PROXY protocol header: turn it on there, or take the address out")
	errBadAnnouncement = errors.New("the load balancer's PROXY protocol header names no TCP client")
)

// announcing is a listener to which load balancers connect. Those in from begin each connection with a header that says who the
// client is, and are believed; a connection of theirs without one ends, or it would pass for the load balancer's own. Nobody
// else is believed, or even listened to: what they send is TLS, or HTTP, or broken.
type announcing struct {
	net.Listener
	from  []netip.Prefix
	wait  time.Duration // for the header
	log   *slog.Logger
	noise quota.Rate // bounds the warnings
}

// announcing returns l with the load balancers that the config names.
func (s *Server) announcing(l net.Listener) net.Listener {
	if len(s.cfg.ProxyProtocolFrom) == 0 {
		return l
	}
	return &announcing{Listener: l, from: s.cfg.ProxyProtocolFrom, wait: s.limits.HeaderTime, log: s.log}
}

// Accept implements net.Listener. It reads nothing: a load balancer that dawdles would keep everybody out.
func (l *announcing) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil || !contains(l.from, addrOf(c)) {
		return c, err
	}
	return &announced{Conn: c, l: l}, nil
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) || p.Addr().Is4In6() && p.Bits() >= 96 && netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Contains(a) {
			return true
		}
	}
	return false
}

// announced is a connection of a load balancer. The header is read where its addresses are first asked for, which net/http does
// in the connection's own goroutine, or else with the first byte. Not a byte behind it is read, so that the TCP connection
// can be spliced.
type announced struct {
	net.Conn
	l             *announcing
	admit         func(client netip.Addr) error // asked when the client is known; nil = nobody is
	once          sync.Once
	remote, local net.Addr
	err           error
	mu            sync.Mutex
	deadline      time.Time // guarded by mu: for reading, as others set it
	hearing       bool      // guarded by mu: the header is being read, by a deadline of its own
}

// hear reads the header, once.
func (a *announced) hear() {
	a.once.Do(func() {
		a.remote, a.local = a.Conn.RemoteAddr(), a.Conn.LocalAddr()
		a.own(true)
		h, err := readAnnouncement(a.Conn)
		a.own(false)
		if err == nil {
			err = a.believe(h)
		}
		if err == nil && a.admit != nil {
			err = a.admit(ipOf(a.remote))
		}
		a.err = err
		if err != nil && !errors.Is(err, io.EOF) && a.l.noise.Spend(time.Now(), strayLimit()).OK {
			a.l.log.Warn("a connection of a load balancer was refused", slog.String("load_balancer", a.Conn.RemoteAddr().String()), slog.Any("error", err))
		}
	})
}

// own takes the deadline for reading, or gives it back.
func (a *announced) own(yes bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hearing = yes
	until := a.deadline
	if own := time.Now().Add(a.l.wait); yes && (until.IsZero() || own.Before(until)) {
		until = own
	}
	_ = a.Conn.SetReadDeadline(until) // fails where Read will
}

// believe takes the addresses of a header. The load balancer's own connections, such as its checks, keep theirs.
func (a *announced) believe(h *proxyproto.Header) error {
	if h.Command.IsLocal() {
		return nil
	}
	from, to, ok := h.TCPAddrs()
	if !ok || from.IP.IsUnspecified() || from.IP.IsMulticast() {
		return errBadAnnouncement
	}
	a.remote, a.local = from, to
	return nil
}

// readAnnouncement reads a header, and nothing of what follows it.
func readAnnouncement(r io.Reader) (*proxyproto.Header, error) {
	b := make([]byte, 12, maxAnnouncementV1) // the signature of version 2; no header of version 1 is shorter
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	var err error
	switch {
	case bytes.Equal(b, proxyproto.SIGV2):
		b, err = readV2(r, b)
	case bytes.HasPrefix(b, []byte("PROXY ")):
		b, err = readV1(r, b)
	default:
		err = errNoAnnouncement
	}
	if err != nil {
		return nil, err
	}
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(b), len(b)))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadAnnouncement, err)
	}
	return h, nil
}

// readV1 reads up to the end of the line.
func readV1(r io.Reader, b []byte) ([]byte, error) {
	var one [1]byte
	for !bytes.HasSuffix(b, []byte("\r\n")) {
		if len(b) == maxAnnouncementV1 {
			return nil, fmt.Errorf("%w: it is longer than %d bytes", errBadAnnouncement, maxAnnouncementV1)
		}
		if _, err := io.ReadFull(r, one[:]); err != nil {
			return nil, err
		}
		b = append(b, one[0])
	}
	return b, nil
}

// readV2 reads what the length says.
func readV2(r io.Reader, b []byte) ([]byte, error) {
	b = b[:16] //nolint:gosec // there is room for a header of version 1, which is longer
	if _, err := io.ReadFull(r, b[12:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(b[14:])) //nolint:gosec // see above
	if n > maxAnnouncementV2 {
		return nil, fmt.Errorf("%w: it is longer than %d bytes", errBadAnnouncement, maxAnnouncementV2)
	}
	b = append(b, make([]byte, n)...)
	_, err := io.ReadFull(r, b[16:])
	return b, err
}

// Read implements net.Conn.
func (a *announced) Read(p []byte) (int, error) {
	a.hear()
	if a.err != nil {
		return 0, a.err
	}
	return a.Conn.Read(p)
}

// RemoteAddr implements net.Conn: it is the client's.
func (a *announced) RemoteAddr() net.Addr {
	a.hear()
	return a.remote
}

// LocalAddr implements net.Conn: it is what the client connected to.
func (a *announced) LocalAddr() net.Addr {
	a.hear()
	return a.local
}

// SetDeadline implements net.Conn.
func (a *announced) SetDeadline(t time.Time) error {
	return errors.Join(a.SetReadDeadline(t), a.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (a *announced) SetReadDeadline(t time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.deadline = t
	if a.hearing {
		return nil
	}
	return a.Conn.SetReadDeadline(t)
}

// SetLinger is what abort asks for.
func (a *announced) SetLinger(sec int) error {
	if t, ok := a.Conn.(interface{ SetLinger(sec int) error }); ok {
		return t.SetLinger(sec)
	}
	return nil
}

// CloseWrite ends this side.
func (a *announced) CloseWrite() error {
	if t, ok := a.Conn.(interface{ CloseWrite() error }); ok {
		return t.CloseWrite()
	}
	return a.Conn.Close()
}

// carrier returns the TCP connection below a header that has been read.
func carrier(c net.Conn) net.Conn {
	if a, ok := c.(*announced); ok {
		return a.Conn
	}
	return c
}
