package vgw_test

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/problem"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw"
)

// secrets is a sealer whose text is recognised.
type secrets struct{}

func (secrets) Seal(id tenant.ID, authenticator, plain string) string {
	return "sealed:" + string(id) + "/" + authenticator + ":" + strings.Repeat("*", len(plain))
}

// keyUse is when keys were used.
type keyUse map[string]time.Time

func (u keyUse) LastUsed(context.Context, tenant.Scope) (map[string]time.Time, error) { return u, nil }

// log answers queries from what the world recorded.
type log struct {
	w       *world
	mu      sync.Mutex
	flushes int
}

func (l *log) Flush(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushes++
	return nil
}

func (l *log) all(q audit.Query) []audit.Record {
	l.w.rec.mu.Lock()
	l.w.store.mu.Lock()
	entries := slices.Concat(l.w.store.entriesA, l.w.rec.entries)
	l.w.store.mu.Unlock()
	l.w.rec.mu.Unlock()
	slices.SortStableFunc(entries, func(a, b audit.Entry) int { return b.Time.Compare(a.Time) })
	var out []audit.Record
	for i, e := range entries {
		prefix, wild := strings.CutSuffix(q.Action, "*")
		switch {
		case e.Tenant != q.Tenant || e.TenantUID != q.TenantUID:
		case e.Time.Before(q.From), !q.To.IsZero() && !e.Time.Before(q.To):
		case q.Principal != "" && e.Principal != q.Principal, q.Outcome != "" && e.Outcome != q.Outcome:
		case wild && !strings.HasPrefix(e.Action, prefix), !wild && q.Action != "" && e.Action != q.Action:
		default:
			out = append(out, audit.Record{Entry: e, Seq: uint64(len(entries) - i)})
		}
	}
	return out
}

func (l *log) Query(_ context.Context, q audit.Query) (*audit.Page, error) {
	all := l.all(q)
	start := len(q.Cursor)
	limit := q.Limit
	if limit == 0 {
		limit = 100
	}
	p := &audit.Page{}
	if start < len(all) {
		p.Records = all[start:min(start+limit, len(all))]
	}
	if start+limit < len(all) {
		p.Next = strings.Repeat("x", start+limit)
	}
	return p, nil
}

func (l *log) Each(_ context.Context, q audit.Query, f func(audit.Record) error) error {
	for _, r := range l.all(q) {
		if err := f(r); err != nil {
			return err
		}
	}
	return nil
}

// openPolicy opens a stored bundle, as the daemon has the guard do.
func (w *world) openPolicy(l *policy.Library) func(context.Context, tenant.Scope, string) (*policy.Engine, error) {
	return func(ctx context.Context, s tenant.Scope, digest string) (*policy.Engine, error) {
		w.store.mu.Lock()
		o := w.store.objects[s][vgw.KindPolicy+"/"+digest]
		w.store.mu.Unlock()
		b, err := policy.Decode(o.Value)
		if err != nil {
			return nil, err
		}
		return l.Open(ctx, s, b)
	}
}

// patient are limits that a busy machine does not run into.
func patient() policy.Limits {
	return policy.Limits{EvalTime: 10 * time.Second, CompileTime: 20 * time.Second, TestTime: time.Minute}
}

// full is a world with everything that a Mux can have.
func full(t testing.TB, edit ...func(*vgw.Config)) *world {
	t.Helper()
	var w *world
	l, d, k := &log{}, &dns{txt: map[string][]string{}}, &certStore{of: map[tenant.Scope]map[string]tenant.Certificate{}}
	w = newWorld(t, append([]func(*vgw.Config){func(c *vgw.Config) {
		c.Policies, c.Secrets, c.Audit, c.KeyUse = vgw.NewPolicies(patient()), secrets{}, l, keyUse{}
		c.Certificates, c.HostProof, c.ReservedHost, c.BaseDomain = k, d.prove, reservedHost, "gw.test"
	}}, edit...)...)
	l.w, w.dns, w.certs = w, d, k
	k.store = w.store
	w.guards = guard.NewSet(guard.Config{Recorder: w.rec, Replica: "r1", OpenPolicy: w.openPolicy(policy.NewLibrary(patient()))})
	w.guardsOf.Set = w.guards
	return w
}

