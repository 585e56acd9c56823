package vgw_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/polygate/polygate/internal/tenant"
)

type echoArgs struct {
	Message string `json:"message"`
}

// everything is a real MCP server of both eras: the stateful handler for legacy requests, the stateless one for the rest.
func everything(name string) http.Handler {
	s := mcp.NewServer(&mcp.Implementation{Name: name, Version: "1"}, nil)
	mcp.AddTool(s, &mcp.Tool{Name: "echo"}, func(_ context.Context, _ *mcp.CallToolRequest, in echoArgs) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: name + " says " + in.Message}}}, nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "progress"}, func(ctx context.Context, r *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
		for i := range 3 {
			if err := r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Progress: float64(i)}); err != nil {
				return nil, nil, err
			}
		}
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "done"}}}, nil, nil
	})
	mcp.AddTool(s, &mcp.Tool{Name: "ask"}, func(ctx context.Context, r *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
		res, err := r.Session.Elicit(ctx, &mcp.ElicitParams{Message: "sure?"})
		if err != nil {
			return nil, nil, err
		}
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: res.Action}}}, nil, nil
	})
	get := func(*http.Request) *mcp.Server { return s }
	stateful := mcp.NewStreamableHTTPHandler(get, &mcp.StreamableHTTPOptions{})
	stateless := mcp.NewStreamableHTTPHandler(get, &mcp.StreamableHTTPOptions{Stateless: true})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Mcp-Protocol-Version") >= "2026-07-28" {
			stateless.ServeHTTP(w, r)
			return
		}
		stateful.ServeHTTP(w, r)
	})
}

// connect returns a session of the real client; without opts, one that keeps no stream open beside its calls.
func connect(t *testing.T, endpoint, version string, opts *mcp.ClientOptions) *mcp.ClientSession {
	t.Helper()
	client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, opts)
	hc := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(hc.CloseIdleConnections)
	transport := &mcp.StreamableClientTransport{Endpoint: endpoint, HTTPClient: hc, MaxRetries: -1, DisableStandaloneSSE: opts == nil}
	s, err := client.Connect(t.Context(), transport, &mcp.ClientSessionOptions{ProtocolVersion: version})
	if err != nil {
		t.Fatalf("connect with %s: %v", version, err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func text(t *testing.T, r *mcp.CallToolResult, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return r.Content[0].(*mcp.TextContent).Text
}

func TestRealClients(t *testing.T) {
	for _, version := range []string{"2025-03-26", "2025-11-25", "2026-07-28"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t)
			w.store.add("team-a")
			w.addServer(t, "team-a", "real", upstream(t, everything("real"))+"/mcp")
			host := w.serve(t, "team-a", w.principal("team-a", tenant.Editor))
			progress := make(chan float64, 10)
			s := connect(t, host+"/servers/real/mcp", version, &mcp.ClientOptions{
				ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) { progress <- r.Params.Progress },
				ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
					return &mcp.ElicitResult{Action: "accept", Content: map[string]any{}}, nil
				},
			})
			if got := s.InitializeResult().ProtocolVersion; got != version {
				t.Errorf("negotiated %s", got)
			}
			tools, err := s.ListTools(t.Context(), nil)
			if err != nil || len(tools.Tools) != 3 {
				t.Fatalf("tools: %v, %v", tools, err)
			}
			r, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "echo", Arguments: echoArgs{"hi"}})
			if got := text(t, r, err); got != "real says hi" {
				t.Errorf("echo: %q", got)
			}
			params := &mcp.CallToolParams{Name: "progress"}
			params.SetProgressToken("p1")
			r, err = s.CallTool(t.Context(), params)
			if got := text(t, r, err); got != "done" {
				t.Errorf("progress: %q", got)
			}
			for range 3 {
				select {
				case <-progress:
				case <-time.After(10 * time.Second):
					t.Fatal("a progress notification is missing")
				}
			}
			if version == "2025-11-25" { // a request of the server to the client, and its answer
				r, err = s.CallTool(t.Context(), &mcp.CallToolParams{Name: "ask"})
				if got := text(t, r, err); got != "accept" {
					t.Errorf("ask: %q", got)
				}
			}
		})
	}
}

