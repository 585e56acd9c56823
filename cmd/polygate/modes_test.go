package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// ownGateway is a tenant's own gateway, as it runs today without us: it says what it was asked and echoes a WebSocket.
func ownGateway(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "websocket" {
			echo(w, r)
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"method": r.Method, "uri": r.RequestURI, "host": r.Host, "header": r.Header, "body": string(b)})
	}))
	t.Cleanup(s.Close)
	return s
}

func echo(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(32 << 20)
	for {
		kind, b, err := c.Read(r.Context())
		if err != nil || c.Write(r.Context(), kind, b) != nil {
			return
		}
	}
}

// seen is what ownGateway says.
type seen struct {
	Method, URI, Host, Body string
	Header                  http.Header
}

// ask sends a request that must reach the tenant's own gateway.
func ask(t *testing.T, c *http.Client, method, url string, body any, headers ...string) seen {
	t.Helper()
	got := do(c, method, url, body, headers...)
	var s seen
	if err := json.Unmarshal(got.Body, &s); err != nil || got.Status != 200 {
		t.Fatalf("%s %s: %d %s %v", method, url, got.Status, got.Body, got.Err)
	}
	return s
}

// TestDedicatedTenants runs tenants whose own gateways stay: with their own authentication, and with ours. A change of mode
// takes effect within a second, and back.
func TestDedicatedTenants(t *testing.T) {
	up := ownGateway(t)
	g := newGateway(t, fmt.Sprintf(`
tenants:
  - {id: team-a}
  - {id: team-b}
  - {id: own-auth, mode: dedicated, dedicated: {upstream: %[1]q, auth: upstream}}
  - {id: our-auth, mode: dedicated, dedicated: {upstream: %[1]q, auth: gateway, identity: X-Gw-User}}
`, up.URL))
	g.start()
	c := g.client()
	host := func(id string) string { return strings.Replace(g.env["TEAM_A_URL"], "team-a", id, 1) }

	t.Run("auth upstream", func(t *testing.T) {
		s := ask(t, c, "POST", host("own-auth")+"/any/path?q=1&q=2", "payload", "Authorization", "Bearer theirs", "Cookie", "sid=1", "X-Forwarded-For", "6.6.6.6", "X-Gw-User", "kept")
		if s.URI != "/any/path?q=1&q=2" || s.Body != "payload" || s.Header.Get("Authorization") != "Bearer theirs" || s.Header.Get("Cookie") != "sid=1" {
			t.Errorf("reached it as %+v", s)
		}
		if f := s.Header.Values("X-Forwarded-For"); len(f) != 1 || f[0] != "127.0.0.1" {
			t.Errorf("X-Forwarded-For: %q", f)
		}
	})
	t.Run("auth gateway", func(t *testing.T) {
		if got := do(c, "GET", host("our-auth")+"/x", nil); got.Status != 401 {
			t.Errorf("without a key: %d %s", got.Status, got.Body)
		}
		if got := do(c, "GET", host("our-auth")+"/x", nil, bearer(g.env["TEAM_A_KEY"])...); got.Status != 401 {
			t.Errorf("with team-a's key: %d %s", got.Status, got.Body)
		}
		key := g.newKey(t, c, "our-auth", "editor")
		s := ask(t, c, "GET", host("our-auth")+"/x", nil, append(bearer(key), "x-gw-user", "admin", "X_Gw_User", "admin")...)
		if u := s.Header.Values("X-Gw-User"); len(u) != 1 || u[0] != "k-editor" || s.Header.Get("X_Gw_User") != "" || s.Header.Get("Authorization") != "" {
			t.Errorf("reached it with %v", s.Header)
		}
	})
	t.Run("WebSocket", func(t *testing.T) { g.webSocketThrough(t, host("own-auth"), "") })
	t.Run("revocation ends a WebSocket", func(t *testing.T) {
		key := g.newKey(t, c, "our-auth", "admin")
		ws := g.webSocketThrough(t, host("our-auth"), key)
		g.endsWithinASecond(t, func() {
			if got := g.operator(c, "DELETE", "/api/v1/tenants/our-auth/keys/k-admin", nil); got.Status != 204 {
				t.Fatalf("revoke: %d %s", got.Status, got.Body)
			}
		}, func(ctx context.Context) error { _, _, err := ws.Read(ctx); return err })
	})
	t.Run("mode change", func(t *testing.T) {
		key := g.env["TEAM_B_KEY"]
		g.write("tenants.yaml", fmt.Sprintf("tenants:\n  - {id: team-a}\n  - {id: team-b, mode: dedicated, dedicated: {upstream: %q, auth: upstream}}\n", up.URL))
		eventually(t, "team-b is dedicated", func() bool {
			got := do(c, "GET", g.env["TEAM_B_URL"]+"/servers", nil, bearer(key)...)
			return got.Status == 200 && strings.Contains(string(got.Body), `"uri":"/servers"`)
		})
		if got := do(c, "GET", g.env["SHARED_URL"]+"/tenant/team-b/api/v1/whoami", nil, bearer(key)...); got.Status != 200 || strings.Contains(string(got.Body), `"uri"`) {
			t.Errorf("our own surface on the shared host: %d %s", got.Status, got.Body)
		}
		if got := do(c, "GET", host("own-auth")+"/x", nil); got.Status != 503 {
			t.Errorf("a tenant that vanished from the file: %d %s", got.Status, got.Body)
		}
		g.write("tenants.yaml", twoTenants)
		eventually(t, "team-b is virtual again", func() bool {
			got := do(c, "GET", g.env["TEAM_B_URL"]+"/servers", nil, bearer(key)...)
			return got.Status == 200 && strings.Contains(string(got.Body), `"items"`)
		})
	})
}

