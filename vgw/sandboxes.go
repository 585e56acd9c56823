package vgw

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
)

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
//	       right has ended, 1009 too long, 1011 the command could not be run, 1012 connect again, 1013 try again later
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
func sandboxRoutes() []route {
	const one = "/api/v1/sandboxes/{sandbox}"
	return []route{
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/sandboxes", Action: authz.SandboxList, Summary: "one's own sandboxes and those that were delegated, all of them for an admin; with watch=1 their changes as server-sent events"}, handle: listSandboxes},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/sandboxes", Action: authz.SandboxCreate, Summary: "start a sandbox; repeatable with Idempotency-Key"}, handle: createSandbox},
		{Route: exchange.Route{Method: "GET", Pattern: one, Action: authz.SandboxRead, Summary: "one sandbox, by name or id"}, handle: getSandbox},
		{Route: exchange.Route{Method: "DELETE", Pattern: one, Action: authz.SandboxDelete, Summary: "end a sandbox and forget it"}, handle: deleteSandbox},
		{Route: exchange.Route{Method: "POST", Pattern: one + "/start", Action: authz.SandboxStart, Summary: "start a sandbox that was stopped, or has ended"}, handle: startSandbox},
		{Route: exchange.Route{Method: "POST", Pattern: one + "/stop", Action: authz.SandboxStop, Summary: "stop a sandbox; its name and settings stay"}, handle: stopSandbox},
		{Route: exchange.Route{Method: "GET", Pattern: one + "/wait", Action: authz.SandboxRead, Summary: "wait until a sandbox runs, has stopped or is gone"}, handle: waitSandbox},
		{Route: exchange.Route{Method: "GET", Pattern: one + "/events", Action: authz.SandboxRead, Summary: "what the cluster did with a sandbox"}, handle: sandboxEvents},
		{Route: exchange.Route{Method: "GET", Pattern: one + "/logs", Action: authz.SandboxLogs, Summary: "what a sandbox wrote to its standard output and error"}, handle: sandboxLogs},
		{Route: exchange.Route{Method: "POST", Pattern: one + "/exec", Action: authz.SandboxExec, Summary: "run a command in a sandbox, and answer with what came of it"}, handle: execSandbox},
		{Route: exchange.Route{Method: "GET", Pattern: one + "/exec", Action: authz.SandboxExec, Summary: "run a command in a sandbox over a WebSocket"}, handle: attachSandbox},
	}
}

// aim is a sandbox that a request is about: the manager, and the sandbox if there is one.
type aim struct {
	all    *sandbox.Manager
	it     *sandbox.Sandbox // nil = absent
	object authz.Object     // the zero Object of none
	name   string           // for records: the sandbox's, or what was asked for
}

// resource is what records and policies are told. One sandbox has one there, whether it was asked for by name or id.
func (a *aim) resource() string { return kindSandbox + "/" + a.name }

// aimed finds the sandbox that the path names and admits an action on it, before it is told whether there is one: what is absent is
// admitted as the object of nobody, so that who may not is told the same of every name.
func (c *call) aimed(action authz.Action, more string) (*aim, *guard.Permit, error) {
	a := &aim{name: label(c.params[0])}
	var err error
	if a.all, err = c.sandboxes(); err == nil {
		if a.it, _ = a.all.Find(c.params[0]); a.it != nil {
			a.name, a.object = a.it.Name, ownableSandbox(a.it).object(c.e.Record)
		}
	}
	permit, refused := c.r.Visit.Admit(guard.Effect{Action: action, Resource: a.resource() + more, Object: a.object, Grants: c.delegated(a.object)})
	if refused != nil {
		return nil, nil, refused
	}
	if err == nil && a.it == nil {
		err = noSandbox(c.params[0])
	}
	if err != nil {
		permit.Done(err)
		return nil, nil, err
	}
	return a, permit, nil
}

func noSandbox(name string) error { return fault.New(fault.NotFound, "no sandbox %q", name) }

// sandboxEffect is what it takes to see a sandbox, or to do something with it.
func (c *call) sandboxEffect(a authz.Action, s *sandbox.Sandbox) guard.Effect {
	o := ownableSandbox(s).object(c.e.Record)
	return guard.Effect{Action: a, Resource: kindSandbox + "/" + s.Name, Object: o, Grants: c.delegated(o)}
}

func getSandbox(_ context.Context, c *call) (exchange.Decision, error) {
	a, permit, err := c.aimed(authz.SandboxRead, "")
	if err != nil {
		return nil, err
	}
	d, err := c.replySandbox(200, a.it)
	permit.Done(err)
	return decision(d, err)
}

