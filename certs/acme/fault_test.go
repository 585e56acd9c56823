package acme

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/polygate/polygate/certs/acme/acmetest"
	"github.com/polygate/polygate/internal/fault"
)

func TestBlockedName(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{Blocked: []string{"blocked.polygate.test"}}, nil)
	e := r.refused(r.order("blocked.polygate.test"), CodeRejectedIdentifier)
	if !e.Permanent {
		t.Error("a name that the server does not issue for is to be tried again soon")
	}
	r.issue(r.order("a.polygate.test"))
}

func TestDirectoryDownAndUpAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, nil)
	r.Down()
	e := r.refused(r.order("a.polygate.test"), CodeDirectoryUnreachable)
	if e.Permanent || !errors.Is(e, syscall.ECONNREFUSED) {
		t.Errorf("error = %v, want connection refused, and another try", e)
	}
	r.Up()
	r.issue(r.order("a.polygate.test"))
}

// A server hangs: orders at others go on, and the one that waits goes on as soon as the server does.
func TestDirectoryHangsAndOthersGoOn(t *testing.T) {
	t.Parallel()
	dialed := make(chan struct{}, 10)
	r := newRig(t, acmetest.Options{AlwaysValid: true}, func(c *Config) {
		c.RequestTime = 50 * time.Second
		c.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			dialed <- struct{}{}
			return conn, err
		}
	})
	other := newRig(t, acmetest.Options{AlwaysValid: true}, nil)
	r.Pause()
	defer r.Resume()
	failed := make(chan error, 1)
	go func() {
		_, err := r.e.Obtain(context.Background(), r.order("a.polygate.test"))
		failed <- err
	}()
	<-dialed
	start := time.Now()
	other.issue(other.order("b.polygate.test"))
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("an order at another server took %v", took)
	}
	select {
	case err := <-failed:
		t.Errorf("the order at the server that hangs has ended: %v", err)
	default:
		r.Resume()
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

// The server refuses more nonces in a row than the library bears.
func TestNoncesRefusedOverAndOver(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{AlwaysValid: true}, nil)
	stage := acmetest.NewStage(t, r.Server)
	r.account.Directory = stage.Directory()
	stage.Play(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/order-plz" && stage.Hits("/order-plz") <= 12 || q.URL.Path == "/sign-me-up" && stage.Hits("/sign-me-up") <= 12 {
			acmetest.Problem(w, http.StatusBadRequest, "badNonce", "not this one")
		}
	})
	r.issue(r.order("a.polygate.test"))
}

func TestDirectoryNotTrusted(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, nil)
	r.account.CA = ""
	if e := r.refused(r.order("a.polygate.test"), CodeDirectoryUnreachable); !e.Permanent || !strings.Contains(e.Detail, "ca_file") {
		t.Errorf("error = %v, want it to name the setting", e)
	}
	r.account.CA = "no PEM"
	r.refused(r.order("a.polygate.test"), CodeDirectoryInvalid)
}

// What a server answers that is no ACME server, or a broken one.
func TestServersThatAreNone(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{AlwaysValid: true}, func(c *Config) { c.RequestTime = 2 * time.Second })
	stage := acmetest.NewStage(t, r.Server)
	r.account.Directory = stage.Directory()
	json := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, body)
		}
	}
	at := func(path string, h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, q *http.Request) {
			if strings.HasPrefix(q.URL.Path, path) {
				h(w, q)
			}
		}
	}
	endless := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for block := strings.Repeat(" ", 64<<10); ; {
			if _, err := fmt.Fprint(w, block); err != nil {
				return
			}
		}
	}
	slow := func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-q.Context().Done():
				tick.Stop()
				panic(http.ErrAbortHandler) // the last byte is never sent
			case <-tick.C:
				fmt.Fprint(w, " ")
				_ = http.NewResponseController(w).Flush()
			}
		}
	}
	status := func(n int) http.HandlerFunc { return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(n) } }
	for _, tt := range []struct {
		name string
		play http.HandlerFunc
		code string
	}{
		{"a web page", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>Welcome</html>") }, CodeDirectoryInvalid},
		{"other JSON", json(`{"hello":"world"}`), CodeDirectoryInvalid},
		{"JSON of other types", json(`{"newNonce":7}`), CodeDirectoryInvalid},
		{"URLs without TLS", json(`{"newNonce":"http://x/","newAccount":"http://x/","newOrder":"http://x/"}`), CodeDirectoryInvalid},
		{"not found", status(404), CodeDirectoryInvalid},
		{"a redirect", func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, "https://elsewhere.test/", http.StatusFound)
		}, CodeDirectoryInvalid},
		{"a failure", status(500), CodeServer},
		{"a directory without an end", endless, CodeDirectoryInvalid},
		{"a directory that drips", slow, CodeDirectoryUnreachable},
		{"an order without an end", at("/order-plz", endless), CodeDirectoryInvalid},
		{"an authorization that drips", at("/authZ/", slow), CodeTimeout},
		{"an order of garbage", at("/order-plz", json(`[1,2]`)), CodeServer},
		{"an order that is a page", at("/order-plz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hm") }), CodeServer},
		{"an order that leads off TLS", at("/order-plz", json(`{"status":"pending","authorizations":["http://127.0.0.1:1/a"],"finalize":"http://127.0.0.1:1/f"}`)), CodeDirectoryInvalid},
		{"no nonces", at("/nonce-plz", status(500)), CodeServer},
		{"a chain of garbage", at("/certZ/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/pem-certificate-chain")
			fmt.Fprint(w, "-----BEGIN NONSENSE-----\n-----END NONSENSE-----\n")
		}), CodeServer},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stage.Play(tt.play)
			r.t = t
			start := time.Now()
			r.refused(r.order("a.polygate.test"), tt.code)
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
	r.t = t
	stage.Play(nil)
	r.issue(r.order("a.polygate.test"))
}

