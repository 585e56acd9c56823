package mcp_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/catalog"
	"github.com/polygate/polygate/vgw/mcp"
)

const ping = `{"jsonrpc":"2.0","id":1,"method":"ping"}`

type recorder struct {
	mu      sync.Mutex
	entries []audit.Entry
}

func (r *recorder) Record(e audit.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, e)
}

// bench is one tenant's handler with one server, and a guard with a recorder.
type bench struct {
	t      testing.TB
	h      *mcp.Handler
	server mcp.Server
	rec    *recorder
	guards *guard.Set
	entry  *tenant.Entry
}

func newBench(t testing.TB) *bench {
	t.Helper()
	endpoint, err := catalog.ParseURL("https://up.test/mcp?fixed=1")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, rec: &recorder{}, server: mcp.Server{Name: "s", ID: "id-of-s", Endpoint: endpoint, Headers: map[string]string{"Authorization": "Bearer upstream"}}}
	b.guards = guard.NewSet(guard.Config{Recorder: b.rec})
	b.entry = &tenant.Entry{Record: &tenant.Record{ID: "team-a", UID: "uid-a", Revision: 1}, Scope: tenant.Confine("team-a", "uid-a")}
	b.h = &mcp.Handler{Tenant: "uid-a", Sessions: seal.NewDataKey(), MaxBody: 1000, Server: func(_ context.Context, name string) (mcp.Server, error) {
		if name != b.server.Name {
			return mcp.Server{}, fault.New(fault.NotFound, "no server %q", name)
		}
		return b.server, nil
	}}
	return b
}

// access is what the gateway says of the server.
func (b *bench) access() mcp.Access {
	return mcp.Access{Object: authz.Object{Type: "server", ID: b.server.ID}}
}

type ask struct {
	method string // "" = POST
	server string // "" = s
	who    string // "" = k1
	role   tenant.Role
	body   string
	header map[string]string
}

func (b *bench) decide(a ask) exchange.Decision {
	b.t.Helper()
	if a.method == "" {
		a.method = "POST"
	}
	if a.server == "" {
		a.server = "s"
	}
	if a.who == "" {
		a.who = "k1"
	}
	if a.role == tenant.NoRole {
		a.role = tenant.Editor
	}
	v, err := b.guards.For(b.entry).Enter(tenant.Principal{Tenant: "team-a", Kind: tenant.KindKey, ID: a.who, Role: a.role}, guard.Request{ID: "req-1"})
	if err != nil {
		b.t.Fatal(err)
	}
	defer v.Leave()
	r := &exchange.Request{ID: "req-1", Method: a.method, Header: exchange.Header{}, Body: strings.NewReader(a.body), Length: int64(len(a.body)), Query: "client=1", Visit: v}
	if a.method == "POST" {
		r.Header.Set("Content-Type", "application/json")
	}
	for k, val := range a.header {
		if r.Header.Set(k, val); val == "" {
			delete(r.Header, k)
		}
	}
	return b.h.Decide(context.Background(), r, a.server, b.access())
}

func (b *bench) relay(a ask) *exchange.Relay {
	b.t.Helper()
	d := b.decide(a)
	r, ok := d.(*exchange.Relay)
	if !ok {
		b.t.Fatalf("refused: %s", d.(*exchange.Reply).Body)
	}
	return r
}

// refused returns the reply and the JSON-RPC error in it.
func (b *bench) refused(a ask) (*exchange.Reply, int) {
	b.t.Helper()
	r, ok := b.decide(a).(*exchange.Reply)
	if !ok {
		b.t.Fatal("not refused")
	}
	var body struct {
		JSONRPC string
		Error   struct {
			Code    int
			Message string
			Data    struct{ Type string }
		}
	}
	if err := json.Unmarshal(r.Body, &body); err != nil || body.JSONRPC != "2.0" || body.Error.Message == "" || body.Error.Data.Type == "" {
		b.t.Errorf("not a JSON-RPC error: %s", r.Body)
	}
	return r, body.Error.Code
}

