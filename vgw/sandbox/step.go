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
	Keep         time.Duration // for which a run that ended by itself is left as it is, for its logs; 0 = 15 minutes
}

func (p Pace) withDefaults() Pace {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&p.StartTimeout, 10 * time.Minute}, {&p.Grace, 10 * time.Second}, {&p.Retry, time.Second}, {&p.RetryMost, time.Minute}, {&p.Keep, 15 * time.Minute}} {
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
	ActBegin   ActKind = iota + 1 // store a new run: see Begin
	ActCreate                     // have the driver make the run
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
	n := *s
	t := &turn{s: &n, o: about(o, s), now: now, pace: p.withDefaults()}
	if n.Run.Live() {
		t.live()
	}
	if !n.Run.Live() {
		t.resting()
	}
	if !t.changed {
		return s, t.do
	}
	return &n, t.do
}

// about returns what o says of the run that is stored. What has the nonce and another UID was made by somebody else: it is never touched.
func about(o *Observation, s *Sandbox) *Observation {
	if o == nil || s.Run.Nonce == "" || o.Nonce != s.Run.Nonce {
		return nil
	}
	if s.Run.UID != "" && o.UID != "" && o.UID != s.Run.UID {
		return nil
	}
	return o
}

// Begin is s with a new run. It is stored before the driver hears of it.
func Begin(s *Sandbox, nonce string, now time.Time) *Sandbox {
	n := *s
	n.Want, n.State = WantRunning, Pending
	n.Run = Run{Nonce: nonce, Begun: now}
	n.Runs++
	n.Accounted = time.Time{}
	n.Conditions = nil
	t := &turn{s: &n, now: now}
	t.set(Ready, false, ReasonWaiting, "it waits to be made")
	return &n
}

// Made is s after the driver told the UID of its run.
func Made(s *Sandbox, uid string, now time.Time) *Sandbox {
	if s.Run.UID == uid || !s.Run.Live() {
		return s
	}
	n := *s
	t := &turn{s: &n, now: now}
	n.Run.UID = uid
	t.reached()
	if n.State == Pending {
		n.State = Starting
		t.set(Ready, false, ReasonWaiting, "it waits to run")
	}
	for _, c := range s.Conditions { // what a failed attempt said
		if c.Type == PlaceReady || c.Type == Scheduled && (c.Reason == ReasonQuota || c.Reason == ReasonRefused) {
			n.Conditions = without(n.Conditions, c.Type)
		}
	}
	return &n
}

// turn is one Step.
type turn struct {
	s       *Sandbox // a copy that is not shared yet
	o       *Observation
	now     time.Time
	pace    Pace
	changed bool
	do      []Act
}

func (t *turn) act(a Act) { t.do = append(t.do, a) }

func (t *turn) phase() (Phase, bool) {
	if t.o == nil {
		return PhaseAbsent, false
	}
	return t.o.Phase, true
}

// leaving says whether the run was told to end, or is about to be.
func (t *turn) leaving() bool { return t.s.State == Stopping || t.s.State == Deleting }

// live goes on with a run that is not over, as far as is known.
func (t *turn) live() {
	t.wanted()
	if t.over() {
		t.end()
		return
	}
	t.observe()
	if !t.leaving() {
		if reason, message := t.due(); reason != "" {
			t.leave(reason, message)
		}
	}
	switch {
	case t.leaving():
		t.act(Act{Kind: ActRemove, Grace: t.pace.Grace})
	case t.s.Run.UID == "":
		t.act(Act{Kind: ActCreate})
	}
	if at := t.next(); !at.IsZero() {
		t.act(Act{Kind: ActWait, Until: at})
	}
}

// wanted brings the state in line with what the owner wants, should whoever stored the one not have stored the other.
func (t *turn) wanted() {
	switch {
	case t.s.Want == WantDeleted && t.s.State != Deleting:
		t.leave(ReasonStopped, "it is being deleted")
	case t.s.Want == WantStopped && !t.leaving():
		t.leave(ReasonStopped, "it was told to stop")
	}
}

