package sandbox

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/polygate/polygate/internal/fault"
)

func twelve() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func fresh() *Sandbox {
	s := &Sandbox{V: Version, ID: "0192d8a0-0000-7000-8000-000000000001", Name: "one", Owner: "user:alice", Created: twelve()}
	return Begin(s, "n0", twelve())
}

// sees is what is seen of the run of s.
func sees(s *Sandbox, p Phase, change ...func(*Observation)) *Observation {
	o := &Observation{Sandbox: s.ID, Nonce: s.Run.Nonce, UID: s.Run.UID, Phase: p}
	for _, f := range change {
		f(o)
	}
	return o
}

func kinds(do []Act) (list []ActKind) {
	for _, a := range do {
		list = append(list, a.Kind)
	}
	return list
}

// TestStep: single steps, as a table.
func TestStep(t *testing.T) {
	made := func(change ...func(*Sandbox)) *Sandbox {
		s := Made(fresh(), "u1", twelve())
		for _, f := range change {
			f(s)
		}
		return s
	}
	running := func(s *Sandbox) { s.State, s.Run.Started = Running, twelve() }
	stopping := func(s *Sandbox) { s.Want, s.State, s.Run.Reason = WantStopped, Stopping, ReasonStopped }
	exit := func(code int, reason string) func(*Observation) {
		return func(o *Observation) { o.Exit, o.Reason, o.Ended = &code, reason, twelve().Add(time.Minute) }
	}
	for name, c := range map[string]struct {
		s      *Sandbox
		o      *Observation
		after  time.Duration
		state  State
		reason string
		acts   []ActKind
	}{
		"nothing is known":           {fresh(), nil, 0, Pending, "", []ActKind{ActCreate, ActWait}},
		"it is not there":            {fresh(), sees(fresh(), PhaseAbsent), 0, Pending, "", []ActKind{ActCreate, ActWait}},
		"an earlier try made it":     {fresh(), sees(fresh(), PhaseRunning), 0, Pending, "", []ActKind{ActCreate, ActWait}},
		"made":                       {made(), nil, 0, Starting, "", []ActKind{ActWait}},
		"waits":                      {made(), sees(made(), PhaseWaiting), 0, Starting, "", []ActKind{ActWait}},
		"runs":                       {made(), sees(made(), PhaseRunning), 0, Running, "", nil},
		"another's of its name":      {made(), sees(made(), PhaseRunning, func(o *Observation) { o.UID = "u2" }), 0, Starting, "", []ActKind{ActWait}},
		"does not start":             {made(), sees(made(), PhaseWaiting), 10 * time.Minute, Stopping, ReasonWaiting, []ActKind{ActRemove}},
		"completed":                  {made(running), sees(made(), PhaseEnded, exit(0, ReasonCompleted)), time.Minute, Stopped, ReasonCompleted, []ActKind{ActWait}},
		"failed":                     {made(running), sees(made(), PhaseEnded, exit(3, "")), time.Minute, Failed, ReasonError, []ActKind{ActWait}},
		"failed long ago":            {made(running), sees(made(), PhaseEnded, exit(3, "")), time.Hour, Failed, ReasonError, []ActKind{ActRelease}},
		"gone":                       {made(running), sees(made(), PhaseAbsent), time.Minute, Failed, ReasonDeleted, nil},
		"somebody deletes it":        {made(running), sees(made(), PhaseStopping, func(o *Observation) { o.Deleting = true }), time.Minute, Stopping, ReasonDeleted, []ActKind{ActRemove}},
		"lifetime":                   {made(running, func(s *Sandbox) { s.Spec.Lifetime = time.Hour }), nil, time.Hour, Stopping, ReasonLifetime, []ActKind{ActRemove}},
		"idle":                       {made(running, func(s *Sandbox) { s.Spec.IdleTimeout = time.Hour }), nil, time.Hour, Stopping, ReasonIdle, []ActKind{ActRemove}},
		"stopping, nothing known":    {made(running, stopping), nil, 0, Stopping, ReasonStopped, []ActKind{ActRemove}},
		"stopping, was never there":  {func() *Sandbox { s := fresh(); stopping(s); return s }(), sees(fresh(), PhaseAbsent), 0, Stopped, ReasonStopped, nil},
		"stopped":                    {made(running, stopping), sees(made(), PhaseEnded, exit(143, ReasonDeleted), func(o *Observation) { o.Deleting = true }), time.Minute, Stopped, ReasonStopped, []ActKind{ActRelease}},
		"started while it stops":     {made(running, stopping, func(s *Sandbox) { s.Want = WantRunning }), sees(made(), PhaseEnded), time.Minute, Pending, ReasonStopped, []ActKind{ActRelease}},
		"started, the last run gone": {made(running, stopping, func(s *Sandbox) { s.Want = WantRunning }), sees(made(), PhaseAbsent), time.Minute, Pending, ReasonStopped, []ActKind{ActBegin}},
		"deleting":                   {made(running, func(s *Sandbox) { s.Want = WantDeleted }), sees(made(), PhaseRunning), 0, Deleting, ReasonStopped, []ActKind{ActRemove}},
		"deleting, ended":            {made(running, func(s *Sandbox) { s.Want, s.State = WantDeleted, Deleting }), sees(made(), PhaseEnded), 0, Deleting, ReasonError, []ActKind{ActRelease}},
		"deleting, gone":             {made(running, func(s *Sandbox) { s.Want, s.State = WantDeleted, Deleting }), sees(made(), PhaseAbsent), 0, Deleting, ReasonDeleted, []ActKind{ActForget}},
		"deleting what never ran":    {&Sandbox{Want: WantDeleted, State: Stopped}, nil, 0, Deleting, "", []ActKind{ActForget}},
		"came after all, after its end": {made(func(s *Sandbox) {
			s.Want, s.State, s.Run.Ended, s.Run.Reason = WantStopped, Stopped, twelve(), ReasonStopped
		}),
			sees(made(), PhaseRunning), time.Minute, Stopped, ReasonStopped, []ActKind{ActRemove}},
	} {
		t.Run(name, func(t *testing.T) {
			got, do := Step(c.s, c.o, twelve().Add(c.after), Pace{})
			if got.State != c.state || got.Run.Reason != c.reason || !slices.Equal(kinds(do), c.acts) {
				t.Errorf("%s, reason %q, acts %v; want %s, %q, %v", got.State, got.Run.Reason, kinds(do), c.state, c.reason, c.acts)
			}
		})
	}
}

