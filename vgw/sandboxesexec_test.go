package vgw_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw"
	"github.com/polygate/polygate/vgw/sandbox"
	"github.com/polygate/polygate/vgw/sandbox/sandboxtest"
)

func TestSandboxExecOnce(t *testing.T) {
	w, _ := sandboxed(t, func(c *vgw.Config) { c.SandboxLimits.MaxExecOutput = 64 })
	alice := w.user("team-a", "corp", "alice")
	for _, tc := range []struct{ body, want string }{
		{`{"command":["echo","hello","you"]}`, `{"exit_code":0,"stdout":"hello you\n","stderr":""}`},
		{`{"command":["stderr","oh"]}`, `{"exit_code":0,"stdout":"","stderr":"oh\n"}`},
		{`{"command":["exit","7"]}`, `{"exit_code":7,"stdout":"","stderr":""}`},
		{`{"command":["cat"],"stdin":"in and out"}`, `{"exit_code":0,"stdout":"in and out","stderr":""}`},
		{`{"command":["cat"],"stdin_base64":"//4="}`, `{"exit_code":0,"stdout_base64":"//4=","stderr":""}`},
		{`{"command":["cat"]}`, `{"exit_code":0,"stdout":"","stderr":""}`},
		{`{"command":["env"],"env":[{"name":"X","value":"y"}]}`, `{"exit_code":0,"stdout":"TOKEN=of alice\nX=y\n","stderr":""}`},
		{`{"command":["cat"],"stdin":"` + strings.Repeat("a", 63) + `€"}`, `{"exit_code":0,"stdout":"` + strings.Repeat("a", 63) + `","stderr":"","truncated":true}`},
		{`{"command":["sleep","1h"],"timeout_seconds":1}`, `{"exit_code":124,"stdout":"","stderr":"","timed_out":true}`},
	} {
		got := w.do("team-a", alice, post(hers+"/exec", tc.body))
		if got.status != 200 || got.body != tc.want+"\n" {
			t.Errorf("%.60s: %d %s, want %s", tc.body, got.status, got.body, tc.want)
		}
	}
	for body, says := range map[string]string{
		`{}`: "command", `{"command":[]}`: "command", `{"command":[""]}`: "command", `{"command":["a\u0000b"]}`: "command[0]", `{"command":["a"],"stdin":"a","stdin_base64":"YQ=="}`: "stdin",
		`{"command":["a"],"stdin_base64":"!"}`: "base64", `{"command":["a"],"timeout_seconds":3601}`: "3600", `{"command":["a"],"timeout_seconds":-1}`: "3600",
		`{"command":["a"],"env":[{"name":"A=","value":""}]}`: "env[0]", `{"command":["a"],"env":[{"name":"","value":""}]}`: "env[0]", `{"command":["a"],"tty":true}`: "tty",
		`{"command":["` + strings.Repeat("a", 1<<17) + `"]}`: "131072",
	} {
		w.says(t, "team-a", alice, post(hers+"/exec", body), 400, says)
	}
	if e := w.rec.last(t, "sandbox.exec"); e.Resource != "sandbox/hers/exec/sleep" || e.Principal != "user:corp/alice" {
		t.Errorf("recorded %+v", e)
	}
}

