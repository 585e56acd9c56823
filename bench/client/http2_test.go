package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/polygate/polygate/bench/backend"
	"github.com/polygate/polygate/bench/scenario"
)

// peer is the server's side of an HTTP/2 connection, frame by frame.
type peer struct {
	*http2.Framer
	n int // of the connection, from 1
}

// servePeer starts a server whose connections are handled frame by frame: handle gets each request's stream, from 1 on each connection,
// and returns whether the connection goes on.
func servePeer(t *testing.T, l *lab, settings []http2.Setting, handle func(p *peer, stream uint32) bool) (Tenant, *atomic.Int64) {
	t.Helper()
	const host = "t0.bench.test"
	conf := &tls.Config{Certificates: []tls.Certificate{l.certificate(t, host, time.Now().Add(time.Hour))}, NextProtos: []string{"h2"}}
	ln := tls.NewListener(listen(t), conf)
	var connections atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			p := &peer{Framer: http2.NewFramer(c, c), n: int(connections.Load())}
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			go p.run(c, settings, handle)
		}
	}()
	t.Cleanup(func() { ln.Close(); <-ended })
	return Tenant{Name: "t0", Host: host, Addr: ln.Addr().String(), Canary: backend.Canary(seed, 0)}, &connections
}

func (p *peer) run(c net.Conn, settings []http2.Setting, handle func(*peer, uint32) bool) {
	defer c.Close()
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil || p.WriteSettings(settings...) != nil {
		return
	}
	for {
		f, err := p.ReadFrame()
		if err != nil {
			return
		}
		if h, ok := f.(*http2.HeadersFrame); ok && !handle(p, h.StreamID) {
			return
		}
	}
}

// answer sends a right answer.
func (p *peer) answer(stream uint32) bool {
	var b bytes.Buffer
	_ = hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	return p.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: b.Bytes(), EndHeaders: true}) == nil &&
		p.WriteData(stream, true, []byte(backend.Canary(seed, 0))) == nil
}

// TestHTTP2Repeats what the server has not looked at, and nothing else.
func TestHTTP2Repeats(t *testing.T) {
	l := newLab(t)
	for name, v := range map[string]struct {
		handle      func(seen int64, p *peer, stream uint32) bool
		want        string // of the second call
		connections int64
	}{
		"a refused stream": {func(seen int64, p *peer, stream uint32) bool {
			if seen == 2 {
				return p.WriteRSTStream(stream, http2.ErrCodeRefusedStream) == nil
			}
			return p.answer(stream)
		}, "", 1},
		"one that came after the server's last": {func(seen int64, p *peer, stream uint32) bool {
			if seen == 2 {
				return p.WriteGoAway(1, http2.ErrCodeNo, nil) == nil
			}
			return p.answer(stream)
		}, "", 2},
		"none that was reset": {func(seen int64, p *peer, stream uint32) bool {
			if seen == 2 {
				return p.WriteRSTStream(stream, http2.ErrCodeInternal) == nil
			}
			return p.answer(stream)
		}, "reset", 1},
		"none that was cut off": {func(seen int64, p *peer, stream uint32) bool { return seen != 2 && p.answer(stream) }, "reset", 1},
		"none where a push comes": {func(seen int64, p *peer, stream uint32) bool {
			if seen == 2 {
				return p.WritePushPromise(http2.PushPromiseParam{StreamID: stream, PromiseID: 2, EndHeaders: true}) == nil
			}
			return p.answer(stream)
		}, "malformed", 1},
	} {
		t.Run(name, func(t *testing.T) {
			var seen atomic.Int64
			tenant, connections := servePeer(t, l, nil, func(p *peer, stream uint32) bool { return v.handle(seen.Add(1), p, stream) })
			caller := newCaller(t, newClient(t, Config{Load: loadOf(scenario.HTTP2), Tenants: []Tenant{tenant}, Roots: l.roots}))
			if err := call(t, caller, 0); err != nil {
				t.Fatal(err)
			}
			if got := classOf(call(t, caller, 0)); got != v.want {
				t.Errorf("got %q, want %q", got, v.want)
			}
			if got := connections.Load(); got != v.connections {
				t.Errorf("got %d connections, want %d", got, v.connections)
			}
			if err := call(t, caller, 0); err != nil {
				t.Errorf("the next call: %v", err)
			}
		})
	}
}

