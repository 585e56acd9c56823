package mcp

import (
	"context"
	"mime"
	"strings"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
)

// relay makes the decision to relay an admitted request.
func (c *call) relay(ctx context.Context) (*exchange.Relay, error) {
	s, err := c.h.Server(ctx, c.name)
	if err != nil {
		return nil, err
	}
	if s.ID != c.access.Object.ID { // replaced by another one of its name since: it is not what was admitted
		return nil, fault.New(fault.NotFound, "no server %q", c.name)
	}
	if err := c.openSession(s); err != nil {
		return nil, err
	}
	id, e := c.msg.ID, s.Endpoint
	relay := &exchange.Relay{
		Target: exchange.Target{Scheme: e.Scheme, Authority: e.Authority, Pool: c.h.Tenant + "/" + s.ID, Trusted: s.Trusted},
		Method: c.r.Method, Path: e.Path, Query: e.Query, Host: e.Host,
		Header: c.header(s),
		Prefix: c.body, Length: int64(len(c.body)),
		EditResponse: func(status int, h exchange.Header) error { return c.editResponse(s, status, h) },
		RenderError: func(e *fault.Error, requestID string) *exchange.Reply {
			return RenderError(id, e, requestID)
		},
	}
	if c.r.Method == "POST" { // a server may hold back the header of a GET stream until its first event
		relay.HeaderTimeout = s.Timeout
	}
	return relay, nil
}

// header returns the header to send: the client's end-to-end fields, less what is the gateway's affair, and then the
// configured ones, which nothing of the client's can displace.
func (c *call) header(s Server) exchange.Header {
	h := make(exchange.Header, len(c.r.Header)+len(s.Headers)+1)
	for name, values := range c.r.Header {
		if !private(name) {
			h[name] = values
		}
	}
	if c.r.Method != "POST" { // nothing in the body could bear them out
		delete(h, "Mcp-Method")
		delete(h, "Mcp-Name")
		delete(h, "Content-Type")
	}
	if c.session.upstream != "" {
		h.Set("Mcp-Session-Id", c.session.upstream)
	}
	if a := h.Get("Accept"); a == "" || a == "*/*" {
		h.Set("Accept", map[string]string{"POST": "application/json, text/event-stream", "GET": "text/event-stream"}[c.r.Method])
	}
	for name, value := range s.Headers {
		for other := range h { // X_Api_Key is X-Api-Key to servers behind CGI-like interfaces
			if strings.EqualFold(strings.ReplaceAll(other, "_", "-"), name) {
				delete(h, other)
			}
		}
		h.Set(name, value)
	}
	return h
}

// private says whether a request header ends here. The edge removes credentials and forwarding headers already; it costs
// little not to depend on that.
func private(name string) bool {
	for _, prefix := range [...]string{"X-Forwarded-", "X-Polygate-", "Sec-", "Proxy-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	switch name {
	case "Authorization", "X-Api-Key", "Cookie", "X-Tenant-Id", "Forwarded", "Via", "X-Real-Ip", "Origin", "Referer", "Host",
		"Content-Length", "Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Expect", "Mcp-Session-Id":
		return true
	}
	return false
}

// editResponse judges the server's response header and removes what may not leave.
func (c *call) editResponse(s Server, status int, h exchange.Header) error {
	if err := c.judgeResponse(status, h); err != nil {
		return err
	}
	upstream := h.Get("Mcp-Session-Id")
	for name := range h {
		if concealed(name) {
			delete(h, name)
		}
	}
	if upstream != "" && !c.modern && status < 300 {
		token, err := c.sealSession(s, upstream)
		if err != nil {
			return err
		}
		h.Set("Mcp-Session-Id", token)
	}
	h.Set("X-Content-Type-Options", "nosniff")
	// A tenant's data, seen by one principal: no cache may keep it, whatever the server says. What else it says, such as
	// no-transform, stays.
	if !strings.Contains(strings.ToLower(strings.Join(h["Cache-Control"], ",")), "no-store") {
		h["Cache-Control"] = append(h["Cache-Control"], "no-store")
	}
	if mediaType(h) == "text/event-stream" {
		h.Set("X-Accel-Buffering", "no") // or a proxy between us and the client may hold events back
	}
	return nil
}

// judgeResponse refuses what no MCP server answers, or what would mislead the client.
func (c *call) judgeResponse(status int, h exchange.Header) error {
	switch {
	case status < 200:
		return fault.New(fault.BadUpstream, "the server answered %d, which MCP does not use", status)
	case status >= 300 && status < 400:
		return fault.New(fault.BadUpstream, "the server answered with a redirect (%d), which is never followed: configure its final URL", status)
	case status == 401 || status == 403 || status == 407:
		// Its WWW-Authenticate would be taken for ours, and a client's credential for us be sent on by it.
		return fault.New(fault.BadUpstream, "the server refused the gateway's credential (%d): check the server's configured headers", status)
	case status >= 400 || status == 202 || status == 204 || h.Get("Content-Length") == "0":
		return nil
	}
	switch t := mediaType(h); {
	case t == "application/json" || t == "text/event-stream":
		return nil
	case t == "" && c.r.Method == "DELETE":
		return nil
	default:
		return fault.New(fault.BadUpstream, "this is not an MCP server: it answered %.64q, neither JSON nor an event stream", t)
	}
}

func mediaType(h exchange.Header) string {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil && t == "" {
		return strings.ToLower(h.Get("Content-Type"))
	}
	return t
}

// concealed says whether a response header stays here: cookies and challenges, which are the host's affair and the host
// is ours; permissions for browsers, which are the origin's, and the origin is ours; and names that only we set.
func concealed(name string) bool {
	for _, prefix := range [...]string{"Access-Control-", "Cross-Origin-", "Proxy-", "X-Polygate-", "X-Forwarded-", "X-Accel-", "Sec-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	switch name {
	case "X-Sendfile", "X-Lighttpd-Send-File", "X-Reproxy-Url", "X-Litespeed-Location":
		return true // orders to the proxy before us, if there is one: to serve a file of its own, say
	case "Set-Cookie", "Set-Cookie2", "Www-Authenticate", "Authentication-Info", "Authorization", "Mcp-Session-Id", "X-Request-Id",
		"X-Api-Key", "Strict-Transport-Security", "Alt-Svc", "Clear-Site-Data", "Location", "Content-Location", "Refresh", "Link",
		"Service-Worker-Allowed", "Public-Key-Pins", "Nel", "Report-To", "Reporting-Endpoints", "Via", "Server", "X-Powered-By", "X-Tenant-Id":
		return true
	}
	return false
}
