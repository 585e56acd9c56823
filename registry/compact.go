package registry

import (
	"crypto/sha256"
	"encoding/json"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"weak"

	"github.com/polygate/polygate/internal/tenant"
)

// compactor makes entries as small as they can be: the index holds one of every registered tenant.
type compactor struct {
	oidc       shared[tenant.OIDC]
	mtls       shared[tenant.MTLS]
	upstream   shared[tenant.UpstreamUsers]
	kubernetes shared[tenant.Kubernetes]
}

// compact returns e, which nobody else has seen yet, in as little memory as it needs. The decoder leaves each text in an
// allocation of its own, and slices with room to grow; here the texts lie in one, each once, and the slices are cut to what
// is in them. Settings of authenticators are shared with tenants that have the same: most use one issuer, or one CA.
func (c *compactor) compact(e *tenant.Entry) *tenant.Entry {
	one := &struct {
		e tenant.Entry
		r tenant.Record
	}{r: *e.Record}
	settings := detach(one.r.Authenticators)
	pack(&one.r)
	for i := range one.r.Authenticators {
		a := &one.r.Authenticators[i]
		a.OIDC, a.MTLS = c.oidc.one(settings[i].OIDC), c.mtls.one(settings[i].MTLS)
		a.Upstream, a.Kubernetes = c.upstream.one(settings[i].Upstream), c.kubernetes.one(settings[i].Kubernetes)
	}
	one.e = tenant.Entry{Record: &one.r, Scope: tenant.Confine(one.r.ID, one.r.UID)}
	return &one.e
}

// detach takes their settings from authenticators, and returns copies with them.
func detach(list []tenant.Authenticator) []tenant.Authenticator {
	with := append([]tenant.Authenticator(nil), list...)
	for i := range list {
		list[i].OIDC, list[i].MTLS, list[i].Upstream, list[i].Kubernetes = nil, nil, nil, nil
	}
	return with
}

// shared holds immutable values of which equal ones are needed once. It holds them for as long as somebody else does.
type shared[T any] struct {
	mu sync.Mutex
	of map[[sha256.Size]byte]weak.Pointer[T]
}

// one returns the value that is equal to v and known already; v if there is none.
func (s *shared[T]) one(v *T) *T {
	if v == nil {
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return v
	}
	sum := sha256.Sum256(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.of[sum].Value(); known != nil {
		return known
	}
	if s.of == nil {
		s.of = make(map[[sha256.Size]byte]weak.Pointer[T])
	}
	pack(v)
	s.of[sum] = weak.Make(v)
	runtime.AddCleanup(v, s.forget, sum)
	return v
}

// forget drops a value that nobody holds any more, unless an equal one has come since.
func (s *shared[T]) forget(sum [sha256.Size]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[sum].Value() == nil {
		delete(s.of, sum)
	}
}

// pack puts all texts of a value into one allocation, and clips its slices.
func pack(v any) {
	var t texts
	t.find(reflect.ValueOf(v).Elem())
	t.pack()
}

// texts are the strings of a value.
type texts struct {
	at   []reflect.Value
	size int
}

// find collects the strings that can be reached from v, and clips the slices. Maps are left as they are.
func (t *texts) find(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if v.CanSet() && v.Len() > 0 {
			t.at = append(t.at, v)
			t.size += v.Len()
		}
	case reflect.Pointer:
		if !v.IsNil() {
			t.find(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() { // not the inside of a time
				t.find(v.Field(i))
			}
		}
	case reflect.Slice:
		clip(v)
		for i := range v.Len() {
			t.find(v.Index(i))
		}
	}
}

// clip gives a slice an array without room to spare.
func clip(v reflect.Value) {
	if v.Len() == v.Cap() || !v.CanSet() {
		return
	}
	exact := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
	reflect.Copy(exact, v)
	v.Set(exact)
}

// searched is up to how many bytes of text are searched for a text that is to be added. Most entries have less. Beyond, the
// search would take time as the square of an entry's size, and all tenants' changes wait for it.
const searched = 1 << 10

// pack puts the texts into one string, equal ones and, among the first, those within earlier ones once.
func (t *texts) pack() {
	var b strings.Builder
	b.Grow(t.size)
	known := make(map[string]int, len(t.at))
	from := make([]int, len(t.at))
	for i, v := range t.at {
		s := v.String()
		at, ok := known[s]
		if !ok {
			at = strings.Index(b.String()[:min(b.Len(), searched)], s)
		}
		if at < 0 {
			at = b.Len()
			b.WriteString(s)
		}
		known[s], from[i] = at, at
	}
	all := strings.Clone(b.String())
	for i, v := range t.at {
		v.SetString(all[from[i] : from[i]+v.Len()])
	}
}
