package vgw

import (
	"errors"
	"io"
	"mime"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
)

// Bounds of the REST surface.
const (
	maxBody      = 256 << 10 // bytes of a request body: a server with all its headers, twice over
	defaultLimit = 100       // objects of a page
	maxLimit     = 500
)

// decode reads a JSON body strictly: what we would not look at, a misspelt or repeated field among it, is refused.
func decode[T any](c *call) (v T, err error) { return decodeUpTo[T](c, maxBody) }

func decodeUpTo[T any](c *call, limit int64) (v T, err error) {
	t, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || t != "application/json" {
		return v, fault.New(fault.UnsupportedMedia, "Content-Type must be application/json")
	}
	tooLarge := fault.New(fault.TooLarge, "the body is over %d bytes", limit)
	if c.r.Length > limit {
		return v, tooLarge
	}
	body, err := io.ReadAll(io.LimitReader(c.r.Body, limit+1))
	switch {
	case err != nil && fault.KindOf(err) != fault.Internal:
		return v, err
	case err != nil:
		return v, fault.Wrap(fault.Invalid, err, "the body could not be read to its end")
	case int64(len(body)) > limit:
		return v, tooLarge
	}
	if err := json.Unmarshal(body, &v, json.RejectUnknownMembers(true)); err != nil {
		return v, badBody(err)
	}
	return v, nil
}

// badBody says where a body is wrong, in words that hold none of its values.
func badBody(err error) error {
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) {
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return fault.Wrap(fault.Invalid, err, "the field %.100q appears twice (offset %d)", field(syntax.JSONPointer), syntax.ByteOffset)
		}
		return fault.Wrap(fault.Invalid, err, "the body is not one valid JSON value in UTF-8 (offset %d)", syntax.ByteOffset)
	}
	var semantic *json.SemanticError
	if !errors.As(err, &semantic) {
		return fault.Wrap(fault.Invalid, err, "the body is not valid")
	}
	name := field(semantic.JSONPointer)
	if errors.Is(err, json.ErrUnknownName) {
		return fault.Wrap(fault.Invalid, err, "the field %.100q is unknown (offset %d)", name, semantic.ByteOffset)
	}
	return fault.Wrap(fault.Invalid, err, "the field %.100q has a value of the wrong kind (offset %d)", name, semantic.ByteOffset)
}

// field returns the path of a field without the first slash.
func field(p jsontext.Pointer) string { return strings.TrimPrefix(string(p), "/") }

// reply answers with v as JSON, the same bytes for the same value.
func reply(status int, v any) (*exchange.Reply, error) {
	body, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	return replyBytes(status, append(body, '\n')), nil
}

// replyBytes answers with JSON that is ready.
func replyBytes(status int, body []byte) *exchange.Reply {
	h := exchange.Header{}
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	return &exchange.Reply{Status: status, Header: h, Body: body}
}

func noContent() *exchange.Reply { return &exchange.Reply{Status: 204, Header: exchange.Header{}} }

// etag renders a resource version.
func etag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// precondition is an If-Match. The zero value allows everything.
type precondition struct {
	tags []string // nil: none given, or *
}

// ifMatch reads If-Match (RFC 9110 §13.1.1). A weak tag never matches; "*" is any version, which existence gives.
func ifMatch(h exchange.Header) (precondition, error) {
	values := h["If-Match"]
	if len(values) == 0 || len(values) == 1 && strings.TrimSpace(values[0]) == "*" {
		return precondition{}, nil
	}
	tags := []string{}
	for tag := range strings.SplitSeq(strings.Join(values, ","), ",") {
		tag = strings.TrimSpace(tag)
		opaque := strings.TrimPrefix(tag, "W/")
		if len(opaque) < 2 || opaque[0] != '"' || strings.IndexByte(opaque[1:], '"') != len(opaque)-2 {
			return precondition{}, fault.New(fault.Invalid, `If-Match is not a list of entity tags such as "12"`)
		}
		tags = append(tags, tag)
	}
	return precondition{tags}, nil
}

func (p precondition) allows(version int64) bool {
	return p.tags == nil || slices.Contains(p.tags, etag(version))
}

func stale(version int64) error {
	return fault.New(fault.PreconditionFailed, "If-Match does not hold: the resource version is now %d", version)
}

// list is the body of every list.
type list[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor,omitzero"`
}

// page returns the part of items, which are sorted by name, that the query's limit and cursor ask for. A cursor is a sealed
// token, bound to tenant, principal and route: nobody can make one, or use another's.
func page[T any](c *call, items []T, name func(T) string, also ...string) (list[T], error) {
	limit, after, err := c.pageQuery(also...)
	if err != nil {
		return list[T]{}, err
	}
	start := 0
	if after != "" {
		start, _ = slices.BinarySearchFunc(items, after, func(item T, after string) int {
			if name(item) <= after {
				return -1
			}
			return 1
		})
	}
	out := list[T]{Items: items[start:min(start+limit, len(items))]}
	if end := start + limit; end < len(items) {
		out.NextCursor = c.gw.cursors.SealToken([]byte(name(items[end-1])), c.cursorContext()...)
	}
	return out, nil
}

func (c *call) cursorContext() []string {
	return []string{c.gw.scope.UID(), c.r.Visit.Principal().Ref(), c.route.Method + " " + c.route.Pattern}
}

// pageQuery reads limit and cursor. Beside them there may be also, which somebody else reads.
func (c *call) pageQuery(also ...string) (limit int, after string, err error) {
	q, err := url.ParseQuery(c.r.Query)
	if err != nil {
		return 0, "", fault.Wrap(fault.Invalid, err, "the query is malformed")
	}
	for name, values := range q {
		if name != "limit" && name != "cursor" && !slices.Contains(also, name) {
			return 0, "", fault.New(fault.Invalid, "the query parameter %.64q is unknown: use %s", name, inWords(append(also, "limit", "cursor")))
		}
		if len(values) > 1 {
			return 0, "", fault.New(fault.Invalid, "the query parameter %s is given %d times", name, len(values))
		}
	}
	limit = defaultLimit
	if q.Has("limit") {
		if limit, err = strconv.Atoi(q.Get("limit")); err != nil || limit < 1 || limit > maxLimit {
			return 0, "", fault.New(fault.Invalid, "limit must be 1 to %d", maxLimit)
		}
	}
	if q.Has("cursor") {
		plain, err := c.gw.cursors.OpenToken(q.Get("cursor"), c.cursorContext()...)
		if err != nil || len(plain) == 0 {
			return 0, "", fault.New(fault.Invalid, "cursor is none that this list gave to this credential")
		}
		after = string(plain)
	}
	return limit, after, nil
}

// inWords returns a list as a sentence has it.
func inWords(names []string) string {
	last := len(names) - 1
	if last < 1 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

// label makes a name fit for a record's resource: of bounded length, without control characters and spaces.
func label(s string) string {
	if len(s) > 128 {
		s = s[:127] + "~"
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' }) {
		return strconv.QuoteToASCII(s)
	}
	return s
}
