package backend

import (
	"bufio"
	"bytes"
	"errors"
	"net/http"
	"testing"
)

func TestParseSimple(t *testing.T) {
	const host = "Host: a.example:8080\r\n"
	for name, c := range map[string]struct {
		in   string
		want error
		body int
	}{
		"get":                {"GET / HTTP/1.1\r\n" + host + "\r\n", nil, 0},
		"as nginx sends":     {"GET / HTTP/1.1\r\nHost: a\r\nX-Real-IP: 127.0.0.1\r\nUser-Agent: curl/8\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n", nil, 0},
		"post":               {"POST / HTTP/1.1\r\ncontent-length: 7\r\n" + host + "\r\n", nil, 7},
		"nothing yet":        {"", errMore, 0},
		"begun":              {"GE", errMore, 0},
		"half a line":        {"GET / HTTP/1.1\r", errMore, 0},
		"half a head":        {"GET / HTTP/1.1\r\nHost: a\r\n", errMore, 0},
		"http2":              {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", errOther, 0},
		"http/1.0":           {"GET / HTTP/1.0\r\n" + host + "\r\n", errOther, 0},
		"path":               {"GET /ws HTTP/1.1\r\n" + host + "\r\n", errOther, 0},
		"query":              {"GET /?a HTTP/1.1\r\n" + host + "\r\n", errOther, 0},
		"head":               {"HEAD / HTTP/1.1\r\n" + host + "\r\n", errOther, 0},
		"no host":            {"GET / HTTP/1.1\r\nA: b\r\n\r\n", errOther, 0},
		"two hosts":          {"GET / HTTP/1.1\r\n" + host + host + "\r\n", errOther, 0},
		"close":              {"GET / HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n", errOther, 0},
		"chunked":            {"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n", errOther, 0},
		"upgrade":            {"GET / HTTP/1.1\r\n" + host + "Upgrade: websocket\r\n\r\n", errOther, 0},
		"expect":             {"POST / HTTP/1.1\r\n" + host + "Expect: 100-continue\r\n\r\n", errOther, 0},
		"two lengths":        {"POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", errOther, 0},
		"negative length":    {"POST / HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n", errOther, 0},
		"signed length":      {"POST / HTTP/1.1\r\n" + host + "Content-Length: +1\r\n\r\n", errOther, 0},
		"no length":          {"POST / HTTP/1.1\r\n" + host + "Content-Length:\r\n\r\n", errOther, 0},
		"too long":           {"POST / HTTP/1.1\r\n" + host + "Content-Length: 16777217\r\n\r\n", errOther, 0},
		"folded":             {"GET / HTTP/1.1\r\n" + host + "A: b\r\n c\r\n\r\n", errOther, 0},
		"bare line feed":     {"GET / HTTP/1.1\r\n" + host + "A: b\nC: d\r\n\r\n", errOther, 0},
		"bare return":        {"GET / HTTP/1.1\r\n" + host + "A: b\rC: d\r\n\r\n", errOther, 0},
		"space before colon": {"GET / HTTP/1.1\r\n" + host + "A : b\r\n\r\n", errOther, 0},
		"no colon":           {"GET / HTTP/1.1\r\n" + host + "A\r\n\r\n", errOther, 0},
		"no fields":          {"GET / HTTP/1.1\r\n\r\n", errOther, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseSimple([]byte(c.in))
			if !errors.Is(err, c.want) || err == nil && (got.head != len(c.in) || got.body != c.body) {
				t.Errorf("got %+v, %v, want head %d, body %d, %v", got, err, len(c.in), c.body, c.want)
			}
		})
	}
}

// What is called simple, net/http reads as the same: a request for / with that length, on a connection that stays.
func FuzzParseSimple(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"))
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"))
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseSimple(b)
		if err != nil {
			return
		}
		want, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			t.Fatalf("%q is simple, and net/http says %v", b, err)
		}
		if got.head > len(b) || int64(got.body) != max(0, want.ContentLength) || want.Close || want.URL.String() != "/" || len(want.TransferEncoding) > 0 {
			t.Errorf("%q: got %+v, net/http %+v", b, got, want)
		}
	})
}

func BenchmarkParseSimple(b *testing.B) {
	in := []byte("GET / HTTP/1.1\r\nHost: tenant-1.example\r\nX-Forwarded-For: 127.0.0.1\r\nX-Request-Id: 0123456789abcdef\r\nAccept: */*\r\n\r\n")
	for b.Loop() {
		if _, err := parseSimple(in); err != nil {
			b.Fatal(err)
		}
	}
}