func TestSandboxLogs(t *testing.T) {
	w, stage := sandboxed(t)
	alice := w.user("team-a", "corp", "alice")
	made := w.must(t, "team-a", alice, post("/api/v1/sandboxes", `{"name":"lines","command":["lines","5"]}`), 201)
	w.awaits(t, alice, "lines", "stopped")
	_ = made
	for query, want := range map[string]string{
		"": "line 1\nline 2\nline 3\nline 4\nline 5\n", "?tail=2": "line 4\nline 5\n", "?tail=0": "", "?limit_bytes=6": "line 1", "?follow=1&tail=1": "line 5\n",
	} {
		got := w.do("team-a", alice, get("/api/v1/sandboxes/lines/logs"+query))
		if got.status == 404 { // nothing is left of the run
			continue
		}
		if got.status != 200 || got.body != want || got.header.Get("Content-Type") != "text/plain; charset=utf-8" || got.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v %q, want %q", query, got.status, got.header, got.body, want)
		}
	}
	for query, says := range map[string]string{"tail=-1": "tail", "since=yesterday": "since", "since=-5m": "since", "follow=yes": "follow", "limit_bytes=0": "limit_bytes", "lines=1": "tail"} {
		w.says(t, "team-a", alice, get(hers+"/logs?"+query), 400, says)
	}
	stage.tenant(w, "team-a").Fail = nil
	base := w.serve(t, "team-a", alice)
	w.makeSandbox(t, alice, `{"name":"loop","command":["loop"]}`)
	res, err := http.Get(base + "/api/v1/sandboxes/loop/logs?follow=1&tail=1")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	line := make([]byte, 12)
	for range 3 {
		if n, err := res.Body.Read(line); err != nil || n == 0 {
			t.Fatal(n, err)
		}
	}
}

// terminal is a client of an exec over a WebSocket.
type terminal struct {
	t  testing.TB
	ws *websocket.Conn
}

func (w *world) attach(t *testing.T, p tenant.Principal, more string, command ...string) *terminal {
	t.Helper()
	ws, res, err := websocket.Dial(t.Context(), w.serve(t, "team-a", p)+hers+"/exec?"+url.Values{"command": command}.Encode()+more,
		&websocket.DialOptions{Subprotocols: []string{"polygate.exec.v1"}})
	if err != nil {
		t.Fatal(err, res)
	}
	ws.SetReadLimit(1 << 20)
	t.Cleanup(func() { ws.CloseNow() })
	return &terminal{t, ws}
}

func (c *terminal) send(channel byte, text string) {
	c.t.Helper()
	if err := c.ws.Write(context.Background(), websocket.MessageBinary, append([]byte{channel}, text...)); err != nil {
		c.t.Fatal(err)
	}
}

// rest reads to the end: what came by each channel, and how it ended.
func (c *terminal) rest() (by [5]string, code websocket.StatusCode, reason string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		_, p, err := c.ws.Read(ctx)
		if err != nil {
			end := websocket.CloseError{}
			if ok := asClose(err, &end); !ok {
				c.t.Errorf("it ends with %v", err)
			}
			return by, end.Code, end.Reason
		}
		by[p[0]] += string(p[1:])
	}
}

func asClose(err error, to *websocket.CloseError) bool {
	for ; err != nil; err = unwrap(err) {
		if e, ok := err.(websocket.CloseError); ok { //nolint:errorlint // this is the loop
			*to = e
			return true
		}
	}
	return false
}

func unwrap(err error) error {
	u, ok := err.(interface{ Unwrap() error })
	if !ok {
		return nil
	}
	return u.Unwrap()
}

func TestSandboxExecWebSocket(t *testing.T) {
	w, _ := sandboxed(t)
	alice := w.user("team-a", "corp", "alice")
	// Input, output, and the end of input.
	c := w.attach(t, alice, "", "cat")
	big := strings.Repeat("x", 60_000)
	c.send(0, "one ")
	c.send(0, big)
	c.send(0, "")
	c.send(4, `{"eof":true}`)
	c.send(0, "too late")
	if by, code, _ := c.rest(); by[1] != "one "+big || by[2] != "" || by[3] != `{"code":0,"signal":""}` || code != websocket.StatusNormalClosure {
		t.Errorf("cat: %d bytes, %q, exit %s, closed with %d", len(by[1]), by[2], by[3], code)
	}
	if by, _, _ := w.attach(t, alice, "", "stderr", "oh", "no").rest(); by[2] != "oh no\n" || by[3] != `{"code":0,"signal":""}` {
		t.Errorf("stderr: %q", by)
	}
	if by, _, _ := w.attach(t, alice, "&tty=1&columns=100&rows=30", "stderr", "oh").rest(); by[1] != "oh\n" || by[2] != "" {
		t.Errorf("a terminal: %q", by)
	}
	if by, _, _ := w.attach(t, alice, "", "exit", "3").rest(); by[3] != `{"code":3,"signal":""}` {
		t.Errorf("exit: %q", by)
	}
	// A signal overtakes what nobody reads.
	c = w.attach(t, alice, "", "sleep", "1h")
	c.send(0, "nobody reads this")
	c.send(4, `{"signal":"KILL"}`)
	if by, _, _ := c.rest(); by[3] != `{"code":137,"signal":"KILL"}` {
		t.Errorf("killed: %q", by)
	}
	// The client goes, and the command with it.
	c = w.attach(t, alice, "", "sleep", "1h")
	if err := c.ws.Close(websocket.StatusNormalClosure, ""); err != nil && !strings.Contains(err.Error(), "EOF") {
		t.Log(err)
	}
	w.idle(t)
}

