package load

import "time"

// UseTimers has the open loop sleep on the runtime's timers, which testing/synctest controls.
func (g *Generator) UseTimers() { g.alarm = newTimerAlarm }

// Due returns when a request is due, and how many are due before t, in a schedule.
func Due(from, rate float64, ramp time.Duration) (due func(uint64) time.Duration, count func(time.Duration) uint64) {
	s := schedule{from: from, rate: rate, ramp: ramp}
	return s.due, s.count
}

// NewAlarm returns what the open loop sleeps on here.
func NewAlarm() (sleep func(time.Duration), interrupt, end func(), err error) {
	a, err := newAlarm()
	if err != nil {
		return nil, nil, nil, err
	}
	return a.sleep, a.interrupt, a.close, nil
}

// NewRequest returns the context of a call, and its end.
var NewRequest = newRequest

// End ends the call.
func (r *request) End() { r.end() }
