package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/sync/errgroup"
)

// revision is that of MCP which is offered to servers; they may choose an earlier one.
const revision = "2025-11-25"

// session is an MCP session with a tenant's server. It outlives its connections.
type session struct {
	id      string // "" = the server keeps none
	version string // that the server chose
	calls   int    // ids of requests
}

// mcpCaller calls a tool over Streamable HTTP.
type mcpCaller struct {
	client *Client
	text   []byte // of each call, as JSON
	header fasthttp.ResponseHeader
	events events
}

// newMCPCaller returns a caller of the tool echo.
func newMCPCaller(c *Client) *mcpCaller {
	return &mcpCaller{client: c, text: append(append([]byte{'"'}, c.payload...), '"')}
}

// Close implements load.Caller: connections and sessions are the client's.
func (m *mcpCaller) Close() error { return nil }

// Call implements load.Caller. A caller that finds no session free begins one, as part of the request. A session that the server has
// forgotten is an error, and gone.
func (m *mcpCaller) Call(ctx context.Context, tenant int) error {
	t, err := m.client.target(tenant)
	if err != nil {
		return err
	}
	s, ok := t.sessions.take()
	if !ok {
		if s, err = m.initialize(ctx, t); err != nil {
			return err
		}
	}
	err = m.callTool(ctx, t, s)
	var f *failure
	if errors.As(err, &f) && f.class == "status 404" && s.id != "" {
		return err
	}
	t.sessions.put(s)
	return err
}

// initialize begins a session.
func (m *mcpCaller) initialize(ctx context.Context, t *target) (*session, error) {
	s := new(session)
	message, err := m.request(ctx, t, s, "initialize",
		`{"protocolVersion":"`+revision+`","capabilities":{},"clientInfo":{"name":"polybench","version":"1"}}`)
	if err != nil {
		return nil, err
	}
	var result struct {
		ProtocolVersion string `json:"protocolVersion"`
	}
	if err := json.Unmarshal(message.Result, &result); err != nil || !printable(result.ProtocolVersion) {
		return nil, wrong(t, "the answer to initialize has no protocol version: look whether the path is that of an MCP server")
	}
	s.version = result.ProtocolVersion
	s.id = string(m.header.Peek("Mcp-Session-Id"))
	if s.id != "" && !printable(s.id) {
		return nil, wrong(t, "the session's identifier %q is not of visible ASCII (MCP, Session Management)", t.excerpt([]byte(s.id)))
	}
	return s, m.client.overWire(ctx, t, http.MethodPost, func(w *wire) (bool, error) {
		return m.notify(t, w, s, http.MethodPost, []byte(`{"jsonrpc":"2.0","method":"notifications/initialized"}`))
	})
}

// callTool calls echo and judges the whole answer.
func (m *mcpCaller) callTool(ctx context.Context, t *target, s *session) error {
	message, err := m.request(ctx, t, s, "tools/call", `{"name":"echo","arguments":{"text":`+string(m.text)+`}}`)
	if err != nil {
		return err
	}
	var result struct {
		IsError bool `json:"isError"`
	}
	if err := json.Unmarshal(message.Result, &result); err != nil {
		return wrong(t, "the answer to tools/call is no result: %v", err)
	}
	if result.IsError {
		return &failure{class: "mcp tool error", tenant: t, what: fmt.Sprintf("the tool echo failed: %q", t.excerpt(message.Result))}
	}
	return m.client.judge(t, message.Result)
}

