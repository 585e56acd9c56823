package main

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// sandboxes calls what is about sandboxes, with the driver of the demo.
func (s *described) sandboxes(t *testing.T) {
	const all, one = "/api/v1/sandboxes", "/api/v1/sandboxes/{sandbox}"
	spec := m{"name": "box", "command": []string{"sh"}, "args": []string{"-c", "echo begun; exec sleep 3600"}, "env": []m{{"name": "GREETING", "value": "hello"}}, "working_dir": "/tmp",
		"resources": m{"cpu": "250m", "memory": "512Mi", "storage": "64Mi"}, "ports": []m{{"name": "http", "port": 8080}}, "lifetime_seconds": 3600, "idle_timeout_seconds": 1800, "labels": m{"team": "a"}}
	key := []string{"Idempotency-Key", "a key"}
	made := s.editor.send(apiCall{op: "POST " + all, want: 201, body: spec, head: key})
	s.editor.send(apiCall{op: "POST " + all, want: 200, body: spec, head: key})
	s.editor.send(apiCall{op: "POST " + all, want: 409, body: m{"name": "another"}, head: key})
	s.editor.send(apiCall{op: "POST " + all, want: 409, body: spec})
	s.editor.send(apiCall{op: "POST " + all, want: 400, wrong: true, body: m{"name": "a--b"}})
	s.editor.send(apiCall{op: "POST " + all, want: 400, wrong: true, body: m{"ports": []m{{"name": "http", "port": 80}}}})
	s.editor.send(apiCall{op: "POST " + all, want: 400, body: m{"image": "docker.io/library/nginx"}}) // this platform has no containers
	s.viewer.send(apiCall{op: "POST " + all, want: 403, body: m{}})
	s.editor.send(apiCall{op: "POST " + all, want: 201, body: m{}})

	box := map[string]string{"sandbox": "box"}
	s.editor.send(apiCall{op: "GET " + one, args: map[string]string{"sandbox": text(t, made, "id")}, want: 200})
	s.tenant.send(apiCall{op: "GET " + one, args: box, want: 200})
	s.viewer.send(apiCall{op: "GET " + one, args: box, want: 404})
	s.editor.send(apiCall{op: "GET " + one + "/wait", args: box, query: url.Values{"for": {"running"}, "timeout": {"30s"}}, want: 200})
	s.editor.send(apiCall{op: "GET " + one + "/wait", args: box, query: url.Values{"for": {"ready"}}, want: 400, wrong: true})
	s.editor.send(apiCall{op: "GET " + one + "/wait", args: box, query: url.Values{"timeout": {"1"}}, want: 200})
	next := text(t, s.tenant.send(apiCall{op: "GET " + all, query: url.Values{"limit": {"1"}}, want: 200}), "next_cursor")
	s.tenant.send(apiCall{op: "GET " + all, query: url.Values{"limit": {"1"}, "cursor": {next}}, want: 200})
	s.editor.send(apiCall{op: "GET " + all, query: url.Values{"selector": {"team in (a,b),!old"}, "state": {"Running,Starting"}, "owner": {"me"}}, want: 200})
	s.editor.send(apiCall{op: "GET " + all, query: url.Values{"selector": {"team in"}}, want: 400})
	s.editor.send(apiCall{op: "GET " + all, query: url.Values{"state": {"Happy"}}, want: 400, wrong: true})
	s.stream("GET "+all, "/api/v1/sandboxes?watch=1", nil)
	s.editor.send(apiCall{op: "GET " + one + "/events", args: box, want: 200})
	s.sandboxStreams(box)

	s.editor.send(apiCall{op: "POST " + one + "/stop", args: box, want: 412, head: []string{"If-Match", `"1"`}})
	s.editor.send(apiCall{op: "POST " + one + "/stop", args: box, want: 202})
	s.editor.send(apiCall{op: "GET " + one + "/wait", args: box, query: url.Values{"for": {"stopped"}}, want: 200})
	s.editor.send(apiCall{op: "POST " + one + "/exec", args: box, want: 409, body: m{"command": []string{"true"}}})
	s.editor.send(apiCall{op: "POST " + one + "/start", args: box, want: 202})
	s.viewer.send(apiCall{op: "POST " + one + "/stop", args: box, want: 403})
	s.editor.send(apiCall{op: "DELETE " + one, args: box, want: 412, head: []string{"If-Match", `"1"`}})
	s.editor.send(apiCall{op: "DELETE " + one, args: box, want: 202})
	s.editor.send(apiCall{op: "GET " + one + "/wait", args: map[string]string{"sandbox": text(t, made, "id")}, query: url.Values{"for": {"deleted"}}, want: 200})
	s.editor.send(apiCall{op: "GET " + one, args: box, want: 404})
	s.useReports()
}

