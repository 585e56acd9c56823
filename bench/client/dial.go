package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"time"
)

// headerBytes bounds the header of an answer.
const headerBytes = 8 << 10

// tlsConfig is what all connections have in common. The versions are Go's own, as those of an ordinary client.
func tlsConfig(c Config) *tls.Config {
	conf := &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12, CurvePreferences: c.Groups}
	if c.Load.Resume {
		conf.ClientSessionCache = tls.NewLRUClientSessionCache(max(64, len(c.Tenants))) // its keys are server names
	}
	return conf
}

// wire is a TLS connection to a tenant.
type wire struct {
	*tls.Conn
	client *Client
	line   *line
	reader *bufio.Reader
	served int // requests that it has carried
}

// dial connects to a tenant with one application protocol (ALPN), and tells how long it took.
func (c *Client) dial(ctx context.Context, t *target, protocol string) (*wire, error) {
	begun := time.Now()
	raw, err := c.dialer.DialContext(ctx, "tcp", t.Addr)
	if err != nil {
		return nil, unconnected(ctx, t, err)
	}
	conf := c.tls.Clone()
	conf.ServerName, conf.NextProtos = t.Host, []string{protocol}
	below := &line{Conn: raw, in: &c.bytesIn}
	conn := tls.Client(below, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // it never carried anything
		return nil, untrusted(ctx, t, err)
	}
	if c.handshake != nil {
		c.handshake(time.Since(begun))
	}
	if got := conn.ConnectionState().NegotiatedProtocol; protocol == "h2" && got != protocol {
		_ = conn.Close() // it is of no use
		return nil, &failure{class: "tls", tenant: t, what: "it does not offer HTTP/2 (ALPN h2): load it with http1, or turn HTTP/2 on there"}
	}
	return c.wire(t, conn, below)
}

// wire makes a connection ready for requests.
func (c *Client) wire(t *target, conn *tls.Conn, below *line) (*wire, error) {
	if !c.opened(conn) {
		_ = conn.Close() // nobody wants it any more
		return nil, &failure{class: "canceled", tenant: t, what: "the client has been closed"}
	}
	return &wire{Conn: conn, client: c, line: below, reader: bufio.NewReaderSize(conn, headerBytes)}, nil
}

// Close closes the connection.
func (w *wire) Close() error {
	w.client.ended(w.Conn)
	return w.Conn.Close()
}

// wireFor returns a connection for a request: a kept one, unless connections are to be new or it is a second try. For what cannot be sent
// twice, kept ones that the server has ended meanwhile are left out, as Go's, browsers' and other clients do, which notice while idle;
// what is repeatable needs no look, which costs a system call.
func (c *Client) wireFor(ctx context.Context, t *target, method string, again bool) (*wire, error) {
	for !again && !c.fresh() {
		w, ok := t.wires.take()
		if !ok {
			break
		}
		if idempotent(method) || !hungUp(w.line.Conn) {
			return w, nil
		}
		_ = w.Close() // the server has done the same
	}
	return c.dial(ctx, t, "http/1.1")
}

// done keeps a connection for the next request, or ends it.
func (c *Client) done(t *target, w *wire, keep bool) {
	w.served++
	if keep && !c.fresh() {
		t.wires.put(w)
		return
	}
	_ = w.Close() // the answer is complete
}
