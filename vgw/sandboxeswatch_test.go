package vgw_test

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// watcher reads a watch.
type watcher struct {
	t     testing.TB
	lines chan string
	last  string // id
}

// watch opens a watch; last is the Last-Event-ID, "" = none.
func (w *world) watch(t *testing.T, p tenant.Principal, query, last string) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	q, err := http.NewRequestWithContext(ctx, "GET", w.serve(t, "team-a", p)+"/api/v1/sandboxes?watch=1"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		q.Header.Set("Last-Event-Id", last)
	}
	res, err := http.DefaultClient.Do(q)
	if err != nil || res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatal(res, err)
	}
	out := &watcher{t: t, lines: make(chan string, 1000)}
	go func() {
		defer close(out.lines)
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			out.lines <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		cancel()
		res.Body.Close()
		for range out.lines {
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return out
}

// next returns the next event's name and data.
func (o *watcher) next() (event, data string) {
	o.t.Helper()
	over := time.After(20 * time.Second)
	for {
		select {
		case line, ok := <-o.lines:
			name, value, _ := strings.Cut(line, ": ")
			switch {
			case !ok:
				return "end", ""
			case line == "" && event != "":
				return event, data
			case name == "event":
				event = value
			case name == "data":
				data = value
			case name == "id":
				o.last = value
			}
		case <-over:
			o.t.Fatal("no event in 20 s")
		}
	}
}

// until reads events until one has all parts, and fails if one has what it must not.
func (o *watcher) until(never string, event string, parts ...string) {
	o.t.Helper()
	for {
		got, data := o.next()
		if got == "end" || never != "" && strings.Contains(data, never) {
			o.t.Fatalf("%s %s while waiting for %s %v", got, data, event, parts)
		}
		all := got == event
		for _, part := range parts {
			all = all && strings.Contains(data, part)
		}
		if all {
			return
		}
	}
}

func TestSandboxWatch(t *testing.T) {
	w, _ := sandboxed(t)
	alice := w.user("team-a", "corp", "alice")
	o := w.watch(t, alice, "", "")
	o.until(`"other"`, "sandbox", `"name":"hers"`, `"Running"`)
	w.makeSandbox(t, w.principal("team-a", tenant.Admin), `{"name":"others-too","command":["sleep","1h"]}`)
	w.makeSandbox(t, alice, `{"name":"second","command":["sleep","1h"],"labels":{"team":"red"}}`)
	o.until(`other`, "sandbox", `"name":"second"`, `"state":"Running"`)
	w.must(t, "team-a", alice, del("/api/v1/sandboxes/second"), 202)
	o.until(`other`, "deleted", `"name":"second"`)
	// Taken up again, it goes on where it was.
	from := o.last
	w.must(t, "team-a", alice, post(hers+"/stop", ""), 202)
	w.awaits(t, alice, "hers", "stopped")
	again := w.watch(t, alice, "", from)
	if event, data := again.next(); event != "sandbox" || !strings.Contains(data, `"name":"hers"`) {
		t.Errorf("it goes on with %s %s", event, data)
	}
	again.until("resync", "sandbox", `"name":"hers"`, `"state":"Stopped"`)
	// From a place that nobody knows any more, all is told anew.
	for _, last := range []string{"1", "x", "-3"} {
		late := w.watch(t, alice, "", last)
		if event, _ := late.next(); event != "resync" {
			t.Errorf("after %s it begins with %s", last, event)
		}
		late.until(`other`, "sandbox", `"name":"hers"`)
	}
	// What leaves the selection is told to be gone.
	some := w.watch(t, alice, "&state=Stopped&selector=team%3Dred", "")
	some.until("", "sandbox", `"name":"hers"`)
	w.must(t, "team-a", alice, post(hers+"/start", ""), 202)
	some.until("", "deleted", `"name":"hers"`)
}

// A watch shows what was delegated, and no more of it once that is over.
func TestSR3SandboxWatchFollowsDelegations(t *testing.T) {
	w, _ := sandboxed(t)
	alice, bob := w.user("team-a", "corp", "alice"), w.user("team-a", "corp", "bob")
	o := w.watch(t, bob, "", "")
	g := w.must(t, "team-a", alice, delegate("user:corp/bob", "sandbox.read", "sandbox/hers", ""), 201)
	w.must(t, "team-a", alice, post(hers+"/stop", ""), 202)
	o.until("of alice", "sandbox", `"name":"hers"`)
	w.awaits(t, alice, "hers", "stopped")
	o.until("of alice", "sandbox", `"state":"Stopped"`)
	w.must(t, "team-a", alice, del("/api/v1/grants/"+g["id"].(string)), 204)
	w.must(t, "team-a", alice, post(hers+"/start", ""), 202)
	if event, data := o.next(); event != "deleted" || !strings.Contains(data, `"name":"hers"`) {
		t.Errorf("after the delegation: %s %s", event, data)
	}
	w.awaits(t, alice, "hers", "running")
	select {
	case line := <-o.lines:
		if line != "" && line[0] != ':' {
			t.Errorf("after its end: %s", line)
		}
	default:
	}
}