// machine is a sandbox with a cluster that does what it can, at the whim of rapid.
type machine struct {
	s     *Sandbox // as stored; nil = forgotten
	now   time.Time
	runs  map[string]*Observation // what there is, by nonce
	known *Observation            // what was told; nil = nothing
	calls []Act                   // asked for by the stored state
	nonce int
	uid   int
	unsaw bool // what is known is not of now
}

func (m *machine) live() (n int) {
	for _, o := range m.runs {
		if o.Phase != PhaseEnded {
			n++
		}
	}
	return n
}

// store stores a step; the calls that it asks for come after.
func (m *machine) step(t *rapid.T) {
	if m.s == nil {
		return
	}
	next, do := Step(m.s, m.known, m.now, Pace{})
	if again, _ := Step(m.s, m.known, m.now, Pace{}); !reflect.DeepEqual(next, again) {
		t.Fatalf("two steps from one state differ: %+v and %+v", next, again)
	}
	if next.Run.Live() && next.Run.Nonce != m.s.Run.Nonce {
		t.Fatal("a step began a run: only a stored Begin does")
	}
	if m.s.Want != next.Want || m.s.ID != next.ID {
		t.Fatalf("a step changed what is wanted: %+v", next)
	}
	m.s, m.calls = next, do
	for _, a := range do {
		switch {
		case a.Kind == ActCreate && (m.s.Run.Nonce == "" || !m.s.Run.Live()):
			t.Fatal("a creation without a stored run")
		case a.Kind == ActBegin && (m.s.Run.Live() || m.s.Want != WantRunning):
			t.Fatalf("a run begins beside another, or unwanted: %+v", m.s)
		case a.Kind == ActBegin && m.runs[m.s.Run.Nonce] != nil && !m.unsaw:
			t.Fatalf("a run begins, and what the last one left lies there: %+v, %+v", m.s, m.runs)
		case a.Kind == ActForget && (m.s.Run.Live() || m.s.Want != WantDeleted || len(m.runs) > 0 && m.runs[m.s.Run.Nonce] != nil && !m.unsaw):
			t.Fatalf("forgotten with something left: %+v, %+v", m.s, m.runs)
		}
	}
}

// carryOut does one of the acts. It may fail, or have its answer lost.
func (m *machine) carryOut(t *rapid.T, a Act, how string) {
	r := m.runs[m.s.Run.Nonce]
	effect, answer := how != "fails", how == "works"
	switch a.Kind {
	case ActCreate:
		if m.known != nil && m.known.Phase == PhaseAbsent {
			m.known = nil
		}
		if effect && r == nil {
			m.uid++
			r = &Observation{Sandbox: m.s.ID, Nonce: m.s.Run.Nonce, UID: fmt.Sprint("u", m.uid), Phase: PhaseWaiting}
			m.runs[m.s.Run.Nonce] = r
		}
		if m.live() > 1 {
			t.Fatalf("two runs live: %+v", m.runs)
		}
		if answer && m.s.Run.Live() {
			m.s = Made(m.s, r.UID, m.now)
		}
	case ActRemove:
		if effect && r != nil {
			r.Phase, r.Deleting = PhaseEnded, true
		}
	case ActRelease:
		if effect && r != nil && r.Phase == PhaseEnded {
			delete(m.runs, m.s.Run.Nonce)
		}
	case ActBegin:
		m.nonce++
		m.s, m.known = Begin(m.s, fmt.Sprint("n", m.nonce), m.now), nil
	case ActForget:
		if how == "works" {
			m.s = nil
		}
	}
	if how == "fails" && m.s != nil {
		errs := []error{ErrUnreachable, ErrQuota, ErrRefused, ErrTerminating, errors.New("500"), fault.New(fault.Invalid, "no")}
		m.s = Failure(m.s, a.Kind, rapid.SampledFrom(errs).Draw(t, "error"), m.now)
	}
}

