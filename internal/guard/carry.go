package guard

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// MaxState bounds what Export returns, in bytes.
const MaxState = 32 << 10

// carried is the state of a tenant's limits as it goes from one replica to another: of each budget the fraction of the
// burst that is used, since the limits are the same there, and clocks are not. What is in flight stays where it is.
type carried struct {
	V       int             `json:"v"`
	Rate    float64         `json:"rate,omitempty"`
	Bytes   float64         `json:"bytes,omitempty"` // above 1 = owed
	Callers []carriedCaller `json:"callers,omitempty"`
}

type carriedCaller struct {
	Kind tenant.PrincipalKind `json:"k"`
	ID   string               `json:"i"`
	Used float64              `json:"u"`
}

// Export returns what the tenant and its callers have spent, for the replica that takes the tenant over: those callers
// first that have spent most. nil = nothing.
func (s *Set) Export(scope tenant.Scope) []byte {
	g := s.find(scope)
	if g == nil {
		return nil
	}
	now := s.cfg.Now()
	l := g.settings.Load().at(now)
	c := carried{V: 1, Rate: g.rate.Used(now, l.Rate), Bytes: g.debt.Used(now, l.Bytes), Callers: g.callers.export(now.UnixNano(), l)}
	for {
		state, err := json.Marshal(c)
		if err != nil {
			return nil // no number is out of range and no name is not text
		}
		if len(state) <= MaxState {
			return state
		}
		c.Callers = c.Callers[:len(c.Callers)*MaxState/(len(state)+1)]
	}
}

// Import takes over what Export returned elsewhere. No budget is fuller by it, so that it may come late, twice, or not at
// all. What is of no known form is passed over.
func (s *Set) Import(e *tenant.Entry, state []byte) {
	var c carried
	if len(state) == 0 || len(state) > 2*MaxState || json.Unmarshal(state, &c) != nil || c.V < 1 {
		return
	}
	g := s.For(e)
	now := s.cfg.Now()
	l := g.settings.Load().at(now)
	g.rate.Carry(now, c.Rate, l.Rate)
	g.debt.Carry(now, c.Bytes, l.Bytes)
	g.callers.take(now, c.Callers, l)
}

func (t *callers) export(now int64, l *Limits) []carriedCaller {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []carriedCaller
	for _, c := range t.of {
		rate := l.PerPrincipal.Rate
		if c.key.kind == kindAPIKey {
			rate = l.PerKey.Rate
		}
		if used := quota.Used(c.tat, now, rate); used > 0 {
			all = append(all, carriedCaller{c.key.kind, c.key.id, used})
		}
	}
	slices.SortFunc(all, func(a, b carriedCaller) int {
		return cmp.Or(cmp.Compare(b.Used, a.Used), cmp.Compare(a.ID, b.ID))
	})
	return all
}

func (t *callers) take(now time.Time, all []carriedCaller, l *Limits) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := now.UnixNano()
	for _, k := range all {
		rate, overflow := l.PerPrincipal.Rate, &t.overflow
		switch k.Kind {
		case kindAPIKey:
			rate, overflow = l.PerKey.Rate, &t.overflowKey
		case tenant.KindKey, tenant.KindBot, tenant.KindUser:
		default:
			continue
		}
		c := t.get(n, callerKey{k.Kind, k.ID}, overflow)
		if c == overflow {
			return // no room: what is left are those who spent least
		}
		c.tat = quota.Carry(c.tat, n, min(k.Used, 1), rate)
	}
}
