// Package mcp is the gateway's door to one MCP server: a raw streaming proxy of the Streamable HTTP transport, for the
// sessions of 2025-11-25 and before ("legacy") and the stateless 2026-07-28 ("modern"). It reads as much of a message as
// it takes to judge it (package wire), relays the very bytes it judged, and replaces the server's session ids by sealed
// tokens. Which servers a tenant has, and who carries a relay out, is decided elsewhere.
package mcp

import (
	"context"
	"errors"
	"io"
	"mime"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/vgw/catalog"
	"github.com/polygate/polygate/vgw/mcp/wire"
)

// DefaultMaxBody bounds the body of one request: it is held in memory until it has been sent.
const DefaultMaxBody = 4 << 20

// Server is an MCP server to relay to.
type Server struct {
	Name     string
	ID       string // unique in the tenant, never reused
	Endpoint catalog.Endpoint
	Headers  map[string]string // sent with each request, by canonical name
	Timeout  time.Duration     // to wait for a response's header; 0 = the engine's default
	Trusted  bool              // declared by an operator
}

// Handler serves one tenant's servers. It is immutable, and safe for concurrent use.
type Handler struct {
	Tenant   string        // the tenant's UID
	Sessions *seal.DataKey // seals session ids; of this tenant only
	MaxBody  int64         // bytes of a request body
	Bodies   *Budget       // of the bodies held at a time; nil = no bound
	// Server returns the server of a name; an error that is fault.NotFound if there is none.
	Server func(ctx context.Context, name string) (Server, error)
}

// Access is what an admission depends on beside the caller and the action. The zero Access is that of no server: nobody owns it.
type Access struct {
	Object authz.Object
	Grants []authz.Grant // delegations of it to the caller
	// Hold returns a context that ends when the action is no longer allowed by a delegation, or nil if it needs none, and
	// what gives it back. It is asked after the admission. May be nil.
	Hold func(a authz.Action) (live context.Context, release func(), err error)
}

// Decide judges a request to the server called name. It always decides: an error is a JSON-RPC reply.
func (h *Handler) Decide(ctx context.Context, r *exchange.Request, name string, access Access) exchange.Decision {
	c := &call{h: h, r: r, name: name, access: access, modern: modern(r.Header["Mcp-Protocol-Version"])}
	relay, err := c.decide(ctx)
	defer func() {
		if relay == nil { // else the relay's end does
			c.drop()
		}
	}()
	if err != nil {
		return RenderError(c.msg.ID, fault.From(err), r.ID)
	}
	return relay
}

// call is one request on its way to a decision.
type call struct {
	h      *Handler
	r      *exchange.Request
	name   string // of the server, as the caller wrote it
	access Access
	modern bool

	body    []byte       // of a POST
	held    int64        // bytes of the budget that body took
	msg     wire.Message // of a POST
	session session
}

func (c *call) decide(ctx context.Context) (*exchange.Relay, error) {
	if err := c.judge(); err != nil {
		return nil, err
	}
	a := action(c.r.Method, &c.msg)
	permit, err := c.r.Visit.Admit(guard.Effect{
		Action: a, Resource: resource(c.name, c.r.Method, &c.msg), Object: c.access.Object, Grants: c.access.Grants,
	})
	if err != nil {
		return nil, err
	}
	live, release, err := c.hold(a)
	if err != nil {
		permit.Done(err)
		return nil, err
	}
	// That there is no such server is said after the admission, so that a role too small is told the same of every name.
	relay, err := c.relay(ctx)
	if err != nil {
		release()
		permit.Done(err)
		return nil, err
	}
	relay.Live = live
	relay.Done = func(o exchange.Outcome) {
		release()
		c.drop()
		permit.Done(outcome(o))
	}
	return relay, nil
}

// hold keeps the relay no longer alive than the delegation that it hangs on.
func (c *call) hold(a authz.Action) (context.Context, func(), error) {
	if c.access.Hold == nil {
		return nil, func() {}, nil
	}
	return c.access.Hold(a)
}

// outcome returns how a relay ended, for the record.
func outcome(o exchange.Outcome) error {
	if o.Err == nil && o.Status >= 500 {
		return fault.New(fault.BadUpstream, "the server answered %d", o.Status)
	}
	return o.Err
}

