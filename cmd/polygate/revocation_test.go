package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// knownWithServer is what newKnown makes, with a server that answers.
func knownWithServer(t *testing.T) *known {
	t.Helper()
	k := newKnown(t)
	endpoint := startMCP(t)
	got := do(k.c, "POST", k.env["TEAM_A_URL"]+"/api/v1/servers", map[string]any{"name": "live", "url": endpoint}, bearer("admin-key")...)
	if got.Status != 201 {
		t.Fatalf("server: %d %s", got.Status, got.Body)
	}
	return k
}

// stream opens an event stream of an MCP server with a credential.
func (k *known) stream(t *testing.T, head []string) *http.Response {
	t.Helper()
	head = append(head[:len(head):len(head)], "Accept", "application/json, text/event-stream")
	init := do(k.c, "POST", k.env["TEAM_A_URL"]+"/servers/live/mcp", initialize, head...)
	session := init.Header.Get("Mcp-Session-Id")
	if session == "" {
		t.Fatalf("initialize: %d %s %v", init.Status, init.Body, init.Err)
	}
	req, err := http.NewRequest("GET", k.env["TEAM_A_URL"]+"/servers/live/mcp", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(head); i += 2 {
		req.Header.Set(head[i], head[i+1])
	}
	req.Header.Set("Mcp-Session-Id", session)
	resp, err := k.c.Do(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("stream: %v %v", resp, err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// admin sends a request as team-a's admin and wants that status.
func (k *known) admin(t *testing.T, want int, method, path string, body any) map[string]any {
	t.Helper()
	got := do(k.c, method, k.env["TEAM_A_URL"]+path, body, bearer("admin-key")...)
	if got.Status != want {
		t.Fatalf("%s %s: %d %s, want %d", method, path, got.Status, got.Body, want)
	}
	var out map[string]any
	if len(got.Body) > 0 {
		if err := json.Unmarshal(got.Body, &out); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestRevocationEndsUsersStreams: whatever ends a user's right ends its open streams within a second, and its token is worth
// nothing, or less, from then on.
func TestRevocationEndsUsersStreams(t *testing.T) {
	k := knownWithServer(t)
	bot := k.admin(t, 201, "POST", "/api/v1/bots", map[string]any{"name": "builder", "role": "editor"})
	botKey := k.admin(t, 201, "POST", "/api/v1/bots/builder/keys", map[string]any{"name": "builder-1"})
	member := func(sub string) string {
		m := k.admin(t, 201, "POST", "/api/v1/members", map[string]any{"kind": "user", "authenticator": "corp", "name": sub, "role": "editor"})
		return m["id"].(string)
	}
	token := func(sub string) []string { return bearer(k.issuer.sign(k.issuer.claims(sub, nil))) }
	removed, demoted, revoked := member("removed"), member("demoted"), member("revoked")
	for _, c := range []struct {
		what  string
		head  []string
		cause func()
		after int // of the same credential
	}{
		{"member removed", token("removed"), func() { k.admin(t, 204, "DELETE", "/api/v1/members/"+removed, nil) }, 404},
		{"member demoted", token("demoted"), func() { k.admin(t, 200, "PATCH", "/api/v1/members/"+demoted, map[string]any{"role": "viewer"}) }, 200},
		{"logins revoked", token("revoked"), func() { k.admin(t, 200, "POST", "/api/v1/members/"+revoked+"/revoke", nil) }, 401},
		{"bot's key revoked", bearer(botKey["key"].(string)), func() { k.admin(t, 204, "DELETE", "/api/v1/keys/builder-1", nil) }, 401},
		{"token expires", bearer(k.issuer.sign(k.issuer.claims("alice", []string{"the-editors"}, map[string]any{"exp": time.Now().Add(3 * time.Second).Unix()}))),
			func() { time.Sleep(2 * time.Second) }, 401},
	} {
		t.Run(c.what, func(t *testing.T) {
			resp := k.stream(t, c.head)
			limit := time.Second
			if c.after == 401 && c.what == "token expires" {
				limit = 5 * time.Second // X21: a look every second
			}
			began := time.Now()
			c.cause()
			done := make(chan error, 1)
			go func() {
				_, err := io.Copy(io.Discard, resp.Body)
				done <- err
			}()
			select {
			case <-done:
				t.Logf("ended after %s", time.Since(began).Round(time.Millisecond))
			case <-time.After(limit):
				t.Errorf("the stream is still open after %s", limit)
			}
			if got := do(k.c, "GET", k.env["TEAM_A_URL"]+"/api/v1/servers/live", nil, c.head...); got.Status != c.after {
				t.Errorf("afterwards: %d %s, want %d", got.Status, got.Body, c.after)
			}
		})
	}
	if bot["role"] != "editor" {
		t.Errorf("bot: %v", bot)
	}
}

// TestRevocationRaces takes roles away while requests run: from the moment of the answer to the change on, not one request
// that begins then is let in.
func TestRevocationRaces(t *testing.T) {
	k := newKnown(t)
	for round := range 10 {
		sub := "racer-" + strconv.Itoa(round)
		m := k.admin(t, 201, "POST", "/api/v1/members", map[string]any{"kind": "user", "authenticator": "corp", "name": sub, "role": "viewer"})
		head := bearer(k.issuer.sign(k.issuer.claims(sub, nil)))
		var over atomic.Bool
		var late, before atomic.Int64
		ctx, stop := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for ctx.Err() == nil {
					after := over.Load()
					got := do(k.c, "GET", k.env["TEAM_A_URL"]+"/api/v1/usage", nil, head...)
					switch {
					case after && got.Status == 200:
						late.Add(1)
					case got.Status == 200:
						before.Add(1)
					}
				}
			})
		}
		for before.Load() < 20 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		k.admin(t, 204, "DELETE", "/api/v1/members/"+m["id"].(string), nil)
		over.Store(true)
		time.Sleep(100 * time.Millisecond)
		stop()
		wg.Wait()
		if late.Load() != 0 {
			t.Errorf("round %d: %d requests were let in after the member was removed", round, late.Load())
		}
	}
}

// TestIssuers lives through what issuers do: a new key, a second issuer, one that is down. Users of known keys go on; who
// cannot be known now gets 503, not 401.
func TestIssuers(t *testing.T) {
	t.Parallel() // it waits
	k := newKnown(t)
	whoami := func(token string) answer {
		return do(k.c, "GET", k.env["TEAM_A_URL"]+"/api/v1/whoami", nil, bearer(token)...)
	}
	groups := []string{"the-editors"}
	old := k.issuer.sign(k.issuer.claims("alice", groups))
	if got := whoami(old); got.Status != 200 || !strings.Contains(string(got.Body), `"user:corp/alice"`) {
		t.Fatalf("whoami: %d %s", got.Status, got.Body)
	}
	fetched := k.issuer.fetches.Load()
	k.issuer.down.Store(true)
	if got := whoami(k.issuer.sign(k.issuer.claims("bob", groups))); got.Status != 200 {
		t.Errorf("a new token of a known key while the issuer is down: %d %s", got.Status, got.Body)
	}
	if got := whoami(old); got.Status != 200 {
		t.Errorf("the verified token meanwhile: %d", got.Status)
	}
	k.issuer.down.Store(false)
	var wg sync.WaitGroup
	for i := range 200 { // garbage beside it must not make more fetches
		wg.Go(func() {
			whoami(k.issuer.token(map[string]any{"alg": "RS256", "kid": "garbage-" + strconv.Itoa(i)}, k.issuer.claims("eve", groups), func([]byte) []byte { return []byte("x") }))
		})
	}
	wg.Wait()
	if n := k.issuer.fetches.Load() - fetched; n > 2 {
		t.Errorf("%d fetches of the key set", n)
	}
	// F6: the same subject of another issuer is somebody else. While that one is down, nobody can know: 503.
	k.other.down.Store(true)
	k.admin(t, 201, "POST", "/api/v1/authenticators", map[string]any{"name": "second", "type": "oidc",
		"oidc": map[string]any{"issuer": k.other.url(), "audiences": []string{"polygate"}, "ca": k.other.ca.pem()}})
	second := k.other.sign(k.other.claims("alice", groups))
	if got := whoami(second); got.Status != 503 || got.Header.Get("Retry-After") == "" {
		t.Errorf("an issuer that is down: %d %s, Retry-After %q; want 503", got.Status, got.Body, got.Header.Get("Retry-After"))
	}
	if got := whoami(old); got.Status != 200 {
		t.Errorf("the other issuer's users meanwhile: %d", got.Status)
	}
	if testing.Short() {
		return // it is asked again after half a minute
	}
	k.other.down.Store(false)
	k.issuer.rotate("key-2")
	fresh := k.issuer.sign(k.issuer.claims("alice", groups))
	for deadline := time.Now().Add(40 * time.Second); ; time.Sleep(500 * time.Millisecond) {
		a, b := whoami(second), whoami(fresh)
		if a.Status == 200 && b.Status == 200 {
			if !strings.Contains(string(a.Body), `"user:second/alice"`) || !strings.Contains(string(a.Body), `"role":"none"`) {
				t.Errorf("alice of the second issuer: %s", a.Body)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the issuers are back: %d %s, %d %s", a.Status, a.Body, b.Status, b.Body)
		}
	}
}
