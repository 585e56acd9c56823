package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/problem"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/proxy/admin"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/memory"
)

const (
	scriptToken = "script-operator-token"
	scriptKey   = "script-tenant-key"
)

// TestScripts runs the client commands as processes against a real operators' listener on a registry in memory.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Files:               scripts,
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			w, err := newCLIWorld(e.WorkDir)
			if err != nil {
				return err
			}
			e.Defer(w.close)
			e.Values["world"] = w
			e.Setenv("POLYGATE_ADMIN_URL", w.adminURL)
			e.Setenv("POLYGATE_ADMIN_TOKEN", scriptToken)
			e.Setenv("POLYGATE_CA", filepath.Join(e.WorkDir, "ca.pem"))
			e.Setenv("TENANT_URL", w.tenantURL)
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, "xdg"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"settle":  func(ts *testscript.TestScript, _ bool, _ []string) { worldOf(ts).settle(ts) },
			"declare": func(ts *testscript.TestScript, _ bool, args []string) { worldOf(ts).declare(ts, args[0]) },
			"servers": func(ts *testscript.TestScript, _ bool, args []string) { worldOf(ts).count(ts, args[0]) },
			"replace": replaceInFile,
		},
	})
}

func worldOf(ts *testscript.TestScript) *cliWorld { return ts.Value("world").(*cliWorld) }

// cliWorld is what a script's commands talk to.
type cliWorld struct {
	store     *registry.Store
	adminURL  string
	tenantURL string
	counts    serverCounts
	tenants   *httptest.Server
	stop      context.CancelFunc
	running   sync.WaitGroup
}

func newCLIWorld(dir string, change ...func(*audit.DrainConfig)) (*cliWorld, error) {
	store, err := registry.New(registry.Config{Backend: memory.New(), Replica: "r1", BaseDomain: "localhost"})
	if err != nil {
		return nil, err
	}
	log, err := audit.OpenFile(filepath.Join(dir, "audit.jsonl"))
	if err != nil {
		return nil, err
	}
	buffer := audit.NewBuffer(1024)
	quiet := slog.New(slog.DiscardHandler)
	cfg := audit.DrainConfig{Outbox: store.Outbox(), Buffer: buffer, Sink: log, Interval: 10 * time.Millisecond, Replica: "r1", Logger: quiet}
	for _, f := range change {
		f(&cfg)
	}
	drain, err := audit.NewDrain(cfg)
	if err != nil {
		return nil, err
	}
	cert, err := scriptCertificate(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &cliWorld{store: store, adminURL: "https://admin.localhost:" + port(ln.Addr())}
	srv, err := admin.New(admin.Config{
		Listener:       ln,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil },
		Token:          func() tenant.Hash { return tenant.HashKey(scriptToken) },
		Hosts:          []string{"admin.localhost", "localhost"},
		Tenants:        store, Index: store.Index(), Heads: store.Outbox(), Counts: &w.counts,
		Guards: guard.NewSet(guard.Config{Recorder: buffer, Replica: "r1"}),
		Logger: quiet,
	})
	if err != nil {
		return nil, err
	}
	w.tenants = httptest.NewUnstartedServer(&tenantAPI{})
	w.tenants.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
	w.tenants.StartTLS()
	w.tenantURL = "https://team-a.localhost:" + port(w.tenants.Listener.Addr())

	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	for _, run := range []func(context.Context) error{store.Run, drain.Run, srv.Run} {
		w.running.Go(func() { _ = run(ctx) })
	}
	<-store.Ready()
	return w, nil
}

func (w *cliWorld) close() {
	w.tenants.Close()
	w.stop()
	w.running.Wait()
}

func port(a net.Addr) string {
	_, p, _ := net.SplitHostPort(a.String())
	return p
}

// scriptCertificate makes a certificate for localhost and *.localhost, and writes its authority to a file.
func scriptCertificate(caFile string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "script"}, DNSNames: []string{"localhost", "admin.localhost", "team-a.localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, os.WriteFile(caFile, text, 0o600)
}

// settle waits until every committed audit entry is in the file.
func (w *cliWorld) settle(ts *testscript.TestScript) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		pending, err := w.store.Outbox().Pending(context.Background(), 1)
		ts.Check(err)
		if len(pending) == 0 {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the audit log does not settle")
		}
	}
}

// declare makes a tenant as the gateway's own file would.
func (w *cliWorld) declare(ts *testscript.TestScript, id string) {
	ts.Check(w.makeTenant(id))
}

func (w *cliWorld) makeTenant(id string) error {
	_, err := w.store.CreateTenant(context.Background(),
		&tenant.Record{ID: tenant.ID(id), State: tenant.StateActive, Mode: tenant.ModeVirtual, Source: tenant.SourceFile, File: "tenants.yaml"},
		audit.Entry{ID: audit.NewID(), Time: time.Now(), Principal: "system:reload", Action: "tenant.create", Decision: audit.Allow})
	return err
}

