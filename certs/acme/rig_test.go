package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/goleak"

	"github.com/polygate/polygate/certs/acme/acmetest"
	"github.com/polygate/polygate/internal/tenant"
)

// The tests wait for other processes most of the time: more of them at once than there are processors.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.parallel").Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		_ = flag.Set("test.parallel", "6")
	}
	goleak.VerifyTestMain(m)
}

// memory is a certmagic.Storage whose faults a test chooses.
type memory struct {
	mu     sync.Mutex
	values map[string][]byte
	locks  map[string]chan struct{}
	stores map[string]int             // how often each key was stored
	fail   func(op, key string) error // nil = work
}

func newMemory() *memory {
	return &memory{values: map[string][]byte{}, locks: map[string]chan struct{}{}, stores: map[string]int{}}
}

func (m *memory) failing(ctx context.Context, op, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	fail := m.fail
	m.mu.Unlock()
	if fail != nil {
		return fail(op, key)
	}
	return nil
}

func (m *memory) Store(ctx context.Context, key string, value []byte) error {
	if err := m.failing(ctx, "store", key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.values[key] = slices.Clone(value)
	m.stores[key]++
	return nil
}

func (m *memory) Load(ctx context.Context, key string) ([]byte, error) {
	if err := m.failing(ctx, "load", key); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.values[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(v), nil
}

func (m *memory) Delete(ctx context.Context, key string) error {
	if err := m.failing(ctx, "delete", key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.values, key)
	return nil
}

func (m *memory) Lock(ctx context.Context, name string) error {
	if err := m.failing(ctx, "lock", name); err != nil {
		return err
	}
	for {
		m.mu.Lock()
		held, ok := m.locks[name]
		if !ok {
			m.locks[name] = make(chan struct{})
			m.mu.Unlock()
			return nil
		}
		m.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *memory) Unlock(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.locks[name])
	delete(m.locks, name)
	return nil
}

func (m *memory) Exists(context.Context, string) bool { panic("not used") }
func (m *memory) List(context.Context, string, bool) ([]string, error) {
	panic("not used")
}
func (m *memory) Stat(context.Context, string) (certmagic.KeyInfo, error) { panic("not used") }

func (m *memory) keys() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for k := range m.values {
		out = append(out, k)
	}
	return out
}

func (m *memory) breaks(fail func(op, key string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = fail
}

// rig is an engine, a real ACME server, and the listeners at which it looks for proofs.
type rig struct {
	*acmetest.Server
	t        *testing.T
	e        *Engine
	accounts *memory
	tokens   *memory
	account  tenant.ACME
	tlsHits  chan string // hosts of acme-tls/1 handshakes
	httpHits chan string
	log      *lines
}

type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newRig(t *testing.T, o acmetest.Options, edit func(*Config)) *rig {
	t.Helper()
	r := &rig{Server: acmetest.Start(t, o), t: t, accounts: newMemory(), tokens: newMemory(),
		tlsHits: make(chan string, 1000), httpHits: make(chan string, 1000), log: &lines{}}
	r.e = r.engine(edit)
	r.account = tenant.ACME{Directory: r.Directory(), CA: r.RootPEM(), Email: "ops@polygate.test"}
	r.listenTLS()
	r.listenHTTP()
	return r
}

// engine returns another replica's.
func (r *rig) engine(edit func(*Config)) *Engine {
	r.t.Helper()
	cfg := Config{TLSALPN01: true, HTTP01: true, Resolvers: []string{r.Resolver()}, UserAgent: "polygate-test", Logger: debugLogger(r.log), RequestTime: 10 * time.Second, OrderTime: time.Minute}
	if edit != nil {
		edit(&cfg)
	}
	e, err := New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

func (r *rig) listenTLS() {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(r.TLSPort)))
	if err != nil {
		r.t.Fatal(err)
	}
	conf := &tls.Config{NextProtos: []string{"acme-tls/1"}, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		r.tlsHits <- h.ServerName
		return r.e.ChallengeCertificate(h.Context(), r.tokens, h.ServerName)
	}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(5 * time.Second))
				_ = tls.Server(c, conf).Handshake()
			})
		}
	})
	r.t.Cleanup(func() { _ = l.Close(); wg.Wait() })
}

func (r *rig) listenHTTP() {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(r.HTTPPort)))
	if err != nil {
		r.t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.httpHits <- q.Host
		r.e.HTTPChallenge(func(string) (certmagic.Storage, bool) { return r.tokens, true }, w, q)
	}))
	_ = srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	r.t.Cleanup(srv.Close)
}

func (r *rig) order(names ...string) Order {
	return Order{Account: r.account, Accounts: r.accounts, Tokens: r.tokens, Names: names, Key: newKey(r.t)}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue orders and checks what comes: for the key and the names, under the server's root.
func (r *rig) issue(o Order) []byte {
	r.t.Helper()
	chain, err := r.e.Obtain(r.t.Context(), o)
	if err != nil {
		r.t.Fatalf("obtain %q: %v\n%s", o.Names, err, tail(r.Log()))
	}
	r.check(chain, o)
	return chain
}

func (r *rig) check(chain []byte, o Order) {
	r.t.Helper()
	list, err := parseChain(chain)
	if err != nil {
		r.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	for _, c := range list[1:] {
		pool.AddCert(c)
	}
	for _, name := range o.Names {
		if _, err := list[0].Verify(x509.VerifyOptions{DNSName: strings.Replace(name, "*", "x", 1), Roots: r.Roots(), Intermediates: pool}); err != nil {
			r.t.Errorf("the chain for %q is not good: %v", name, err)
		}
	}
	if pub := o.Key.Public().(*ecdsa.PublicKey); !pub.Equal(list[0].PublicKey) {
		r.t.Error("the certificate is for another key")
	}
	r.tidy()
}

// tidy checks that no challenge is left.
func (r *rig) tidy() {
	r.t.Helper()
	if k := r.tokens.keys(); len(k) > 0 {
		r.t.Errorf("challenges left behind: %q", k)
	}
}

// refused orders what must fail and checks the error's code. Nothing may be left behind and nothing secret be told.
func (r *rig) refused(o Order, code string) *Error {
	r.t.Helper()
	_, err := r.e.Obtain(r.t.Context(), o)
	return r.is(err, code)
}

func (r *rig) is(err error, code string) *Error {
	r.t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		r.t.Fatalf("error = %v, want code %s", err, code)
	}
	if e.Code != code {
		r.t.Errorf("code = %s, want %s: %v", e.Code, code, err)
	}
	if e.Detail == "" {
		r.t.Error("the error does not say what to do")
	}
	r.tidy()
	r.secretsHidden(fmt.Sprintf("%v %+v %#v", err, err, err))
	r.t.Logf("%v (permanent %v, retry after %v)", err, e.Permanent, e.RetryAfter)
	return e
}

// secretsHidden checks a text, and the log, for the account's key and the key of the external account.
func (r *rig) secretsHidden(text string) {
	r.t.Helper()
	text += r.log.String()
	if k := r.account.EABKey; k != "" && strings.Contains(text, k) {
		r.t.Error("the key of the external account is told")
	}
	if strings.Contains(text, "PRIVATE KEY") {
		r.t.Error("a private key is told")
	}
}

func tail(s string) string { return s[max(0, len(s)-3000):] }

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited in vain: " + what)
		}
	}
}
