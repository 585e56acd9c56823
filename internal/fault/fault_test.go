package fault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// golden is the one table of kinds: name, HTTP status, JSON-RPC code. Names and statuses are public: a change of a line
// is a change of the API.
const golden = `
internal               500 -32603 Internal error
invalid                400 -32600 Invalid request
unauthenticated        401 -32001 Authentication required
forbidden              403 -32003 Forbidden
not-found              404 -32004 Not found
method-not-allowed     405 -32600 Method not allowed
conflict               409 -32009 Conflict
precondition-failed    412 -32009 Precondition failed
too-large              413 -32600 Body too large
uri-too-long           414 -32600 URI too long
unsupported-media-type 415 -32600 Unsupported media type
misdirected            421 -32600 Misdirected request
rate-limited           429 -32029 Too many requests
header-too-large       431 -32600 Request header too large
canceled               499 -32603 Client closed request
not-implemented        501 -32601 Not implemented
bad-upstream           502 -32052 Bad upstream
unavailable            503 -32053 Unavailable
upstream-timeout       504 -32054 Upstream timeout
not-acceptable         406 -32600 Not acceptable
`

// kinds returns all kinds. The one after the last falls back to Internal.
func kinds(t *testing.T) (all []Kind) {
	t.Helper()
	for k := Kind(0); k == 0 || k.String() != "internal"; k++ {
		all = append(all, k)
	}
	return all
}

func TestKindsAreGolden(t *testing.T) {
	var b strings.Builder
	b.WriteByte('\n')
	for _, k := range kinds(t) {
		fmt.Fprintf(&b, "%-22s %d %d %s\n", k, k.Status(), k.JSONRPC(), k.Title())
	}
	if got := b.String(); got != golden {
		t.Errorf("kinds are\n%s\nwant\n%s", got, golden)
	}
}

func TestKindsAreDistinct(t *testing.T) {
	names, statuses := make(map[string]Kind), make(map[int]Kind)
	for _, k := range kinds(t) {
		if other, ok := names[k.String()]; ok {
			t.Errorf("%d and %d are both named %q", k, other, k)
		}
		if other, ok := statuses[k.Status()]; ok {
			t.Errorf("%s and %s both have status %d", k, other, k.Status())
		}
		names[k.String()], statuses[k.Status()] = k, k
		if k.Type() != "urn:polygate:problem:"+k.String() {
			t.Errorf("%s has type %q", k, k.Type())
		}
	}
}

func TestProblemsAreGolden(t *testing.T) {
	for _, c := range []struct {
		err  *Error
		want string
	}{
		{New(Invalid, "name is empty"),
			`{"type":"urn:polygate:problem:invalid","title":"Invalid request","status":400,"detail":"name is empty","request_id":"r1"}`},
		{Wrap(BadUpstream, errors.New("dial tcp 10.0.0.7:80: refused"), "server everything did not answer"),
			`{"type":"urn:polygate:problem:bad-upstream","title":"Bad upstream","status":502,"detail":"server everything did not answer","request_id":"r1"}`},
		{New(Internal, "secret"),
			`{"type":"urn:polygate:problem:internal","title":"Internal error","status":500,"detail":"The cause is in the gateway's log under this request id.","request_id":"r1"}`},
		{New(Unauthenticated, "no such key"),
			`{"type":"urn:polygate:problem:unauthenticated","title":"Authentication required","status":401,"detail":"Send a credential of this tenant, such as: Authorization: Bearer \u003cAPI key\u003e."}`},
		{New(Forbidden, "role viewer may not key.create"),
			`{"type":"urn:polygate:problem:forbidden","title":"Forbidden","status":403,"detail":"This credential does not allow it, or the host, path and X-Tenant-ID name different tenants."}`},
		{New(NotFound, "server x"),
			`{"type":"urn:polygate:problem:not-found","title":"Not found","status":404,"detail":"There is nothing here that this credential may see."}`},
		{New(Misdirected, "host b"),
			`{"type":"urn:polygate:problem:misdirected","title":"Misdirected request","status":421,"detail":"The Host does not belong to this connection's server name: open a new connection to it."}`},
	} {
		got, err := json.Marshal(c.err.Problem("r1"))
		if err != nil || string(got) != c.want {
			t.Errorf("%v: problem\n%s\nwant\n%s", c.err, got, c.want)
		}
	}
}

