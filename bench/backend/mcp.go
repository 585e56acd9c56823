package backend

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"

	lru "github.com/hashicorp/golang-lru/v2"
)

// The revisions of MCP that /mcp speaks: with sessions, and without.
const (
	legacy = "2025-11-25"
	modern = "2026-07-28"
)

const (
	versionHeader = "Mcp-Protocol-Version"
	sessionHeader = "Mcp-Session-Id"

	keptSessions = 200_000 // those that were used longest ago end first
)

// sessions are those of all tenants. One belongs to the tenant at whose address it began; for others it is unknown.
type sessions struct{ tenants *lru.Cache[string, int] }

func newSessions() (*sessions, error) {
	c, err := lru.New[string, int](keptSessions)
	return &sessions{tenants: c}, err
}

func (s *sessions) begin(tenant int) string {
	id := rand.Text()
	s.tenants.Add(id, tenant)
	return id
}

func (s *sessions) has(id string, tenant int) bool {
	owner, ok := s.tenants.Get(id)
	return ok && owner == tenant
}

func (s *sessions) end(id string, tenant int) bool {
	return s.has(id, tenant) && s.tenants.Remove(id)
}

// rpc is a JSON-RPC request, or a notification if it has no id, with what any of our methods reads of its parameters.
type rpc struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params struct {
		Name      string `json:"name"`
		Arguments struct {
			Text string `json:"text"`
		} `json:"arguments"`
		Meta struct {
			Version string `json:"io.modelcontextprotocol/protocolVersion"`
		} `json:"_meta"`
	} `json:"params"`
}

// reply is what a request gets: a result or an error, and the HTTP status.
type reply struct {
	status  int
	session string // that has begun
	result  any
	err     *rpcError
}

type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Data    any    `json:"data,omitempty"`
}

// The codes of JSON-RPC and, from -32020 on, of MCP 2026-07-28.
const (
	codeParse      = -32700
	codeMethod     = -32601
	codeParams     = -32602
	codeHeader     = -32020
	codeNotVersion = -32022
)

func refuse(status, code int, format string, args ...any) reply {
	return reply{status: status, err: &rpcError{Code: code, Message: fmt.Sprintf(format, args...)}}
}

// handleMCP is a small MCP server over Streamable HTTP with one tool, echo. It answers as JSON, and with ?answer=sse as an event stream.
func (s *Server) handleMCP(w http.ResponseWriter, r *http.Request) {
	tenant := placeOf(r.Context()).tenant
	switch {
	case r.Method == http.MethodDelete && r.Header.Get(versionHeader) != modern:
		s.endSession(w, r, tenant)
		return
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", "POST, DELETE") // no stream of the server's own: GET is optional
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	q, refused := readRPC(w, r)
	if refused == nil {
		refused = s.admitRPC(r.Header, q, tenant)
	}
	if refused == nil && q.ID == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	answer := refused
	if answer == nil {
		answer = new(s.call(r, q, tenant))
	}
	s.stall.wait()
	answer.write(w, q.ID, r.URL.RawQuery == "answer=sse")
}

func (s *Server) endSession(w http.ResponseWriter, r *http.Request, tenant int) {
	if !s.sessions.end(r.Header.Get(sessionHeader), tenant) {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func readRPC(w http.ResponseWriter, r *http.Request) (q rpc, refused *reply) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return q, new(refuse(http.StatusUnsupportedMediaType, codeParse, "the content type is not application/json"))
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAnswer))
	if err != nil {
		return q, new(refuse(http.StatusBadRequest, codeParse, "the body cannot be read: %s", err))
	}
	if err := json.Unmarshal(b, &q); err != nil || q.Method == "" {
		return rpc{}, new(refuse(http.StatusBadRequest, codeParse, "the body is not one JSON-RPC request"))
	}
	return q, nil
}

// admitRPC checks what the revision asks of every request; nil = nothing is wrong.
func (s *Server) admitRPC(h http.Header, q rpc, tenant int) *reply {
	switch version := h.Get(versionHeader); {
	case version == modern:
		return admitModern(h, q)
	case version > modern:
		r := refuse(http.StatusBadRequest, codeNotVersion, "unsupported protocol version")
		r.err.Data = map[string]any{"supported": []string{modern, legacy}, "requested": version}
		return &r
	case q.Method == "initialize":
		return nil
	case h.Get(sessionHeader) == "":
		return new(refuse(http.StatusBadRequest, codeParams, "no session: call initialize first"))
	case !s.sessions.has(h.Get(sessionHeader), tenant):
		return new(refuse(http.StatusNotFound, codeParams, "no such session: call initialize again"))
	}
	return nil
}

