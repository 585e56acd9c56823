package chaos

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// slotsOf is how many objects of each kind a tenant has at a time.
const slotsOf = 2

// object is a place for one object after another: a server of a tenant, which only the claim's holder changes, or a bot,
// which is part of the routing record and changed by any replica.
type object struct {
	kind    string // servers or bots
	tenant  int
	slot    int
	mu      sync.Mutex // guards current and number
	current *history
	number  int
}

// load sends requests of many kinds and keeps what came of them.
type load struct {
	f      *fleet
	jobs   chan func(*rand.Rand)
	stopIt chan struct{}
	wg     sync.WaitGroup
	focus  atomic.Int64 // the tenants from here on get most of the changes

	objects map[string][]*object

	mu        sync.Mutex // guards what follows
	histories []*history
	wrong     []string // answers that should not be
	changes   []change
	statuses  map[string]int

	puts recordPuts
}

// change is one that was asked for and must be in the audit log once if it was acknowledged, and at most once if not.
type change struct {
	request      string
	tenant       string
	acknowledged bool
}

func newLoad(f *fleet) *load {
	l := &load{
		f: f, jobs: make(chan func(*rand.Rand)), stopIt: make(chan struct{}),
		objects: make(map[string][]*object), statuses: make(map[string]int), puts: newRecordPuts(),
	}
	for _, kind := range []string{"servers", "bots"} {
		for tenant := range f.settings.tenants {
			for slot := range slotsOf {
				l.objects[kind] = append(l.objects[kind], &object{kind: kind, tenant: tenant, slot: slot})
			}
		}
	}
	return l
}

// start runs the load until stop: so many requests a second, of which those are left out for which all workers are busy.
func (l *load) start() {
	for w := range 48 {
		rng := rand.New(rand.NewPCG(l.f.settings.seed, uint64(w)))
		l.wg.Go(func() {
			for job := range l.jobs {
				job(rng)
			}
		})
	}
	l.wg.Go(func() {
		defer close(l.jobs)
		rng := rand.New(rand.NewPCG(l.f.settings.seed, 1<<32))
		tick := time.NewTicker(time.Second / time.Duration(l.f.settings.rate))
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-l.stopIt:
				return
			case <-tick.C:
			}
			if n%(4*l.f.settings.rate) == 0 {
				l.focus.Store(int64(rng.IntN(l.f.settings.tenants)))
			}
			for _, job := range l.pick(rng) {
				select {
				case l.jobs <- job:
				default:
				}
			}
		}
	})
}

func (l *load) stop() {
	close(l.stopIt)
	l.wg.Wait()
}

// pick chooses what to ask next: sometimes several changes of one object at once, so that they overlap.
func (l *load) pick(rng *rand.Rand) []func(*rand.Rand) {
	tenant := rng.IntN(l.f.settings.tenants)
	switch n := rng.IntN(100); {
	case n < 45:
		return l.onObject("servers", rng, 1+rng.IntN(2))
	case n < 55:
		return l.onObject("bots", rng, 1)
	case n < 70:
		return []func(*rand.Rand){func(rng *rand.Rand) { l.whoami(rng, tenant) }}
	case n < 90:
		return []func(*rand.Rand){func(rng *rand.Rand) { l.list(rng, tenant) }}
	}
	return []func(*rand.Rand){func(rng *rand.Rand) { l.putRecord(rng, tenant) }}
}

func (l *load) onObject(kind string, rng *rand.Rand, times int) (jobs []func(*rand.Rand)) {
	tenant := (int(l.focus.Load()) + rng.IntN(8)) % l.f.settings.tenants
	if rng.IntN(4) == 0 {
		tenant = rng.IntN(l.f.settings.tenants)
	}
	o := l.objects[kind][tenant*slotsOf+rng.IntN(slotsOf)]
	for range times {
		k := []opKind{create, create, remove, remove, read}[rng.IntN(5)]
		jobs = append(jobs, func(rng *rand.Rand) {
			h := l.historyOf(o)
			l.operate(h, o.kind, k, func(method, path string, body any) answer {
				return l.f.balanced(rng, rng.IntN(10) == 0, requestTimeout, h.tenant, method, path, body)
			})
		})
	}
	return jobs
}

// historyOf returns the object that is in a place now.
func (l *load) historyOf(o *object) *history {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.current == nil || o.current.full() {
		name := fmt.Sprintf("c-%s-%s%d-%d", tenantName(o.tenant), o.kind[:1], o.slot, o.number)
		o.number++
		o.current = &history{tenant: o.tenant, name: name}
		l.mu.Lock()
		l.histories = append(l.histories, o.current)
		l.mu.Unlock()
	}
	return o.current
}

