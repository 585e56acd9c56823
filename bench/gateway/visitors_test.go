package gateway

import (
	"math"
	"net"
	"strings"
	"testing"

	"github.com/polygate/polygate/bench/result"
)

// TestHeldConnectionsThatEnd: what the gateway has closed meanwhile would be measured as costing nothing.
func TestHeldConnectionsThatEnd(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	v := new(visitors)
	defer v.close()
	var ours []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		v.hold(c)
		s, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ours = append(ours, s)
	}
	if err := v.alive(); err != nil {
		t.Errorf("open connections: %v", err)
	}
	if _, err := ours[2].Write([]byte(": heartbeat\n\n")); err != nil {
		t.Fatal(err)
	}
	if err := v.alive(); err != nil {
		t.Errorf("a stream with a heartbeat: %v", err)
	}
	ours[1].Close()
	if err := v.alive(); err == nil || strings.Contains(err.Error(), "%!") {
		t.Errorf("one that was closed: got %v, want that it ended", err)
	}
}

func TestPerUnit(t *testing.T) {
	points := make([]result.CapacityPoint, 3)
	for i, n := range []int{1000, 0, 100} {
		points[i].Registered = n
		points[i].RSS.Start, points[i].Heap.Start = int64(5000+20*n), int64(1000+7*n)
	}
	p := &points[0]
	p.Active, p.RSS.Active, p.Heap.Active = 10, p.RSS.Start+500, p.Heap.Start+30
	p.RSS.Connected, p.Heap.Connected = p.RSS.Active, p.Heap.Active
	p.Streams, p.RSS.Streams, p.Heap.Streams = 4, p.RSS.Connected+400, p.Heap.Connected+40
	perUnit(p)
	compare(points)
	for _, c := range []struct {
		what      string
		got, want float64
	}{
		{"registered", points[0].PerRegistered, 20}, {"registered, alive", points[2].HeapPerRegistered, 7}, {"the fewest", points[1].PerRegistered, 0},
		{"active", p.PerActive, 50}, {"active, alive", p.HeapPerActive, 3}, {"connected: none were", p.PerConnected, 0},
		{"stream", p.PerStream, 100}, {"stream, alive", p.HeapPerStream, 10},
	} {
		if math.Abs(c.got-c.want) > 1e-9 {
			t.Errorf("%s = %v, want %v", c.what, c.got, c.want)
		}
	}
}