func TestRefusals(t *testing.T) {
	header := func(k, v string) map[string]string { return map[string]string{k: v} }
	call := func(name string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + name + `"}}`
	}
	for name, tc := range map[string]struct {
		ask
		status, code int
	}{
		"PUT":                        {ask{method: "PUT"}, 405, -32600},
		"HEAD":                       {ask{method: "HEAD"}, 405, -32600},
		"GET in modern":              {ask{method: "GET", header: header("Mcp-Protocol-Version", "2026-07-28")}, 405, -32600},
		"DELETE in modern":           {ask{method: "DELETE", header: header("Mcp-Protocol-Version", "2027-01-01")}, 405, -32600},
		"GET for JSON":               {ask{method: "GET", header: header("Accept", "application/json")}, 406, -32600},
		"replay without a session":   {ask{method: "GET", header: header("Last-Event-Id", "7")}, 400, -32600},
		"no content type":            {ask{body: ping, header: header("Content-Type", "")}, 415, -32600},
		"another content type":       {ask{body: ping, header: header("Content-Type", "text/plain")}, 415, -32600},
		"another charset":            {ask{body: ping, header: header("Content-Type", "application/json; charset=utf-16")}, 415, -32600},
		"an encoded body":            {ask{body: ping, header: header("Content-Encoding", "gzip")}, 415, -32600},
		"accepts only JSON":          {ask{body: ping, header: header("Accept", "application/json")}, 406, -32600},
		"accepts no events":          {ask{body: ping, header: header("Accept", "application/json, text/event-stream;q=0")}, 406, -32600},
		"too large":                  {ask{body: ping + strings.Repeat(" ", 1000)}, 413, -32600},
		"batch":                      {ask{body: "[" + ping + "]"}, 400, -32600},
		"not JSON":                   {ask{body: "{"}, 400, -32700},
		"a call of nothing":          {ask{body: `{"jsonrpc":"2.0","id":1,"method":"tools/call"}`}, 400, -32602},
		"a read of nothing":          {ask{body: `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"name":"x"}}`}, 400, -32602},
		"Mcp-Method disagrees":       {ask{body: call("echo"), header: header("Mcp-Method", "tools/list")}, 400, -32020},
		"Mcp-Name disagrees":         {ask{body: call("echo"), header: header("Mcp-Name", "rm")}, 400, -32020},
		"Mcp-Name disagrees, base64": {ask{body: call("echo"), header: header("Mcp-Name", "=?base64?cm0=?=")}, 400, -32020},
		"Mcp-Name is broken base64":  {ask{body: call("echo"), header: header("Mcp-Name", "=?base64?c?=")}, 400, -32020},
		"Mcp-Name without a name":    {ask{body: ping, header: header("Mcp-Name", "echo")}, 400, -32020},
		"absent server":              {ask{body: ping, server: "absent"}, 404, -32004},
		"unknown session":            {ask{body: ping, header: header("Mcp-Session-Id", "abc")}, 404, -32004},
		"a viewer calls":             {ask{body: call("echo"), role: tenant.Viewer}, 403, -32003},
		"a viewer calls at no one":   {ask{body: call("echo"), role: tenant.Viewer, server: "absent"}, 403, -32003},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			r, code := b.refused(tc.ask)
			if r.Status != tc.status || code != tc.code {
				t.Errorf("got %d, code %d, want %d, code %d: %s", r.Status, code, tc.status, tc.code, r.Body)
			}
			if r.Err == nil {
				t.Error("the log is not told why")
			}
			if tc.status == 405 && r.Header.Get("Allow") == "" {
				t.Error("no Allow")
			}
		})
	}
}