// over says whether the run has ended. One without a UID that is absent was not made yet; only when it is to end that is an end.
func (t *turn) over() bool {
	switch phase, known := t.phase(); {
	case !known:
		return false
	case phase == PhaseAbsent:
		return t.s.Run.UID != "" || t.leaving()
	case phase == PhaseEnded:
		return t.s.Run.UID != "" || t.leaving()
	}
	return false
}

// end stores how the run ended.
func (t *turn) end() {
	r := &t.s.Run
	r.Started = t.moment(t.o.Started, r.Started)
	r.Ended = t.moment(t.o.Ended, time.Time{})
	if r.Ended.IsZero() {
		r.Ended = t.now
	}
	if r.Ended.Before(r.Started) {
		r.Ended = r.Started
	}
	if r.UID == "" {
		r.UID = t.o.UID
	}
	r.Exit, r.Address = t.o.Exit, ""
	if r.Reason == "" {
		r.Reason = endReason(t.o)
	}
	t.changed = true
	switch {
	case t.s.Want == WantDeleted:
		t.s.State = Deleting
	case t.s.Want == WantRunning && r.Reason == ReasonStopped: // started again while it was stopping
		t.s.State = Pending
	case peaceful(r.Reason):
		t.s.State = Stopped
	default:
		t.s.State = Failed
	}
	t.set(Ready, false, r.Reason, t.farewell())
}

// moment returns a time that the driver told, held within the run's bounds: a node's clock may be wrong, and use is counted by it.
func (t *turn) moment(told, otherwise time.Time) time.Time {
	switch {
	case !otherwise.IsZero() || told.IsZero():
		return otherwise
	case told.Before(t.s.Run.Begun):
		return t.s.Run.Begun
	case told.After(t.now):
		return t.now
	}
	return told
}

func endReason(o *Observation) string {
	switch {
	case o.Reason != "":
		return o.Reason
	case o.Phase == PhaseAbsent:
		return ReasonDeleted
	case o.Exit != nil && *o.Exit == 0:
		return ReasonCompleted
	}
	return ReasonError
}

// peaceful says whether a run that ended so did what it should.
func peaceful(reason string) bool {
	switch reason {
	case ReasonCompleted, ReasonStopped, ReasonLifetime, ReasonIdle:
		return true
	}
	return false
}

// observe stores what is seen of a run that is ours for sure.
func (t *turn) observe() {
	phase, known := t.phase()
	if !known || t.s.Run.UID == "" || phase == PhaseAbsent {
		return
	}
	r := &t.s.Run
	if started := t.moment(t.o.Started, r.Started); phase == PhaseRunning && r.Started.IsZero() {
		if r.Started = started; started.IsZero() {
			r.Started = t.now
		}
		t.changed = true
	}
	if r.Address != t.o.Address && t.o.Address != "" {
		r.Address, t.changed = t.o.Address, true
	}
	for _, c := range t.o.Conditions {
		if c.Type != Ready {
			t.set(c.Type, c.Status, c.Reason, c.Message)
		}
	}
	if t.leaving() {
		return
	}
	switch phase {
	case PhaseRunning:
		t.running()
	case PhaseWaiting:
		t.state(Starting)
		reason, message := t.o.Reason, t.o.Message
		if reason == "" {
			reason, message = t.waitingFor()
		}
		t.set(Ready, false, reason, message)
	}
}

// running is a process that runs. It is not ready where the driver says so, such as on a node that is silent.
func (t *turn) running() {
	t.state(Running)
	for _, c := range t.o.Conditions {
		if c.Type == Ready && !c.Status {
			t.set(Ready, false, c.Reason, c.Message)
			return
		}
	}
	t.set(Ready, true, "Running", "it runs")
}

func (t *turn) state(s State) {
	if t.s.State != s {
		t.s.State, t.changed = s, true
	}
}

// due says why a run is to end now, if it is.
func (t *turn) due() (reason, message string) {
	if phase, known := t.phase(); known && (phase == PhaseStopping || t.o.Deleting) && t.s.Run.UID != "" {
		if reason = t.o.Reason; reason == "" {
			reason = ReasonDeleted
		}
		return reason, "something other than the gateway ends it"
	}
	switch {
	case t.past(t.lifetimeOver()):
		return ReasonLifetime, "its lifetime of " + t.s.Spec.Lifetime.String() + " is over"
	case t.past(t.idleOver()):
		return ReasonIdle, "nobody used it for " + t.s.Spec.IdleTimeout.String()
	case t.past(t.startOver()):
		reason, message = t.waitingFor()
		return reason, "it did not start within " + t.pace.StartTimeout.String() + ": " + message
	}
	return "", ""
}