// newKey makes a key named k-<role> and returns it.
func (g *gateway) newKey(t *testing.T, c *http.Client, tenant, role string) string {
	t.Helper()
	made := g.operator(c, "POST", "/api/v1/tenants/"+tenant+"/keys", map[string]string{"name": "k-" + role, "role": role})
	var k struct{ Key string }
	if err := json.Unmarshal(made.Body, &k); err != nil || made.Status != 201 || k.Key == "" {
		t.Fatalf("key create: %d %s", made.Status, made.Body)
	}
	return k.Key
}

// webSocketThrough opens a WebSocket and sends a frame of 25 MiB both ways.
func (g *gateway) webSocketThrough(t *testing.T, host, key string) *websocket.Conn {
	t.Helper()
	head := http.Header{}
	if key != "" {
		head.Set("Authorization", "Bearer "+key)
	}
	tr := g.transport()
	tr.ForceAttemptHTTP2 = false
	tr.Protocols = new(http.Protocols)
	tr.Protocols.SetHTTP1(true)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, strings.Replace(host, "https", "wss", 1)+"/socket", &websocket.DialOptions{HTTPClient: &http.Client{Transport: tr}, HTTPHeader: head})
	if err != nil {
		t.Fatalf("dial: %v %v", err, resp)
	}
	t.Cleanup(func() { ws.CloseNow() })
	ws.SetReadLimit(32 << 20)
	frame := strings.Repeat("0123456789abcdef", 25<<20/16)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := ws.Write(ctx, websocket.MessageBinary, []byte(frame)); err != nil {
			t.Errorf("write: %v", err)
		}
	})
	_, b, err := ws.Read(ctx)
	wg.Wait()
	if err != nil || string(b) != frame {
		t.Fatalf("echo: %d bytes, %v", len(b), err)
	}
	return ws
}

// endsWithinASecond runs cause and holds that read, which blocks on a stream, then fails within a second.
func (g *gateway) endsWithinASecond(t *testing.T, cause func(), read func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- read(ctx) }()
	select {
	case err := <-ended:
		t.Fatalf("the stream ended before its time: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	cause()
	began := time.Now()
	if err := <-ended; err == nil || ctx.Err() != nil {
		t.Fatalf("the stream still lives: %v", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("the stream ended after %s", took)
	}
}

// TestRevocationEndsStreams opens the event stream of a real MCP session and revokes its key, suspends its tenant, deletes it.
func TestRevocationEndsStreams(t *testing.T) {
	g := newGateway(t, twoTenants)
	g.start()
	c, endpoint := g.client(), startMCP(t)
	for _, end := range []struct {
		what, method, path string
		body               any
	}{
		{"key revoked", "DELETE", "/keys/k-admin", nil},
		{"tenant suspended", "POST", "/suspend", map[string]string{"reason": "test"}},
		{"tenant deleted", "DELETE", "", nil},
	} {
		t.Run(end.what, func(t *testing.T) {
			id := strings.ReplaceAll(end.what, " ", "-")
			if got := g.operator(c, "POST", "/api/v1/tenants", map[string]any{"id": id}); got.Status != 201 {
				t.Fatalf("create: %d %s", got.Status, got.Body)
			}
			head := append(bearer(g.newKey(t, c, id, "admin")), "Accept", "application/json, text/event-stream")
			base := g.env["SHARED_URL"] + "/tenant/" + id
			if got := do(c, "POST", base+"/api/v1/servers", map[string]any{"name": "s", "url": endpoint}, head...); got.Status != 201 {
				t.Fatalf("server: %d %s", got.Status, got.Body)
			}
			session := do(c, "POST", base+"/servers/s/mcp", initialize, head...).Header.Get("Mcp-Session-Id")
			req, err := http.NewRequest("GET", base+"/servers/s/mcp", nil)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i+1 < len(head); i += 2 {
				req.Header.Set(head[i], head[i+1])
			}
			req.Header.Set("Mcp-Session-Id", session)
			resp, err := c.Do(req)
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("stream: %v %v", resp, err)
			}
			defer resp.Body.Close()
			g.endsWithinASecond(t, func() {
				if got := g.operator(c, end.method, "/api/v1/tenants/"+id+end.path, end.body); got.Status >= 300 {
					t.Fatalf("%s: %d %s", end.what, got.Status, got.Body)
				}
			}, func(context.Context) error {
				_, err := io.Copy(io.Discard, resp.Body)
				if err == nil {
					err = io.EOF
				}
				return err
			})
		})
	}
}
