package admin_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/proxy/admin"
)

const (
	token  = "operator-token-canary-7f3a"
	host   = "admin.localhost:9443"
	anyURL = "https://" + host
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is the operators' handler on a real guard, with everything that it wrote.
type fixture struct {
	t       *testing.T
	handler http.Handler
	server  *admin.Server
	store   store
	log     *syncBuffer
	records *recorder
	servers *counts
	certs   *certKeeper
}

// store is what the fixture needs of a registry.
type store interface {
	admin.Tenants
	admin.Index
	admin.Heads
	committed() []audit.Entry // the audit entries that were committed with changes
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, store: newStore(t), log: &syncBuffer{}, records: &recorder{}, servers: &counts{n: map[tenant.ID]int{}}}
	f.certs = &certKeeper{kept: map[string]tenant.Certificate{}}
	cfg := f.config()
	s, err := admin.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.server, f.handler = s, s.Handler()
	return f
}

func (f *fixture) config() admin.Config {
	return admin.Config{
		Listen:         "127.0.0.1:0",
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("none here") },
		Token:          func() tenant.Hash { return tenant.HashKey(token) },
		Hosts:          []string{"admin.localhost", "127.0.0.1"},
		Tenants:        f.store, Index: f.store, Heads: f.store, Counts: f.servers,
		BaseDomain: "localhost", Seal: sealing, Certificates: f.certs, Cluster: newReplicas(), Archives: &archives{}, Secrets: &secretKeys{}, Storage: &stores{},
		Guards: guard.NewSet(guard.Config{Recorder: f.records, Replica: "r1"}),
		Logger: slog.New(slog.NewJSONHandler(f.log, nil)),
	}
}

// reply is an answer, read whole.
type reply struct {
	status int
	header http.Header
	body   string
}

// send sends a request with the operator token. Headers are pairs; an empty value removes one.
func (f *fixture) send(method, path, body string, headers ...string) reply {
	f.t.Helper()
	r := httptest.NewRequest(method, anyURL+path, strings.NewReader(body))
	if body == "" {
		r = httptest.NewRequest(method, anyURL+path, http.NoBody)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		switch name, value := headers[i], headers[i+1]; {
		case name == "Host":
			r.Host = value
		case value == "":
			r.Header.Del(name)
		default:
			r.Header.Add(name, value)
		}
	}
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	return reply{w.Code, w.Header(), w.Body.String()}
}

// want sends a request and checks its status.
func (f *fixture) want(status int, method, path, body string, headers ...string) reply {
	f.t.Helper()
	got := f.send(method, path, body, headers...)
	if got.status != status {
		f.t.Fatalf("%s %s: %d %s, want %d", method, path, got.status, got.body, status)
	}
	return got
}

func (r reply) tenant(t *testing.T) admin.Tenant {
	t.Helper()
	var v admin.Tenant
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		t.Fatalf("%s: %v", r.body, err)
	}
	return v
}

func (r reply) detail(t *testing.T) string {
	t.Helper()
	var p fault.Problem
	if err := json.Unmarshal([]byte(r.body), &p); err != nil {
		t.Fatalf("%s: %v", r.body, err)
	}
	return p.Detail
}

// declare puts a tenant of a file into the store, as a reload does.
func (f *fixture) declare(r *tenant.Record) {
	f.t.Helper()
	r.Source, r.File = tenant.SourceFile, "tenants.yaml"
	if r.State == "" {
		r.State = tenant.StateActive
	}
	r.Mode = tenant.ModeVirtual
	e := audit.Entry{ID: audit.NewID(), Time: time.Now(), Tenant: r.ID, Principal: "system:reload", Action: "tenant.create", Decision: audit.Allow, Outcome: audit.OutcomeOK}
	if _, err := f.store.CreateTenant(f.t.Context(), r, e); err != nil {
		f.t.Fatal(err)
	}
}

// counts is how many servers tenants have.
type counts struct {
	n   map[tenant.ID]int
	err error
}

func (c *counts) ServerCount(_ context.Context, e *tenant.Entry) (int, error) {
	return c.n[e.Scope.ID()], c.err
}

// recorder keeps what the guard records.
type recorder struct {
	mu   sync.Mutex
	list []audit.Entry
}

func (r *recorder) Record(e audit.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, e)
}

func (r *recorder) all() []audit.Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]audit.Entry(nil), r.list...)
}

// syncBuffer is a buffer for a logger.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// rebuild replaces the server by one of another configuration.
func (f *fixture) rebuild(cfg admin.Config) {
	f.t.Helper()
	s, err := admin.New(cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	f.server, f.handler = s, s.Handler()
}

type panicking struct{}

func (panicking) ServerCount(context.Context, *tenant.Entry) (int, error) { panic("boom") }