// A field that is repeated is judged in each of its values: servers differ in which of them they take.
func TestRepeatedFields(t *testing.T) {
	session := newBench(t)
	token := session.session(ask{body: ping}, "upstream-1")
	for name, tc := range map[string]struct {
		method string
		header exchange.Header
		status int
	}{
		"an encoding behind identity":  {"POST", exchange.Header{"Content-Encoding": {"identity", "deflate"}}, 415},
		"an encoding behind nothing":   {"POST", exchange.Header{"Content-Encoding": {"", "deflate"}}, 415},
		"a replay behind nothing":      {"GET", exchange.Header{"Last-Event-Id": {"", "7"}}, 400},
		"a session behind a good one":  {"POST", exchange.Header{"Mcp-Session-Id": {token, "x"}}, 404},
		"a session behind nothing":     {"POST", exchange.Header{"Mcp-Session-Id": {"", token}}, 404},
		"a replay, session is nothing": {"GET", exchange.Header{"Last-Event-Id": {"7"}, "Mcp-Session-Id": {""}}, 400},
		"two revisions":                {"POST", exchange.Header{"Mcp-Protocol-Version": {"2025-11-25", "2026-07-28"}}, 400},
		"two names":                    {"POST", exchange.Header{"Mcp-Method": {"ping", "tools/call"}}, 400},
		"two types":                    {"POST", exchange.Header{"Content-Type": {"application/json", "text/plain"}}, 415},
	} {
		b := session
		v, err := b.guards.For(b.entry).Enter(tenant.Principal{Tenant: "team-a", Kind: tenant.KindKey, ID: "k1", Role: tenant.Editor}, guard.Request{ID: "r"})
		if err != nil {
			t.Fatal(err)
		}
		r := &exchange.Request{Method: tc.method, Header: tc.header, Body: strings.NewReader(ping), Length: -1, Visit: v}
		if tc.method == "POST" && tc.header["Content-Type"] == nil {
			tc.header.Set("Content-Type", "application/json")
		}
		if got, ok := b.h.Decide(context.Background(), r, "s", b.access()).(*exchange.Reply); !ok || got.Status != tc.status {
			t.Errorf("%s: %+v, want %d", name, got, tc.status)
		}
		v.Leave()
	}
}

func TestRefusalAnswersTheID(t *testing.T) {
	b := newBench(t)
	r, _ := b.refused(ask{server: "absent", body: `{"jsonrpc":"2.0","id":12345678901234567890,"method":"ping"}`})
	if !strings.HasPrefix(string(r.Body), `{"jsonrpc":"2.0","id":12345678901234567890,"error":{"code":-32004,`) {
		t.Errorf("got %s", r.Body)
	}
}

func TestRelayHeader(t *testing.T) {
	b := newBench(t)
	b.server.Headers = map[string]string{"Authorization": "Bearer upstream", "X-Team": "a"}
	r := b.relay(ask{body: ping, header: map[string]string{
		"Authorization": "Bearer client", "Cookie": "c=1", "X-Api-Key": "client", "X-Tenant-Id": "team-b", "Origin": "https://evil.test",
		"X-Forwarded-For": "1.2.3.4", "X_team": "forged", "Traceparent": "00-1", "Accept": "*/*", "Connection": "x", "Proxy-Authorization": "x",
	}})
	var names []string
	for name := range r.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	if got, want := strings.Join(names, " "), "Accept Authorization Content-Type Traceparent X-Team"; got != want {
		t.Errorf("headers sent: %s\nwant          %s", got, want)
	}
	for name, want := range map[string]string{"Authorization": "Bearer upstream", "X-Team": "a", "Accept": "application/json, text/event-stream"} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if r.Query != "fixed=1" || r.Path != "/mcp" || r.Host != "up.test" || r.Target.Authority != "up.test:443" || r.Target.Pool != "uid-a/id-of-s" || r.Target.Trusted {
		t.Errorf("target: %+v", r)
	}
	if r.Length != int64(len(ping)) || string(r.Prefix) != ping || r.Rest != nil {
		t.Errorf("body: %d %s", r.Length, r.Prefix)
	}
}