// TestHTTP2KeepsToTheServersStreams has two callers at once at a server that allows one stream: the second gets a connection of its own.
func TestHTTP2KeepsToTheServersStreams(t *testing.T) {
	l := newLab(t)
	both := make(chan struct{})
	var waiting atomic.Int64
	settings := []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: 1}}
	tenant, connections := servePeer(t, l, settings, func(p *peer, stream uint32) bool {
		if p.n == 1 && stream == 1 { // the first call, so that the settings are known
			return p.answer(stream)
		}
		if waiting.Add(1) == 2 {
			close(both)
		}
		<-both
		return p.answer(stream)
	})
	c := newClient(t, Config{Load: loadOf(scenario.HTTP2), Tenants: []Tenant{tenant}, Roots: l.roots})
	if err := call(t, newCaller(t, c), 0); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	for range 2 {
		caller := newCaller(t, c)
		go func() { ended <- call(t, caller, 0) }()
	}
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if got := connections.Load(); got != 2 {
		t.Errorf("got %d connections, want 2", got)
	}
}

// memory is a connection whose other side has said all it will say, and hears nothing.
type memory struct {
	net.Conn
	in *bytes.Reader
}

func (m memory) Read(b []byte) (int, error)       { return m.in.Read(b) }
func (memory) Write(b []byte) (int, error)        { return len(b), nil }
func (memory) Close() error                       { return nil }
func (memory) SetWriteDeadline(_ time.Time) error { return nil }

// FuzzHTTP2 reads what a server may send while a request waits: the request ends, and the connection with it.
func FuzzHTTP2(f *testing.F) {
	f.Add(said(func(p *peer) { p.answer(1) }))
	f.Add(said(func(p *peer) { _ = p.WriteGoAway(0, http2.ErrCodeNo, []byte("bye")); p.answer(1) }))
	f.Add(said(func(p *peer) { _ = p.WriteRSTStream(1, http2.ErrCodeCancel); _ = p.WriteWindowUpdate(0, 1<<30) }))
	f.Add(said(func(p *peer) { _ = p.WritePing(false, [8]byte{1}); _ = p.WriteContinuation(1, true, []byte{0x88}) }))
	f.Fuzz(func(t *testing.T, b []byte) {
		conn := memory{in: bytes.NewReader(b)}
		s, err := newShared(conn, bufio.NewReader(conn))
		if err != nil {
			t.Fatal(err)
		}
		st := &stream{done: make(chan struct{}, 1)}
		if err := s.begin(st, []hpack.HeaderField{{Name: ":method", Value: "GET"}}, true); err != nil {
			t.Fatal(err)
		}
		s.read()
		select {
		case <-st.done:
		default:
			t.Error("the request still waits")
		}
		if err := s.send(context.Background(), st, []byte("more")); err != nil {
			t.Error(err)
		}
		if s.reserve() || !s.useless() {
			t.Error("the connection goes on")
		}
	})
}

// said is what a server sends.
func said(say func(*peer)) []byte {
	var b bytes.Buffer
	p := &peer{Framer: http2.NewFramer(&b, nil)}
	p.AllowIllegalWrites = true
	_ = p.WriteSettings()
	say(p)
	return b.Bytes()
}

// TestAnAnswerIsBounded sends more than an answer may have.
func TestAnAnswerIsBounded(t *testing.T) {
	s := &shared{streams: map[uint32]*stream{1: {id: 1}}}
	part := make([]byte, 1<<20)
	for range streamWindow >> 20 {
		if err := s.store(1, part); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.store(1, part[:1]); !errors.Is(err, http2.ConnectionError(http2.ErrCodeFlowControl)) {
		t.Errorf("got %v, want a breach of flow control", err)
	}
}
