package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// visitors are clients of registered tenants, each at its tenant's host.
type visitors struct {
	domain, addr string
	tls          *tls.Config

	mu   sync.Mutex // guards what is below
	held []net.Conn // connections and streams that stay open
	idle []*visit   // of them, the connections
}

// visitorsAtOnce is how many act at a time.
const visitorsAtOnce = 16

func newVisitors(r *replica, domain string) (*visitors, error) {
	roots, err := r.authority()
	return &visitors{domain: domain, addr: r.public, tls: visitorTLS(roots)}, err
}

// visitorTLS is of HTTP/1.1: one connection is one client.
func visitorTLS(roots *x509.CertPool) *tls.Config {
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
}

// close ends all that is held.
func (v *visitors) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range v.held {
		_ = c.Close()
	}
	v.held = nil
}

func (v *visitors) hold(c net.Conn) {
	_ = c.SetDeadline(time.Time{})
	v.mu.Lock()
	defer v.mu.Unlock()
	v.held = append(v.held, c)
}

// ask makes one request of each of the first tenants, on a connection that is then closed.
func (v *visitors) ask(ctx context.Context, tenants int) error {
	return v.each(ctx, tenants, tenants, func(c *visit) error {
		defer c.Close()
		return c.list()
	})
}

// connect opens connections, the tenants taking turns, makes a request on each and keeps it.
func (v *visitors) connect(ctx context.Context, n, tenants int) error {
	return v.each(ctx, n, tenants, func(c *visit) error {
		err := c.list()
		v.hold(c.Conn)
		v.mu.Lock()
		defer v.mu.Unlock()
		v.idle = append(v.idle, c)
		return err
	})
}

// touch makes a request on each connection that is held: the gateway closes those that are idle for a minute.
func (v *visitors) touch() error {
	for _, c := range v.idle {
		_ = c.SetDeadline(time.Now().Add(callLimit))
		if err := c.list(); err != nil {
			return fmt.Errorf("a connection that was held open: %w: the measurement took longer than the gateway keeps it", err)
		}
		_ = c.SetDeadline(time.Time{})
	}
	return nil
}

// stream opens event streams of the tenants' MCP server likewise: each in a session of its own, as a client listens to its server.
func (v *visitors) stream(ctx context.Context, n, tenants int) error {
	return v.each(ctx, n, tenants, func(c *visit) error {
		err := c.listen()
		v.hold(c.Conn)
		return err
	})
}

// each makes n visits, the tenants taking turns.
func (v *visitors) each(ctx context.Context, n, tenants int, do func(*visit) error) error {
	g, all := errgroup.WithContext(ctx)
	g.SetLimit(visitorsAtOnce)
	for i := range n {
		if all.Err() != nil {
			break
		}
		g.Go(func() error {
			c, err := v.visit(all, i%tenants)
			if err == nil {
				err = do(c)
			}
			if err != nil {
				return fmt.Errorf("tenant %s: %w", capacityTenant(i%tenants), err)
			}
			return nil
		})
	}
	return errors.Join(g.Wait(), ctx.Err())
}

// visit is one connection to a tenant's host.
type visit struct {
	net.Conn
	in   *bufio.Reader
	host string
	key  string
}

func (v *visitors) visit(ctx context.Context, tenant int) (*visit, error) {
	c := v.tls.Clone()
	c.ServerName = capacityTenant(tenant) + "." + v.domain
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	conn, err := (&tls.Dialer{Config: c}).DialContext(ctx, "tcp", v.addr)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(callLimit))
	return &visit{Conn: conn, in: bufio.NewReaderSize(conn, 512), host: c.ServerName, key: capacityKey(tenant)}, nil
}

// list asks for the tenant's servers: what its gateway has to be opened for.
func (c *visit) list() error {
	resp, err := c.send(http.MethodGet, "/servers", nil, "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// The MCP client's side of a session, as revision 2025-11-25 has it.
const (
	mcpRevision = "2025-11-25"
	initialize  = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"` + mcpRevision + `","capabilities":{},"clientInfo":{"name":"polybench","version":"1"}}}`
	mcpPath     = "/servers/bench/mcp"
)

// listen begins a session and leaves its stream open.
func (c *visit) listen() error {
	session, err := c.initialize()
	if err != nil {
		return err
	}
	h := http.Header{"Accept": {"text/event-stream"}, "Mcp-Session-Id": {session}, "Mcp-Protocol-Version": {mcpRevision}}
	resp, err := c.send(http.MethodGet, mcpPath, h, "") //nolint:bodyclose // the stream stays open, that is what is measured
	if err != nil {
		return err
	}
	_, err = io.ReadFull(resp.Body, make([]byte, len(firstEvent))) // it has come all the way
	return err
}

func (c *visit) initialize() (session string, err error) {
	h := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
	resp, err := c.send(http.MethodPost, mcpPath, h, initialize)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.Header.Get("Mcp-Session-Id"), err
}

// send makes a request and reads the head of a good answer.
func (c *visit) send(method, path string, h http.Header, body string) (*http.Response, error) {
	req, err := http.NewRequest(method, "https://"+c.host+path, strings.NewReader(body)) //nolint:noctx // the connection has the deadline
	if err != nil {
		return nil, err
	}
	if body == "" {
		req.Body = nil
	}
	if h != nil {
		req.Header = h
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	if err := req.Write(c); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(c.in, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		return nil, fmt.Errorf("%s %s: %s %s", method, path, resp.Status, b)
	}
	return resp, nil
}

// alive fails if the gateway has closed what is held: it would not be measured then.
func (v *visitors) alive() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range v.held {
		if err := open(c); err != nil {
			return fmt.Errorf("a connection that was held open has ended (%w): the measurement took longer than the gateway keeps them", err)
		}
	}
	return nil
}

// open fails if a connection has ended. What comes on it meanwhile, as a stream's heartbeat, is a sign of life.
func open(c net.Conn) error {
	_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
	for some := make([]byte, 512); ; {
		if _, err := c.Read(some); errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
