package proxy

import (
	"net/http"
	"testing"

	"github.com/coder/websocket"
)

// TestWebSocketBytesCount: what passes over a WebSocket counts against the tenant's bytes, both ways.
func TestWebSocketBytesCount(t *testing.T) {
	f := newFront(t)
	f.withUpstream(http.HandlerFunc(wsEcho))
	ws := f.websocket(hostG, bearer(keyG))
	ws.SetReadLimit(1 << 20)
	for _, size := range []int{100_000, 1} { // once the second is back, the first has been counted
		if err := ws.Write(t.Context(), websocket.MessageBinary, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ws.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	e, _ := f.dir.ByHost(hostG)
	if u := f.guards.For(e).Usage(); u.BytesIn < 100_000 || u.BytesOut < 100_000 {
		t.Errorf("%d bytes in and %d out were counted, want 100,000 each at least", u.BytesIn, u.BytesOut)
	}
}
