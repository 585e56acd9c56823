package vgw_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/problem"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw"
	"github.com/polygate/polygate/vgw/sandbox"
	"github.com/polygate/polygate/vgw/sandbox/sandboxtest"
)

// stage is a sandbox.Drivers with a cluster in memory for each tenant.
type stage struct {
	mu   sync.Mutex
	of   map[tenant.Scope]*sandboxtest.Staged
	told []sandbox.Tenant // with which drivers were opened
	fail error            // Open fails with it
}

func newStage() *stage { return &stage{of: map[tenant.Scope]*sandboxtest.Staged{}} }

// Name implements sandbox.Drivers.
func (s *stage) Name() string { return "staged" }

// Open implements sandbox.Drivers.
func (s *stage) Open(t sandbox.Tenant) (sandbox.Driver, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, t)
	if s.fail != nil {
		return nil, s.fail
	}
	return s.cluster(t.Scope), nil
}

func (s *stage) cluster(scope tenant.Scope) *sandboxtest.Staged {
	if s.of[scope] == nil {
		s.of[scope] = sandboxtest.NewStaged()
	}
	return s.of[scope]
}

// tenant returns the cluster of a tenant, also before it is opened.
func (s *stage) tenant(w *world, id tenant.ID) *sandboxtest.Staged {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cluster(w.store.entry(id).Scope)
}

// withSandboxes has a world run sandboxes.
func withSandboxes(s *stage) func(*vgw.Config) {
	return func(c *vgw.Config) {
		c.Sandboxes = s
		c.SandboxRules = func(*tenant.Entry) sandbox.Rules { return stageRules() }
	}
}

func stageRules() sandbox.Rules {
	return sandbox.Rules{HostImage: true, Default: sandbox.Resources{CPU: 500, Memory: 512 << 20, Storage: 1 << 30}, MaxLifetime: 24 * time.Hour}
}

// entries returns the records of what principals did. What the platform does of its own accord comes when it comes.
func (w *world) entries() []audit.Entry {
	w.rec.mu.Lock()
	all := slices.Clone(w.rec.entries)
	w.rec.mu.Unlock()
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	return slices.DeleteFunc(append(all, w.store.entriesA...), func(e audit.Entry) bool { return e.Action == "sandbox.transition" })
}

func (w *world) forgetEntries() {
	w.rec.mu.Lock()
	w.rec.entries = nil
	w.rec.mu.Unlock()
	w.store.mu.Lock()
	w.store.entriesA = nil
	w.store.mu.Unlock()
}

// serveSocket is a small front for WebSockets. Where the connection cannot be taken over, the client is one that says nothing.
func serveSocket(rw http.ResponseWriter, r *http.Request, d *exchange.WebSocket) {
	if _, ok := rw.(http.Hijacker); !ok {
		c := &silentClient{}
		err := d.Handle(r.Context(), c)
		if err != nil && !c.begun {
			problem.Write(rw, err, "req-1")
			return
		}
		rw.WriteHeader(101)
		return
	}
	ws, err := websocket.Accept(rw, r, &websocket.AcceptOptions{Subprotocols: d.Subprotocols})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ws.SetReadLimit(d.MaxMessage)
	s := &socket{ws: ws, messages: make(chan said), done: make(chan struct{})}
	go s.receive()
	defer close(s.done)
	err = d.Handle(context.WithoutCancel(r.Context()), s)
	code, reason := websocket.StatusNormalClosure, ""
	if err != nil {
		code, reason = websocket.StatusPolicyViolation, fault.From(err).Detail
	}
	if moves := (*exchange.Reconnect)(nil); errors.As(err, &moves) {
		code = websocket.StatusServiceRestart
	}
	_ = ws.Close(code, reason)
}

// socket is a WebSocket as handlers see it. A Read that is given up does not end the connection.
type socket struct {
	ws       *websocket.Conn
	messages chan said
	done     chan struct{}
}

type said struct {
	binary bool
	bytes  []byte
	err    error
}

func (s *socket) receive() {
	for {
		kind, p, err := s.ws.Read(context.Background())
		if websocket.CloseStatus(err) == websocket.StatusNormalClosure {
			err = io.EOF
		}
		select {
		case s.messages <- said{kind == websocket.MessageBinary, p, err}:
		case <-s.done:
			return
		}
		if err != nil {
			return
		}
	}
}

func (s *socket) Read(ctx context.Context) (bool, []byte, error) {
	select {
	case m := <-s.messages:
		return m.binary, m.bytes, m.err
	case <-ctx.Done():
		return false, nil, context.Cause(ctx)
	}
}

func (s *socket) Write(ctx context.Context, binary bool, p []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return s.ws.Write(context.WithoutCancel(ctx), websocket.MessageBinary, p)
}

func (s *socket) Subprotocol() string { return s.ws.Subprotocol() }

func (s *socket) Close(code int, reason string) error {
	return s.ws.Close(websocket.StatusCode(code), reason)
}

// silentClient says nothing, and takes everything.
type silentClient struct{ begun bool }

func (c *silentClient) Read(ctx context.Context) (bool, []byte, error) {
	<-ctx.Done()
	return false, nil, context.Cause(ctx)
}
func (c *silentClient) Write(context.Context, bool, []byte) error { c.begun = true; return nil }
func (c *silentClient) Subprotocol() string                       { return "polygate.exec.v1" }
func (c *silentClient) Close(int, string) error                   { return nil }

// sandboxed is a world in which alice, an editor, has the sandbox "hers", and "other" belongs to an admin. bob is a viewer.
func sandboxed(t testing.TB, edit ...func(*vgw.Config)) (*world, *stage) {
	t.Helper()
	s := newStage()
	w := full(t, append([]func(*vgw.Config){withSandboxes(s)}, edit...)...)
	w.run(t)
	w.store.add("team-a")
	w.corp("team-a", map[string]tenant.Role{"user:alice": tenant.Editor, "user:bob": tenant.Viewer, "user:carol": tenant.Editor})
	w.makeSandbox(t, w.user("team-a", "corp", "alice"), `{"name":"hers","command":["sleep","1h"],"env":[{"name":"TOKEN","value":"of alice"}],"labels":{"team":"red"}}`)
	w.makeSandbox(t, w.principal("team-a", tenant.Admin), `{"name":"other","command":["sleep","1h"],"labels":{"team":"blue"}}`)
	return w, s
}

// makeSandbox makes a sandbox, waits until it runs, and returns it.
func (w *world) makeSandbox(t testing.TB, p tenant.Principal, body string) map[string]any {
	t.Helper()
	made := w.must(t, "team-a", p, post("/api/v1/sandboxes", body), 201)
	return w.awaits(t, p, made["id"].(string), "running")
}

// awaits waits until a sandbox is where it is waited for, and returns it.
func (w *world) awaits(t testing.TB, p tenant.Principal, name, goal string) map[string]any {
	t.Helper()
	got := w.must(t, "team-a", p, get("/api/v1/sandboxes/"+name+"/wait?timeout=20&for="+goal), 200)
	if got["reached"] != true {
		t.Fatalf("%s is not %s: %v", name, goal, got)
	}
	s, _ := got["sandbox"].(map[string]any)
	return s
}

// eventually waits until something is so that nobody tells of.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	over := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-over:
			t.Fatalf("in 20 s it is not so that %s", what)
		}
	}
}
