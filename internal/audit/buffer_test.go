package audit

import (
	"strconv"
	"sync"
	"testing"
)

func TestBufferKeepsOrderAndCountsDrops(t *testing.T) {
	b := NewBuffer(4)
	put := func(from, to int) {
		for i := from; i < to; i++ {
			b.Record(Entry{ID: strconv.Itoa(i)})
		}
	}
	want := func(limit int, ids ...string) {
		t.Helper()
		got := b.peek(nil, limit)
		if len(got) != len(ids) {
			t.Fatalf("peek = %v, want %v", got, ids)
		}
		for i := range ids {
			if got[i].ID != ids[i] {
				t.Fatalf("peek[%d] = %q, want %q", i, got[i].ID, ids[i])
			}
		}
	}
	put(0, 3)
	want(2, "0", "1")
	b.discard(2)
	put(3, 8) // 3, 4, 5 fit beside 2
	want(10, "2", "3", "4", "5")
	if b.Dropped() != 2 || b.Len() != 4 {
		t.Errorf("dropped %d, held %d; want 2, 4", b.Dropped(), b.Len())
	}
	b.discard(4)
	want(10)
	put(8, 9)
	want(10, "8")
}

func TestBufferWakesWhenHalfFull(t *testing.T) {
	b := NewBuffer(4)
	b.Record(Entry{})
	if len(b.half) != 0 {
		t.Error("woken too early")
	}
	b.Record(Entry{})
	if len(b.half) != 1 {
		t.Error("not woken at half")
	}
}

func TestBufferRecordDoesNotAllocate(t *testing.T) {
	b := NewBuffer(10)
	e := entry("team-a", "mcp.call")
	if n := testing.AllocsPerRun(100, func() { b.Record(e) }); n != 0 {
		t.Errorf("Record allocates %v times, want 0", n)
	}
}

func TestBufferConcurrent(t *testing.T) {
	b := NewBuffer(64)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				b.Record(Entry{ID: "x"})
			}
		})
	}
	stop := make(chan struct{})
	taken := make(chan int)
	go func() {
		n := 0
		for {
			got := len(b.peek(nil, 16))
			b.discard(got)
			n += got
			select {
			case <-stop:
				rest := b.Len()
				b.discard(rest)
				taken <- n + rest
				return
			default:
			}
		}
	}()
	wg.Wait()
	close(stop)
	if got := <-taken + int(b.Dropped()); got != 8000 {
		t.Errorf("taken and dropped: %d, want 8000", got)
	}
}

func BenchmarkRecord(b *testing.B) {
	buf := NewBuffer(1 << 14)
	e := entry("team-a", "mcp.call")
	b.ReportAllocs()
	for b.Loop() {
		buf.Record(e)
		if buf.n == len(buf.ring) {
			buf.n = 0
		}
	}
}

func BenchmarkRecordParallel(b *testing.B) {
	buf := NewBuffer(1 << 14)
	e := entry("team-a", "mcp.call")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			buf.Record(e)
		}
	})
}
