package problem_test

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/problem"
)

func TestWrite(t *testing.T) {
	for _, tc := range []struct {
		name   string
		err    error
		status int
		body   string
		header map[string]string
	}{
		{"a detail for the caller", fault.New(fault.Invalid, "id is empty"), 400,
			`{"type":"urn:polygate:problem:invalid","title":"Invalid request","status":400,"detail":"id is empty","request_id":"r-1"}`,
			map[string]string{"Content-Type": "application/problem+json", "Cache-Control": "no-store", "X-Request-Id": "r-1", "Etag": ""}},
		{"a refusal says what its kind says, without the request id", fault.New(fault.Unauthenticated, "key of team-b"), 401,
			`{"type":"urn:polygate:problem:unauthenticated","title":"Authentication required","status":401,"detail":"Send a credential of this tenant, such as: Authorization: Bearer \u003cAPI key\u003e."}`,
			map[string]string{"Www-Authenticate": `Bearer realm="polygate"`, "X-Request-Id": "r-1"}},
		{"an unknown error is internal", errors.New("secret"), 500,
			`{"type":"urn:polygate:problem:internal","title":"Internal error","status":500,"detail":"The cause is in the gateway's log under this request id.","request_id":"r-1"}`, nil},
		{"retry advice is rounded up", fault.New(fault.RateLimited, "slow down").After(1200 * time.Millisecond), 429, "",
			map[string]string{"Retry-After": "2"}},
		{"allowed methods", &fault.Error{Kind: fault.MethodNotAllowed, Allow: "GET, PUT"}, 405, "",
			map[string]string{"Allow": "GET, PUT"}},
		{"nil is a defect of the caller", nil, 500, "", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			w.Header().Set("ETag", `"5"`)
			problem.Write(w, tc.err, "r-1")
			if w.Code != tc.status {
				t.Errorf("status = %d, want %d", w.Code, tc.status)
			}
			if got := strings.TrimSpace(w.Body.String()); tc.body != "" && got != tc.body {
				t.Errorf("body = %s\nwant   %s", got, tc.body)
			}
			for name, want := range tc.header {
				if got := w.Header().Get(name); got != want {
					t.Errorf("%s = %q, want %q", name, got, want)
				}
			}
		})
	}
}