// idle waits until no stream is left.
func (w *world) idle(t testing.TB) {
	t.Helper()
	eventually(t, "no stream is left", func() bool { return w.guards.For(w.store.entry("team-a")).InFlight() == 0 })
}

func TestSandboxExecBadMessages(t *testing.T) {
	w, _ := sandboxed(t)
	alice := w.user("team-a", "corp", "alice")
	for message, says := range map[string]string{
		"": "channel", "\x01x": "channel 1", "\x07": "channel 7", "\x04{}": "one thing", "\x04x": "JSON", `` + "\x04" + `{"eof":true,"signal":"INT"}`: "one thing",
		"\x04" + `{"signal":"SIGINT"}`: "signal", "\x04" + `{"resize":{"columns":0,"rows":1}}`: "1000", "\x04" + `{"resize":{"columns":70000,"rows":1}}`: "JSON",
	} {
		c := w.attach(t, alice, "", "sleep", "1h")
		if err := c.ws.Write(t.Context(), websocket.MessageBinary, []byte(message)); err != nil {
			t.Fatal(err)
		}
		if by, code, reason := c.rest(); code != websocket.StatusPolicyViolation || !strings.Contains(reason, says) || by[3] != "" {
			t.Errorf("%q: %d %q, want %q", message, code, reason, says)
		}
	}
	c := w.attach(t, alice, "", "sleep", "1h")
	_ = c.ws.Write(t.Context(), websocket.MessageText, []byte("\x00x"))
	if _, code, _ := c.rest(); code != websocket.StatusUnsupportedData {
		t.Errorf("a text message: %d", code)
	}
	for query, says := range map[string]string{"": "command", "?command=": "command", "?command=a&tty=2": "tty", "?command=a&rows=3": "tty", "?command=a&tty=1&rows=0": "rows", "?command=a&x=1": "unknown"} {
		w.says(t, "team-a", alice, request{method: "GET", path: hers + "/exec" + query, header: map[string]string{"Upgrade": "websocket"}}, 400, says)
	}
	w.says(t, "team-a", alice, get(hers+"/exec?command=a"), 400, "polygate.exec.v1")
	w.idle(t)
}

