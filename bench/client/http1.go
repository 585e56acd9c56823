package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"

	"github.com/valyala/fasthttp"
	"golang.org/x/net/http2/hpack"

	"github.com/polygate/polygate/bench/scenario"
)

// maxAnswer bounds the body of an answer that is read whole: four times the most that a scenario can ask for.
const maxAnswer = 64 << 20

// smallBody is the most that is kept with each tenant's header, to be sent in one piece.
const smallBody = 4 << 10

// prepared is what all requests to a tenant with one token have in common.
type prepared struct {
	token  string
	head   []byte              // HTTP/1.1: the request line and the header, then the body if it is small
	body   []byte              // HTTP/1.1: the body if it is not, which all tenants share
	fields []hpack.HeaderField // HTTP/2 and gRPC
}

// prepare returns what a request to a tenant begins with. It is made anew only when the token changes.
func (c *Client) prepare(ctx context.Context, t *target) (*prepared, error) {
	token, err := c.token(ctx, t)
	if err != nil {
		return nil, err
	}
	if p := t.prepared.Load(); p != nil && p.token == token {
		return p, nil
	}
	p := &prepared{token: token, head: c.head(t, token, c.load.Method, "", len(c.payload))}
	if len(c.payload) <= smallBody {
		p.head = append(p.head, c.payload...)
	} else {
		p.body = c.payload
	}
	if c.load.Protocol == scenario.HTTP2 || c.load.Protocol == scenario.GRPC {
		p.fields = c.fields(t, token, len(c.payload))
	}
	t.prepared.Store(p)
	return p, nil
}

// head writes the beginning of an HTTP/1.1 request. more are whole lines of the header.
func (c *Client) head(t *target, token, method, more string, length int) []byte {
	head := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: polybench\r\n%s", method, c.load.Path, c.authority(t), more)
	if token != "" {
		head = fmt.Appendf(head, "Authorization: Bearer %s\r\n", token)
	}
	if length > 0 || method == http.MethodPost {
		head = fmt.Appendf(head, "Content-Length: %d\r\n", length)
	}
	if c.fresh() && c.load.Protocol == scenario.HTTP1 {
		head = append(head, "Connection: close\r\n"...)
	}
	return append(head, "\r\n"...)
}

// authority is what a request names as its host: with the port, unless it is HTTPS's own.
func (c *Client) authority(t *target) string {
	_, port, err := net.SplitHostPort(t.Addr) // New has checked it
	if err != nil || port == "443" {
		return t.Host
	}
	return net.JoinHostPort(t.Host, port)
}

// http1Caller makes HTTP/1.1 requests.
type http1Caller struct {
	client *Client
	answer fasthttp.Response
}

// Close implements load.Caller: the connections are the client's.
func (h *http1Caller) Close() error { return nil }

// Call implements load.Caller.
func (h *http1Caller) Call(ctx context.Context, tenant int) error {
	t, err := h.client.target(tenant)
	if err != nil {
		return err
	}
	p, err := h.client.prepare(ctx, t)
	if err != nil {
		return err
	}
	return h.client.overWire(ctx, t, h.client.load.Method, func(w *wire) (bool, error) { return h.exchange(ctx, t, w, p) })
}

// exchange sends a request and reads the answer. It returns whether the connection can carry another.
func (h *http1Caller) exchange(ctx context.Context, t *target, w *wire, p *prepared) (keep bool, err error) {
	if err := w.send(p.head, p.body); err != nil {
		return false, err
	}
	if err := h.answer.ReadLimitBody(w.reader, maxAnswer); err != nil {
		return false, broken(ctx, t, "reading the answer", err)
	}
	return !h.answer.ConnectionClose(), h.client.judgeAnswer(t, h.answer.StatusCode(), h.answer.Body())
}

// judgeAnswer judges a whole answer.
func (c *Client) judgeAnswer(t *target, status int, body []byte) error {
	if status == http.StatusOK || t.Canary == "" && status/100 == 2 {
		return c.judge(t, body)
	}
	if err := c.foreign(t, body); err != nil {
		return err
	}
	return badStatus(t, status, body)
}

// send writes a request and waits for the first byte of the answer. What fails before is errUnanswered, unless the time was up.
func (w *wire) send(head, body []byte) error {
	_, err := w.Write(head)
	if err == nil && len(body) > 0 {
		_, err = w.Write(body)
	}
	if err == nil {
		_, err = w.reader.Peek(1)
	}
	if err != nil && isClosed(err) && !isTimeout(err) {
		return errors.Join(errUnanswered, err)
	}
	return err
}

// overWire makes one exchange with a tenant over a connection, kept or new. A kept connection that ends before a byte of the answer is
// replaced by a new one, once, if the method is idempotent: nobody can tell whether the server closed it while it was idle or was killed
// with the request in its hands (RFC 9110 §9.2.2), so what must not be done twice has failed. That is rare: wireFor gives it no connection
// whose end has been heard of.
func (c *Client) overWire(ctx context.Context, t *target, method string, exchange func(*wire) (keep bool, err error)) error {
	for again := false; ; again = true {
		w, err := c.wireFor(ctx, t, method, again)
		if err != nil {
			return err
		}
		w.line.begin(ctx)
		keep, err := exchange(w)
		usable := w.line.end()
		stale := errors.Is(err, errUnanswered) && w.served > 0 && idempotent(method) && !again && ctx.Err() == nil
		c.done(t, w, keep && usable)
		if !stale {
			return c.outcome(ctx, t, err)
		}
		c.retried.Add(1)
	}
}

// idempotent says whether a method does the same if it is done twice (RFC 9110 §9.2.2).
func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	default:
		return false
	}
}

// outcome classifies what has no class yet.
func (c *Client) outcome(ctx context.Context, t *target, err error) error {
	if err == nil {
		return nil
	}
	return broken(ctx, t, "waiting for the answer", err)
}

// url is where a tenant's requests go, for libraries that want one.
func (c *Client) url(t *target) *url.URL {
	u := *c.path
	u.Scheme, u.Host = "https", c.authority(t)
	return &u
}
