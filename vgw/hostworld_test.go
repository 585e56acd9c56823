package vgw_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw"
)

// dns is where hosts are proven.
type dns struct {
	mu     sync.Mutex
	txt    map[string][]string
	looks  int
	onLook func(ctx context.Context, host string) error
}

func (d *dns) prove(ctx context.Context, host, token string) error {
	d.mu.Lock()
	d.looks++
	f := d.onLook
	values := d.txt[tenant.HostChallenge+"."+host]
	d.mu.Unlock()
	if f != nil {
		if err := f(ctx, host); err != nil {
			return err
		}
	}
	switch {
	case slices.Contains(values, token):
		return nil
	case values == nil:
		return fault.New(fault.NotFound, "there is no such record")
	}
	return fault.New(fault.Invalid, "it holds %q", values)
}

// publish puts records in place.
func (d *dns) publish(host string, values ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.txt[tenant.HostChallenge+"."+host] = values
}

func (d *dns) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.looks
}

func reservedHost(host string) error {
	if host == "shared.example.com" {
		return fault.New(fault.Invalid, "host %q is the platform's own", host)
	}
	return nil
}

// haveHost has a tenant ask for a host and prove it.
func (w *world) haveHost(t testing.TB, id tenant.ID, host string) string {
	t.Helper()
	admin := w.principal(id, tenant.Admin)
	asked := w.must(t, id, admin, post("/api/v1/hosts", `{"host":`+strconv.Quote(host)+`}`), 201)
	token, ok := asked["txt_value"].(string)
	if !ok {
		t.Fatalf("asked for %s: %v", host, asked)
	}
	w.dns.publish(host, token)
	w.must(t, id, admin, post("/api/v1/hosts/"+host+"/verify", ""), 200)
	return host
}

// certStore keeps certificates as the certificate manager does, as far as can be seen from here.
type certStore struct {
	store *store
	mu    sync.Mutex
	of    map[tenant.Scope]map[string]tenant.Certificate // what is stored
	calls []string
	keys  []string // that were handed over
	fail  func(op string) error
}

func (k *certStore) begin(ctx context.Context, op string, e *tenant.Entry, host string, args ...any) (func(), error) {
	k.mu.Lock()
	k.calls = append(k.calls, fmt.Sprintln(append([]any{op, host}, args...)...))
	if k.fail != nil {
		if err := k.fail(op); err != nil {
			return k.mu.Unlock, err
		}
	}
	if ctx.Err() != nil {
		return k.mu.Unlock, ctx.Err()
	}
	if host != "" && !slices.Contains(append(slices.Clone(e.Record.Hosts), tenant.OwnHost(e.Scope.ID(), "gw.test")), host) {
		return k.mu.Unlock, fault.New(fault.NotFound, "none of the tenant's")
	}
	return k.mu.Unlock, nil
}

// commit stores s together with the record.
func (k *certStore) commit(e *tenant.Entry, s tenant.Certificate, ifRevision int64, entry audit.Entry) (tenant.Certificate, error) {
	have := k.of[e.Scope][s.Host]
	if ifRevision != 0 && ifRevision != have.Revision {
		return s, fault.New(fault.PreconditionFailed, "it has changed since")
	}
	k.store.mu.Lock()
	k.store.entriesA = append(k.store.entriesA, entry)
	k.store.mu.Unlock()
	s.Revision = have.Revision + 7
	if k.of[e.Scope] == nil {
		k.of[e.Scope] = map[string]tenant.Certificate{}
	}
	k.of[e.Scope][s.Host] = s
	return s, nil
}

func (k *certStore) get(e *tenant.Entry, host string) tenant.Certificate {
	if s, ok := k.of[e.Scope][host]; ok {
		return s
	}
	return tenant.Certificate{Host: host, Source: tenant.SourceACME, State: tenant.CertificatePending}
}

func (k *certStore) List(ctx context.Context, e *tenant.Entry) ([]tenant.Certificate, error) {
	done, err := k.begin(ctx, "list", e, "")
	defer done()
	if err != nil {
		return nil, err
	}
	out := []tenant.Certificate{{Host: "left.example.com", Source: tenant.SourceACME, State: tenant.CertificateReady}}
	for _, h := range append(slices.Clone(e.Record.Hosts), tenant.OwnHost(e.Scope.ID(), "gw.test")) {
		out = append(out, k.get(e, h))
	}
	return out, nil
}

func (k *certStore) Get(ctx context.Context, e *tenant.Entry, host string) (tenant.Certificate, error) {
	done, err := k.begin(ctx, "get", e, host)
	defer done()
	return k.get(e, host), err
}

func (k *certStore) Import(ctx context.Context, e *tenant.Entry, host string, chain, key []byte, ifRevision int64, entry audit.Entry) (tenant.Certificate, error) {
	done, err := k.begin(ctx, "import", e, host, ifRevision)
	defer done()
	if err != nil {
		return tenant.Certificate{}, err
	}
	k.keys = append(k.keys, string(key))
	if strings.Contains(string(chain), "PRIVATE KEY") {
		return tenant.Certificate{}, fault.New(fault.Invalid, "chain holds a PRIVATE KEY: certificates alone belong there")
	}
	return k.commit(e, tenant.Certificate{
		Host: host, Source: tenant.SourceProvided, State: tenant.CertificateReady, Names: []string{host}, Chain: string(chain),
		NotAfter: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
	}, ifRevision, entry)
}

func (k *certStore) Renew(ctx context.Context, e *tenant.Entry, host string, entry audit.Entry) (tenant.Certificate, error) {
	done, err := k.begin(ctx, "renew", e, host)
	defer done()
	if err != nil {
		return tenant.Certificate{}, err
	}
	return k.commit(e, k.get(e, host), 0, entry)
}

func (k *certStore) Revoke(ctx context.Context, e *tenant.Entry, host string, reason int, entry audit.Entry) (tenant.Certificate, error) {
	done, err := k.begin(ctx, "revoke", e, host, reason)
	defer done()
	if err != nil {
		return tenant.Certificate{}, err
	}
	s := k.get(e, host)
	s.State = tenant.CertificateRevoked
	return k.commit(e, s, 0, entry)
}

func (k *certStore) Remove(ctx context.Context, e *tenant.Entry, host string, ifRevision int64, entry audit.Entry) error {
	done, err := k.begin(ctx, "remove", e, host, ifRevision)
	defer done()
	if err != nil {
		return err
	}
	_, err = k.commit(e, tenant.Certificate{Host: host, Source: tenant.SourceACME, State: tenant.CertificatePending}, ifRevision, entry)
	return err
}

// last returns the last call.
func (k *certStore) last() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.calls[len(k.calls)-1]
}

var _ vgw.Certificates = (*certStore)(nil)

// pair is a body with a certificate and its key.
func pair(chain, key string) request {
	return request{method: "PUT", body: fmt.Sprintf(`{"chain":%s,"key":%s}`, strconv.Quote(chain), strconv.Quote(key))}
}

// to is the request for a host.
func (q request) to(host string) request { q.path = "/api/v1/certificates/" + host; return q }

// with is the request with a header.
func (q request) with(name, value string) request {
	q.header = map[string]string{name: value}
	return q
}