// count says how many servers every tenant has.
func (w *cliWorld) count(ts *testscript.TestScript, n string) {
	v, err := strconv.ParseInt(n, 10, 32)
	ts.Check(err)
	w.counts.n.Store(v)
}

type serverCounts struct{ n atomic.Int64 }

func (c *serverCounts) ServerCount(context.Context, *tenant.Entry) (int, error) {
	return int(c.n.Load()), nil
}

// replaceInFile puts the second argument in the place of the first, in the file that is the third.
func replaceInFile(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[2])
	b, err := os.ReadFile(path)
	ts.Check(err)
	if !strings.Contains(string(b), args[0]) {
		ts.Fatalf("%s does not hold %q", args[2], args[0])
	}
	ts.Check(os.WriteFile(path, []byte(strings.Replace(string(b), args[0], args[1], 1)), 0o600))
}

// tenantAPI is the part of a tenant's own surface that the server commands use.
type tenantAPI struct {
	mu   sync.Mutex
	list []mcpServer
}

func (a *tenantAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+scriptKey {
		problem.Write(w, fault.New(fault.Unauthenticated, "no"), "req-1")
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/api/v1/servers/")
	switch r.Method {
	case http.MethodPost:
		a.add(w, r)
	case http.MethodDelete:
		before := len(a.list)
		a.list = slices.DeleteFunc(a.list, func(s mcpServer) bool { return s.Name == name })
		if len(a.list) == before {
			problem.Write(w, fault.New(fault.NotFound, "no"), "req-1")
			return
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		a.page(w, r.URL.Query().Get("cursor"))
	}
}

func (a *tenantAPI) add(w http.ResponseWriter, r *http.Request) {
	var s newMCPServer
	b, _ := io.ReadAll(r.Body)
	if err := json.Unmarshal(b, &s); err != nil || s.URL == "bad" {
		problem.Write(w, fault.New(fault.Invalid, "url \x1b[2J is not absolute"), "req-1")
		return
	}
	made := mcpServer{ID: "1", Name: s.Name, URL: s.URL, Source: "api", ResourceVersion: "1"}
	for h := range s.Headers {
		made.Headers = append(made.Headers, h)
	}
	slices.Sort(made.Headers)
	a.list = append(a.list, made)
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(made)
}

// page answers with one server at a time.
func (a *tenantAPI) page(w http.ResponseWriter, cursor string) {
	at := len(cursor)
	out := map[string]any{"items": []mcpServer{}}
	if at < len(a.list) {
		out["items"] = a.list[at : at+1]
	}
	if at+1 < len(a.list) {
		out["next_cursor"] = cursor + "x"
	}
	_ = json.NewEncoder(w).Encode(out)
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain text, ünïcode 世界": "plain text, ünïcode 世界",
		"\x1b]0;title\x07":       `\u001b]0;title\u0007`,
		"a\nb\r\tc":              `a\u000ab\u000d\u0009c`,
		"\u009b31m":              `\u009b31m`,
		"\u202Egnp.exe":          `\u202egnp.exe`,
		"\xff":                   `\ufffd`,
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %s, want %s", in, got, want)
		}
	}
}

func FuzzCleanJSON(f *testing.F) {
	f.Add("a\u009b\x7f\u2028\U000e0001\"\\")
	f.Fuzz(func(t *testing.T, s string) {
		b, err := json.Marshal(s)
		if err != nil {
			t.Skip()
		}
		safe := cleanJSON(b)
		var before, after string
		if json.Unmarshal(b, &before) != nil || json.Unmarshal(safe, &after) != nil || before != after {
			t.Errorf("cleanJSON(%s) = %s is another text", b, safe)
		}
		if strings.ContainsFunc(string(safe), hostile) {
			t.Errorf("cleanJSON(%s) = %q lets a control character pass", b, safe)
		}
	})
}

func TestDialLocal(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	for _, name := range []string{"localhost", "team-a.localhost", "TEAM-A.LocalHost", "a.b.localhost."} {
		conn, err := dialLocal(t.Context(), &net.Dialer{}, "tcp", name+":"+port(ln.Addr()))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_ = conn.Close()
	}
}

// TestVanishedIsOneReason: by it the listener knows what a reload suspended.
func TestVanishedIsOneReason(t *testing.T) {
	if admin.ReasonRemoved != config.Vanished {
		t.Errorf("the listener takes %q for vanished, a reload writes %q", admin.ReasonRemoved, config.Vanished)
	}
}

// TestHelp: every command says what it is for, at length and by example, and no example holds a secret.
func TestHelp(t *testing.T) {
	var each func(c *cobra.Command)
	each = func(c *cobra.Command) {
		if c.Name() != "serve" && !c.Hidden && (c.Short == "" || c.Long == "" || c.Example == "") {
			t.Errorf("%s lacks help", c.CommandPath())
		}
		if strings.Contains(c.Example, "--key ") || strings.Contains(c.Example, "--token ") {
			t.Errorf("%s: the example has a secret on the command line", c.CommandPath())
		}
		for _, child := range c.Commands() {
			each(child)
		}
	}
	each(newRoot(io.Discard, io.Discard))
}
