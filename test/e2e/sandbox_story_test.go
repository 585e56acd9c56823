//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestSandboxByCommandLine is the life of a sandbox as its owner sees it at a terminal.
func TestSandboxByCommandLine(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.tenants([]string{"team-a"}, "")
	alice, bob := w.member("team-a", "alice", "editor"), w.member("team-a", "bob", "editor")

	alice.run("sandbox", "create", "web", "--env", "GREETING=hello", "--label", "app=web", "--wait", "--timeout", "60s", "--args", "--", "loop", "100ms")
	if got := alice.run("sandbox", "get", "web"); !strings.Contains(got, "Running") {
		t.Errorf("get:\n%s", got)
	}
	if out, said, code := alice.cli(strings.NewReader("in and out"), "sandbox", "exec", "web", "-i", "--", "/tools", "cat"); code != 0 || out != "in and out" {
		t.Errorf("exec cat: %d %q %s", code, out, said)
	}
	if out, said, code := alice.cli(nil, "sandbox", "exec", "web", "--", "/tools", "env"); code != 0 || !strings.Contains(out, "GREETING=hello") {
		t.Errorf("exec env: %d %q %s", code, out, said)
	}
	if out, said, code := alice.cli(nil, "sandbox", "exec", "web", "--", "/tools", "exit", "7"); code != 7 {
		t.Errorf("exec exit 7: %d %q %s", code, out, said)
	}
	if got := alice.run("sandbox", "logs", "web", "--tail", "3"); strings.Count(got, "line ") != 3 {
		t.Errorf("logs: %q", got)
	}
	if got := alice.run("sandbox", "events", "web"); !strings.Contains(got, "Started") {
		t.Errorf("events:\n%s", got)
	}
	shareOneRight(t, alice, bob)

	alice.run("sandbox", "stop", "web", "--wait")
	w.awaitPods("team-a", 0) // released once its end is stored
	alice.run("sandbox", "start", "web", "--wait")
	if got := alice.get("web"); got.Run.Number != 2 {
		t.Errorf("after the second start: run %d", got.Run.Number)
	}
	alice.run("sandbox", "delete", "web", "--wait")
	if _, _, code := alice.cli(nil, "sandbox", "get", "web"); code != 1 {
		t.Errorf("get of a deleted sandbox: exit %d", code)
	}
	w.awaitPods("team-a", 0)
}

// shareOneRight: what is delegated can be done, and nothing else, until it is taken back (S-R3).
func shareOneRight(t *testing.T, alice, bob *member) {
	t.Helper()
	who := bob.call("GET", "/api/v1/whoami", nil)
	var me struct {
		Principal string `json:"principal"`
		Ref       string `json:"ref"`
	}
	if err := json.Unmarshal([]byte(who.body), &me); err != nil {
		t.Fatalf("whoami: %s", who)
	}
	ref := me.Ref
	if ref == "" {
		ref = me.Principal
	}
	if _, _, code := bob.cli(nil, "sandbox", "exec", "web", "--", "/tools", "id"); code != 125 {
		t.Errorf("bob's exec before: exit %d", code)
	}
	alice.run("sandbox", "share", "web", ref, "--allow", "exec", "--until", "1h")
	if out, said, code := bob.cli(nil, "sandbox", "exec", "web", "--", "/tools", "echo", "shared"); code != 0 || out != "shared\n" {
		t.Errorf("bob's exec: %d %q %s", code, out, said)
	}
	if _, _, code := bob.cli(nil, "sandbox", "stop", "web"); code != 1 {
		t.Errorf("bob's stop: exit %d", code)
	}
	alice.run("sandbox", "unshare", "web", ref)
	if _, _, code := bob.cli(nil, "sandbox", "exec", "web", "--", "/tools", "id"); code != 125 {
		t.Errorf("bob's exec after: exit %d", code)
	}
}

