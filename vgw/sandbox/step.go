package sandbox

import (
	"time"
)

// Pace is how long a Step waits for what. The zero value is what the platform does by default.
type Pace struct {
	StartTimeout time.Duration // from the beginning of a run until it runs, the time not counted when the cluster is away; 0 = 10 minutes
	Grace        time.Duration // between the polite word and the force; 0 = 10 s
	Retry        time.Duration // the pause after a first failure, which doubles; 0 = 1 s
	RetryMost    time.Duration // the longest pause; 0 = 1 minute
}

func (p Pace) withDefaults() Pace {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&p.StartTimeout, 10 * time.Minute}, {&p.Grace, 10 * time.Second}, {&p.Retry, time.Second}, {&p.RetryMost, time.Minute}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return p
}

// ActKind says what is to be done.
type ActKind uint8

// The acts.
const (
	ActCreate  ActKind = iota + 1 // have the driver make the run
	ActRemove                     // have the driver end the run, within Grace
	ActRelease                    // have the driver let go of what an ended run left
	ActForget                     // delete the record
	ActWait                       // look again at Until, should nothing be heard before
)

// Act is one thing that a state asks for. It is done once the state that asks for it is stored, and asked for again until what it
// is to bring about is seen.
type Act struct {
	Kind  ActKind
	Grace time.Duration // of ActRemove
	Until time.Time     // of ActWait
}

// Step is the state machine: what becomes of a sandbox by what is seen of its run, and what is to be done. It is pure. o is nil while
// nothing is known of the run; PhaseAbsent says that it was looked for after the last call that could have made it, and is
// not there. next is s itself if nothing changes.
func Step(s *Sandbox, o *Observation, now time.Time, p Pace) (next *Sandbox, do []Act) {
	return s, nil
}
