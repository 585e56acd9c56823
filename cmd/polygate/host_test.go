package main

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestHostVerifyWait: a proof is looked for until it is seen; what is missing is told once, not with each look.
func TestHostVerifyWait(t *testing.T) {
	notYet := map[string]any{"type": "urn:polygate:problem:conflict", "detail": "the TXT record holds nothing"}
	var answers []any
	rec := newRecorder(t, func(request) (int, any) {
		next := answers[0]
		if len(answers) > 1 {
			answers = answers[1:]
		}
		if status, ok := next.(int); ok {
			return status, notYet
		}
		return http.StatusOK, next
	})
	rec.settle(t)
	verify := func(args ...string) (string, error) {
		s := &hostCommands{scoped: newScoped(false), every: time.Millisecond}
		cmd := s.hostVerify()
		s.bind(cmd)
		_, stderr, err := carryOut(t.Context(), cmd, args...)
		return stderr, err
	}
	proven := map[string]any{"host": "h", "state": "active"}
	answers = []any{409, 429, 409, 503, 409, proven}
	if stderr, err := verify("h", "--wait"); err != nil || !strings.Contains(stderr, "is proven") || strings.Count(stderr, "looking again") > 4 {
		t.Errorf("%v\n%s", err, stderr)
	}
	answers = []any{409, proven}
	if _, err := verify("h"); err == nil || len(answers) != 1 {
		t.Errorf("without --wait: %v", err)
	}
	answers = []any{404}
	if _, err := verify("h", "--wait"); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("no such host: %v", err)
	}
	answers = []any{409}
	if _, err := verify("h", "--wait", "--timeout", "20ms"); err == nil || !strings.Contains(err.Error(), "is not proven after 20ms") {
		t.Errorf("never proven: %v", err)
	}
}

// TestHostAddShowsTheRecord alone on stdout, so that it can go into a zone file.
func TestHostAddShowsTheRecord(t *testing.T) {
	rec := newRecorder(t, func(request) (int, any) {
		return http.StatusCreated, map[string]any{"host": "x.example.org", "state": "pending", "txt_name": "_polygate-challenge.x.example.org", "txt_value": "ab\x1b[2J12", "expires": "2027-01-01T00:00:00Z"}
	})
	rec.settle(t)
	out, stderr, code := here(t, "", "host", "add", "x.example.org")
	if want := "_polygate-challenge.x.example.org. 300 IN TXT \"ab\\u001b[2J12\"\n"; code != 0 || out != want || !strings.Contains(stderr, "before 2027-01-01") {
		t.Errorf("exit %d\ngot  %q\nwant %q\n%s", code, out, want, stderr)
	}
	if out, _, code := here(t, "", "host", "add", "x.example.org", "-o", "yaml"); code != 0 || !strings.Contains(out, "state: pending") {
		t.Errorf("exit %d\n%s", code, out)
	}
}