// answer is a JSON-RPC message.
type answer struct {
	ID     json.RawMessage `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// request sends a request and returns its result.
func (m *mcpCaller) request(ctx context.Context, t *target, s *session, method, params string) (*answer, error) {
	s.calls++
	id := strconv.Itoa(s.calls)
	body := []byte(`{"jsonrpc":"2.0","id":` + id + `,"method":"` + method + `","params":` + params + `}`)
	head, err := m.head(ctx, t, s, http.MethodPost, len(body))
	if err != nil {
		return nil, err
	}
	var got *answer
	err = m.client.overWire(ctx, t, http.MethodPost, func(w *wire) (keep bool, err error) {
		got, keep, err = m.exchange(t, w, append(head, body...), id)
		return keep, err
	})
	if err != nil {
		return nil, err
	}
	if got.Error != nil {
		return nil, &failure{class: "mcp error " + strconv.Itoa(got.Error.Code), tenant: t,
			what: fmt.Sprintf("it answered %s with error %d: %q", method, got.Error.Code, t.excerpt([]byte(got.Error.Message)))}
	}
	return got, nil
}

// head begins a request of a session.
func (m *mcpCaller) head(ctx context.Context, t *target, s *session, method string, length int) ([]byte, error) {
	token, err := m.client.token(ctx, t)
	if err != nil {
		return nil, err
	}
	more := "Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n"
	if s.version != "" {
		more += "Mcp-Protocol-Version: " + s.version + "\r\n"
	}
	if s.id != "" {
		more += "Mcp-Session-Id: " + s.id + "\r\n"
	}
	return m.client.head(t, token, method, more, length), nil
}

// exchange sends a request and reads the answer with its id, which is one JSON message or the last of a stream.
func (m *mcpCaller) exchange(t *target, w *wire, request []byte, id string) (got *answer, keep bool, err error) {
	if err := w.send(request, nil); err != nil {
		return nil, false, err
	}
	body, err := open(&m.header, w.reader)
	if err != nil {
		return nil, false, err
	}
	if status := m.header.StatusCode(); status != http.StatusOK {
		_, err := m.client.refusal(t, status, body)
		if err == nil {
			err = wrong(t, "the answer has status %d and no message", status)
		}
		return nil, false, err
	}
	if isStream(&m.header) {
		got, keep, err = m.fromStream(t, w, body, id)
	} else {
		got, err = m.fromBody(t, body, id)
		keep = true
	}
	return got, keep && err == nil && !m.header.ConnectionClose(), err
}

// fromBody reads an answer that is one message.
func (m *mcpCaller) fromBody(t *target, body io.Reader, id string) (*answer, error) {
	b, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	if err != nil {
		return nil, err
	}
	got, err := m.parse(t, b)
	if err != nil {
		return nil, err
	}
	if string(got.ID) != id {
		return nil, wrong(t, "the answer has the id %s and not the request's, %s", t.excerpt(got.ID), id)
	}
	return got, nil
}

// fromStream reads events until the answer comes; what comes before are notifications. ended says whether the stream ended behind it, as
// it should, so that the connection can be kept.
func (m *mcpCaller) fromStream(t *target, w *wire, body io.Reader, id string) (got *answer, ended bool, err error) {
	m.events.reset(body)
	for {
		data, err := m.events.next()
		if errors.Is(err, io.EOF) {
			return nil, false, wrong(t, "the stream ended without the answer")
		}
		if err != nil {
			return nil, false, err
		}
		if len(bytes.TrimSpace(data)) == 0 { // the event that only tells the id to resume from
			continue
		}
		got, err := m.parse(t, bytes.Clone(data))
		if err != nil {
			return nil, false, err
		}
		if string(got.ID) == id && (got.Result != nil || got.Error != nil) {
			ended, err := m.client.rest(t, w, &m.events)
			return got, ended, err
		}
	}
}

// parse reads a message and looks for what is not the tenant's.
func (m *mcpCaller) parse(t *target, b []byte) (*answer, error) {
	if err := m.client.foreign(t, b); err != nil {
		return nil, err
	}
	got := new(answer)
	if err := json.Unmarshal(b, got); err != nil {
		return nil, wrong(t, "the answer is no JSON-RPC message: %v; it begins %q", err, t.excerpt(b))
	}
	return got, nil
}

// notify sends what has no answer but a status.
func (m *mcpCaller) notify(t *target, w *wire, s *session, method string, body []byte) (keep bool, err error) {
	head, err := m.head(context.Background(), t, s, method, len(body)) // the token is at hand: initialize has just shown it
	if err != nil {
		return false, err
	}
	if err := w.send(head, body); err != nil {
		return false, err
	}
	rest, err := open(&m.header, w.reader)
	if err != nil {
		return false, err
	}
	if status := m.header.StatusCode(); status/100 != 2 {
		return m.client.refusal(t, status, rest)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(rest, maxAnswer))
	return err == nil && !m.header.ConnectionClose(), err
}

// endSessions ends the sessions that are kept, as a polite client does, in a short time or not at all.
func (c *Client) endSessions() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(16)
	for i := range c.targets {
		t := &c.targets[i]
		for s, ok := t.sessions.take(); ok; s, ok = t.sessions.take() {
			if s.id == "" || ctx.Err() != nil {
				continue
			}
			group.Go(func() error {
				m := newMCPCaller(c)
				return c.overWire(ctx, t, http.MethodDelete, func(w *wire) (bool, error) { return m.notify(t, w, s, http.MethodDelete, nil) })
			})
		}
	}
	_ = group.Wait() // servers may refuse it (MCP, Session Management)
}

// printable says whether a text can stand in a header as one word.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != ""
}