func (t *turn) past(at time.Time) bool { return !at.IsZero() && !t.now.Before(at) }

// next is when something is due without anything being heard.
func (t *turn) next() time.Time {
	var first time.Time
	if t.leaving() {
		return first
	}
	for _, at := range []time.Time{t.lifetimeOver(), t.idleOver(), t.startOver()} {
		if !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

func (t *turn) lifetimeOver() time.Time {
	if t.s.Spec.Lifetime == 0 || t.s.Run.Started.IsZero() {
		return time.Time{}
	}
	return t.s.Run.Started.Add(t.s.Spec.Lifetime)
}

func (t *turn) idleOver() time.Time {
	if t.s.Spec.IdleTimeout == 0 || t.s.State != Running {
		return time.Time{}
	}
	return later(t.s.Run.Started, t.s.Used).Add(t.s.Spec.IdleTimeout)
}

// startOver is when a run that does not start is given up. The time that the cluster was away is not counted, nor the time that it ran
// before, should its process have been started anew.
func (t *turn) startOver() time.Time {
	if t.s.State == Running {
		return time.Time{}
	}
	from := t.s.Run.Begun
	if c := find(t.s.Conditions, ClusterReached); c != nil {
		if !c.Status {
			return time.Time{}
		}
		from = later(from, c.Since)
	}
	if c := find(t.s.Conditions, Ready); c != nil && !c.Status {
		from = later(from, c.Since)
	}
	return from.Add(t.pace.StartTimeout)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// leave has the run end. The reason stays that of the run, whatever its process says of its end.
func (t *turn) leave(reason, message string) {
	t.s.State = Stopping
	if t.s.Want == WantDeleted {
		t.s.State = Deleting
	}
	if t.s.Run.Reason == "" || reason == ReasonStopped {
		t.s.Run.Reason = reason
	}
	t.changed = true
	t.set(Ready, false, reason, message)
}

// resting is a sandbox whose run is over, or which never had one.
func (t *turn) resting() {
	phase, known := t.phase()
	left := known && phase != PhaseAbsent
	if keep := t.kept(); !keep.IsZero() {
		t.act(Act{Kind: ActWait, Until: keep})
	} else if left && phase == PhaseEnded {
		t.act(Act{Kind: ActRelease})
	} else if left { // an end that was stored, of something that came after all: a call that was on its way
		t.act(Act{Kind: ActRemove, Grace: t.pace.Grace})
	}
	switch {
	case t.s.Want == WantDeleted:
		t.state(Deleting)
		if t.s.Run.Nonce == "" || known && !left {
			t.act(Act{Kind: ActForget})
		}
	case t.s.Want == WantRunning && t.s.State == Pending:
		// The run before is let go of first: nobody knows of it once its nonce is replaced, and what it left, its log and its
		// environment, would lie there until it is taken for an orphan. A loop of stops and starts would fill the disk.
		if t.s.Run.Nonce == "" || known && !left {
			t.act(Act{Kind: ActBegin})
		}
	case t.s.State != Stopped && t.s.State != Failed:
		t.state(Stopped)
	}
}

// kept is until when what ended is left as it is: its logs are read after it failed. Zero = no longer.
func (t *turn) kept() time.Time {
	phase, known := t.phase()
	if !known || phase != PhaseEnded || t.o.Deleting || !t.s.AtRest() || t.s.Want == WantDeleted {
		return time.Time{}
	}
	if at := t.s.Run.Ended.Add(t.pace.Keep); t.now.Before(at) {
		return at
	}
	return time.Time{}
}

// AtRest says whether nothing is to be done for a sandbox, as far as its record tells.
func (s *Sandbox) AtRest() bool {
	return !s.Run.Live() && (s.State == Stopped || s.State == Failed)
}