// session opens a session as the handler's client would see it.
func (b *bench) session(a ask, upstream string) string {
	b.t.Helper()
	h := exchange.Header{"Content-Type": {"application/json"}, "Mcp-Session-Id": {upstream}}
	if err := b.relay(a).EditResponse(200, h); err != nil {
		b.t.Fatal(err)
	}
	return h.Get("Mcp-Session-Id")
}

func TestSessions(t *testing.T) {
	b := newBench(t)
	token := b.session(ask{body: ping}, "upstream-1")
	if token == "" || strings.Contains(token, "upstream") {
		t.Fatalf("token %q", token)
	}
	with := func(token string) map[string]string { return map[string]string{"Mcp-Session-Id": token} }
	if r := b.relay(ask{body: ping, header: with(token)}); r.Header.Get("Mcp-Session-Id") != "upstream-1" {
		t.Errorf("relayed with %q", r.Header.Get("Mcp-Session-Id"))
	}
	if again := b.session(ask{body: ping, header: with(token)}, "upstream-1"); again != token {
		t.Error("a repeated session id changed its token, for which clients end the session")
	}
	if other := b.session(ask{body: ping, header: with(token)}, "upstream-2"); other == token {
		t.Error("a new session id kept the old token")
	}
	unknown, _ := b.refused(ask{body: ping, header: with("none")})
	for name, a := range map[string]ask{
		"another principal": {body: ping, who: "k2", header: with(token)},
		"altered":           {body: ping, header: with(token[:len(token)-2] + "AA")},
		"cut":               {body: ping, header: with(token[:10])},
		"upstream's own":    {body: ping, header: with("upstream-1")},
	} {
		if got, _ := b.refused(a); got.Status != 404 || string(got.Body) != string(unknown.Body) {
			t.Errorf("%s: %d %s", name, got.Status, got.Body)
		}
	}
	b.server.ID = "the next server of this name"
	if got, _ := b.refused(ask{body: ping, header: with(token)}); got.Status != 404 {
		t.Errorf("at the server's successor: %d", got.Status)
	}
	b.server.ID, b.server.Name = "id-of-s", "other"
	if got, _ := b.refused(ask{body: ping, server: "other", header: with(token)}); got.Status != 404 {
		t.Errorf("at another server: %d", got.Status)
	}
}

func TestModernHasNoSession(t *testing.T) {
	b := newBench(t)
	token := b.session(ask{body: ping}, "upstream-1")
	r := b.relay(ask{body: ping, header: map[string]string{"Mcp-Session-Id": token, "Mcp-Protocol-Version": "2026-07-28"}})
	if r.Header.Get("Mcp-Session-Id") != "" {
		t.Error("a modern request carried a session id")
	}
	h := exchange.Header{"Content-Type": {"application/json"}, "Mcp-Session-Id": {"x"}}
	if err := r.EditResponse(200, h); err != nil || h.Get("Mcp-Session-Id") != "" {
		t.Errorf("a modern response minted a session id: %v %v", h, err)
	}
}