// judge checks what does not depend on any server.
func (c *call) judge() error {
	if v := c.r.Header["Mcp-Protocol-Version"]; len(v) > 1 {
		return fault.New(fault.Invalid, "MCP-Protocol-Version is given %d times", len(v))
	}
	switch {
	case c.r.Method == "POST":
		return c.judgePost()
	case c.modern, c.r.Method != "GET" && c.r.Method != "DELETE":
		e := fault.New(fault.MethodNotAllowed, "%s is not used here by MCP", c.r.Method)
		if e.Allow = "GET, POST, DELETE"; c.modern {
			e.Allow = "POST"
		}
		return e
	case c.r.Method == "GET":
		return c.judgeGet()
	}
	return nil
}

func (c *call) judgeGet() error {
	if _, event := accepts(c.r.Header["Accept"]); !event {
		return fault.New(fault.NotAcceptable, "Accept must allow text/event-stream")
	}
	// Events are replayed to the session they were sent to. Without one, anybody could name another's event id.
	// Any value counts: of a repeated field some servers take the first, others the last.
	if len(c.r.Header["Last-Event-Id"]) > 0 && c.r.Header.Get("Mcp-Session-Id") == "" {
		return fault.New(fault.Invalid, "Last-Event-ID is given without Mcp-Session-Id")
	}
	return nil
}

func (c *call) judgePost() error {
	if v := c.r.Header["Content-Type"]; len(v) != 1 || !jsonType(v[0]) {
		return fault.New(fault.UnsupportedMedia, "Content-Type must be application/json")
	}
	for _, v := range c.r.Header["Content-Encoding"] { // each: JSON can be a deflate stream as well, and inflate to other JSON
		if v != "" && !strings.EqualFold(v, "identity") {
			return fault.New(fault.UnsupportedMedia, "Content-Encoding %.32q cannot be judged: send the body as it is", v)
		}
	}
	if json, event := accepts(c.r.Header["Accept"]); !json || !event {
		return fault.New(fault.NotAcceptable, "Accept must allow application/json and text/event-stream")
	}
	body, err := c.read()
	if err != nil {
		return err
	}
	msg, err := wire.Parse(body)
	c.body, c.msg = body, *msg
	if err != nil {
		return err
	}
	if err := needsName(&c.msg); err != nil {
		return err
	}
	return c.agree()
}

// read reads the whole body, which grows as it arrives: a declared length reserves nothing.
func (c *call) read() ([]byte, error) {
	limit := c.h.MaxBody
	tooLarge := fault.New(fault.TooLarge, "the body is over %d bytes", limit)
	if c.r.Length > limit {
		return nil, tooLarge
	}
	body, err := c.readAll(c.r.Body, limit)
	switch {
	case err != nil && fault.KindOf(err) != fault.Internal:
		return nil, err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fault.Wrap(fault.Invalid, err, "the body ends early")
	case err != nil:
		return nil, fault.Wrap(fault.Canceled, err, "the body could not be read")
	case int64(len(body)) > limit:
		return nil, tooLarge
	}
	return body, nil
}

// modern says whether a request speaks the protocol of 2026-07-28 or later. Revisions are dates, so they compare as text.
func modern(version []string) bool {
	if len(version) != 1 || len(version[0]) < len(firstModern) {
		return false
	}
	date := version[0][:len(firstModern)]
	for i := range len(date) {
		digit := date[i] >= '0' && date[i] <= '9'
		if digit == (firstModern[i] == '-') || !digit && date[i] != '-' {
			return false
		}
	}
	return date >= firstModern
}

const firstModern = "2026-07-28"

func jsonType(v string) bool {
	t, params, err := mime.ParseMediaType(v)
	charset, has := params["charset"]
	return err == nil && t == "application/json" && (!has || strings.EqualFold(charset, "utf-8"))
}

// accepts says what an Accept allows. An absent one allows everything; so do tools that send */*. Weights are passed
// over, but for q=0, which forbids.
func accepts(values []string) (json, event bool) {
	if len(values) == 0 {
		return true, true
	}
	for part := range strings.SplitSeq(strings.Join(values, ","), ",") {
		t, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil || strings.Trim(params["q"], "0.") == "" && params["q"] != "" {
			continue
		}
		switch t {
		case "*/*":
			json, event = true, true
		case "application/json", "application/*":
			json = true
		case "text/event-stream", "text/*":
			event = true
		}
	}
	return json, event
}
