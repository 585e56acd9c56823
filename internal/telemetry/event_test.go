package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

func full() *Event {
	return &Event{
		RequestID: "req-1", Replica: "r1", Remote: netip.MustParseAddr("192.0.2.1"), Host: "team-a.localhost:8443", Method: "POST",
		Path: "/servers/everything/mcp", Tenant: "team-a", Principal: tenant.Principal{Kind: tenant.KindKey, ID: "k1"},
		Route: "/servers/{name}/mcp", Action: "mcp.call", Protocol: "HTTP/2.0", Status: 502, UpstreamStatus: 500,
		Err: fault.Wrap(fault.BadUpstream, errors.New("EOF"), "server everything broke off"), Began: time.Unix(100, 0),
		Upstream: 40 * time.Millisecond, BytesIn: 10, BytesOut: 20,
	}
}

// logged returns the text that an event makes through the real handler.
func logged(e *Event) string {
	var b bytes.Buffer
	e.Log(context.Background(), slog.New(slog.NewJSONHandler(&b, nil)), time.Unix(100, 50_000_000))
	return b.String()
}

func TestEventSaysAll(t *testing.T) {
	var got map[string]any
	if err := json.Unmarshal([]byte(logged(full())), &got); err != nil {
		t.Fatal(err)
	}
	delete(got, "time")
	want := map[string]any{
		"level": "ERROR", "msg": "request", "request_id": "req-1", "replica": "r1", "remote": "192.0.2.1", "host": "team-a.localhost:8443",
		"method": "POST", "path": "/servers/everything/mcp", "tenant": "team-a", "principal": "key:k1", "route": "/servers/{name}/mcp",
		"action": "mcp.call", "protocol": "HTTP/2.0", "status": 502.0, "upstream_status": 500.0, "kind": "bad-upstream",
		"error": "bad-upstream: server everything broke off: EOF", "duration": 5e7, "upstream_duration": 4e7, "bytes_in": 10.0, "bytes_out": 20.0,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("event\n got %v\nwant %v", got, want)
	}
}

func TestEventIsLoggedOnce(t *testing.T) {
	var b bytes.Buffer
	l := slog.New(slog.NewJSONHandler(&b, nil))
	e := full()
	e.Log(context.Background(), l, time.Now())
	e.Log(context.Background(), l, time.Now())
	if n := strings.Count(b.String(), "\n"); n != 1 {
		t.Errorf("%d lines, want 1", n)
	}
}

func TestEventLevel(t *testing.T) {
	for status, want := range map[int]string{200: "INFO", 404: "INFO", 499: "INFO", 500: "ERROR", 503: "ERROR"} {
		if got := logged(&Event{Status: status}); !strings.Contains(got, `"level":"`+want+`"`) {
			t.Errorf("status %d: %s, want level %s", status, got, want)
		}
	}
}

// TestEventCannotForgeLines puts what forges lines, breaks JSON or drives terminals into every field (X57).
func TestEventCannotForgeLines(t *testing.T) {
	hostile := []string{
		"a\nb", "a\r\n{\"level\":\"INFO\"}", "\x1b[2J\x1b[31mred", "\x1b]0;t\x07", "\u009b31m", "\u0085", "\u2028", "\u2029", "\x00", "\x7f",
		`","status":200,"x":"`, `\`, `"`, "\xff\xfe", "\xed\xa0\x80", "\u202egnp.exe", "\u2066x\u2069", "\ufeff", "日本語 😀",
		strings.Repeat("\x01", 100_000), strings.Repeat("😀", 50_000), strings.Repeat(`\"`, 5000),
	}
	kind := reflect.TypeFor[Event]()
	for i := range kind.NumField() {
		for _, bad := range hostile {
			e := full()
			v := reflect.ValueOf(e).Elem().Field(i)
			switch name := kind.Field(i).Name; {
			case name == "Err":
				e.Err = errors.New(bad)
			case name == "Principal":
				e.Principal = tenant.Principal{Kind: "key", ID: bad}
			case kind.Field(i).IsExported() && v.Kind() == reflect.String:
				v.SetString(bad)
			default:
				continue
			}
			text := logged(e)
			var got map[string]any
			if strings.Count(text, "\n") != 1 || json.Unmarshal([]byte(text), &got) != nil || got["status"] != 502.0 || got["msg"] != "request" {
				t.Fatalf("%s = %.30q: %.300s", kind.Field(i).Name, bad, text)
			}
			for _, r := range text[:len(text)-1] {
				if r < 0x20 || r >= 0x7f && r <= 0x9f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfeff {
					t.Fatalf("%s = %.30q: %U is in the line", kind.Field(i).Name, bad, r)
				}
			}
			if len(text) > 8<<10 {
				t.Errorf("%s of %d bytes makes a line of %d", kind.Field(i).Name, len(bad), len(text))
			}
		}
	}
}