func TestResponses(t *testing.T) {
	html := exchange.Header{"Content-Type": {"text/html"}}
	jsn := exchange.Header{"Content-Type": {"application/json; charset=utf-8"}}
	for name, tc := range map[string]struct {
		method string
		status int
		header exchange.Header
		says   string // "" = relayed
	}{
		"JSON":               {"POST", 200, jsn, ""},
		"events":             {"POST", 200, exchange.Header{"Content-Type": {"text/event-stream"}}, ""},
		"accepted":           {"POST", 202, exchange.Header{}, ""},
		"empty":              {"POST", 200, exchange.Header{"Content-Length": {"0"}}, ""},
		"ended":              {"DELETE", 200, exchange.Header{}, ""},
		"a web page":         {"POST", 200, html, "not an MCP server"},
		"nothing known":      {"POST", 200, exchange.Header{}, "not an MCP server"},
		"redirect":           {"POST", 307, exchange.Header{"Location": {"http://169.254.169.254/"}}, "redirect"},
		"not modified":       {"GET", 304, exchange.Header{}, "redirect"},
		"refused":            {"POST", 401, exchange.Header{"Www-Authenticate": {"Bearer"}}, "refused the gateway's credential"},
		"forbidden":          {"POST", 403, html, "refused the gateway's credential"},
		"upgrade":            {"GET", 101, exchange.Header{}, "101"},
		"unknown session":    {"POST", 404, jsn, ""},
		"its own error":      {"POST", 500, html, ""},
		"an unfit session":   {"POST", 200, exchange.Header{"Content-Type": {"application/json"}, "Mcp-Session-Id": {"a b"}}, "session id"},
		"an endless session": {"POST", 200, exchange.Header{"Content-Type": {"application/json"}, "Mcp-Session-Id": {strings.Repeat("a", 2000)}}, "session id"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			a := ask{method: tc.method}
			if tc.method == "POST" {
				a.body = ping
			}
			err := b.relay(a).EditResponse(tc.status, tc.header.Clone())
			if tc.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !fault.Is(err, fault.BadUpstream) || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "169.254") {
				t.Errorf("got %v, want it to say %q", err, tc.says)
			}
		})
	}
}

func TestResponseHeader(t *testing.T) {
	b := newBench(t)
	h := exchange.Header{
		"Content-Type": {"text/event-stream"}, "Set-Cookie": {"a=1"}, "Www-Authenticate": {"Basic"}, "Access-Control-Allow-Origin": {"*"},
		"X-Request-Id": {"theirs"}, "Alt-Svc": {"h3"}, "Strict-Transport-Security": {"max-age=1"}, "Mcp-Future": {"kept"}, "Etag": {`"1"`},
	}
	if err := b.relay(ask{body: ping}).EditResponse(200, h); err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	if got, want := strings.Join(names, " "), "Cache-Control Content-Type Etag Mcp-Future X-Accel-Buffering X-Content-Type-Options"; got != want {
		t.Errorf("left: %s\nwant: %s", got, want)
	}
}

// A server's word to the proxy before us, or to caches, is not passed on.
func TestResponseHeaderGivesNoOrders(t *testing.T) {
	for _, control := range []string{"", "public, max-age=600", "no-cache, no-transform", "private, No-Store"} {
		b := newBench(t)
		h := exchange.Header{"Content-Type": {"application/json"}, "X-Accel-Redirect": {"/internal"}, "X-Accel-Expires": {"600"}, "X-Sendfile": {"/etc/passwd"}}
		if control != "" {
			h.Set("Cache-Control", control)
		}
		if err := b.relay(ask{body: ping}).EditResponse(200, h); err != nil {
			t.Fatal(err)
		}
		if len(h) != 3 || strings.Count(strings.ToLower(strings.Join(h["Cache-Control"], ",")), "no-store") != 1 {
			t.Errorf("%q: left %v", control, h)
		}
	}
}