// look tells what is there.
func (m *machine) look() {
	m.unsaw = false
	if m.s == nil || m.s.Run.Nonce == "" {
		return
	}
	m.known = sees(m.s, PhaseAbsent)
	if r := m.runs[m.s.Run.Nonce]; r != nil {
		o := *r
		m.known = &o
	}
}

// happen is one thing that may happen at any time.
func (m *machine) happen(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "seconds")) * time.Second)
	switch rapid.SampledFrom([]string{"step", "step", "act", "act", "act", "look", "run", "end", "vanish", "delete outside", "restart", "stop", "start", "delete"}).Draw(t, "event") {
	case "step":
		m.step(t)
	case "act":
		if len(m.calls) > 0 && m.s != nil {
			a := rapid.SampledFrom(m.calls).Draw(t, "act")
			m.calls = nil // after a call comes a step
			m.carryOut(t, a, rapid.SampledFrom([]string{"works", "works", "fails", "is lost"}).Draw(t, "how"))
		}
	case "look":
		m.look()
	case "restart": // of the gateway
		m.known, m.calls = nil, nil
	default:
		m.outside(t)
	}
}

func (m *machine) outside(t *rapid.T) {
	event := rapid.SampledFrom([]string{"run", "end", "vanish", "delete outside", "stop", "start", "delete"}).Draw(t, "outside")
	if m.s == nil {
		return
	}
	m.calls = nil
	if r := m.runs[m.s.Run.Nonce]; r != nil {
		switch event {
		case "run":
			if r.Phase == PhaseWaiting {
				r.Phase, r.Started = PhaseRunning, m.now
			}
		case "end":
			r.Phase, r.Exit = PhaseEnded, new(rapid.IntRange(0, 2).Draw(t, "exit"))
		case "vanish":
			delete(m.runs, m.s.Run.Nonce)
			m.unsaw = true
		case "delete outside":
			r.Deleting = true
		}
	}
	switch event {
	case "stop":
		m.ask(WantStopped)
	case "start":
		m.ask(WantRunning)
	case "delete":
		m.ask(WantDeleted)
	}
}

// ask asks as Manager.Ask does.
func (m *machine) ask(want Want) {
	if want == WantRunning && m.s.AtRest() && m.s.Want != WantDeleted {
		m.s = toStart(m.s, m.now)
		return
	}
	if next, err := (&Manager{cfg: Config{Now: func() time.Time { return m.now }}}).asked(m.s, want); err == nil {
		m.s = next
	}
}

// TestStepProperties: whatever happens in whatever order, a call has a stored state that asks for it, no two runs of a sandbox live, and when
// the cluster works again every sandbox comes to rest, and a deleted one to its end.
func TestStepProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{s: fresh(), now: twelve(), runs: map[string]*Observation{}}
		m.s.Spec.Lifetime = time.Duration(rapid.IntRange(0, 2).Draw(t, "lifetime")) * time.Hour
		m.s.Spec.IdleTimeout = time.Duration(rapid.IntRange(0, 2).Draw(t, "idle")) * time.Hour
		for range rapid.IntRange(0, 60).Draw(t, "events") {
			m.happen(t)
		}
		m.settle(t)
		if m.s == nil {
			return
		}
		if rest := m.s.AtRest() || m.s.State == Running && m.s.Want == WantRunning; !rest {
			t.Fatalf("it does not come to rest: %+v, seen %+v", m.s, m.known)
		}
		m.ask(WantDeleted)
		m.settle(t)
		if m.s != nil || m.live() > 0 {
			t.Fatalf("a deleted sandbox does not end: %+v, %+v", m.s, m.runs)
		}
	})
}

// settle has everything work until nothing changes any more.
func (m *machine) settle(t *rapid.T) {
	for range 30 {
		if m.s == nil {
			return
		}
		if r := m.runs[m.s.Run.Nonce]; r != nil && r.Phase == PhaseWaiting {
			r.Phase, r.Started = PhaseRunning, m.now
		}
		m.look()
		m.step(t)
		for _, a := range m.calls {
			if m.s != nil && a.Kind != ActWait {
				m.carryOut(t, a, "works")
			}
		}
	}
}
