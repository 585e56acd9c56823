//go:build !linux

package load

import "time"

// alarm sleeps as precisely as the runtime's timers are.
type alarm struct{ stop chan struct{} }

func newAlarm() (*alarm, error) { return &alarm{stop: make(chan struct{})}, nil }

// sleep returns after d, or when interrupt is called.
func (a *alarm) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-a.stop:
	}
}

// interrupt ends this sleep and all later ones. It is called once.
func (a *alarm) interrupt() { close(a.stop) }

func (a *alarm) close() {}