// TestEventHoldsNoSecret puts a canary everywhere that a credential travels in what an event is made from.
func TestEventHoldsNoSecret(t *testing.T) {
	const canary = "cAnArY0123456789"
	for name, e := range map[string]*Event{
		"query":             {Path: "/a?token=" + canary},
		"key in a path":     {Path: "/a/pgk_" + canary},
		"key in a host":     {Host: "pgk_" + canary + ".localhost"},
		"bearer in error":   {Err: fmt.Errorf("header %q", "Authorization: Bearer "+canary)},
		"basic in error":    {Err: errors.New("authorization: basic " + canary + "==")},
		"key in error":      {Err: errors.New("key pgk_" + canary + " is unknown")},
		"URL error":         {Err: &url.Error{Op: "Post", URL: "https://u:" + canary + "@h/p?k=" + canary, Err: errors.New("refused")}},
		"relative URL":      {Err: &url.Error{Op: "Get", URL: "/p?k=" + canary, Err: errors.New("refused")}},
		"wrapped URL error": {Err: fault.Wrap(fault.BadUpstream, &url.Error{Op: "Get", URL: "http://h?k=" + canary, Err: errors.New("x")}, "y")},
	} {
		if text := logged(e); strings.Contains(text, canary) {
			t.Errorf("%s: %s", name, text)
		}
	}
	if text := logged(&Event{Err: &url.Error{Op: "Post", URL: "https://h:1/p?k=v", Err: errors.New("refused")}}); !strings.Contains(text, "https://h:1/p") || !strings.Contains(text, "refused") {
		t.Errorf("what helps is gone: %s", text)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"":                  "",
		"/a/b-c_d":          "/a/b-c_d",
		`quoted "x" \y`:     `quoted "x" \y`,
		"a\nb":              `a\nb`,
		"é 😀":               "é 😀",
		"a\x1b[0m":          `a\x1b[0m`,
		"\u202e":            `\u202e`,
		"\xff":              `\xff`,
		"12345678901234567": "1234567890123456...",
		"123456789012345é":  "123456789012345...",
	} {
		if got := Clean(in, 16); got != want {
			t.Errorf("Clean(%q, 16) = %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"a\nb", "pgk_x", "\u202e", "\xff", `\"`, "https://u:p@h?q=1", "Bearer x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Clean(s, 64)
		if len(got) > 64+3 || !utf8.ValidString(got) || strings.ContainsAny(got, "\n\r\x1b\u2028\u2029\u202e\u009b") {
			t.Errorf("Clean(%q) = %q", s, got)
		}
	})
}

func BenchmarkEvent(b *testing.B) {
	l := slog.New(slog.NewJSONHandler(io.Discard, nil)) //nolint:sloglint // what is measured is the rendering
	b.ReportAllocs()
	for b.Loop() {
		e := full()
		e.Err, e.Status = nil, 200
		e.Log(context.Background(), l, time.Now())
	}
}
