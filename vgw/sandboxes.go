package vgw

// The routes of sandboxes. {sandbox} is a name or an id. Bodies and answers are JSON unless it says otherwise, names in
// snake_case; unknown fields and unknown query parameters are refused (400).
//
//	GET    /api/v1/sandboxes                     list: {"items": [sandbox], "next_cursor": "…"}
//	       ?selector=  labels, as kubectl has them: k=v, k==v, k!=v, k in (a,b), k notin (a,b), k, !k, joined by commas
//	       ?state=     Pending, Starting, Running, Stopping, Stopped, Failed or Deleting; several joined by commas
//	       ?owner=     me, or a ref such as user:corp/alice
//	       ?limit=     1 to 500; 100 without
//	       ?cursor=    next_cursor of the page before
//	GET    /api/v1/sandboxes?watch=1             text/event-stream; with selector, state and owner
//	       event: sandbox, data: a sandbox as it is now. A new stream begins with all that there are.
//	       event: deleted, data: {"id": "…", "name": "…"}: it is gone, or is none of those that were asked for any more
//	       event: resync,  data: {}: forget what you know; all that there are follow
//	       id: of the events, a resource_version: with the header Last-Event-ID the stream goes on after it, or begins with resync
//	POST   /api/v1/sandboxes                     create: 201 with the sandbox; header Idempotency-Key: 1 to 128 printable ASCII
//	       bytes: the same request again is 200 with the same sandbox, another one under the same key 409
//	       {"name", "image", "command": [], "args": [], "env": [{"name", "value"}], "working_dir",
//	        "resources": {"cpu": "500m", "memory": "512Mi", "storage": "1Gi", "gpus": {"nvidia.com/gpu": 1}},
//	        "ports": [{"name", "port"}], "runtime_class", "lifetime_seconds", "idle_timeout_seconds", "labels": {}, "providers": []};
//	       every field may be absent
//	GET    /api/v1/sandboxes/{sandbox}           200 with the sandbox, ETag is its resource_version
//	DELETE /api/v1/sandboxes/{sandbox}           If-Match; 202 with the sandbox, whose state is Deleting; 204 if it is gone at once
//	POST   /api/v1/sandboxes/{sandbox}/start     If-Match; no body; 202 with the sandbox
//	POST   /api/v1/sandboxes/{sandbox}/stop      If-Match; no body; 202 with the sandbox
//	GET    /api/v1/sandboxes/{sandbox}/wait      {"reached": true, "sandbox": sandbox}; no sandbox once it is deleted
//	       ?for=       running, stopped, deleted or settled (Running, Stopped, Failed or gone); settled without
//	       ?timeout=   such as 90s or 90; 1s to 1h; 60s without. When it is over, or what is waited for cannot come any more (it failed, it
//	                   was stopped), reached is false
//	GET    /api/v1/sandboxes/{sandbox}/events    {"items": [{"at", "type": "Normal|Warning", "reason", "message", "count"}]}, oldest first
//	GET    /api/v1/sandboxes/{sandbox}/logs      text/plain, of the run now or the last
//	       ?follow=1   until the run ends
//	       ?since=     a time (RFC 3339) or a duration such as 10m
//	       ?tail=      so many lines of the end
//	       ?timestamps=1, ?limit_bytes=
//	POST   /api/v1/sandboxes/{sandbox}/exec      run a command and answer with what came of it
//	       {"command": ["sh", "-c", "…"], "env": [{"name", "value"}], "stdin": "text" or "stdin_base64": "…", "timeout_seconds": 1 to 3600, 60 without}
//	       200 {"exit_code": 0, "signal": "KILL", "stdout": "text" or "stdout_base64": "…", "stderr" or "stderr_base64", "truncated": true,
//	            "timed_out": true}: exit_code is 128 + n where a signal ended it; text where it is UTF-8; signal, truncated and timed_out where
//	       they say something. After a timeout exit_code is 124
//	GET    /api/v1/sandboxes/{sandbox}/exec      with Upgrade: websocket, subprotocol polygate.exec.v1
//	       ?command=   repeated: the command and its arguments
//	       ?tty=1, ?columns=, ?rows=             a terminal, and its size
//	       binary messages, of which the first byte is the channel:
//	       0 stdin  (client)   bytes; an empty one is nothing
//	       1 stdout (server)   bytes; with tty everything comes here
//	       2 stderr (server)   bytes
//	       3 exit   (server)   {"code": 0, "signal": ""}, the last message; then close 1000
//	       4 control (client)  {"resize": {"columns": 80, "rows": 24}}, {"signal": "INT"} or {"eof": true}, the end of stdin
//	       A message is at most 64 KiB long. Close codes: 1000 after exit; 1003 a text message, 1007 or 1008 a bad one, 1008 also where a
//	       right has ended, 1009 too long, 1011 the command could not be run or went on without us, 1012 connect again
//
// A sandbox:
//
//	{"id", "name", "owner": "user:corp/alice", "state": "Running", "want": "running",
//	 "conditions": [{"type": "Ready", "status": true, "reason", "message", "since"}],
//	 "image", "command", "args", "env": [{"name", "value"}] (value for its owner alone), "working_dir",
//	 "resources": {"cpu": "500m", "memory": "512Mi", "storage": "1Gi", "gpus": {}}, "ports": [{"name", "port"}], "runtime_class",
//	 "lifetime_seconds", "idle_timeout_seconds", "labels", "providers", "session",
//	 "run": {"number": 1, "begun", "started", "ended", "exit_code", "reason"}, "created", "updated", "expires", "resource_version": "…"}
//
// Fields that say nothing are absent, but for id, name, owner, state, want, conditions, resources, created, updated and
// resource_version.
//
// Who may: docs of authz, and sandboxaccess.go. Who may not see a sandbox gets 404 to GET of it, its logs, events and wait, and
// 403 to everything else, in the same bytes whether there is one or not.
//
// Delegations (POST /api/v1/grants): object sandbox/<name or id>, action sandbox.read, sandbox.start, sandbox.stop, sandbox.delete,
// sandbox.exec or sandbox.logs.read; each of them includes sandbox.read.
