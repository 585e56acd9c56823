package backend

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

const seed = "a seed"

// start serves until the test ends.
func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	if cfg.Seed == "" {
		cfg.Seed = seed
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run did not end with its context")
		}
	})
	return s
}

// web is a client whose connections end with the test.
func web(t *testing.T, transport *http.Transport) *http.Client {
	t.Helper()
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

func get(t *testing.T, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("GET %s: body: %v", url, err)
	}
	return res, string(b)
}

// check that a text holds a tenant's canary and no other.
func check(t *testing.T, what, text string, tenant int) {
	t.Helper()
	if !strings.Contains(text, Canary(seed, tenant)) || strings.Count(text, Marker) != 1 {
		t.Errorf("%s: got %.90q, want the canary %s and no other", what, text, Canary(seed, tenant))
	}
}

func TestAddress(t *testing.T) {
	for n, want := range map[int]string{
		0: "127.64.0.0:80", 1: "127.64.0.1:80", 255: "127.64.0.255:80", 256: "127.64.1.0:80", 65536: "127.65.0.0:80",
		99_999: "127.65.134.159:80", 999_999: "127.79.66.63:80", Tenants - 1: "127.254.255.255:80",
	} {
		if got := Addr(n, 80); got != want {
			t.Errorf("Addr(%d): got %s, want %s", n, got, want)
		}
		if got, ok := Number(netip.MustParseAddrPort(want).Addr()); got != n || !ok {
			t.Errorf("Number(%s): got %d, %v, want %d", want, got, ok, n)
		}
	}
	for _, ip := range []string{"127.0.0.1", "127.63.255.255", "127.255.0.0", "128.64.0.0", "10.64.0.1", "::1"} {
		if n, ok := Number(netip.MustParseAddr(ip)); ok {
			t.Errorf("Number(%s): got %d, want none", ip, n)
		}
	}
}

func TestCanary(t *testing.T) {
	seen := map[string]bool{}
	for n := range 1000 {
		c := Canary(seed, n)
		if len(c) != canaryBytes || strings.Count(c, Marker) != 1 || c[len(c)-1] != ';' || seen[c] {
			t.Errorf("Canary(%d): got %q, want one of its own with %d bytes", n, c, canaryBytes)
		}
		seen[c] = true
	}
	if seen[Canary("another seed", 1)] {
		t.Error("another seed has the same canaries")
	}
}

func TestEachTenantGetsItsCanary(t *testing.T) {
	s := start(t, Config{})
	port := s.Ports().Plain
	c := web(t, &http.Transport{})
	for _, n := range []int{0, 1, 2, 255, 256, 70_000, 999_999} {
		for _, path := range []string{"/", "/?a", "/"} { // the second takes the connection to net/http
			res, body := get(t, c, "http://"+Addr(n, port)+path)
			if res.StatusCode != 200 || len(body) != defaultAnswer || res.ContentLength != defaultAnswer {
				t.Errorf("tenant %d: got %d with %d of %d bytes, want 200 with %d", n, res.StatusCode, len(body), res.ContentLength, defaultAnswer)
			}
			check(t, path, body, n)
		}
	}
}

func TestAnswerBytes(t *testing.T) {
	for _, size := range []int{minAnswer, 520, joined - 1, joined, joined + 1, 1 << 20, maxAnswer} {
		s := start(t, Config{AnswerBytes: size})
		c := web(t, &http.Transport{})
		for range 2 {
			res, body := get(t, c, "http://"+Addr(7, s.Ports().Plain))
			if len(body) != size || res.ContentLength != int64(size) {
				t.Errorf("answer of %d bytes: got %d, Content-Length %d", size, len(body), res.ContentLength)
			}
			check(t, "/", body, 7)
		}
	}
}

func TestPost(t *testing.T) {
	s := start(t, Config{})
	c := web(t, &http.Transport{})
	for _, size := range []int{0, 1, 1000, 5000, 1 << 20} {
		for _, chunked := range []bool{false, true, false} {
			var body io.Reader = bytes.NewReader(bytes.Repeat([]byte("GET / HTTP/1.1\r\n\r\n"), size/18+1)[:size])
			if chunked {
				body = io.MultiReader(body)
			}
			res, err := c.Post("http://"+Addr(3, s.Ports().Plain)+"/", "text/plain", body)
			if err != nil {
				t.Fatalf("POST of %d bytes, chunked %v: %v", size, chunked, err)
			}
			b, _ := io.ReadAll(res.Body)
			res.Body.Close()
			check(t, "POST", string(b), 3)
		}
	}
}

// Requests one behind the other on a connection, in pieces of any size, are answered in turn.
func TestPipelined(t *testing.T) {
	s := start(t, Config{AnswerBytes: 64})
	requests := "GET / HTTP/1.1\r\nHost: a\r\n\r\n" +
		"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nGET /" +
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" +
		"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n" +
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	for size := 1; size < len(requests); size += 7 {
		c, err := net.Dial("tcp", Addr(1, s.Ports().Plain))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for rest := requests; rest != ""; rest = rest[min(size, len(rest)):] {
				_, _ = io.WriteString(c, rest[:min(size, len(rest))])
			}
		}()
		in := bufio.NewReader(c)
		for _, want := range []int{200, 200, 200, 404, 200} {
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("pieces of %d: %v", size, err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			if res.StatusCode != want {
				t.Errorf("pieces of %d: got %d, want %d", size, res.StatusCode, want)
			}
		}
		if b, err := io.ReadAll(in); err != nil || len(b) > 0 {
			t.Errorf("pieces of %d: behind the last answer: %q, %v, want the end", size, b, err)
		}
		c.Close()
	}
}