// S-R3: what hangs on a delegation ends with it, whether it is taken back, is over, or goes with the sandbox; what does not goes on.
func TestSR3SandboxStreamsEndWithTheirRight(t *testing.T) {
	w, stage := sandboxed(t)
	alice, bob := w.user("team-a", "corp", "alice"), w.user("team-a", "corp", "bob")
	exec := w.must(t, "team-a", alice, delegate("user:corp/bob", "sandbox.exec", "sandbox/hers", ""), 201)
	logs := w.must(t, "team-a", alice, delegate("user:corp/bob", "sandbox.logs.read", "sandbox/hers", ""), 201)
	own, lent := w.attach(t, alice, "", "sleep", "1h"), w.attach(t, bob, "", "sleep", "1h")
	once := make(chan answer)
	go func() { once <- w.do("team-a", bob, post(hers+"/exec", `{"command":["sleep","1h"]}`)) }()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	follow, err := http.NewRequestWithContext(ctx, "GET", w.serve(t, "team-a", bob)+hers+"/logs?follow=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(follow)
	if err != nil || res.StatusCode != 200 {
		t.Fatal(res, err)
	}
	defer res.Body.Close()
	eventually(t, "all four are there", func() bool { return w.guards.For(w.store.entry("team-a")).InFlight() == 4 })
	w.must(t, "team-a", alice, del("/api/v1/grants/"+exec["id"].(string)), 204)
	if by, code, reason := lent.rest(); code != websocket.StatusPolicyViolation || !strings.Contains(reason, "delegation") || by[3] != "" {
		t.Errorf("the exec that was lent: %q, %d %q", by, code, reason)
	}
	if got := <-once; got.status != 403 {
		t.Errorf("the one-shot: %d %s", got.status, got.body)
	}
	w.says(t, "team-a", bob, post(hers+"/exec", `{"command":["echo"]}`), 403, "")
	w.must(t, "team-a", alice, del("/api/v1/grants/"+logs["id"].(string)), 204)
	if _, err := res.Body.Read(make([]byte, 1)); err == nil {
		t.Error("the log goes on")
	}
	own.send(4, `{"signal":"TERM"}`)
	if by, _, _ := own.rest(); by[3] != `{"code":0,"signal":""}` {
		t.Errorf("the owner's own: %q", by)
	}
	// By itself.
	w.must(t, "team-a", alice, delegate("user:corp/bob", "sandbox.exec", "sandbox/hers", ""), 201)
	before := stage.tenant(w, "team-a").Calls("exec")
	lent = w.attach(t, bob, "", "sleep", "1h")
	eventually(t, "the command has begun", func() bool { return stage.tenant(w, "team-a").Calls("exec") > before })
	w.must(t, "team-a", alice, del(hers), 202)
	if by, _, _ := lent.rest(); by[3] != `{"code":137,"signal":"KILL"}` {
		t.Errorf("with the sandbox: %q", by)
	}
	eventually(t, "it is gone", func() bool { return w.do("team-a", alice, get(hers)).status == 404 })
	if got := w.do("team-a", w.principal("team-a", tenant.Admin), get("/api/v1/grants")); got.body != `{"items":[]}`+"\n" {
		t.Errorf("delegations of what is gone: %s", got.body)
	}
	if strings.Contains(w.store.dump(), "/grant/") {
		t.Error("delegations of what is gone are stored")
	}
	w.makeSandbox(t, alice, `{"name":"hers","command":["sleep","1h"]}`)
	w.says(t, "team-a", bob, get(hers), 404, "")
	w.idle(t)
}

// X55: while the cluster is away, what needs it says so in plain words, and nothing else is harmed.
func TestX55SandboxClusterAway(t *testing.T) {
	w, stage := sandboxed(t)
	alice := w.user("team-a", "corp", "alice")
	s := stage.tenant(w, "team-a")
	var away atomic.Bool
	s.Fail = func(c sandboxtest.Call) (o sandboxtest.Outcome) {
		if away.Load() && c.Name != "watch" {
			o.Err = sandbox.ErrUnreachable
		}
		return o
	}
	away.Store(true)
	for _, q := range []request{post(hers+"/exec", `{"command":["echo"]}`), get(hers + "/logs"), get(hers + "/events")} {
		w.says(t, "team-a", alice, q, 503, "cannot be reached")
	}
	for _, path := range []string{"/api/v1/servers", "/api/v1/sandboxes", hers, "/api/v1/whoami"} {
		w.says(t, "team-a", alice, get(path), 200, "")
	}
	w.must(t, "team-a", alice, post(hers+"/stop", ""), 202)
	away.Store(false)
	w.awaits(t, alice, "hers", "stopped")
}

func FuzzExecMessage(f *testing.F) {
	for _, seed := range []string{"", "\x00abc", "\x04{\"eof\":true}", "\x04{\"resize\":{\"columns\":80,\"rows\":24}}", "\x04{\"signal\":\"INT\"}", "\x04{\"signal\":\"INT\",\"eof\":true}", "\x02"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) == 0 || p[0] != 4 {
			return
		}
		said, err := vgw.ParseControl(p[1:])
		if err != nil {
			return
		}
		again, err := json.Marshal(said)
		if err != nil || !bytes.ContainsAny(again, "0123456789truaefnl") {
			t.Errorf("%q is taken as %s, %v", p, again, err)
		}
	})
}
