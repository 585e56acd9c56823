package registry

import "testing"

func TestNextPage(t *testing.T) {
	for _, c := range []struct{ n, bytes, want int }{
		{1000, 1000 << 10, 2000},        // no more than twice as many
		{16_000, 16_000 << 10, 8 << 10}, // 8 MiB of records of 1 KiB
		{20_000, 20_000 * 100, maxPage}, // small ones: no more than so many
		{1000, 1000 * 640 << 10, 12},    // the largest records there are
		{1, 64 << 20, 1},                // one at least
		{1000, 0, 2000},
	} {
		if got := nextPage(c.n, c.bytes); got != c.want {
			t.Errorf("after %d keys of %d bytes: %d, want %d", c.n, c.bytes, got, c.want)
		}
	}
}
