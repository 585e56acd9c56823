package peer

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"crypto/tls"

	"github.com/polygate/polygate/bench/backend"
)

// bearer is the value of Authorization for a tenant.
func (r *rig) bearer(tenant int) string { return "Bearer " + r.site.Tenants[tenant].Key }

// TestWebSocket echoes messages through every subject, with the tenant's key.
func TestWebSocket(t *testing.T) {
	each(t, func(t *testing.T, p Peer) {
		r := newRig(t, 3, KeyAuth)
		run := r.start(p)
		for i := range r.site.Tenants {
			c, resp, err := websocket.Dial(t.Context(), "wss://"+r.site.Tenants[i].Host+"/ws", &websocket.DialOptions{
				HTTPClient: r.client(run, i, false), HTTPHeader: http.Header{"Authorization": {r.bearer(i)}},
			})
			if err != nil {
				t.Fatalf("tenant %d: %v (%v)", i, err, resp)
			}
			for _, message := range []string{"hello", strings.Repeat("x", 20_000)} {
				if err := c.Write(t.Context(), websocket.MessageBinary, []byte(message)); err != nil {
					t.Fatal(err)
				}
				_, b, err := c.Read(t.Context())
				if want := r.site.Tenants[i].Canary + message; err != nil || string(b) != want {
					t.Errorf("tenant %d: read %.60q, %v, want %.60q", i, b, err, want)
				}
			}
			if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
				t.Errorf("tenant %d: close: %v", i, err)
			}
		}
	})
}

// TestEvents shows that events come as they are sent and not when the stream ends, in both HTTPs. The stream would last an hour.
func TestEvents(t *testing.T) {
	each(t, func(t *testing.T, p Peer) {
		r := newRig(t, 2, NoAuth)
		run := r.start(p)
		for _, http2 := range []bool{false, true} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			c := r.client(run, 1, http2)
			resp, err := c.Do(r.request("GET", 1, "/events?n=2&interval=1h", "", nil).WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(resp.Body)
			for lines.Scan() && !strings.HasPrefix(lines.Text(), "data:") {
			}
			if got := lines.Text(); !strings.Contains(got, r.site.Tenants[1].Canary) {
				t.Errorf("HTTP/2 %v: first event %q, %v", http2, got, lines.Err())
			}
			cancel()
			resp.Body.Close()
		}
	})
}

// TestGRPC calls every tenant with the ordinary client of gRPC, and shows that what a subject refuses does not reach the upstream.
func TestGRPC(t *testing.T) {
	each(t, func(t *testing.T, p Peer) {
		r := newRig(t, 3, KeyAuth)
		r.site.Upstream.H2C = true
		run := r.start(p)
		for i := range r.site.Tenants {
			c, err := grpc.NewClient("passthrough:///"+run.Addr(i), grpc.WithAuthority(r.site.Tenants[i].Host),
				grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: r.site.CA, ServerName: r.site.Tenants[i].Host})))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for range 3 {
				var out wrapperspb.BytesValue
				ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", r.bearer(i))
				if err := c.Invoke(ctx, backend.EchoMethod, wrapperspb.Bytes([]byte("hello")), &out); err != nil || !strings.Contains(string(out.GetValue()), r.site.Tenants[i].Canary) {
					t.Errorf("tenant %d: %.60q, %v", i, out.GetValue(), err)
				}
			}
			ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", r.bearer((i+1)%3))
			if err := c.Invoke(ctx, backend.EchoMethod, wrapperspb.Bytes(nil), new(wrapperspb.BytesValue)); status.Code(err) != codes.Unauthenticated {
				t.Errorf("tenant %d with a foreign key: %v, want Unauthenticated", i, err)
			}
			if wrong := r.right(r.do(r.client(run, i, true), r.request("GET", i, "/", "Authorization: "+r.bearer(i), nil)), i); wrong != "" {
				t.Errorf("tenant %d: HTTP beside gRPC: %s", i, wrong)
			}
		}
	})
}

// TestMCP calls a tool through every subject with the SDK's client.
func TestMCP(t *testing.T) {
	each(t, func(t *testing.T, p Peer) {
		r := newRig(t, 2, KeyAuth)
		run := r.start(p)
		for i := range r.site.Tenants {
			c := r.client(run, i, false)
			c.Transport = authorized{c.Transport, r.bearer(i)}
			session, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).Connect(t.Context(),
				&mcp.StreamableClientTransport{Endpoint: "https://" + r.site.Tenants[i].Host + "/mcp", HTTPClient: c}, nil)
			if err != nil {
				t.Fatal(err)
			}
			result, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "echo", Arguments: map[string]any{"text": "hello"}})
			if err != nil || len(result.Content) == 0 {
				t.Fatalf("tenant %d: %v, %v", i, result, err)
			}
			if text, ok := result.Content[0].(*mcp.TextContent); !ok || !strings.Contains(text.Text, r.site.Tenants[i].Canary) {
				t.Errorf("tenant %d: answer %v", i, result.Content[0])
			}
			if err := session.Close(); err != nil {
				t.Errorf("tenant %d: %v", i, err)
			}
		}
	})
}

// authorized shows a credential with every request.
type authorized struct {
	http.RoundTripper
	value string
}

func (a authorized) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", a.value)
	return a.RoundTripper.RoundTrip(r)
}