// TestRefusalsTellNothing: the bytes of a refusal depend on its kind alone, not on why or for whom.
func TestRefusalsTellNothing(t *testing.T) {
	for _, k := range []Kind{Unauthenticated, Forbidden, NotFound, Misdirected} {
		one, err1 := json.Marshal(New(k, "tenant team-a").Problem("r1"))
		two, err2 := json.Marshal(Wrap(k, io.EOF, "key of team-b was revoked").After(time.Second).Problem("r2"))
		if err1 != nil || err2 != nil || string(one) != string(two) {
			t.Errorf("%s: two refusals differ:\n%s\n%s", k, one, two)
		}
	}
}

// TestReasonIsShownWithForbidden: a reason that is meant to be shown is, and with no other refusal.
func TestReasonIsShownWithForbidden(t *testing.T) {
	for _, k := range []Kind{Unauthenticated, Forbidden, NotFound, Misdirected} {
		e := New(k, "for the log")
		e.Reason = "ask an operator"
		got := e.Problem("r1")
		if shown := got.Detail == e.Reason; shown != (k == Forbidden) || got.RequestID != "" {
			t.Errorf("%s: %+v", k, got)
		}
	}
}

func TestProblemHidesTheCause(t *testing.T) {
	for _, k := range kinds(t) {
		b, err := json.Marshal(Wrap(k, errors.New("canary"), "detail").Problem("r1"))
		if err != nil || strings.Contains(string(b), "canary") {
			t.Errorf("%s: the problem holds the cause: %s, %v", k, b, err)
		}
	}
}

func TestFrom(t *testing.T) {
	plain := errors.New("disk on fire")
	for _, c := range []struct {
		name string
		err  error
		want Kind
	}{
		{"plain", plain, Internal},
		{"classified", New(Conflict, "x"), Conflict},
		{"wrapped", fmt.Errorf("load: %w", New(NotFound, "x")), NotFound},
		{"outermost wins", Wrap(Unavailable, New(NotFound, "x"), "y"), Unavailable},
		{"canceled", fmt.Errorf("read: %w", context.Canceled), Canceled},
		{"deadline", fmt.Errorf("read: %w", context.DeadlineExceeded), Unavailable},
		{"classified cancel", Wrap(UpstreamTimeout, context.DeadlineExceeded, "x"), UpstreamTimeout},
		{"joined", errors.Join(plain, New(Invalid, "x")), Invalid},
	} {
		if got := From(c.err); got.Kind != c.want || KindOf(c.err) != c.want {
			t.Errorf("%s: From = %v, want kind %s", c.name, got, c.want)
		}
	}
	if From(nil) != nil {
		t.Error("From(nil) is not nil")
	}
	if KindOf(nil) != Internal {
		t.Error("KindOf(nil) is not Internal")
	}
	if e := From(plain); e.Detail != "" || !errors.Is(e, plain) {
		t.Errorf("From(plain) = %+v, want no detail and the cause kept", e)
	}
	if !Is(fmt.Errorf("x: %w", New(Conflict, "y")), Conflict) || Is(plain, Internal) || Is(nil, Internal) {
		t.Error("Is does not tell classified errors")
	}
}

func TestErrorText(t *testing.T) {
	cause := errors.New("eof")
	for want, e := range map[string]*Error{
		"invalid: bad name":      New(Invalid, "bad %s", "name"),
		"invalid: bad name: eof": Wrap(Invalid, cause, "bad name"),
		"internal: eof":          From(cause),
	} {
		if e.Error() != want {
			t.Errorf("Error() = %q, want %q", e, want)
		}
	}
}

func TestAfterCopies(t *testing.T) {
	e := New(RateLimited, "x")
	if got := e.After(time.Second); got.RetryAfter != time.Second || e.RetryAfter != 0 || got.Detail != "x" {
		t.Errorf("After = %+v of %+v", got, e)
	}
}
