package vgw_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/problem"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a Mux on a store, and a front that carries its decisions out with net/http.
type world struct {
	t      testing.TB
	store  *store
	rec    *recorder
	guards *guard.Set
	mux    *vgw.Mux
	kek    *seal.KEK

	dns      *dns                            // in which hosts are proven
	certs    *certStore                      // who keeps certificates
	guardsOf *guardsOf                       // what the Mux asks
	ids      map[tenant.ID]map[string]string // what each of two tenants has, by parameter
}

// guardsOf lets a test put other guards in place.
type guardsOf struct{ *guard.Set }

type telemetry struct{}

func (telemetry) TenantText(id tenant.ID) []byte { return []byte("# metrics of " + string(id) + "\n") }

func newWorld(t testing.TB, edit ...func(*vgw.Config)) *world {
	t.Helper()
	kek, err := seal.CreateKEK(filepath.Join(t.TempDir(), "kek"))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: newStore(), rec: &recorder{}, kek: kek}
	w.guards = guard.NewSet(guard.Config{Recorder: w.rec, Replica: "r1"})
	w.guardsOf = &guardsOf{w.guards}
	cfg := vgw.Config{
		Claims: w.store, Records: w.store, Keys: kek, Guards: w.guardsOf, Telemetry: telemetry{},
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range edit {
		f(&cfg)
	}
	if w.mux, err = vgw.NewMux(cfg); err != nil {
		t.Fatal(err)
	}
	return w
}

// principal returns the principal of the tenant's first key of a role.
func (w *world) principal(id tenant.ID, role tenant.Role) tenant.Principal {
	w.t.Helper()
	for _, k := range w.store.entry(id).Record.Keys {
		if k.Role == role {
			return tenant.Principal{Tenant: id, Kind: tenant.KindKey, ID: k.ID, Name: k.Name, Role: role, KeyID: k.ID}
		}
	}
	w.t.Fatalf("tenant %s has no key of role %s", id, role)
	return tenant.Principal{}
}

// request is what a test sends.
type request struct {
	method, path, body string
	header             map[string]string
	query              string // behind path, with its '?'
}

func (q request) exchange(v *guard.Visit) *exchange.Request {
	r := &exchange.Request{
		ID: "req-1", Method: q.method, Header: exchange.Header{}, Body: strings.NewReader(q.body), Length: int64(len(q.body)),
		Base: "https://t.test", Visit: v,
	}
	r.Path, r.Query, _ = strings.Cut(q.path+q.query, "?")
	if q.body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for k, v := range q.header {
		r.Header.Set(http.CanonicalHeaderKey(k), v)
	}
	r.Upgrade = strings.ToLower(r.Header.Get("Upgrade"))
	return r
}

// decide asks the Mux as p would, in tenant id.
func (w *world) decide(ctx context.Context, id tenant.ID, p tenant.Principal, q request) (exchange.Decision, error) {
	w.t.Helper()
	e := w.store.entry(id)
	v, err := w.guards.For(e).Enter(p, guard.Request{ID: "req-1"})
	if err != nil {
		return nil, err
	}
	defer v.Leave()
	return w.mux.Decide(ctx, e, q.exchange(v))
}

// answer is a response, whole.
type answer struct {
	status int
	header http.Header
	body   string
}

// do asks as p and returns the answer as a client sees it.
func (w *world) do(id tenant.ID, p tenant.Principal, q request) answer {
	w.t.Helper()
	r := httptest.NewRequest(q.method, "https://t.test"+q.path+q.query, strings.NewReader(q.body))
	if q.body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for k, v := range q.header {
		r.Header.Set(k, v)
	}
	rr := httptest.NewRecorder()
	w.front(id, p).ServeHTTP(rr, r)
	return answer{rr.Code, rr.Header(), rr.Body.String()}
}

// as asks with the tenant's key of a role.
func (w *world) as(role tenant.Role, id tenant.ID, q request) answer {
	w.t.Helper()
	return w.do(id, w.principal(id, role), q)
}

