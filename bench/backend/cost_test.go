package backend

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/polygate/polygate/bench/proc"
)

// BenchmarkCost is the processor time of the upstream alone, per answer, in a process of its own on one core with 16 callers.
func BenchmarkCost(b *testing.B) {
	path, err := self()
	if err != nil {
		b.Fatal(err)
	}
	p, err := Launch(b.Context(), path, Config{Seed: seed}, []int{proc.Cores() - 1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = p.Stop() })
	for name, caller := range map[string]func(b *testing.B, addr string) func() error{
		"simple": rawCaller, "nethttp": webCaller("/?a", "", false), "h2c": webCaller("/", "", true), "events10": webCaller("/events", "", false),
		"mcp": webCaller("/mcp", strings.Replace(callEcho, "x", "1", 1), false), "websocket": webSocketCaller, "grpc": grpcCaller,
	} {
		b.Run(name, func(b *testing.B) { measureCost(b, p.PID(), Addr(1, p.Plain), caller) })
	}
}

func measureCost(b *testing.B, pid int, addr string, caller func(*testing.B, string) func() error) {
	const callers = 16
	var left atomic.Int64
	left.Store(int64(b.N))
	calls := make([]func() error, callers)
	for i := range calls {
		calls[i] = caller(b, addr)
	}
	before, err := proc.CPU([]int{pid})
	if err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, callers)
	for _, call := range calls {
		go func() {
			for left.Add(-1) >= 0 {
				if err := call(); err != nil {
					ended <- err
					return
				}
			}
			ended <- nil
		}()
	}
	for range calls {
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}
	after, err := proc.CPU([]int{pid})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64((after-before)/time.Microsecond)/float64(b.N), "upstream-µs/op")
}

// rawCaller sends a request as a proxy does, and reads as many bytes as the answer has.
func rawCaller(b *testing.B, addr string) func() error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	request := []byte("GET / HTTP/1.1\r\nHost: tenant-1.example\r\nX-Forwarded-For: 127.0.0.1\r\nX-Request-Id: 0123456789abcdef\r\nAccept: */*\r\n\r\n")
	s := Server{cfg: Config{Seed: seed, AnswerBytes: defaultAnswer}, padding: padding(defaultAnswer)}
	answer := make([]byte, len(s.answer(1)[0]))
	return func() error {
		if _, err := c.Write(request); err != nil {
			return err
		}
		_, err := io.ReadFull(c, answer)
		return err
	}
}

func webCaller(path, body string, h2 bool) func(*testing.B, string) func() error {
	return func(b *testing.B, addr string) func() error {
		p := new(http.Protocols)
		p.SetHTTP1(!h2)
		p.SetUnencryptedHTTP2(h2)
		transport := &http.Transport{Protocols: p}
		b.Cleanup(transport.CloseIdleConnections)
		method := http.MethodGet
		if body != "" {
			method = http.MethodPost
		}
		return func() error {
			q, err := http.NewRequest(method, "http://"+addr+path, strings.NewReader(body))
			if err != nil {
				return err
			}
			q.Header = http.Header{"Content-Type": {"application/json"}, versionHeader: {modern}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"echo"}}
			res, err := transport.RoundTrip(q)
			if err != nil {
				return err
			}
			_, _ = io.Copy(io.Discard, res.Body)
			return res.Body.Close()
		}
	}
}

func webSocketCaller(b *testing.B, addr string) func() error {
	c, _, err := websocket.Dial(b.Context(), "ws://"+addr+"/ws", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.CloseNow() })
	message := make([]byte, 64)
	return func() error {
		if err := c.Write(context.Background(), websocket.MessageBinary, message); err != nil {
			return err
		}
		_, _, err := c.Read(context.Background())
		return err
	}
}

func grpcCaller(b *testing.B, addr string) func() error {
	c, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return func() error {
		return c.Invoke(context.Background(), EchoMethod, wrapperspb.Bytes(make([]byte, 64)), new(wrapperspb.BytesValue))
	}
}
