package proxy

import (
	"io"
	"log/slog"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/netutil"
)

// cpu returns the processor time that the process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSplice is one connection that sends as much as it can, beside the same without a gateway between. The processor
// time is that of all three ends, so what the gateway takes is the difference.
func BenchmarkSplice(b *testing.B) {
	const piece = 1 << 20
	flood := func(b *testing.B, from, to net.Conn) {
		_ = to.SetDeadline(time.Time{})
		_ = from.SetDeadline(time.Time{})
		buf, done := make([]byte, piece), make(chan struct{})
		b.SetBytes(piece)
		b.ReportAllocs()
		b.ResetTimer()
		before := cpu(b)
		go func() {
			defer close(done)
			for range b.N {
				if _, err := from.Write(buf); err != nil {
					return
				}
			}
		}()
		sink := make([]byte, piece)
		for range b.N {
			if _, err := io.ReadFull(to, sink); err != nil {
				b.Fatal(err)
			}
		}
		<-done
		b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/MiB")
	}
	b.Run("direct", func(b *testing.B) {
		client, server := tcpPair(b)
		flood(b, client, server)
	})
	g := newRawGateway(b)
	f := newFront(b, splicing(b), func(c *Config) { c.Logger = slog.New(slog.DiscardHandler) })
	f.put(passthrough("team-p", g.addr()))
	b.Run("in", func(b *testing.B) {
		client, up := f.spliced(g)
		flood(b, client, up)
	})
	b.Run("out", func(b *testing.B) {
		client, up := f.spliced(g)
		flood(b, up, client)
	})
	b.Run("ping", func(b *testing.B) {
		client, up := f.spliced(g)
		one := make([]byte, 100)
		b.ReportAllocs()
		b.ResetTimer()
		for range b.N {
			_, _ = client.Write(one)
			_, _ = io.ReadFull(up, one)
		}
	})
}

// ready is a listener that has a connection at once.
type ready struct{ c net.Conn }

func (r *ready) Accept() (net.Conn, error) { return r.c, nil }
func (r *ready) Close() error              { return nil }
func (r *ready) Addr() net.Addr            { return r.c.LocalAddr() }

// BenchmarkDoor is what the listener adds to a connection that is terminated: accepted, its hello read in two reads, closed.
func BenchmarkDoor(b *testing.B) {
	hello := make([]byte, 1800)
	run := func(b *testing.B, l net.Listener, w *wire) {
		b.ReportAllocs()
		buf := make([]byte, 4<<10)
		for b.Loop() {
			w.in = hello
			c, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			_, _ = c.Read(buf[:5+512])
			_, _ = c.Read(buf)
			if h, ok := c.(*helloConn); ok {
				h.terminate(nil)
			}
			c.Close()
		}
	}
	b.Run("netutil.LimitListener", func(b *testing.B) {
		w := &wire{piece: 1 << 20}
		run(b, netutil.LimitListener(&ready{w}, 10), w)
	})
	b.Run("door", func(b *testing.B) {
		w := &wire{piece: 1 << 20}
		run(b, newDoor(&ready{w}, 10), w)
	})
}

// BenchmarkSpliceIdle is the memory of a connection that is open and says nothing, the test's own two ends included.
func BenchmarkSpliceIdle(b *testing.B) {
	g := newRawGateway(b)
	f := newFront(b, splicing(b), func(c *Config) { c.Logger = slog.New(slog.DiscardHandler) })
	f.put(passthrough("team-p", g.addr()))
	used := func() float64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapInuse + m.StackInuse)
	}
	client, up := f.spliced(g)
	talk(b, client, up)
	before := used()
	for range b.N {
		client, up := f.spliced(g)
		talk(b, client, up)
	}
	b.ReportMetric((used()-before)/float64(b.N), "B/conn")
}