// useReports asks for what sandboxes used.
func (s *described) useReports() {
	const op = "GET /api/v1/usage"
	for _, group := range []string{"owner", "owner,day", "hour", "none"} {
		s.tenant.send(apiCall{op: op, query: url.Values{"group_by": {group}, "from": {"2020-01-31T12:00:00Z"}, "to": {"2099-01-31T12:00:00Z"}}, want: 200})
	}
	s.viewer.send(apiCall{op: op, query: url.Values{"group_by": {"owner"}}, want: 200})
	s.tenant.send(apiCall{op: op, query: url.Values{"format": {"csv"}}, want: 200})
	s.tenant.send(apiCall{op: op, head: []string{"Accept", "text/csv"}, want: 200})
	s.tenant.send(apiCall{op: op, query: url.Values{"group_by": {"sandbox"}}, want: 400, wrong: true})
	s.tenant.send(apiCall{op: op, query: url.Values{"from": {"yesterday"}}, want: 400, wrong: true})
	s.tenant.send(apiCall{op: op, query: url.Values{"from": {"2020-01-31T12:00:00Z"}}, head: []string{"Accept", "image/png"}, want: 406})
}

// sandboxStreams runs commands in a sandbox and reads its log.
func (s *described) sandboxStreams(box map[string]string) {
	const one = "/api/v1/sandboxes/{sandbox}"
	exec := apiCall{op: "POST " + one + "/exec", args: box, want: 200, body: m{"command": []string{"sh", "-c", "cat; exit 3"}, "stdin": "hello", "env": []m{{"name": "A", "value": "b"}}, "timeout_seconds": 20}}
	s.editor.send(exec)
	exec.body = m{"command": []string{"sh", "-c", `printf '\377'; kill -9 $$`}, "stdin_base64": "aGVsbG8="}
	s.editor.send(exec)
	exec.body = m{"command": []string{"sleep", "60"}, "timeout_seconds": 1}
	s.editor.send(exec)
	s.editor.send(apiCall{op: exec.op, args: box, want: 400, wrong: true, body: m{"command": []string{"cat"}, "stdin": "a", "stdin_base64": "YQ=="}})
	s.editor.send(apiCall{op: exec.op, args: box, want: 400, wrong: true, body: m{"command": []string{}}})
	s.tenant.send(apiCall{op: exec.op, args: box, want: 403, body: m{"command": []string{"true"}}}) // an admin may not look into it
	s.tenant.send(apiCall{op: "GET " + one + "/logs", args: box, want: 404})
	bob := m{"to": "user:corp/bob", "action": "sandbox.exec", "object": "sandbox/box"}
	s.editor.send(apiCall{op: "POST /api/v1/grants", want: 201, body: bob})
	s.editor.send(apiCall{op: "POST /api/v1/grants", want: 400, body: m{"to": "user:corp/bob", "action": "mcp.call", "object": "sandbox/box"}})
	s.editor.send(apiCall{op: "GET /api/v1/grants", want: 200})

	s.editor.send(apiCall{op: "GET " + one + "/logs", args: box, want: 200, query: url.Values{"tail": {"10"}, "timestamps": {"1"}, "since": {"10m"}, "limit_bytes": {"100000"}}})
	s.editor.send(apiCall{op: "GET " + one + "/logs", args: box, want: 400, wrong: true, query: url.Values{"tail": {"-1"}}})
	s.editor.raw("GET "+one+"/exec", "/api/v1/sandboxes/box/exec?command=sh&command=-i&tty=1&columns=100", "", nil, 400) // no upgrade is asked for
	s.upgrade("GET "+one+"/exec", "/api/v1/sandboxes/box/exec?command=true")
}

// upgrade opens a WebSocket, and holds the handshake's answer to the document.
func (s *described) upgrade(op, path string) {
	s.t.Helper()
	conn, resp, err := websocket.Dial(s.t.Context(), s.editor.base+path, &websocket.DialOptions{
		HTTPClient: s.editor.c, HTTPHeader: http.Header{"Authorization": {s.editor.head[1]}}, Subprotocols: []string{execProtocol},
	})
	if err != nil {
		s.t.Errorf("%s: %v", op, err)
		return
	}
	defer conn.CloseNow()
	s.editor.judgeAnswer(op, answer{Status: resp.StatusCode, Header: resp.Header})
	for began := time.Now(); time.Since(began) < time.Minute; {
		if _, p, err := conn.Read(s.t.Context()); err != nil || len(p) > 0 && p[0] == execExit {
			if err != nil {
				s.t.Errorf("%s: %v", op, err)
			}
			return
		}
	}
}
