// Package problem writes an error as an HTTP response: problem+json (RFC 9457) and the headers that go with its kind.
// It is the one renderer of the listeners that we answer ourselves; what an error is, and what it may tell, is decided
// in package fault, and whether it is logged, by the caller.
package problem

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// ContentType is the media type of a problem.
const ContentType = "application/problem+json"

// challenge is the value of WWW-Authenticate. It names no tenant: the same bytes for every refusal.
const challenge = `Bearer realm="polygate"`

// Write answers with err. The answer must not have begun: a Content-Length, ETag or other header that a handler set for
// its own answer is removed, and nothing may be cached. A WWW-Authenticate that is set already stays: it knows more.
func Write(w http.ResponseWriter, err error, requestID string) {
	e := fault.From(err)
	if e == nil {
		e = &fault.Error{Kind: fault.Internal}
	}
	body := Body(e, requestID)
	h := w.Header()
	for _, name := range []string{"Etag", "Last-Modified", "Location", "Content-Encoding", "Content-Range", "Trailer"} {
		h.Del(name)
	}
	setHeader(h, e, requestID)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.Kind.Status())
	_, _ = w.Write(body) // the client went away: nobody is left to tell
}

// Body returns the bytes of the problem, which end with a newline.
func Body(e *fault.Error, requestID string) []byte {
	body, err := json.Marshal(e.Problem(requestID))
	if err != nil { // strings and an int: cannot fail
		return []byte("{}\n")
	}
	return append(body, '\n')
}

func setHeader(h http.Header, e *fault.Error, requestID string) {
	h.Set("Content-Type", ContentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if requestID != "" {
		h.Set("X-Request-Id", requestID)
	}
	if e.Kind == fault.Unauthenticated && h.Get("Www-Authenticate") == "" {
		h.Set("Www-Authenticate", challenge)
	}
	if e.Kind == fault.MethodNotAllowed && e.Allow != "" {
		h.Set("Allow", e.Allow)
	}
	if s := RetryAfter(e); s != "" {
		h.Set("Retry-After", s)
	}
}

// RetryAfter returns the value of Retry-After: whole seconds, rounded up so that an obedient client is not refused
// again; "" where the error advises none.
func RetryAfter(e *fault.Error) string {
	if e.RetryAfter <= 0 {
		return ""
	}
	return strconv.Itoa(int(math.Ceil(float64(e.RetryAfter) / float64(time.Second))))
}
