package vgw

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/mcp"
)

// maxParams bounds the parameters of a pattern.
const maxParams = 2

// maxParam bounds one parameter, in bytes.
const maxParam = 256

// route is a path and who answers it.
type route struct {
	exchange.Route
	segments []string // of Pattern
	handle   func(ctx context.Context, c *call) (exchange.Decision, error)
	rpc      bool // errors are JSON-RPC
}

// call is one request on its way through a handler. It holds the one tenant that it is for.
type call struct {
	r       *exchange.Request
	e       *tenant.Entry
	route   *route
	params  [maxParams]string // decoded, in the pattern's order
	gw      *Gateway          // nil where Owner is any
	records records
	cfg     *Config // the Mux's
	now     func() time.Time
}

func serveMCP(ctx context.Context, c *call) (exchange.Decision, error) {
	snap, err := c.gw.catalog(ctx)
	if err != nil {
		return nil, err
	}
	s, _ := snap.find(c.params[0])
	access := mcp.Access{Object: s.object(c.e.Record), Grants: c.delegated(s.object(c.e.Record))}
	if access.Grants != nil {
		access.Hold = func(a authz.Action) (context.Context, func(), error) {
			return c.gw.holdFor(authz.Question{Principal: c.r.Visit.Principal(), Action: a, In: c.e.Scope.ID(), Object: access.Object}, c.e.Record)
		}
	}
	return c.gw.mcp.Decide(ctx, c.r, c.params[0], access), nil
}

// split returns the segments of a path that begins with a slash.
func split(path string) []string { return strings.Split(strings.TrimPrefix(path, "/"), "/") }

// match finds the route of a request. The path is judged as it was sent: an escape never matches a fixed segment, so that
// there is one spelling of each path, and what a filter before us judged is what we serve. HEAD is GET (RFC 9110 §9.3.2).
func match(table []route, method, path string) (*route, [maxParams]string, error) {
	if method == "HEAD" {
		method = "GET"
	}
	segments := split(path)
	var allow []string
	for i := range table {
		params, ok := table[i].fits(segments)
		if !ok {
			continue
		}
		if table[i].Method == "" || table[i].Method == method {
			return &table[i], params, nil
		}
		allow = append(allow, table[i].Method)
	}
	if allow == nil {
		return nil, [maxParams]string{}, fault.New(fault.NotFound, "no such path")
	}
	if slices.Contains(allow, "GET") {
		allow = append(allow, "HEAD")
	}
	slices.Sort(allow)
	e := fault.New(fault.MethodNotAllowed, "%s is not allowed here", method)
	e.Allow = strings.Join(allow, ", ")
	return nil, [maxParams]string{}, e
}

// fits says whether the route's pattern fits, and returns the parameters.
func (t *route) fits(segments []string) (params [maxParams]string, ok bool) {
	if len(segments) != len(t.segments) {
		return params, false
	}
	n := 0
	for i, want := range t.segments {
		if want[0] != '{' {
			if segments[i] != want {
				return params, false
			}
			continue
		}
		if params[n], ok = parameter(segments[i]); !ok {
			return params, false
		}
		n++
	}
	return params, true
}

// parameter decodes one segment: once, and to nothing that could be a path of its own.
func parameter(segment string) (string, bool) {
	s, err := url.PathUnescape(segment)
	if err != nil || s == "" || len(s) > maxParam || !utf8.ValidString(s) {
		return "", false
	}
	return s, !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '/' || r == '\\' })
}
