package backend

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestStallLastsUntilItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStall()
		began := time.Now()
		waited := func(want time.Duration) {
			t.Helper()
			s.wait()
			if got := time.Since(began); got != want {
				t.Errorf("waited until %s, want %s", got, want)
			}
		}
		waited(0)
		s.begin(time.Second)
		s.begin(100 * time.Millisecond) // ends earlier: nothing changes
		go func() {
			time.Sleep(900 * time.Millisecond)
			s.begin(time.Second) // it is prolonged while somebody waits
		}()
		waited(1900 * time.Millisecond)
		waited(1900 * time.Millisecond)
		s.begin(time.Hour)
		go s.end()
		waited(1900 * time.Millisecond)
	})
}

// A stall holds up the answers of every protocol.
func TestStallHoldsEveryAnswer(t *testing.T) {
	s := start(t, Config{})
	addr, c := Addr(2, s.Ports().Plain), web(t, &http.Transport{})
	ws, _, err := websocket.Dial(t.Context(), "ws://"+addr+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fetch := func(method, path, body string) func() error {
		return func() error {
			q, _ := http.NewRequest(method, "http://"+addr+path, strings.NewReader(body))
			q.Header.Set("Content-Type", "application/json")
			res, err := c.Do(q)
			if err != nil {
				return err
			}
			_, _ = io.Copy(io.Discard, res.Body)
			return res.Body.Close()
		}
	}
	for name, call := range map[string]func() error{
		"simple": fetch("GET", "/", ""), "net/http": fetch("GET", "/?a", ""), "events": fetch("GET", "/events?n=1", ""),
		"mcp": fetch("POST", "/mcp", initialize),
		"grpc": func() error {
			return conn.Invoke(t.Context(), EchoMethod, wrapperspb.Bytes(nil), new(wrapperspb.BytesValue))
		},
		"websocket": func() error {
			if err := ws.Write(t.Context(), websocket.MessageText, []byte("a")); err != nil {
				return err
			}
			_, _, err := ws.Read(t.Context())
			return err
		},
	} {
		const length = 100 * time.Millisecond
		began := time.Now()
		s.Stall(length)
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took < length {
			t.Errorf("%s: an answer in a stall of %s came after %s", name, length, took)
		}
	}
}