func (c *call) replySandbox(status int, s *sandbox.Sandbox) (*exchange.Reply, error) {
	d, err := reply(status, c.sandboxView(s))
	if err != nil {
		return nil, err
	}
	d.Header.Set("Etag", etag(s.Version))
	if status == 201 {
		d.Header.Set("Location", c.r.Base+"/api/v1/sandboxes/"+s.Name)
	}
	return d, nil
}

func createSandbox(ctx context.Context, c *call) (exchange.Decision, error) {
	body, err := decode[sandboxBody](c)
	if err != nil {
		return nil, err
	}
	key, err := idempotencyKey(c.r.Header)
	if err != nil {
		return nil, err
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.SandboxCreate, Resource: kindSandbox + "/" + label(body.Name)})
	if err != nil {
		return nil, err
	}
	s, created, err := c.createSandbox(ctx, permit, body, key)
	if err == nil && !created { // nothing was committed, with which the record would have gone
		permit.Done(nil)
		return decision(c.replySandbox(200, s))
	}
	if err := permit.Settle(err); err != nil {
		return nil, err
	}
	return decision(c.replySandbox(201, s))
}

func (c *call) createSandbox(ctx context.Context, permit *guard.Permit, body sandboxBody, key string) (*sandbox.Sandbox, bool, error) {
	all, err := c.sandboxes()
	if err != nil {
		return nil, false, err
	}
	spec, err := body.spec()
	if err != nil {
		return nil, false, err
	}
	if spec, err = all.Judge(spec); err != nil {
		return nil, false, err
	}
	by := ownerOf(c.e.Record, c.r.Visit.Principal())
	s := &sandbox.Sandbox{ID: uuid.NewString(), Name: body.Name, Owner: by.ref, Epoch: by.epoch, Spec: spec}
	if key != "" {
		if s.Key, s.Request, err = c.gw.repeatable(by, key, body); err != nil {
			return nil, false, err
		}
	}
	return all.Create(ctx, s, c.sandboxCommit(permit))
}

// sandboxCommit returns the caller's transaction.
func (c *call) sandboxCommit(permit *guard.Permit) func(w ...tenant.Write) error {
	return func(w ...tenant.Write) error {
		err := c.gw.commit(c.records, permit, w...)
		if err == nil {
			c.gw.forgetGrants(w)
		}
		return err
	}
}

// maxIdempotencyKey bounds a key, in bytes.
const maxIdempotencyKey = 128

// idempotencyKey reads the header; "" = none.
func idempotencyKey(h exchange.Header) (string, error) {
	values := h["Idempotency-Key"]
	if len(values) == 0 {
		return "", nil
	}
	key := values[0]
	if len(values) > 1 || key == "" || len(key) > maxIdempotencyKey || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", fault.New(fault.Invalid, "Idempotency-Key must be given once, 1 to %d printable ASCII characters", maxIdempotencyKey)
	}
	return key, nil
}

// repeatable returns digests of a principal's idempotency key and of its request under it. They are stored with what is made, so that a
// repetition finds it whichever replica is asked; what the key was, nobody can tell from them.
func (g *Gateway) repeatable(by owner, key string, body sandboxBody) (under, request string, err error) {
	canonical, err := json.Marshal(body, json.Deterministic(true))
	if err != nil {
		return "", "", err
	}
	// In JSON no two lists are one text.
	who, err := json.Marshal([]string{"sandbox", by.ref, by.epoch.UTC().Format(time.RFC3339Nano), key})
	if err != nil {
		return "", "", err
	}
	return hex.EncodeToString(g.keyedDigest("idempotency", who)), hex.EncodeToString(g.keyedDigest("idempotency-body", append(who, canonical...))), nil
}

func startSandbox(ctx context.Context, c *call) (exchange.Decision, error) {
	return askSandbox(ctx, c, authz.SandboxStart, sandbox.WantRunning)
}

func stopSandbox(ctx context.Context, c *call) (exchange.Decision, error) {
	return askSandbox(ctx, c, authz.SandboxStop, sandbox.WantStopped)
}

func deleteSandbox(ctx context.Context, c *call) (exchange.Decision, error) {
	return askSandbox(ctx, c, authz.SandboxDelete, sandbox.WantDeleted)
}

// askSandbox has a sandbox be what its owner wants. It is accepted, and on its way.
func askSandbox(ctx context.Context, c *call, action authz.Action, want sandbox.Want) (exchange.Decision, error) {
	pre, err := ifMatch(c.r.Header)
	if err != nil {
		return nil, err
	}
	if c.r.Query != "" {
		return nil, fault.New(fault.Invalid, "there are no query parameters here")
	}
	a, permit, err := c.aimed(action, "")
	if err != nil {
		return nil, err
	}
	committed := false
	commit := c.sandboxCommit(permit)
	s, err := a.all.Ask(ctx, a.it.ID, want, func(version int64) error {
		if !pre.allows(version) {
			return stale(version)
		}
		return nil
	}, func(w ...tenant.Write) error {
		committed = true
		if want != sandbox.WantRunning {
			w = owed(w)
		}
		return commit(w...)
	})
	if err == nil && !committed {
		permit.Done(nil)
	} else if err := permit.Settle(err); err != nil {
		return nil, err
	}
	if s == nil {
		return noContent(), nil
	}
	return decision(c.replySandbox(202, s))
}

