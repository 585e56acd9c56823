package proxy

import "net"

// upgraded is a connection that a handler took over, such as a WebSocket's. What passes over it counts against the tenant's share
// of bandwidth as bodies do: else an upgrade would be the way around it.
type upgraded struct {
	net.Conn
	f *flight
}

// Read implements io.Reader.
func (u upgraded) Read(p []byte) (int, error) {
	n, err := u.Conn.Read(p)
	u.f.account(n, 0)
	return n, err
}

// Write implements io.Writer.
func (u upgraded) Write(p []byte) (int, error) {
	n, err := u.Conn.Write(p)
	u.f.account(0, n)
	return n, err
}

// CloseWrite passes on that one side has ended.
func (u upgraded) CloseWrite() error {
	if c, ok := u.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return u.Conn.Close()
}
