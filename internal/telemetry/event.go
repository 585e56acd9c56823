package telemetry

import (
	"context"
	"log/slog"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Bounds of an event's texts, in bytes.
const (
	maxPath  = 512
	maxCause = 1024
	maxText  = 256
)

// Event is the one log record of a request. The parts of the gateway fill it on the way, each what it knows, and the
// edge logs it once at the end. One request's goroutine owns it.
//
// It holds no header, no query and no body, where secrets travel. What callers can put into it (path, host, names,
// errors that quote them) is clipped, freed of what a terminal or a viewer would act on, and freed of what looks like
// a credential.
type Event struct {
	RequestID string
	Replica   string
	Remote    netip.Addr       // the client
	Host      string           // as the client named it
	Method    string           // as sent
	Path      string           // as sent, without the query
	Tenant    tenant.ID        // once resolved
	Principal tenant.Principal // once authenticated
	Route     string           // the pattern of the route that served it
	Action    string           // what was admitted last
	Protocol  string           // such as HTTP/2.0

	Status         int    // as answered
	UpstreamStatus int    // as the upstream answered; 0 if none did
	ForwardedTo    string // the replica whose answer this is
	ForwardedFrom  string // the replica that has the client's connection
	Err            error
	Began          time.Time     // when the header was read
	Upstream       time.Duration // from the request to the upstream until its response header; 0 if there was none
	BytesIn        int64         // of the request body
	BytesOut       int64         // of the response body

	logged bool
}

// Log writes the event, the first time that it is called. Failures of our own (5xx) are errors, the rest is
// information.
func (e *Event) Log(ctx context.Context, l *slog.Logger, end time.Time) {
	if e.logged {
		return
	}
	e.logged = true
	level := slog.LevelInfo
	if e.Status >= 500 {
		level = slog.LevelError
	}
	if !l.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 24)
	attrs = append(attrs, slog.String("request_id", Clean(e.RequestID, maxText)), slog.Int("status", e.Status),
		slog.Duration("duration", end.Sub(e.Began)), slog.Int64("bytes_in", e.BytesIn), slog.Int64("bytes_out", e.BytesOut))
	text := func(key, value string, limit int) {
		if value != "" {
			attrs = append(attrs, slog.String(key, Clean(value, limit)))
		}
	}
	text("replica", e.Replica, maxText)
	text("tenant", string(e.Tenant), maxText)
	if e.Principal.Kind != "" {
		text("principal", e.Principal.Ref(), maxText)
	}
	text("method", e.Method, maxText)
	text("host", e.Host, maxText)
	text("path", withoutQuery(e.Path), maxPath)
	text("route", e.Route, maxText)
	text("action", e.Action, maxText)
	text("protocol", e.Protocol, maxText)
	text("forwarded_to", e.ForwardedTo, maxText)
	text("forwarded_from", e.ForwardedFrom, maxText)
	if e.Remote.IsValid() {
		text("remote", e.Remote.String(), maxText)
	}
	if e.UpstreamStatus != 0 {
		attrs = append(attrs, slog.Int("upstream_status", e.UpstreamStatus))
	}
	if e.Upstream != 0 {
		attrs = append(attrs, slog.Duration("upstream_duration", e.Upstream))
	}
	if e.Err != nil {
		text("kind", fault.KindOf(e.Err).String(), maxText)
		text("error", e.Err.Error(), maxCause)
	}
	l.LogAttrs(ctx, level, "request", attrs...)
}

func withoutQuery(path string) string {
	path, _, _ = strings.Cut(path, "?")
	return path
}

// Clean returns s fit for a log: at most limit bytes of it, on one line, with nothing that a terminal or a viewer acts
// on (control bytes, ANSI escapes, Unicode line separators, directional overrides, invalid UTF-8: shown as Go escapes),
// and with what looks like a credential masked: API keys, bearer tokens, the query and the user part of URLs, which the
// errors of net/http quote.
func Clean(s string, limit int) string {
	if len(s) > 4*limit {
		s = s[:4*limit] // no secret is masked but to be cut off; bounds the work
	}
	s = mask(s)
	clean := true
	for _, r := range s {
		if r == utf8.RuneError || !strconv.IsPrint(r) {
			clean = false
			break
		}
	}
	if !clean {
		q := strconv.QuoteToGraphic(s)
		s = strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(q[1 : len(q)-1])
	}
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit] + "..."
}

// What looks like a credential; mask tests cheaply before it uses each.
var (
	apiKeys     = regexp.MustCompile(`(pgk_)[\w-]+`)
	authSchemes = regexp.MustCompile(`(?i)\b(bearer|basic) +[\w.~+/=-]+`)
	urlUsers    = regexp.MustCompile(`(://)[^\s/@"]*@`)
	urlQueries  = regexp.MustCompile(`((?:://|"/)[^\s?"]*\?)[^\s"]*`)
)

func mask(s string) string {
	if strings.Contains(s, "pgk_") {
		s = apiKeys.ReplaceAllString(s, "${1}…")
	}
	if strings.ContainsRune(s, ' ') {
		s = authSchemes.ReplaceAllString(s, "${1} …")
	}
	if strings.Contains(s, "://") {
		s = urlUsers.ReplaceAllString(s, "${1}…@")
	}
	if strings.ContainsRune(s, '?') {
		s = urlQueries.ReplaceAllString(s, "${1}…")
	}
	return s
}