// operate does one thing to an object and keeps what came of it.
func (l *load) operate(h *history, collection string, kind opKind, ask func(method, path string, body any) answer) {
	o := op{kind: kind, call: time.Since(l.f.clock)}
	path := "/api/v1/" + collection
	var got answer
	switch kind {
	case create:
		body := map[string]string{"name": h.name, "url": "https://mcp.example.com/" + h.name}
		if collection == "bots" {
			body = map[string]string{"name": h.name, "role": "viewer"}
		}
		got = ask(http.MethodPost, path, body)
	case remove:
		got = ask(http.MethodDelete, path+"/"+h.name, nil)
	case read:
		got = ask(http.MethodGet, path+"/"+h.name, nil)
	}
	o.ret, o.status, o.outcome, o.replica = time.Since(l.f.clock), got.status, judge(kind, got), got.replica
	if got.header != nil {
		o.request = got.header.Get("X-Request-Id")
	}
	if o.outcome == unknown {
		o.note = fmt.Sprintf("%.200s %v", got.body, got.err)
	}
	l.examine(h.tenant, string(kind)+" "+collection, got)
	if collection == "bots" && (kind == read || o.outcome == not) {
		o.outcome = refusal // read from the index, which is behind by what the watch takes
	}
	h.add(o)
	if kind != read {
		l.noteChange(tenantName(h.tenant), got, o.outcome == done)
	}
}