// admitModern checks the headers with which 2026-07-28 repeats the body for those on the way: a gateway that drops or changes them
// does not relay MCP.
func admitModern(h http.Header, q rpc) *reply {
	switch {
	case q.ID != nil && q.Params.Meta.Version != modern:
		return new(refuse(http.StatusBadRequest, codeParams, "_meta does not say the protocol version"))
	case h.Get("Mcp-Method") != q.Method:
		return new(refuse(http.StatusBadRequest, codeHeader, "Mcp-Method is %q, the method %q", h.Get("Mcp-Method"), q.Method))
	case q.Method == "tools/call" && h.Get("Mcp-Name") != q.Params.Name:
		return new(refuse(http.StatusBadRequest, codeHeader, "Mcp-Name is %q, the name %q", h.Get("Mcp-Name"), q.Params.Name))
	}
	return nil
}

// What the server says of itself, as JSON.
const (
	serverInfo   = `{"name":"polybench-upstream","version":"1"}`
	capabilities = `{"tools":{}}`
	echoTool     = `{"name":"echo","description":"Answers with the canary of the tenant, the text, and padding.",` +
		`"inputSchema":{"type":"object","properties":{"text":{"type":"string"}}}}`
)

// call answers a request that was admitted.
func (s *Server) call(r *http.Request, q rpc, tenant int) reply {
	isModern := r.Header.Get(versionHeader) == modern
	switch {
	case q.Method == "tools/call":
		return s.echo(r, q, isModern)
	case q.Method == "tools/list":
		return cacheable(isModern, map[string]any{"tools": []any{json.RawMessage(echoTool)}})
	case q.Method == "server/discover" && isModern:
		return cacheable(true, map[string]any{
			"supportedVersions": []string{modern, legacy}, "capabilities": json.RawMessage(capabilities),
			"_meta": map[string]any{"io.modelcontextprotocol/serverInfo": json.RawMessage(serverInfo)},
		})
	case q.Method == "initialize" && !isModern:
		return reply{status: http.StatusOK, session: s.sessions.begin(tenant), result: map[string]any{
			"protocolVersion": legacy, "capabilities": json.RawMessage(capabilities), "serverInfo": json.RawMessage(serverInfo),
		}}
	case q.Method == "ping" && !isModern:
		return reply{status: http.StatusOK, result: map[string]any{}}
	case isModern:
		return refuse(http.StatusNotFound, codeMethod, "no method %q", q.Method)
	}
	return refuse(http.StatusOK, codeMethod, "no method %q", q.Method)
}

// cacheable adds what 2026-07-28 wants of results that may be cached. Private: the tool is the same for all tenants, but a gateway
// that shares an answer between them is what we look for.
func cacheable(isModern bool, result map[string]any) reply {
	if isModern {
		result["resultType"], result["ttlMs"], result["cacheScope"] = "complete", 0, "private"
	}
	return reply{status: http.StatusOK, result: result}
}

// toolResult is that of tools/call.
type toolResult struct {
	ResultType string    `json:"resultType,omitempty"`
	Content    []content `json:"content"`
}

type content struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

func (s *Server) echo(r *http.Request, q rpc, isModern bool) reply {
	if q.Params.Name != "echo" {
		return refuse(http.StatusOK, codeParams, "unknown tool %q", q.Params.Name)
	}
	text := placeOf(r.Context()).canary + q.Params.Arguments.Text
	text += s.padding[:max(0, s.cfg.AnswerBytes-len(text))]
	result := toolResult{Content: []content{{Type: "text", Text: text}}}
	if isModern {
		result.ResultType = "complete"
	}
	return reply{status: http.StatusOK, result: result}
}

// write sends the reply. One to what was no request has the id null.
func (a *reply) write(w http.ResponseWriter, id json.RawMessage, sse bool) {
	if id == nil {
		id = json.RawMessage("null")
	}
	b, err := json.Marshal(struct {
		Version string          `json:"jsonrpc"`
		ID      json.RawMessage `json:"id"`
		Result  any             `json:"result,omitempty"`
		Err     *rpcError       `json:"error,omitempty"`
	}{"2.0", id, a.result, a.err})
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if a.session != "" {
		w.Header().Set(sessionHeader, a.session)
	}
	if sse && a.status == http.StatusOK {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprintf(w, "event: message\ndata: %s\n\n", b)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	_, _ = w.Write(b)
}
