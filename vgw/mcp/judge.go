package mcp

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/mcp/wire"
)

// codeHeaderMismatch says that a header and the body disagree (MCP 2026-07-28, standard headers).
const codeHeaderMismatch = -32020

// action returns what a request does. Only what is known to look, and nothing more, is a read.
func action(httpMethod string, m *wire.Message) authz.Action {
	if httpMethod != "POST" || m.Response() {
		// The session is the caller's own; and a response answers what an admitted request of the caller began.
		return authz.MCPRead
	}
	switch m.Method {
	case "initialize", "ping", "server/discover", "logging/setLevel", "completion/complete", "subscriptions/listen",
		"tools/list", "prompts/list", "prompts/get",
		"resources/list", "resources/templates/list", "resources/read", "resources/subscribe", "resources/unsubscribe",
		"tasks/get", "tasks/list", "tasks/result",
		"notifications/initialized", "notifications/cancelled", "notifications/progress", "notifications/roots/list_changed":
		return authz.MCPRead
	}
	return authz.MCPCall
}

// named returns the name that a method acts on, as the body has it: which member it is in, and its value.
func named(m *wire.Message) (noun, name string, ok bool) {
	switch m.Method {
	case "tools/call":
		return "tool", m.Name, m.HasName
	case "prompts/get":
		return "prompt", m.Name, m.HasName
	case "resources/read", "resources/subscribe", "resources/unsubscribe":
		return "resource", m.URI, m.HasURI
	}
	return "", "", true
}

// needsName refuses a call that does not say of what: the guard could not judge it. Subscriptions pass without: revisions
// since 2026-07-28 have no such methods, and it is for the server to say so (404, -32601).
func needsName(m *wire.Message) error {
	noun, _, ok := named(m)
	if ok || strings.HasSuffix(m.Method, "subscribe") {
		return nil
	}
	member := "name"
	if noun == "resource" {
		member = "uri"
	}
	e := fault.New(fault.Invalid, "params.%s is missing or not a string", member)
	e.Code = wire.CodeInvalidParams
	return e
}

// resource returns the words by which the record names what is done.
func resource(server, httpMethod string, m *wire.Message) string {
	base := "server/" + clean(server, 64)
	switch {
	case httpMethod == "GET":
		return base + "/stream"
	case httpMethod == "DELETE":
		return base + "/session"
	case m.Response():
		return base + "/response"
	}
	if noun, name, _ := named(m); noun != "" {
		return base + "/" + noun + "/" + clean(name, maxResource)
	}
	return base + "/method/" + clean(m.Method, 64) // so that no method can pass for a tool: there may be one called tool/x
}

// maxResource bounds a tool's name or a resource's URI in a record, in bytes.
const maxResource = 256

// clean makes a name fit for a record: printable ASCII without spaces, of bounded length, and different for different
// names, so that no name can pass for another or break a line.
func clean(s string, limit int) string {
	q := s
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' }) {
		if len(q) > 4*limit { // bounds the work
			q = q[:4*limit]
		}
		q = strconv.QuoteToASCII(q)
		q = strings.ReplaceAll(q[1:len(q)-1], " ", `\x20`)
	}
	if len(q) <= limit && len(s) <= 4*limit {
		return q
	}
	sum := sha256.Sum256([]byte(s))
	return q[:min(len(q), limit-18)] + "…#" + hex.EncodeToString(sum[:7])
}

// agree holds the headers that repeat the body to it: a server, or a policy before it, may go by either.
func (c *call) agree() error {
	if err := c.agreeOn("Mcp-Method", c.msg.Method); err != nil {
		return err
	}
	_, name, _ := named(&c.msg)
	return c.agreeOn("Mcp-Name", name)
}

// agreeOn checks one header. An absent one is the server's matter, which knows the revision's rules.
func (c *call) agreeOn(header, want string) error {
	values := c.r.Header[header]
	if len(values) == 0 {
		return nil
	}
	got, ok := decodeValue(values[0])
	if len(values) == 1 && ok && got == want {
		return nil
	}
	e := fault.New(fault.Invalid, "the header %s does not say what the body says", header)
	e.Code = codeHeaderMismatch
	return e
}

// decodeValue reads a header value that may be written as =?base64?…?= since it is not plain ASCII.
func decodeValue(v string) (string, bool) {
	inner, ok := strings.CutPrefix(v, "=?base64?")
	if !ok {
		return v, true
	}
	inner, ok = strings.CutSuffix(inner, "?=")
	if !ok {
		return v, true
	}
	b, err := base64.StdEncoding.DecodeString(inner)
	return string(b), err == nil
}