func (l *load) noteChange(tenant string, got answer, acknowledged bool) {
	if got.header == nil {
		return // not known by a request id
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes = append(l.changes, change{got.header.Get("X-Request-Id"), tenant, acknowledged})
}

func (l *load) whoami(rng *rand.Rand, tenant int) {
	got := l.f.balanced(rng, rng.IntN(10) == 0, requestTimeout, tenant, http.MethodGet, "/api/v1/whoami", nil)
	l.examine(tenant, "whoami", got)
	var who struct{ Tenant string }
	if got.err == nil && got.status == 200 && (json.Unmarshal(got.body, &who) != nil || who.Tenant != tenantName(tenant)) {
		l.complain("whoami of %s: %s", tenantName(tenant), got.body)
	}
}

func (l *load) list(rng *rand.Rand, tenant int) {
	path := []string{"/api/v1/servers", "/servers", "/api/v1/bots", "/api/v1/keys", "/api/v1/usage"}[rng.IntN(5)]
	got := l.f.balanced(rng, rng.IntN(10) == 0, requestTimeout, tenant, http.MethodGet, path, nil)
	l.examine(tenant, "list "+path, got)
	if got.err == nil && got.status == 200 && (path == "/api/v1/servers" || path == "/servers") && !hasCanary(got.body, tenant) {
		l.complain("%s of %s lacks what was there from the start: %.300s", path, tenantName(tenant), got.body)
	}
}

// canary finds the names that say whose they are.
func canary() *regexp.Regexp { return regexp.MustCompile(`\bc-(t\d{3,})-`) }

func hasCanary(body []byte, tenant int) bool {
	for _, m := range canary().FindAllSubmatch(body, -1) {
		if string(m[1]) == tenantName(tenant) {
			return true
		}
	}
	return false
}

// examine looks at any answer to a tenant: nothing of another tenant is in it, and its status is one that may be.
func (l *load) examine(tenant int, what string, got answer) {
	for _, m := range canary().FindAllSubmatch(fmt.Appendf(got.body, "%v", got.header), -1) {
		if string(m[1]) != tenantName(tenant) {
			l.complain("%s: the answer to %s has a name of %s: %d %s", what, tenantName(tenant), m[1], got.status, got.body)
		}
	}
	label := fmt.Sprintf("%d", got.status)
	switch {
	case errors.Is(got.err, errNobody):
		label = "no replica ready"
	case got.err != nil:
		label = "no answer"
	}
	switch got.status {
	case 0, 200, 201, 204, 404, 409, 412, 429, 502, 503: // 502: the owner broke off, and nobody knows
	default:
		l.complain("%s of %s at %s, %s after the start: %d %.300s", what, tenantName(tenant), got.replica, time.Since(l.f.clock), got.status, got.body)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.statuses[label]++
}

func (l *load) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// atFrozen sends operations to one replica that does not answer now, so that it carries them out, or refuses to, the
// moment that it wakes: on objects that others have changed meanwhile.
func (l *load) atFrozen(r *replica, seed uint64, patience time.Duration) {
	rng := rand.New(rand.NewPCG(l.f.settings.seed, seed))
	for range 24 {
		tenant := (int(l.focus.Load()) + rng.IntN(8)) % l.f.settings.tenants
		o := l.objects["servers"][tenant*slotsOf+rng.IntN(slotsOf)]
		kind := []opKind{create, remove, read, read}[rng.IntN(4)]
		own := rng.IntN(10) == 0
		l.wg.Go(func() {
			h := l.historyOf(o)
			l.operate(h, o.kind, kind, func(method, path string, body any) answer {
				return l.f.ask(r, patience, h.tenant, method, path, body, own)
			})
		})
	}
}

// readFinals reads every object once more, when all is quiet: what it says belongs to the histories.
func (l *load) readFinals() {
	l.each(len(l.histories), func(i int) {
		h := l.histories[i]
		collection := "servers"
		if h.name[len("c-"+tenantName(h.tenant)+"-")] == 'b' {
			collection = "bots"
		}
		for range 20 {
			o := op{kind: read, call: time.Since(l.f.clock), note: "at the end"}
			got := l.f.ask(l.f.replicas[i%replicaCount], requestTimeout, h.tenant, http.MethodGet, "/api/v1/"+collection+"/"+h.name, nil, false)
			o.ret, o.status, o.outcome, o.replica = time.Since(l.f.clock), got.status, judge(read, got), got.replica
			l.examine(h.tenant, "last read", got)
			h.add(o)
			if o.outcome == done || o.outcome == not {
				return
			}
		}
		l.complain("%s of %s cannot be read in the end", h.name, tenantName(h.tenant))
	})
}

// each calls do for 0 to n-1, some at a time.
func (l *load) each(n int, do func(int)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 12 {
		wg.Go(func() {
			for i := next.Add(1) - 1; int(i) < n; i = next.Add(1) - 1 {
				do(int(i))
			}
		})
	}
	wg.Wait()
}

// makeTenants makes the tenants, a key and a first server of each.
func (f *fleet) makeTenants() {
	f.t.Helper()
	began := time.Now()
	l := newLoad(f)
	l.each(f.settings.tenants, func(i int) {
		rng := rand.New(rand.NewPCG(f.settings.seed, uint64(i)))
		id := tenantName(i)
		f.must(201, func() answer {
			return f.anyOperator(rng, http.MethodPost, "/api/v1/tenants", map[string]string{"id": id, "display_name": "c-" + id + "-d0"})
		})
		got := f.must(201, func() answer {
			return f.anyOperator(rng, http.MethodPost, "/api/v1/tenants/"+id+"/keys", map[string]string{"name": "chaos", "role": "admin"})
		})
		var k struct{ Key string }
		_ = json.Unmarshal(got.body, &k)
		f.keys[i] = k.Key
		f.must(201, func() answer {
			return f.balanced(rng, rng.IntN(10) == 0, requestTimeout, i, http.MethodPost, "/api/v1/servers", map[string]string{"name": "c-" + id + "-base", "url": "https://mcp.example.com/mcp"})
		})
	})
	if f.t.Failed() {
		f.t.FailNow()
	}
	f.t.Logf("%d tenants with a key and a server each are made after %s", f.settings.tenants, time.Since(began).Round(time.Millisecond))
}

// must repeats a request until its answer has the status: 409 where an earlier one was applied.
func (f *fleet) must(status int, ask func() answer) (got answer) {
	for range 40 {
		if got = ask(); got.status == status {
			return got
		}
		<-time.After(250 * time.Millisecond)
	}
	f.t.Errorf("the start fails: %d %s %v, want %d", got.status, got.body, got.err, status)
	return got
}

// checkHistories looks for what was lost and for histories that cannot be.
func (l *load) checkHistories(t *testing.T) {
	ops, doubts, undecided, broken := 0, 0, 0, 0
	var mu sync.Mutex
	l.each(len(l.histories), func(i int) {
		h := l.histories[i]
		list := h.sorted()
		res, missing := linearizable(list, 20*time.Second), lost(list)
		mu.Lock()
		defer mu.Unlock()
		ops, doubts = ops+len(list), doubts+h.doubts
		if missing != "" {
			t.Errorf("lost: %s of %s: %s", h.name, tenantName(h.tenant), missing)
		}
		switch res {
		case "Unknown":
			undecided++
		case "Illegal":
			if broken++; broken <= 5 {
				t.Errorf("not linearizable: %s of %s:\n%s", h.name, tenantName(h.tenant), text(list))
			}
		}
	})
	if broken > 5 {
		t.Errorf("%d histories in all are not linearizable", broken)
	}
	t.Logf("histories: %d objects, %d operations, %d changes without an answer; %d objects could not be decided in time", len(l.histories), ops, doubts, undecided)
}

func text(ops []op) string {
	var b []byte
	for _, o := range ops {
		b = fmt.Appendln(b, o)
	}
	return string(b)
}

// checkAnswers fails for every answer that should not have been.
func (l *load) checkAnswers(t *testing.T) {
	t.Logf("answers: %v", l.statuses)
	for i, s := range l.wrong {
		if i == 10 {
			t.Errorf("… %d answers in all that should not be", len(l.wrong))
			break
		}
		t.Error(s)
	}
}

// checkServed asks each replica for each tenant.
func (f *fleet) checkServed(t *testing.T) {
	l := newLoad(f)
	l.each(f.settings.tenants*replicaCount, func(i int) {
		r, tenant := f.replicas[i%replicaCount], i/replicaCount
		var got answer
		for range 3 {
			if got = f.ask(r, requestTimeout, tenant, http.MethodGet, "/api/v1/servers", nil, false); got.status == 200 {
				return
			}
		}
		l.complain("%s is not served by way of %s: %d %.300s %v", tenantName(tenant), r.name, got.status, got.body, got.err)
	})
	l.checkAnswers(t)
}