// TestSandboxByHTTP is the same by plain HTTP, with what only programs use: watches, idempotency, versions, ends of all kinds.
func TestSandboxByHTTP(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.tenants([]string{"team-a"}, "")
	m := w.member("team-a", "alice", "editor")
	seen := m.watch(t.Context())

	t.Run("the same create twice", func(t *testing.T) {
		body := map[string]any{"name": "once", "args": []string{"sleep"}}
		first := m.call("POST", "/api/v1/sandboxes", body, "Idempotency-Key", "k-1")
		again := m.call("POST", "/api/v1/sandboxes", body, "Idempotency-Key", "k-1")
		if first.status != 201 || again.status != 200 || m.decode(first).ID != m.decode(again).ID {
			t.Errorf("%s\n%s", first, again)
		}
		body["args"] = []string{"loop"}
		if other := m.call("POST", "/api/v1/sandboxes", body, "Idempotency-Key", "k-1"); other.status != 409 {
			t.Errorf("another request of that key: %s", other)
		}
		m.await("once", "Running")
		if pods := w.pods("team-a"); len(pods) != 1 {
			t.Errorf("%d pods", len(pods))
		}
	})
	t.Run("ends", func(t *testing.T) {
		m.create("done", "lines", "3")
		m.create("failed", "exit", "3")
		m.createWith(map[string]any{"name": "hungry", "args": []string{"oom"}, "resources": map[string]string{"memory": "32Mi"}})
		for name, want := range map[string]string{"done": "Stopped Completed 0", "failed": "Failed Error 3", "hungry": "Failed OutOfMemory 137"} {
			b := m.await(name, "Stopped", "Failed")
			exit := -1
			if b.Run.Exit != nil {
				exit = *b.Run.Exit
			}
			if got := fmt.Sprintf("%s %s %d", b.State, b.Run.Reason, exit); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
		if r := m.call("GET", "/api/v1/sandboxes/done/logs", nil); r.status != 200 || !strings.HasSuffix(r.body, "line 3\n") {
			t.Errorf("the log of what ended: %s", r)
		}
		for _, name := range []string{"done", "failed", "hungry"} {
			m.call("DELETE", "/api/v1/sandboxes/"+name, nil)
		}
		w.awaitPods("team-a", 1) // each was kept for its log
	})
	t.Run("an image that is not there", func(t *testing.T) {
		b := m.createWith(map[string]any{"name": "nowhere", "image": "localhost/sandbox-tools:none"})
		w.eventually(60*time.Second, "condition ImageAvailable=false", func(context.Context) (bool, error) {
			b = m.get("nowhere")
			return strings.HasPrefix(b.condition("ImageAvailable"), "false"), fmt.Errorf("%+v", b)
		})
		m.call("DELETE", "/api/v1/sandboxes/nowhere", nil)
		m.await("nowhere", "")
	})
	t.Run("a version that is old", func(t *testing.T) {
		if r := m.call("POST", "/api/v1/sandboxes/once/stop", nil, "If-Match", `"1"`); r.status != 412 && r.status != 409 {
			t.Errorf("stop of an old version: %s", r)
		}
	})
	t.Run("what a watch has seen", func(t *testing.T) {
		w.eventually(20*time.Second, "events of the watch", func(context.Context) (bool, error) {
			all := seen()
			return strings.Contains(all, "sandbox once Running") && strings.Contains(all, "sandbox hungry Failed") && strings.Contains(all, "deleted nowhere"), errors.New(all)
		})
	})
}

// watch follows the tenant's sandboxes, and returns what it has seen so far: lines of "event name state".
func (m *member) watch(ctx context.Context) func() string {
	m.t.Helper()
	req, err := http.NewRequestWithContext(ctx, "GET", m.url()+"/api/v1/sandboxes?watch=1", nil)
	if err != nil {
		m.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+m.secret)
	resp, err := m.http.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		m.t.Fatalf("watch: %v %v", resp, err)
	}
	var mu sync.Mutex
	var all strings.Builder
	go func() {
		defer resp.Body.Close()
		event := ""
		for s := bufio.NewScanner(resp.Body); s.Scan(); {
			if e, ok := strings.CutPrefix(s.Text(), "event: "); ok {
				event = e
			}
			data, ok := strings.CutPrefix(s.Text(), "data: ")
			if !ok {
				continue
			}
			var b box
			_ = json.Unmarshal([]byte(data), &b)
			mu.Lock()
			fmt.Fprintln(&all, strings.TrimSpace(event+" "+b.Name+" "+b.State))
			mu.Unlock()
		}
	}()
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return all.String()
	}
}

// TestHundredSandboxes makes 100 sandboxes over 10 tenants at once.
func TestHundredSandboxes(t *testing.T) {
	const tenants, each = 10, 10
	w := newWorld(t, worldOptions{})
	var ids []string
	for i := range tenants {
		ids = append(ids, fmt.Sprintf("team-%d", i))
	}
	w.tenants(ids, "")
	var members []*member
	for _, id := range ids {
		members = append(members, w.member(id, "maker", "editor"))
	}
	began := time.Now()
	var wg sync.WaitGroup
	errs := make(chan error, tenants*each)
	for _, m := range members {
		for i := range each {
			wg.Go(func() {
				r, err := m.try(t.Context(), "POST", "/api/v1/sandboxes", map[string]any{"name": fmt.Sprintf("box-%d", i), "args": []string{"sleep"}, "resources": map[string]string{"cpu": "10m"}})
				if err != nil || r.status != http.StatusCreated {
					errs <- fmt.Errorf("%s: %s %w", m.tenant, r, err)
				}
			})
		}
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	t.Logf("100 creates were answered after %s", time.Since(began).Round(time.Millisecond))
	for _, m := range members {
		w.eventually(4*time.Minute, "all sandboxes of "+m.tenant, func(ctx context.Context) (bool, error) {
			n := m.count(ctx, "Running")
			return n == each, fmt.Errorf("%d run", n)
		})
	}
	t.Logf("100 sandboxes run after %s", time.Since(began).Round(time.Millisecond))
	for _, m := range members {
		if n := len(w.pods(m.tenant)); n != each {
			t.Errorf("%s: %d pods", m.tenant, n)
		}
		for _, p := range w.pods(m.tenant) {
			if p.Labels["polygate.dev/tenant"] != m.tenant {
				t.Errorf("pod %s/%s is labelled %q", p.Namespace, p.Name, p.Labels["polygate.dev/tenant"])
			}
		}
	}
}

// count says how many of the member's sandboxes are in a state.
func (m *member) count(ctx context.Context, state string) int {
	r, err := m.try(ctx, "GET", "/api/v1/sandboxes?limit=500&state="+state, nil)
	var list struct{ Items []box }
	if err != nil || json.Unmarshal([]byte(r.body), &list) != nil {
		return -1
	}
	return len(list.Items)
}