// user returns a user of an authenticator of a tenant, with the role that the record gives it.
func (w *world) user(id tenant.ID, authenticator, subject string, groups ...string) tenant.Principal {
	r := w.store.entry(id).Record
	generation := ""
	if a, ok := r.AuthenticatorByName(authenticator); ok {
		generation = a.Generation
	}
	return tenant.Principal{
		Tenant: id, Kind: tenant.KindUser, ID: tenant.UserID(authenticator, subject), Name: subject, Via: tenant.ViaOIDC,
		Role: r.RoleOf(authenticator, subject, groups), Expires: time.Now().Add(time.Hour),
		Claims: &tenant.Claims{
			Authenticator: authenticator, Generation: generation, Issuer: "https://idp.test", Subject: subject, Groups: groups, Issued: time.Now(),
		},
	}
}

// corp adds the authenticator corp, and members with roles: "user:alice" or "group:ops".
func (w *world) corp(id tenant.ID, members map[string]tenant.Role) {
	w.store.edit(id, func(r *tenant.Record) {
		now := time.Now()
		r.Authenticators = append(r.Authenticators, tenant.Authenticator{
			Name: "corp", Type: tenant.AuthnOIDC, Generation: "g1", Source: tenant.SourceAPI, Created: now, Updated: now,
			OIDC: &tenant.OIDC{Issuer: "https://idp.test"},
		})
		for who, role := range members {
			kind, name, _ := strings.Cut(who, ":")
			r.Members = append(r.Members, tenant.Member{
				ID: "m-" + name, Kind: tenant.MemberKind(kind), Authenticator: "corp", Name: name, Role: role, Source: tenant.SourceAPI, Created: now,
			})
		}
	})
}

func post(path, body string) request  { return request{method: "POST", path: path, body: body} }
func get(path string) request         { return request{method: "GET", path: path} }
func del(path string) request         { return request{method: "DELETE", path: path} }
func patch(path, body string) request { return request{method: "PATCH", path: path, body: body} }
func put(path, body string) request   { return request{method: "PUT", path: path, body: body} }

// must asks, wants a status, and returns the answer's fields.
func (w *world) must(t testing.TB, id tenant.ID, p tenant.Principal, q request, status int) map[string]any {
	t.Helper()
	got := w.do(id, p, q)
	if got.status != status {
		t.Fatalf("%s %s as %s (%s): %d %s, want %d", q.method, q.path, p.Ref(), p.Role, got.status, got.body, status)
	}
	out := map[string]any{}
	if len(got.body) > 0 {
		if err := json.Unmarshal([]byte(got.body), &out); err != nil {
			t.Fatalf("%s %s: %s: %v", q.method, q.path, got.body, err)
		}
	}
	return out
}

// says asks, and wants a status and a part of the answer.
func (w *world) says(t testing.TB, id tenant.ID, p tenant.Principal, q request, status int, part string) {
	t.Helper()
	if got := w.do(id, p, q); got.status != status || !strings.Contains(got.body, part) {
		t.Errorf("%s %s %s as %s (%s): %d %s, want %d and %q", q.method, q.path, q.body, p.Ref(), p.Role, got.status, got.body, status, part)
	}
}

// keyPrincipal returns the principal of a key that is in the record.
func (w *world) keyPrincipal(t testing.TB, id tenant.ID, key string) tenant.Principal {
	t.Helper()
	r := w.store.entry(id).Record
	k, ok := r.KeyByName(key)
	if !ok {
		t.Fatalf("no key %q", key)
	}
	return r.KeyPrincipal(k)
}

// serveStream runs a handler, and tells its error if no answer has begun.
func serveStream(rw http.ResponseWriter, r *http.Request, d *exchange.Serve) {
	if d.WebSocket != nil {
		serveSocket(rw, r, d.WebSocket)
		return
	}
	b := &buffer{ResponseWriter: rw}
	if err := d.Handle(r.Context(), b); err != nil && !b.begun {
		problem.Write(rw, err, "req-1")
	}
}

// buffer is the Stream of a Serve.
type buffer struct {
	http.ResponseWriter
	begun bool
}

func (b *buffer) Read([]byte) (int, error) { return 0, context.Canceled }

func (b *buffer) Write(p []byte) (int, error) {
	n, err := b.ResponseWriter.Write(p)
	_ = http.NewResponseController(b.ResponseWriter).Flush()
	return n, err
}

func (b *buffer) Start(status int, h exchange.Header) {
	b.begun = true
	for k, v := range h {
		b.Header()[k] = v
	}
	b.WriteHeader(status)
	_ = http.NewResponseController(b.ResponseWriter).Flush()
}