// eventsView is what the cluster did with a sandbox.
type eventsView struct {
	Items []sandbox.Event `json:"items"`
}

func sandboxEvents(ctx context.Context, c *call) (exchange.Decision, error) {
	if c.r.Query != "" {
		return nil, fault.New(fault.Invalid, "there are no query parameters here")
	}
	a, permit, err := c.aimed(authz.SandboxRead, "")
	if err != nil {
		return nil, err
	}
	events, err := a.all.Events(ctx, a.it.ID)
	if permit.Done(err); err != nil {
		return nil, err
	}
	return decision(reply(200, eventsView{append([]sandbox.Event{}, events...)}))
}

// goal is what a wait is for.
type goal struct {
	name    string
	timeout time.Duration
}

// waitView is the end of a wait.
type waitView struct {
	Reached bool         `json:"reached"`
	Sandbox *sandboxView `json:"sandbox,omitzero"` // nil: it is gone
}

// met says whether a sandbox is where it is waited for, and whether waiting on is of use. s is nil when it is gone.
func (g goal) met(s *sandbox.Sandbox) (reached, over bool) {
	switch {
	case s == nil:
		return g.name == "deleted" || g.name == "settled", true
	case g.name == "running":
		return s.State == sandbox.Running, s.State == sandbox.Running || s.Want != sandbox.WantRunning || s.AtRest()
	case g.name == "stopped":
		return s.AtRest(), s.AtRest() || s.Want == sandbox.WantDeleted
	case g.name == "deleted":
		return false, false
	}
	reached = s.AtRest() || s.State == sandbox.Running && s.Want == sandbox.WantRunning
	return reached, reached
}

func waitSandbox(_ context.Context, c *call) (exchange.Decision, error) {
	g, err := goalOf(c.r.Query)
	if err != nil {
		return nil, err
	}
	a, permit, err := c.aimed(authz.SandboxRead, "")
	if err != nil {
		return nil, err
	}
	return &exchange.Serve{Handle: func(ctx context.Context, out exchange.Stream) (err error) {
		defer func() { permit.Done(err) }()
		ctx, release, err := c.whileMay(ctx, authz.SandboxRead, a.object)
		if err != nil {
			return err
		}
		defer release()
		d, err := c.wait(ctx, a, g)
		if err != nil {
			return err
		}
		return send(out, d)
	}}, nil
}

func (c *call) wait(ctx context.Context, a *aim, g goal) (*exchange.Reply, error) {
	bounded, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	var v waitView
	s, err := a.all.Wait(bounded, a.it.ID, func(s *sandbox.Sandbox) (over bool) {
		v.Reached, over = g.met(s)
		return over
	})
	if err != nil && bounded.Err() != nil && ctx.Err() == nil { // the time is over: it is as it is
		v.Reached, err = false, nil
		s, _ = a.all.Find(a.it.ID)
	}
	if err != nil {
		return nil, endOf(ctx, err)
	}
	if s != nil {
		view := c.sandboxView(s)
		v.Sandbox = &view
	}
	return reply(200, v)
}

// endOf returns why what a stream waited for has failed: what ended the stream comes first. A manager that was closed under it
// moves with its tenant, and the client may ask again.
func endOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// send answers a Serve with bytes that are ready.
func send(out exchange.Stream, d *exchange.Reply) error {
	out.Start(d.Status, d.Header)
	_, err := out.Write(d.Body)
	return err
}

// whileMay returns ctx, which ends also with the delegation by which the caller may do something with an object, if it is by one.
func (c *call) whileMay(ctx context.Context, a authz.Action, o authz.Object) (context.Context, func(), error) {
	held, release, err := c.gw.holdFor(authz.Question{Principal: c.r.Visit.Principal(), Action: a, In: c.e.Scope.ID(), Object: o}, c.e.Record)
	if err != nil {
		return nil, nil, err
	}
	if held == nil {
		return ctx, release, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(held, func() { cancel(endOfHold(held)) })
	return ctx, func() {
		stop()
		cancel(nil)
		release()
	}, nil
}

// endOfHold returns why a hold has ended. One that ended with its gateway may be taken up again elsewhere.
func endOfHold(held context.Context) error {
	cause := context.Cause(held)
	if errors.Is(cause, errDelegation) {
		return cause
	}
	return ended(cause)
}
