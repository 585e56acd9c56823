package vgw_test

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/catalog"
)

// A configured header reaches the server, and lies nowhere in the clear.
func TestHeadersAreSealedAndSent(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")
	sent := make(chan http.Header, 1)
	url := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		sent <- r.Header
		rw.Header().Set("Content-Type", "application/json")
	}))
	const secret = "Bearer a-long-and-hidden-value"
	got := w.as(tenant.Admin, "team-a", request{method: "POST", path: "/api/v1/servers", body: `{"name":"s","url":"` + url + `","headers":{"authorization":"` + secret + `"}}`})
	if got.status != 201 {
		t.Fatal(got.body)
	}
	for _, o := range w.store.objects[w.store.entry("team-a").Scope] {
		if i := strings.Index(string(o.Value), base64.StdEncoding.EncodeToString([]byte(secret))); i >= 0 || bytes.Contains(o.Value, []byte(secret)) {
			t.Errorf("%s/%s holds the header: %s", o.Kind, o.ID, o.Value)
		}
	}
	got = w.as(tenant.Editor, "team-a", request{method: "POST", path: "/servers/s/mcp", body: `{"jsonrpc":"2.0","id":1,"method":"ping"}`, header: map[string]string{"Authorization": "Bearer caller"}})
	if got.status != 200 {
		t.Fatalf("relayed: %d %s", got.status, got.body)
	}
	if h := <-sent; h.Get("Authorization") != secret || len(h["Authorization"]) != 1 {
		t.Errorf("the server got %q", h["Authorization"])
	}
}

// What is sealed for one tenant, server or header opens for no other, even if someone could move it in the store.
func TestMovedSecretsDoNotOpen(t *testing.T) {
	w := newWorld(t)
	a, b := w.store.add("team-a"), w.store.add("team-b")
	for _, id := range []tenant.ID{"team-a", "team-b"} {
		if got := w.as(tenant.Admin, id, request{method: "POST", path: "/api/v1/servers", body: goodServer}); got.status != 201 {
			t.Fatal(got.body)
		}
	}
	keyA, errA := w.kek.Unwrap(w.store.objects[a.Scope]["datakey/current"].Value, a.Scope.UID(), "datakey", "current")
	keyB, errB := w.kek.Unwrap(w.store.objects[b.Scope]["datakey/current"].Value, b.Scope.UID(), "datakey", "current")
	if errA != nil || errB != nil || bytes.Equal(keyA, keyB) {
		t.Errorf("the data keys: %v, %v, the same: %v", errA, errB, bytes.Equal(keyA, keyB))
	}
	w.store.objects[b.Scope]["server/s1"] = w.store.objects[a.Scope]["server/s1"]
	w.store.lose(b.Scope)
	ping := request{method: "POST", path: "/servers/s1/mcp", body: `{"jsonrpc":"2.0","id":1,"method":"ping"}`}
	if got := w.as(tenant.Editor, "team-b", ping); got.status != 500 || strings.Contains(got.body, "hush") {
		t.Errorf("A's server in B's state: %d %s", got.status, got.body)
	}
	w.store.objects[b.Scope]["datakey/current"] = w.store.objects[a.Scope]["datakey/current"]
	w.store.lose(b.Scope)
	if got := w.as(tenant.Editor, "team-b", ping); got.status != 500 {
		t.Errorf("A's data key in B's state: %d %s", got.status, got.body)
	}
}

// Only what an operator declared is exempt from the dial guard.
func TestTrust(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")
	w.addServer(t, "team-a", "mine", "http://10.0.0.1/")
	if err := w.apply("team-a", "a.yaml", catalog.Server{Name: "filed", URL: "http://10.0.0.1/"}); err != nil {
		t.Fatal(err)
	}
	mine, filed := w.relayTo(t, "team-a", "mine"), w.relayTo(t, "team-a", "filed")
	if mine.Target.Trusted || !filed.Target.Trusted {
		t.Errorf("trusted: the tenant's %v, the operator's %v", mine.Target.Trusted, filed.Target.Trusted)
	}
	if mine.Target.Pool == filed.Target.Pool {
		t.Error("two servers share a pool of connections")
	}
}