// front returns the handler of a tenant's host for requests of p.
func (w *world) front(id tenant.ID, p tenant.Principal) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		e := w.store.entry(id)
		v, err := w.guards.For(e).Enter(p, guard.Request{ID: "req-1"})
		if err != nil {
			problem.Write(rw, err, "req-1")
			return
		}
		defer v.Leave()
		x := &exchange.Request{
			ID: "req-1", Method: r.Method, Path: r.URL.EscapedPath(), Query: r.URL.RawQuery, Header: exchange.Header(r.Header),
			Body: r.Body, Length: r.ContentLength, Host: r.Host, Base: "https://t.test", Visit: v,
			Upgrade: strings.ToLower(r.Header.Get("Upgrade")),
		}
		d, err := w.mux.Decide(r.Context(), e, x)
		switch d := d.(type) {
		case *exchange.Reply:
			writeReply(rw, d)
		case *exchange.Relay:
			relay(rw, r, d)
		case *exchange.Serve:
			serveStream(rw, r, d)
		default:
			problem.Write(rw, err, "req-1")
		}
	})
}

func writeReply(rw http.ResponseWriter, d *exchange.Reply) {
	for k, v := range d.Header {
		rw.Header()[k] = v
	}
	rw.WriteHeader(d.Status)
	_, _ = rw.Write(d.Body)
}

// relay is a small engine.
func relay(rw http.ResponseWriter, r *http.Request, d *exchange.Relay) {
	o := exchange.Outcome{}
	defer func() { d.Done(o) }()
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	if d.HeaderTimeout > 0 {
		late := time.AfterFunc(d.HeaderTimeout, func() { cancel(context.DeadlineExceeded) })
		defer late.Stop()
	}
	defer context.AfterFunc(d.Live, func() { cancel(context.Cause(d.Live)) })()
	res, err := send(ctx, d)
	if err == nil {
		defer res.Body.Close()
		err = d.EditResponse(res.StatusCode, exchange.Header(res.Header))
	} else if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		err = fault.Wrap(fault.UpstreamTimeout, err, "the server did not answer in time")
	} else {
		err = fault.Wrap(fault.BadUpstream, err, "the server could not be reached")
	}
	if err != nil {
		o.Err = err
		reply := d.RenderError(fault.From(err), "req-1")
		o.Status = reply.Status
		writeReply(rw, reply)
		return
	}
	o.Status = res.StatusCode
	for k, v := range res.Header {
		rw.Header()[k] = v
	}
	rw.WriteHeader(res.StatusCode)
	o.BytesOut, o.Err = stream(rw, res.Body)
}

func send(ctx context.Context, d *exchange.Relay) (*http.Response, error) {
	url := d.Target.Scheme + "://" + d.Target.Authority + d.Path
	if d.Query != "" {
		url += "?" + d.Query
	}
	req, err := http.NewRequestWithContext(ctx, d.Method, url, bytes.NewReader(d.Prefix))
	if err != nil {
		return nil, err
	}
	req.Host = d.Host
	req.Header = http.Header(d.Header.Clone())
	return http.DefaultTransport.RoundTrip(req)
}

func stream(rw http.ResponseWriter, body io.Reader) (n int64, err error) {
	buf := make([]byte, 8<<10)
	_ = http.NewResponseController(rw).Flush()
	for {
		k, err := body.Read(buf)
		n += int64(k)
		_, _ = rw.Write(buf[:k])
		_ = http.NewResponseController(rw).Flush()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return n, nil
			}
			return n, err
		}
	}
}

// serve listens as the host of a tenant, for requests of p.
func (w *world) serve(t *testing.T, id tenant.ID, p tenant.Principal) string {
	t.Helper()
	s := httptest.NewServer(w.front(id, p))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}

// upstream starts a server for the time of the test.
func upstream(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return s.URL
}

// addServer adds an MCP server through the API.
func (w *world) addServer(t testing.TB, id tenant.ID, name, url string) {
	t.Helper()
	got := w.as(tenant.Admin, id, request{method: "POST", path: "/api/v1/servers", body: `{"name":` + strconv.Quote(name) + `,"url":` + strconv.Quote(url) + `}`})
	if got.status != 201 {
		t.Fatalf("add server %s: %d %s", name, got.status, got.body)
	}
}

// run runs the Mux's loop for the time of the test.
func (w *world) run(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.mux.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}
