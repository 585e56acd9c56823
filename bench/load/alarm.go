package load

import "time"

// alarm sleeps for one goroutine, which another can interrupt.
type alarm interface {
	sleep(d time.Duration) // returns after d, or when interrupt is called
	interrupt()            // ends this sleep and all later ones; called once at most
	close()
}

// timerAlarm sleeps as precisely as the runtime's timers are.
type timerAlarm struct{ stop chan struct{} }

func newTimerAlarm() (alarm, error) { return timerAlarm{stop: make(chan struct{})}, nil }

func (a timerAlarm) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-a.stop:
	}
}

func (a timerAlarm) interrupt() { close(a.stop) }

func (timerAlarm) close() {}