// What is recorded is the name in the body, whatever it holds.
func TestRecords(t *testing.T) {
	call := func(name string) string {
		b, _ := json.Marshal(name)
		return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":` + string(b) + `}}`
	}
	long := strings.Repeat("n", 700)
	for name, tc := range map[string]struct {
		ask
		action, resource string
	}{
		"tool":                 {ask{body: call("echo")}, "mcp.call", "server/s/tool/echo"},
		"line break":           {ask{body: call("a\nb c\"")}, "mcp.call", `server/s/tool/a\nb\x20c\"`},
		"prompt":               {ask{body: `{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"p"}}`}, "mcp.read", "server/s/prompt/p"},
		"resource":             {ask{body: `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///x"}}`}, "mcp.read", "server/s/resource/file:///x"},
		"unknown":              {ask{body: `{"jsonrpc":"2.0","id":1,"method":"vendor/erase"}`}, "mcp.call", "server/s/method/vendor/erase"},
		"subscribe to nothing": {ask{body: `{"jsonrpc":"2.0","id":1,"method":"resources/subscribe"}`}, "mcp.read", "server/s/resource/"},
		"read":                 {ask{body: ping}, "mcp.read", "server/s/method/ping"},
		"response":             {ask{body: `{"jsonrpc":"2.0","id":1,"result":{}}`}, "mcp.read", "server/s/response"},
		"stream":               {ask{method: "GET"}, "mcp.read", "server/s/stream"},
		"end":                  {ask{method: "DELETE"}, "mcp.read", "server/s/session"},
		"base64":               {ask{body: call("é"), header: map[string]string{"Mcp-Name": "=?base64?w6k=?=", "Mcp-Method": "tools/call"}}, "mcp.call", `server/s/tool/\u00e9`},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.relay(tc.ask).Done(exchange.Outcome{Status: 200})
			if e := b.rec.entries[0]; e.Action != tc.action || e.Resource != tc.resource || e.Outcome != "ok" {
				t.Errorf("recorded %s %s %s, want %s %s", e.Action, e.Resource, e.Outcome, tc.action, tc.resource)
			}
		})
	}
	b := newBench(t)
	for _, end := range []string{"x", "y"} {
		b.relay(ask{body: call(long + end)}).Done(exchange.Outcome{Status: 502})
	}
	first, second := b.rec.entries[0], b.rec.entries[1]
	if len(first.Resource) > 300 || first.Resource == second.Resource || first.Outcome != "bad-upstream" {
		t.Errorf("long names: %s, %s (%s)", first.Resource, second.Resource, first.Outcome)
	}
}

func TestErrorsOfTheRelayAreJSONRPC(t *testing.T) {
	b := newBench(t)
	r := b.relay(ask{body: `{"jsonrpc":"2.0","id":"x","method":"ping"}`})
	got := r.RenderError(fault.Wrap(fault.UpstreamTimeout, errors.New("dial 10.0.0.1"), "the server did not answer in time"), "req-9")
	want := `{"jsonrpc":"2.0","id":"x","error":{"code":-32054,"message":"the server did not answer in time","data":{"type":"urn:polygate:problem:upstream-timeout","request_id":"req-9"}}}` + "\n"
	if string(got.Body) != want || got.Status != 504 {
		t.Errorf("got %d %s", got.Status, got.Body)
	}
}

// A body is not waited for, or read, past its bound; and one that breaks off is the client's fault.
func TestBodyFaults(t *testing.T) {
	b := newBench(t)
	v, _ := b.guards.For(b.entry).Enter(tenant.Principal{Tenant: "team-a", Kind: tenant.KindKey, ID: "k", Role: tenant.Editor}, guard.Request{ID: "r"})
	for name, tc := range map[string]struct {
		body   io.Reader
		length int64
		status int
	}{
		"declared too long": {brokenReader{errors.New("read at all")}, 1001, 413},
		"endless":           {zeros{}, -1, 413},
		"broken off":        {brokenReader{io.ErrUnexpectedEOF}, -1, 400},
		"over the edge's":   {brokenReader{fault.New(fault.TooLarge, "x")}, -1, 413},
	} {
		r := &exchange.Request{Method: "POST", Header: exchange.Header{"Content-Type": {"application/json"}}, Body: tc.body, Length: tc.length, Visit: v}
		if got := b.h.Decide(context.Background(), r, "s", b.access()).(*exchange.Reply); got.Status != tc.status {
			t.Errorf("%s: %d %s", name, got.Status, got.Body)
		}
	}
}