// A session is one principal's, outlives the gateway, and is unknown to everybody else.
func TestRealSession(t *testing.T) {
	w := newWorld(t)
	e := w.store.add("team-a")
	w.store.add("team-b")
	url := upstream(t, everything("real"))
	w.addServer(t, "team-a", "real", url)
	w.addServer(t, "team-b", "real", url)
	owner := w.principal("team-a", tenant.Editor)
	s := connect(t, w.serve(t, "team-a", owner)+"/servers/real/mcp", "2025-11-25", nil)
	w.store.lose(e.Scope) // as after a restart
	r, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "echo", Arguments: echoArgs{"again"}})
	if got := text(t, r, err); got != "real says again" {
		t.Errorf("after the gateway was opened anew: %q", got)
	}
	use := func(id tenant.ID, p tenant.Principal, session string) answer {
		return w.do(id, p, request{method: "POST", path: "/servers/real/mcp", body: `{"jsonrpc":"2.0","id":1,"method":"ping"}`, header: map[string]string{"Mcp-Session-Id": session}})
	}
	if got := use("team-a", owner, s.ID()); got.status != 200 {
		t.Errorf("the owner: %d %s", got.status, got.body)
	}
	for name, got := range map[string]answer{
		"another principal": use("team-a", w.principal("team-a", tenant.Admin), s.ID()),
		"another tenant":    use("team-b", w.principal("team-b", tenant.Editor), s.ID()),
		"a made-up session": use("team-a", owner, "AXYZ"),
	} {
		if got.status != 404 || got.body != use("team-a", owner, "none").body {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	if got := w.do("team-a", owner, request{method: "DELETE", path: "/servers/real/mcp", header: map[string]string{"Mcp-Session-Id": s.ID()}}); got.status != 204 {
		t.Errorf("end: %d %s", got.status, got.body)
	}
	if got := use("team-a", owner, s.ID()); got.status != 404 {
		t.Errorf("after its end: %d %s", got.status, got.body)
	}
}

// What a catalog server may do wrong, as the client sees it.
func TestBadUpstreams(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")
	hang := make(chan struct{})
	slow := upstream(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() { close(hang) }) // before the server is closed, which waits for the handler
	web := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte("<html>hello")) }))
	moved := upstream(t, http.RedirectHandler("http://10.1.2.3/secret", http.StatusTemporaryRedirect))
	locked := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("WWW-Authenticate", `Bearer realm="theirs"`)
		rw.WriteHeader(401)
	}))
	if got := w.as(tenant.Admin, "team-a", request{method: "POST", path: "/api/v1/servers", body: `{"name":"slow","url":"` + slow + `","timeout_seconds":1}`}); got.status != 201 {
		t.Fatal(got.body)
	}
	for name, url := range map[string]string{"down": "http://127.0.0.1:1/", "web": web, "moved": moved, "locked": locked} {
		w.addServer(t, "team-a", name, url)
	}
	for name, want := range map[string]struct {
		status int
		says   string
	}{
		"down": {502, "could not be reached"}, "slow": {504, "in time"}, "web": {502, "not an MCP server"},
		"moved": {502, "redirect"}, "locked": {502, "refused the gateway's credential"},
	} {
		got := w.as(tenant.Editor, "team-a", request{method: "POST", path: "/servers/" + name + "/mcp", body: `{"jsonrpc":"2.0","id":"q","method":"ping"}`})
		if got.status != want.status || !strings.Contains(got.body, want.says) || !strings.HasPrefix(got.body, `{"jsonrpc":"2.0","id":"q","error":`) {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
		for _, leak := range []string{"10.1.2.3", "theirs", "127.0.0.1"} {
			if strings.Contains(got.body, leak) || got.header.Get("Www-Authenticate") != "" || got.header.Get("Location") != "" {
				t.Errorf("%s tells of its upstream: %v %s", name, got.header, got.body)
			}
		}
	}
}

// Events are passed on as they come: the second is not sent before the first was received.
func TestEventsAreNotHeldBack(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")
	next := make(chan struct{})
	url := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/event-stream")
		for range 3 {
			_, _ = rw.Write([]byte("data: {}\n\n"))
			_ = http.NewResponseController(rw).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
	}))
	w.addServer(t, "team-a", "s", url)
	host := w.serve(t, "team-a", w.principal("team-a", tenant.Editor))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, host+"/servers/s/mcp", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for range 3 {
		event := make([]byte, len("data: {}\n\n"))
		if n, err := res.Body.Read(event); err != nil && !errors.Is(err, context.Canceled) || n == 0 {
			t.Fatalf("event: %d %v", n, err)
		}
		next <- struct{}{}
	}
}