// Refusals that the real server for tests does not make, as RFC 8555 §6.7 words them.
func TestRefusals(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{AlwaysValid: true}, nil)
	stage := acmetest.NewStage(t, r.Server)
	r.account.Directory = stage.Directory()
	for _, tt := range []struct {
		kind      string
		status    int
		header    string // Retry-After
		code      string
		permanent bool
		after     time.Duration
	}{
		{kind: "caa", status: 403, code: CodeCAA, permanent: true},
		{kind: "rejectedIdentifier", status: 400, code: CodeRejectedIdentifier, permanent: true},
		{kind: "dns", status: 400, code: CodeDNS},
		{kind: "externalAccountRequired", status: 403, code: CodeEABRequired, permanent: true},
		{kind: "invalidProfile", status: 400, code: CodeProfile, permanent: true},
		{kind: "unauthorized", status: 403, code: CodeUnauthorized, permanent: true},
		{kind: "userActionRequired", status: 403, code: CodeAccount, permanent: true},
		{kind: "serverInternal", status: 500, code: CodeServer},
		{kind: "ofTomorrow", status: 400, code: CodeServer},
		{kind: "rateLimited", status: 429, header: "3600", code: CodeRateLimited, after: time.Hour},
		{kind: "rateLimited", status: 429, header: time.Now().Add(2 * time.Hour).UTC().Format(http.TimeFormat), code: CodeRateLimited, after: 2 * time.Hour},
		{kind: "rateLimited", status: 429, header: "soon", code: CodeRateLimited},
		{kind: "rateLimited", status: 429, code: CodeRateLimited},
		{kind: "serverInternal", status: 503, header: "120", code: CodeServer, after: 2 * time.Minute},
	} {
		t.Run(fmt.Sprintf("%s %d %s", tt.kind, tt.status, tt.header), func(t *testing.T) {
			r.t = t
			before := stage.Hits("/order-plz")
			stage.Play(func(w http.ResponseWriter, q *http.Request) {
				if q.URL.Path == "/order-plz" {
					if tt.header != "" {
						w.Header().Set("Retry-After", tt.header)
					}
					acmetest.Problem(w, tt.status, tt.kind, "the words of the server")
				}
			})
			e := r.refused(r.order("a.polygate.test"), tt.code)
			if e.Permanent != tt.permanent {
				t.Errorf("permanent = %v, want %v", e.Permanent, tt.permanent)
			}
			if d := (e.RetryAfter - tt.after).Abs(); d > 10*time.Second {
				t.Errorf("retry after %v, want %v", e.RetryAfter, tt.after)
			}
			if tt.status < 500 && !strings.Contains(e.Detail, "the words of the server") {
				t.Errorf("detail = %q, want what the server says", e.Detail)
			}
			// Who asks to be left alone is: the library would ask again at once.
			if n := stage.Hits("/order-plz") - before; tt.after > 0 && n != 1 {
				t.Errorf("the server was asked %d times, want once", n)
			}
		})
	}
	r.t = t
	stage.Play(nil)
	r.issue(r.order("a.polygate.test"))
}

// The server is rate limited at its directory already.
func TestDirectoryLimited(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, nil)
	stage := acmetest.NewStage(t, r.Server)
	r.account.Directory = stage.Directory()
	stage.Play(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "90")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	if e := r.refused(r.order("a.polygate.test"), CodeRateLimited); e.RetryAfter.Round(time.Second) != 90*time.Second {
		t.Errorf("retry after %v, want 90 s", e.RetryAfter)
	}
}

