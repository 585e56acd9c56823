package mcp

import (
	"math"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
)

type rpcError struct {
	Code    int     `json:"code"`
	Message string  `json:"message"`
	Data    rpcData `json:"data"`
}

type rpcData struct {
	Type      string `json:"type"`
	RequestID string `json:"request_id,omitzero"`
}

// RenderError makes the JSON-RPC error response for e, with e's HTTP status. id is the raw id of the caller's message;
// nil becomes null (JSON-RPC 2.0 §5). What it says of a refusal depends on its kind and that id alone.
func RenderError(id []byte, e *fault.Error, requestID string) *exchange.Reply {
	p := e.Problem(requestID)
	out := rpcError{Code: e.Code, Message: p.Detail, Data: rpcData{Type: p.Type, RequestID: p.RequestID}}
	if out.Code == 0 || e.Kind == fault.NotFound || e.Kind == fault.Forbidden {
		out.Code = e.Kind.JSONRPC()
	}
	if out.Message == "" {
		out.Message = p.Title
	}
	if id == nil {
		id = []byte("null")
	}
	object, err := json.Marshal(out)
	if err != nil { // only for a detail that is not UTF-8
		object = []byte(`{"code":-32603,"message":"Internal error"}`)
	}
	body := make([]byte, 0, len(id)+len(object)+40)
	body = append(append(append(append(append(body, `{"jsonrpc":"2.0","id":`...), id...), `,"error":`...), object...), "}\n"...)
	return &exchange.Reply{Status: e.Kind.Status(), Header: errorHeader(e), Body: body, Err: e}
}

func errorHeader(e *fault.Error) exchange.Header {
	h := exchange.Header{}
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(float64(e.RetryAfter)/float64(time.Second)))))
	}
	if e.Allow != "" {
		h.Set("Allow", e.Allow)
	}
	return h
}
