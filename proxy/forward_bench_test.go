package proxy

import (
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"
)

// BenchmarkForward is a request of 40 bytes and its answer over TLS, at the owner and through another replica. The client
// and both replicas are in one process, so that the difference is the whole price of the hop: two more handlers' worth of
// HTTP/2, and the request judged twice.
func BenchmarkForward(b *testing.B) {
	c := newCluster(b, 2, func(cfg *Config) { cfg.Logger = slog.New(slog.DiscardHandler) })
	c.relayTo(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{}}`)
	}))
	for i, name := range []string{"local", "forwarded"} {
		b.Run(name, func(b *testing.B) {
			cl := c.r[i].client()
			b.ReportAllocs()
			for b.Loop() {
				got := c.r[i].do(cl, "POST", "https://"+hostA+"/mcp", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"ping"}`), bearer(keyA))
				if got.status != 200 {
					b.Fatal(got.status)
				}
			}
		})
	}
}

// BenchmarkPassport is what a new connection of a client's costs, once in half a minute: a signature, and its check.
func BenchmarkPassport(b *testing.B) {
	cert := newAuthority(b).issue("r1")
	p := goodPassport()
	text := mustSign(b, p, cert)
	b.Run("sign", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			mustSign(b, p, cert)
		}
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := readPassport(text, cert.Leaf, "r1", "r0"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkLocate is what a request pays that is served here after all: where its tenant is, and a copy of its header's map.
func BenchmarkLocate(b *testing.B) {
	var s search
	loc := Location{Self: true}
	b.ReportAllocs()
	for b.Loop() {
		if s.next(loc, time.Time{}) != stepServe {
			b.Fatal("elsewhere")
		}
	}
}