// Large bodies are held within a budget, of the tenant and of all, and give it back however the request ends.
func TestLargeBodiesAreBounded(t *testing.T) {
	b := newBench(t)
	b.h.MaxBody = 1 << 20
	total := &mcp.Budget{Max: 3 << 20}
	b.h.Bodies = &mcp.Budget{Max: 2 << 20, Total: total}
	large := ping + strings.Repeat(" ", 1<<20-len(ping))
	status := func() int {
		r, _ := b.refused(ask{body: large})
		return r.Status
	}
	first, second := b.relay(ask{body: large}), b.relay(ask{body: large})
	if got := status(); got != 429 {
		t.Errorf("over the tenant's budget: %d", got)
	}
	b.relay(ask{body: ping}).Done(exchange.Outcome{Status: 200}) // small ones pass
	other := *b.h
	other.Bodies = &mcp.Budget{Max: 2 << 20, Total: total}
	mine := b.h
	b.h = &other
	third := b.relay(ask{body: large})
	if got := status(); got != 503 {
		t.Errorf("over the budget of all: %d", got)
	}
	b.h = mine
	first.Done(exchange.Outcome{Status: 200})
	for range 5 { // refused after it was read, and at its end
		if r, _ := b.refused(ask{body: large, server: "absent"}); r.Status != 404 {
			t.Fatalf("absent server: %d", r.Status)
		}
		if r, _ := b.refused(ask{body: large + large}); r.Status != 413 {
			t.Fatalf("too large: %d", r.Status)
		}
	}
	second.Done(exchange.Outcome{Status: 200})
	third.Done(exchange.Outcome{Status: 200})
	for range 5 {
		b.relay(ask{body: large}).Done(exchange.Outcome{Status: 200})
	}
}

type brokenReader struct{ err error }

func (r brokenReader) Read([]byte) (int, error) { return 0, r.err }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// FuzzSession: no bytes but a token's own open a session, and no upstream id comes out of anything else.
func FuzzSession(f *testing.F) {
	b := newBench(f)
	token := b.session(ask{body: ping}, "upstream-1")
	f.Add(token)
	f.Add("upstream-1")
	f.Add(token + "=")
	f.Add(strings.Repeat("A", 5000))
	f.Fuzz(func(t *testing.T, s string) {
		b := &bench{t: t, h: b.h, server: b.server, rec: &recorder{}, guards: b.guards, entry: b.entry}
		if s == "" { // the helper leaves empty headers out
			return
		}
		switch d := b.decide(ask{body: ping, header: map[string]string{"Mcp-Session-Id": s}}).(type) {
		case *exchange.Relay:
			if s != token || d.Header.Get("Mcp-Session-Id") != "upstream-1" {
				t.Fatalf("%q opened as %q", s, d.Header.Get("Mcp-Session-Id"))
			}
		case *exchange.Reply:
			if s == token || d.Status != 404 {
				t.Fatalf("%q: %d", s, d.Status)
			}
		}
	})
}

// A server that another took the name of, between the admission and the relay, is not what was admitted.
func TestAnotherServerOfTheNameIsAbsent(t *testing.T) {
	b := newBench(t)
	v, err := b.guards.For(b.entry).Enter(tenant.Principal{Tenant: "team-a", Kind: tenant.KindKey, ID: "k1", Role: tenant.Editor}, guard.Request{ID: "r"})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Leave()
	for _, id := range []string{"", "id-of-its-predecessor"} {
		body := `{"jsonrpc":"2.0","id":1,"method":"ping"}`
		r := &exchange.Request{Method: "POST", Header: exchange.Header{"Content-Type": {"application/json"}}, Body: strings.NewReader(body), Length: -1, Visit: v}
		access := mcp.Access{Object: authz.Object{Type: "server", ID: id}}
		if got, ok := b.h.Decide(context.Background(), r, "s", access).(*exchange.Reply); !ok || got.Status != 404 {
			t.Errorf("admitted as %q: %+v", id, got)
		}
	}
}
