package client

import (
	"context"
	"crypto/tls"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/polygate/polygate/bench/backend"
	"github.com/polygate/polygate/bench/scenario"
)

// echo is a gRPC service as grpc-go serves it.
type echo struct {
	fail atomic.Uint32 // the code to fail with; 0 = answer
	got  atomic.Int64  // bytes of the last request
}

// description is what protoc would have made of it.
func (e *echo) description() *grpc.ServiceDesc {
	call := func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := new(wrapperspb.BytesValue)
		if err := decode(in); err != nil {
			return nil, err
		}
		e.got.Store(int64(len(in.GetValue())))
		if code := codes.Code(e.fail.Load()); code != codes.OK {
			return nil, status.Error(code, "not today")
		}
		return wrapperspb.Bytes([]byte(backend.Canary(seed, 0) + strings.Repeat("x", 500))), nil
	}
	return &grpc.ServiceDesc{
		ServiceName: "polybench.Echo", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Call", Handler: call}},
	}
}

// serveGRPC starts grpc-go's own server.
func serveGRPC(t *testing.T, l *lab, e *echo) Tenant {
	t.Helper()
	const host = "t0.bench.test"
	conf := &tls.Config{Certificates: []tls.Certificate{l.certificate(t, host, time.Now().Add(time.Hour))}}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(conf)))
	s.RegisterService(e.description(), nil)
	ln := listen(t)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return Tenant{Name: "t0", Host: host, Addr: ln.Addr().String(), Canary: backend.Canary(seed, 0)}
}

// TestGRPCOfGRPC calls grpc-go's server, which answers and fails as the real ones do.
func TestGRPCOfGRPC(t *testing.T) {
	l, e := newLab(t), new(echo)
	tenant := serveGRPC(t, l, e)
	conf := loadOf(scenario.GRPC)
	conf.BodyBytes = 100_000 // more than a window
	caller := newCaller(t, newClient(t, Config{Load: conf, Tenants: []Tenant{tenant}, Roots: l.roots}))
	for range 30 {
		if err := call(t, caller, 0); err != nil {
			t.Fatal(err)
		}
	}
	if got := e.got.Load(); got != 100_000 {
		t.Errorf("the server got %d bytes, want 100000", got)
	}
	for code, want := range map[codes.Code]string{codes.Unavailable: "grpc Unavailable", codes.PermissionDenied: "grpc PermissionDenied", 99: "grpc unknown"} {
		e.fail.Store(uint32(code))
		err := call(t, caller, 0)
		if got := classOf(err); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if err != nil && !strings.Contains(err.Error(), "not today") {
			t.Errorf("got %v, want the server's message", err)
		}
	}
	e.fail.Store(0)
	conf.Path = "/polybench.Echo/Missing"
	if got := classOf(call(t, newCaller(t, newClient(t, Config{Load: conf, Tenants: []Tenant{tenant}, Roots: l.roots})), 0)); got != "grpc Unimplemented" {
		t.Errorf("got %q, want grpc Unimplemented", got)
	}
}

// mcpServer is a server of the official SDK with the tool echo.
func mcpServer(fail *atomic.Bool) *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	type in struct {
		Text string `json:"text"`
	}
	mcp.AddTool(s, &mcp.Tool{Name: "echo"}, func(_ context.Context, _ *mcp.CallToolRequest, v in) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{
			IsError: fail.Load(), Content: []mcp.Content{&mcp.TextContent{Text: backend.Canary(seed, 0) + v.Text}},
		}, nil, nil
	})
	return s
}

// TestMCPOfTheSDK calls the SDK's server, with answers as JSON and as streams, with sessions and without.
func TestMCPOfTheSDK(t *testing.T) {
	l := newLab(t)
	for name, opts := range map[string]*mcp.StreamableHTTPOptions{
		"stream": {}, "JSON": {JSONResponse: true}, "no session": {Stateless: true}, "no session, JSON": {Stateless: true, JSONResponse: true},
	} {
		t.Run(name, func(t *testing.T) {
			var fail atomic.Bool
			server := mcpServer(&fail)
			var deleted, initialized atomic.Int64
			opts.DisableLocalhostProtection = true // a tenant's host is not localhost
			h := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, opts)
			tenant := serve(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Method == http.MethodDelete:
					deleted.Add(1)
				case r.Header.Get("Mcp-Protocol-Version") == "":
					initialized.Add(1)
				}
				h.ServeHTTP(w, r)
			}))
			conf := loadOf(scenario.MCP)
			conf.BodyBytes = 500
			var handshakes atomic.Int64
			c := newClient(t, Config{Load: conf, Tenants: []Tenant{tenant}, Roots: l.roots, Handshake: func(time.Duration) { handshakes.Add(1) }})
			caller := newCaller(t, c)
			for range 5 {
				if err := call(t, caller, 0); err != nil {
					t.Fatal(err)
				}
			}
			if i, h := initialized.Load(), handshakes.Load(); i != 1 || h != 1 {
				t.Errorf("got %d sessions on %d connections, want one on one", i, h)
			}
			fail.Store(true)
			if got := classOf(call(t, caller, 0)); got != "mcp tool error" {
				t.Errorf("a tool that fails: got %q", got)
			}
			c.Close()
			if want := int64(1); !opts.Stateless && deleted.Load() != want {
				t.Errorf("got %d sessions ended, want %d", deleted.Load(), want)
			}
		})
	}
}

// TestAForgottenMCPSessionIsAnErrorOnce restarts a server: the first call finds its session gone, and the next begins another.
func TestAForgottenMCPSessionIsAnErrorOnce(t *testing.T) {
	l := newLab(t)
	var current atomic.Pointer[mcp.StreamableHTTPHandler]
	restart := func() {
		server := mcpServer(new(atomic.Bool))
		t.Cleanup(func() {
			for s := range server.Sessions() {
				_ = s.Close()
			}
		})
		opts := &mcp.StreamableHTTPOptions{DisableLocalhostProtection: true}
		current.Store(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, opts))
	}
	restart()
	tenant := serve(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { current.Load().ServeHTTP(w, r) }))
	caller := newCaller(t, newClient(t, Config{Load: loadOf(scenario.MCP), Tenants: []Tenant{tenant}, Roots: l.roots}))
	for i, want := range []string{"", "status 404", ""} {
		if i == 1 {
			restart()
		}
		if got := classOf(call(t, caller, 0)); got != want {
			t.Errorf("call %d: got %q, want %q", i, got, want)
		}
	}
}
