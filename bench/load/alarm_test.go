package load_test

import (
	"testing"
	"time"

	"github.com/polygate/polygate/bench/load"
)

// TestAlarmSleepsExactly: the shortest of some sleeps is as long as told, and not the millisecond that the runtime's timers take.
func TestAlarmSleepsExactly(t *testing.T) {
	sleep, _, end, err := load.NewAlarm()
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	const told = 200 * time.Microsecond
	best := time.Hour
	for range 100 {
		begin := time.Now()
		sleep(told)
		best = min(best, time.Since(begin))
	}
	if best < told || best > 900*time.Microsecond {
		t.Errorf("the shortest of 100 sleeps of %v took %v", told, best)
	}
}

func TestAlarmIsInterrupted(t *testing.T) {
	sleep, interrupt, end, err := load.NewAlarm()
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	go interrupt()
	sleep(time.Hour)
	sleep(time.Hour) // and every later one
}
