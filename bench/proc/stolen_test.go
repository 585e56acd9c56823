package proc

import "testing"

func TestStolen(t *testing.T) {
	before := parseHost([]byte("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"))
	after := parseHost([]byte("cpu  150 0 120 900 0 0 10 20 7 7\n"))
	if got := after.Stolen(before); got != 0.1 {
		t.Errorf("%v stolen, want a tenth of 200 ticks", got)
	}
	for _, c := range []string{"", "cpu  1 2 3", "cpu  1 2 3 x 5 6 7 8", "intr 1 2 3 4 5 6 7 8 9"} {
		if h := parseHost([]byte(c)); h != (Host{}) || h.Stolen(before) != 0 {
			t.Errorf("%q: %+v", c, h)
		}
	}
}