func TestOrderThatTakesTooLong(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, func(c *Config) { c.OrderTime = 2 * time.Second })
	stage := acmetest.NewStage(t, r.Server)
	r.account.Directory = stage.Directory()
	var looks atomic.Int32
	stage.Play(func(w http.ResponseWriter, q *http.Request) {
		if strings.HasPrefix(q.URL.Path, "/authZ/") {
			looks.Add(1)
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Retry-After", "0") // an invitation to ask without a pause
			w.Header().Set("Replay-Nonce", "")
			fmt.Fprint(w, `{"status":"pending","identifier":{"type":"dns","value":"a.polygate.test"},"challenges":[{"type":"http-01","url":"https://`+q.Host+`/chalZ/1","status":"pending","token":"0123456789012345678901234567890123"}]}`)
		}
		if strings.HasPrefix(q.URL.Path, "/chalZ/") {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"type":"http-01","status":"pending"}`)
		}
	})
	r.refused(r.order("a.polygate.test"), CodeTimeout)
	if n := looks.Load(); n > 10 {
		t.Errorf("the server was asked %d times in 2 s", n)
	}
}

func TestStorageFaults(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, nil)
	away, full := errors.New("etcd is away"), errors.New("etcdserver: mvcc: database space exceeded")
	for _, tt := range []struct {
		name string
		at   func(op, key string) error
		code string
	}{
		{"away", func(string, string) error { return away }, CodeStorage},
		{"lock refused", func(op, _ string) error {
			if op == "lock" {
				return away
			}
			return nil
		}, CodeStorage},
		{"full", func(op, _ string) error {
			if op == "store" {
				return full
			}
			return nil
		}, CodeStorageFull},
	} {
		t.Run("accounts "+tt.name, func(t *testing.T) {
			r.t = t
			r.accounts.breaks(tt.at)
			e := r.refused(r.order("a.polygate.test"), tt.code)
			if !errors.Is(e, away) && !errors.Is(e, full) {
				t.Errorf("error = %v, want the cause within", e)
			}
			r.accounts.breaks(nil)
		})
	}
	r.t = t
	r.issue(r.order("a.polygate.test"))
	r.tokens.breaks(func(op, _ string) error {
		if op == "store" {
			return full
		}
		return nil
	})
	r.refused(r.order("b.polygate.test"), CodeStorageFull)
	r.tokens.breaks(nil)
	if err := r.accounts.Store(t.Context(), accountKey(r.account), []byte(`{"v":1,"key":"c2VjcmV0"}`)); err != nil {
		t.Fatal(err)
	}
	if e := r.refused(r.order("a.polygate.test"), CodeStorage); !e.Permanent || strings.Contains(e.Error(), "c2VjcmV0") {
		t.Errorf("error = %v, want that the account is damaged and nothing of it", e)
	}
}

// The replica's clock is wrong: it is said so, before anything is ordered.
func TestClockSkew(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{AlwaysValid: true}, nil)
	for _, skew := range []time.Duration{-48 * time.Hour, -30*time.Minute - time.Hour, 2 * time.Hour, 48 * time.Hour} {
		r.e = r.engine(func(c *Config) { c.Now = func() time.Time { return time.Now().Add(skew) } })
		e := r.refused(r.order("a.polygate.test"), CodeClock)
		if !strings.Contains(e.Detail, "NTP") {
			t.Errorf("%v: detail = %q, want what to do", skew, e.Detail)
		}
	}
	if got := r.Orders("a.polygate.test"); got != 0 {
		t.Errorf("%d certificates were issued for nothing", got)
	}
	r.e = r.engine(func(c *Config) { c.Now = func() time.Time { return time.Now().Add(-2 * time.Minute) } })
	r.issue(r.order("a.polygate.test"))
}

// A call ends with its connections: nothing stays open between orders.
func TestNoConnectionStays(t *testing.T) {
	t.Parallel()
	var dialed, closed atomic.Int32
	r := newRig(t, acmetest.Options{AlwaysValid: true}, func(c *Config) {
		c.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			dialed.Add(1)
			return &countedConn{Conn: conn, closed: &closed}, err
		}
	})
	r.issue(r.order("a.polygate.test"))
	await(t, "all connections to be closed", func() bool { return dialed.Load() > 0 && dialed.Load() == closed.Load() })
	if n := dialed.Load(); n > 2 {
		t.Errorf("%d connections for one order, want them used again", n)
	}
}

type countedConn struct {
	net.Conn
	once   sync.Once
	closed *atomic.Int32
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.closed.Add(1) })
	return c.Conn.Close()
}

// The guard in front of the network refuses: that is what the error says.
func TestDialRefusedByTheGuard(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, nil)
	inside := errors.New("the address is inside")
	guard := fault.Wrap(fault.BadUpstream, inside, "this upstream may not be reached") // as internal/egress refuses
	r.e = r.engine(func(c *Config) {
		c.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, guard }
	})
	if e := r.refused(r.order("a.polygate.test"), CodeDirectoryUnreachable); !errors.Is(e, inside) || !strings.Contains(e.Detail, "trusted_directory") {
		t.Errorf("error = %v (%s), want the guard's, and what opens it", e, e.Detail)
	}
}
