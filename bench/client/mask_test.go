package client

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/polygate/polygate/bench/scenario"
)

// TestErrorsKeepTheToken has a server echo the credential in every place that errors quote.
func TestErrorsKeepTheToken(t *testing.T) {
	l := newLab(t)
	const token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJiZW5jaCJ9.c2lnbmF0dXJl"
	said := "you sent " + token
	long := strings.Repeat("x", 180) + token // which an excerpt cuts
	answer := func(status, kind, body string) string {
		return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", status, kind, len(body), body)
	}
	const kind = "application/json"
	mcp := scenario.Load{Protocol: scenario.MCP, Path: "/mcp"}
	for name, v := range map[string]struct {
		load   scenario.Load
		answer string
		want   string
	}{
		"status":        {scenario.Load{}, answer("401 Unauthorized", kind, said), "status 401"},
		"long":          {scenario.Load{}, answer("401 Unauthorized", kind, long), "status 401"},
		"content":       {scenario.Load{}, answer("200 OK", kind, said), "wrong answer"},
		"header":        {scenario.Load{}, "HTTP/1.1 200 OK\r\n" + token + "\r\n\r\n", ""},
		"status line":   {scenario.Load{}, token + "\r\n\r\n", "malformed"},
		"content type":  {scenario.Load{Protocol: scenario.SSE}, answer("200 OK", token, said), "wrong answer"},
		"MCP, content":  {mcp, answer("200 OK", kind, said), "wrong answer"},
		"MCP, id":       {mcp, answer("200 OK", kind, `{"id":"`+said+`"}`), "wrong answer"},
		"MCP, error":    {mcp, answer("200 OK", kind, `{"id":1,"error":{"code":1,"message":"`+said+`"}}`), "mcp error 1"},
		"no WebSocket":  {scenario.Load{Protocol: scenario.WebSocket}, answer("401 Unauthorized", kind, said), "status 401"},
		"of the socket": {scenario.Load{Protocol: scenario.WebSocket}, "HTTP/1.1 101 Switching Protocols\r\nConnection: " + token + "\r\n\r\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			tenant := raw(t, l, func(_ int, c net.Conn) {
				if readRequest(bufio.NewReader(c)) {
					_, _ = io.WriteString(c, v.answer)
				}
			})
			c := newClient(t, Config{Load: v.load, Credential: brokenSource{token}, Tenants: []Tenant{tenant}, Roots: l.roots})
			err := call(t, newCaller(t, c), 0)
			if got := classOf(err); err == nil || v.want != "" && got != v.want {
				t.Fatalf("got %v, want %q", err, v.want)
			}
			for i := range len(token) - 8 {
				if strings.Contains(err.Error(), token[i:i+8]) {
					t.Fatalf("%q holds a piece of the token", err)
				}
			}
		})
	}
}

// TestErrorsOfGRPCKeepTheToken is of the message beside a status.
func TestErrorsOfGRPCKeepTheToken(t *testing.T) {
	l := newLab(t)
	tenant := serve(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", "16")
		w.Header().Set("Grpc-Message", "you sent "+r.Header.Get("Authorization"))
	}))
	const token = "a-token-of-some-length"
	err := call(t, newCaller(t, newClient(t, Config{Load: loadOf(scenario.GRPC), Credential: brokenSource{token}, Tenants: []Tenant{tenant}, Roots: l.roots})), 0)
	if classOf(err) != "grpc Unauthenticated" || !strings.Contains(err.Error(), "you sent Bearer [masked]") {
		t.Errorf("got %v, want the token masked", err)
	}
}

// TestTheTokenBeforeIsMaskedToo: a request that began before a renewal echoes it after.
func TestTheTokenBeforeIsMaskedToo(t *testing.T) {
	var one target
	for _, token := range []string{"the-first-token", "a-second-one", "a-third-secret"} {
		one.show(token)
	}
	if got, want := one.mask("a-second-one a-third-secret"), "[masked] [masked]"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