func TestHTTP2WithPriorKnowledge(t *testing.T) {
	s := start(t, Config{})
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	c := web(t, &http.Transport{Protocols: p})
	for n := range 3 {
		res, body := get(t, c, "http://"+Addr(n, s.Ports().Plain))
		if res.ProtoMajor != 2 {
			t.Errorf("got %s, want HTTP/2", res.Proto)
		}
		check(t, "/", body, n)
	}
}

func TestWebSocket(t *testing.T) {
	s := start(t, Config{})
	c, _, err := websocket.Dial(t.Context(), "ws://"+Addr(4, s.Ports().Plain)+"/ws", nil)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	defer c.CloseNow()
	c.SetReadLimit(2 << 20)
	for kind, message := range map[websocket.MessageType]string{websocket.MessageText: "hello", websocket.MessageBinary: strings.Repeat("\x00", 1<<20)} {
		if err := c.Write(t.Context(), kind, []byte(message)); err != nil {
			t.Fatal(err)
		}
		got, b, err := c.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want := Canary(seed, 4) + message; got != kind || string(b) != want {
			t.Errorf("echo: got %v with %d bytes, want %v with %d", got, len(b), kind, len(want))
		}
	}
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestEvents(t *testing.T) {
	s := start(t, Config{})
	c := web(t, &http.Transport{})
	for query, want := range map[string]int{"": 10, "?n=1": 1, "?n=3&interval=1ms": 3} {
		res, body := get(t, c, "http://"+Addr(5, s.Ports().Plain)+"/events"+query)
		if got := res.Header.Get("Content-Type"); got != "text/event-stream" {
			t.Errorf("content type: got %q", got)
		}
		events := strings.SplitAfter(body, "\n\n")
		if got := len(events) - 1; got != want {
			t.Errorf("events%s: got %d, want %d", query, got, want)
		}
		for i, e := range events[:len(events)-1] {
			check(t, "event", e, 5)
			if !strings.HasPrefix(e, fmt.Sprintf("id: %d\ndata: ", i)) {
				t.Errorf("event %d: got %q", i, e)
			}
		}
	}
	for _, query := range []string{"?n=0", "?n=x", "?n=1000001", "?interval=-1s", "?interval=1"} {
		if res, body := get(t, c, "http://"+Addr(5, s.Ports().Plain)+"/events"+query); res.StatusCode != 400 {
			t.Errorf("events%s: got %d %s, want 400", query, res.StatusCode, body)
		}
	}
}

// An event comes when it is sent, not when the stream ends; the stream ends with the server.
func TestEventsAreNotHeldBack(t *testing.T) {
	s := start(t, Config{})
	res, err := web(t, &http.Transport{}).Get("http://" + Addr(5, s.Ports().Plain) + "/events?n=2&interval=1h")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	line, err := bufio.NewReader(res.Body).ReadString('\n')
	if err != nil || line != "id: 0\n" {
		t.Errorf("first line: got %q, %v", line, err)
	}
}

// Others than tenants' addresses get nothing: not a byte.
func TestNoTenantNoAnswer(t *testing.T) {
	s := start(t, Config{})
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.Ports().Plain))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if b, err := io.ReadAll(c); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %q, %v, want nothing and the end", b, err)
	}
}

func TestOnlyThisMachineIsServed(t *testing.T) {
	tenant := &net.TCPAddr{IP: net.IPv4(127, 64, 0, 9), Port: 80}
	for remote, want := range map[string]bool{"127.0.0.1": true, "127.9.9.9": true, "10.0.0.1": false, "192.0.2.1": false, "169.254.1.1": false} {
		n, ok := tenantOf(tenant, &net.TCPAddr{IP: net.ParseIP(remote), Port: 1})
		if ok != want || ok && n != 9 {
			t.Errorf("from %s: got %d, %v, want %v", remote, n, ok, want)
		}
	}
	if _, ok := tenantOf(&net.TCPAddr{IP: net.IPv4(10, 64, 0, 9)}, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}); ok {
		t.Error("an address that is not loopback is a tenant's")
	}
}

func TestNewRefuses(t *testing.T) {
	taken := start(t, Config{}).Ports().Plain
	for want, cfg := range map[string]Config{
		"no seed":             {},
		"63 bytes":            {Seed: seed, AnswerBytes: 63},
		"cannot listen":       {Seed: seed, Port: taken},
		"such as 127.0.0.1:0": {Seed: seed, Control: "127.0.0.1"},
		"16777217":            {Seed: seed, AnswerBytes: maxAnswer + 1},
		"loopback":            {Seed: seed, Control: "0.0.0.0:0"},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%+v): got %v, want an error with %q", cfg, err, want)
		}
	}
}
