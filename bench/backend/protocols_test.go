package backend

import (
	"bytes"
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
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// certificatesFor writes a certificate for each host and returns their directory and the pool that trusts them.
func certificatesFor(t *testing.T, hosts ...string) (string, *x509.CertPool) {
	t.Helper()
	dir, pool := t.TempDir(), x509.NewCertPool()
	for i, host := range hosts {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, host+".pem"), "CERTIFICATE", der)
		write(t, filepath.Join(dir, host+"-key.pem"), "PRIVATE KEY", pkcs8)
		cert, _ := x509.ParseCertificate(der)
		pool.AddCert(cert)
	}
	return dir, pool
}

func write(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTLS(t *testing.T) {
	dir, pool := certificatesFor(t, "a.example", "b.example")
	s := start(t, Config{TLS: &TLS{CertDir: dir}})
	for _, h2 := range []bool{false, true} {
		for n, host := range []string{"a.example", "b.example"} {
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: h2}
			transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", Addr(n, s.Ports().TLS))
			}
			c := web(t, transport)
			for _, path := range []string{"/", "/?a", "/"} {
				res, body := get(t, c, "https://"+host+path)
				if (res.ProtoMajor == 2) != h2 {
					t.Errorf("got %s, wanted HTTP/2: %v", res.Proto, h2)
				}
				check(t, host, body, n)
			}
		}
	}
}

// A server name is part of a path of a file: it reads none outside the directory.
func TestServerNamesStayInTheDirectory(t *testing.T) {
	dir, _ := certificatesFor(t, "a.example")
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	get := tlsConfig(filepath.Join(dir, "sub")).GetCertificate
	for _, name := range []string{"", ".", "..", "../a.example", "..\\a.example", "sub/../../a.example", "unknown.example"} {
		if _, err := get(&tls.ClientHelloInfo{ServerName: name}); err == nil {
			t.Errorf("server name %q has a certificate", name)
		}
	}
	if _, err := tlsConfig(dir).GetCertificate(&tls.ClientHelloInfo{ServerName: "A.example"}); err != nil {
		t.Errorf("a.example has no certificate: %v", err)
	}
}

func TestGRPC(t *testing.T) {
	dir, pool := certificatesFor(t, "a.example")
	s := start(t, Config{TLS: &TLS{CertDir: dir}})
	for name, c := range map[string]struct {
		addr  string
		creds credentials.TransportCredentials
	}{
		"plain": {Addr(6, s.Ports().Plain), insecure.NewCredentials()},
		"tls":   {Addr(6, s.Ports().TLS), credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: "a.example"})},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := grpc.NewClient(c.addr, grpc.WithTransportCredentials(c.creds))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for _, size := range []int{0, 10, 100_000} {
				out := new(wrapperspb.BytesValue)
				if err := conn.Invoke(t.Context(), EchoMethod, wrapperspb.Bytes(make([]byte, size)), out); err != nil {
					t.Fatalf("call with %d bytes: %v", size, err)
				}
				if len(out.Value) != defaultAnswer {
					t.Errorf("answer: got %d bytes, want %d", len(out.Value), defaultAnswer)
				}
				check(t, "call", string(out.Value), 6)
			}
		})
	}
}

// TestGRPCRefuses has what no client of grpc-go sends.
func TestGRPCRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		in string
		ok bool
	}{
		"empty message":  {"\x00\x00\x00\x00\x00", true},
		"a message":      {"\x00\x00\x00\x00\x03\x0a\x01a", true},
		"nothing":        {"", false},
		"half a prefix":  {"\x00\x00\x00", false},
		"half a message": {"\x00\x00\x00\x00\x03\x0a\x01", false},
		"compressed":     {"\x01\x00\x00\x00\x03\x0a\x01a", false},
		"too long":       {"\x00\xff\xff\xff\xff\x0a\x01a", false},
		"not protobuf":   {"\x00\x00\x00\x00\x03\x0a\x05a", false},
	} {
		if err := readMessage(strings.NewReader(c.in)); (err == nil) != c.ok {
			t.Errorf("%s: got %v, want it taken: %v", name, err, c.ok)
		}
	}
}

// recorder notes the versions and sessions that pass.
type recorder struct {
	next     http.RoundTripper
	versions map[string]int
	sessions map[string]bool
}

func (r *recorder) RoundTrip(q *http.Request) (*http.Response, error) {
	r.versions[q.Header.Get(versionHeader)]++
	res, err := r.next.RoundTrip(q)
	if err == nil && res.Header.Get(sessionHeader) != "" {
		r.sessions[res.Header.Get(sessionHeader)] = true
	}
	return res, err
}

func TestMCP(t *testing.T) {
	s := start(t, Config{})
	for _, c := range []struct {
		version, path string
		sessions      int
	}{{legacy, "/mcp", 1}, {modern, "/mcp", 0}, {legacy, "/mcp?answer=sse", 1}, {modern, "/mcp?answer=sse", 0}} {
		t.Run(c.version+c.path, func(t *testing.T) {
			transport := &http.Transport{}
			t.Cleanup(transport.CloseIdleConnections)
			seen := &recorder{next: transport, versions: map[string]int{}, sessions: map[string]bool{}}
			client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
			session, err := client.Connect(t.Context(), &mcp.StreamableClientTransport{
				Endpoint: "http://" + Addr(8, s.Ports().Plain) + c.path, HTTPClient: &http.Client{Transport: seen}, MaxRetries: -1,
			}, &mcp.ClientSessionOptions{ProtocolVersion: c.version})
			if err != nil {
				t.Fatalf("connect: %v", err)
			}
			if got := session.InitializeResult().ProtocolVersion; got != c.version {
				t.Errorf("version: got %s, want %s", got, c.version)
			}
			tools, err := session.ListTools(t.Context(), nil)
			if err != nil || len(tools.Tools) != 1 || tools.Tools[0].Name != "echo" {
				t.Errorf("tools: got %+v, %v, want echo", tools, err)
			}
			res, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "echo", Arguments: map[string]any{"text": "hello"}})
			if err != nil {
				t.Fatalf("call: %v", err)
			}
			text := res.Content[0].(*mcp.TextContent).Text
			if !strings.HasPrefix(text, Canary(seed, 8)+"hello") || len(text) != defaultAnswer {
				t.Errorf("echo: got %d bytes, %.60q", len(text), text)
			}
			if _, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "other"}); err == nil {
				t.Error("another tool: no error")
			}
			if err := session.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if len(seen.sessions) != c.sessions || seen.versions[c.version] < 3 {
				t.Errorf("got %d sessions, requests by version %v, want %d and some of %s", len(seen.sessions), seen.versions, c.sessions, c.version)
			}
		})
	}
}

// post sends a body to /mcp of a tenant and returns the status, the answer and the session that began.
func post(t *testing.T, s *Server, tenant int, method, body string, header map[string]string) (int, string, string) {
	t.Helper()
	q, err := http.NewRequest(method, "http://"+Addr(tenant, s.Ports().Plain)+"/mcp", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/json")
	for k, v := range header {
		q.Header.Set(k, v)
	}
	res, err := web(t, &http.Transport{}).Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header.Get(sessionHeader)
}

const (
	initialize = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}`
	callEcho   = `{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"echo","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`
)

func TestMCPSessionsAreTheTenants(t *testing.T) {
	s := start(t, Config{})
	code, _, id := post(t, s, 1, "POST", initialize, nil)
	if code != 200 || id == "" {
		t.Fatalf("initialize: got %d, session %q", code, id)
	}
	in := map[string]string{sessionHeader: id, versionHeader: legacy}
	for _, step := range []struct {
		what, method, body string
		tenant, want       int
		header             map[string]string
	}{
		{"a call", "POST", callEcho, 1, 200, in},
		{"a notification", "POST", `{"jsonrpc":"2.0","method":"notifications/initialized"}`, 1, 202, in},
		{"a call without a session", "POST", callEcho, 1, 400, nil},
		{"another tenant's call", "POST", callEcho, 2, 404, in},
		{"another tenant's end of it", "DELETE", "", 2, 404, in},
		{"a call after that", "POST", callEcho, 1, 200, in},
		{"the end", "DELETE", "", 1, 204, in},
		{"a call behind the end", "POST", callEcho, 1, 404, in},
		{"a GET", "GET", "", 1, 405, in},
	} {
		code, body, _ := post(t, s, step.tenant, step.method, step.body, step.header)
		if code != step.want {
			t.Errorf("%s: got %d, want %d: %.80s", step.what, code, step.want, body)
		}
		if code == 200 {
			check(t, step.what, body, step.tenant)
		} else if strings.Contains(body, Marker) {
			t.Errorf("%s: a canary in %q", step.what, body)
		}
	}
}

func TestMCPRefuses(t *testing.T) {
	s := start(t, Config{})
	good := map[string]string{versionHeader: modern, "Mcp-Method": "tools/call", "Mcp-Name": "echo"}
	with := func(k, v string) map[string]string {
		h := maps.Clone(good)
		h[k] = v
		return h
	}
	for name, c := range map[string]struct {
		body   string
		header map[string]string
		status int
		want   string
	}{
		"nothing wrong":     {callEcho, good, 200, Marker},
		"method header":     {callEcho, with("Mcp-Method", "tools/list"), 400, "-32020"},
		"name header":       {callEcho, with("Mcp-Name", "other"), 400, "-32020"},
		"no version inside": {`{"id":1,"method":"tools/call","params":{"name":"echo"}}`, good, 400, "-32602"},
		"later version":     {callEcho, with(versionHeader, "2027-01-01"), 400, "-32022"},
		"unknown method":    {strings.Replace(callEcho, "tools/call", "x", 1), with("Mcp-Method", "x"), 404, "-32601"},
		"not JSON":          {`{`, good, 400, `"id":null`},
		"a batch":           {`[` + callEcho + `]`, good, 400, "-32700"},
		"content type":      {callEcho, with("Content-Type", "text/plain"), 415, "-32700"},
	} {
		t.Run(name, func(t *testing.T) {
			code, body, session := post(t, s, 1, "POST", c.body, c.header)
			if code != c.status || !strings.Contains(body, c.want) || session != "" {
				t.Errorf("got %d %.120s, want %d with %s", code, body, c.status, c.want)
			}
		})
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	s := start(t, Config{})
	for _, c := range []struct {
		method, path string
		want         int
	}{{"GET", "/x", 404}, {"PUT", "/", 405}, {"GET", "/ws", 426}, {"POST", EchoMethod, 415}, {"HEAD", "/", 200}} {
		q, _ := http.NewRequest(c.method, "http://"+Addr(1, s.Ports().Plain)+c.path, nil)
		res, err := web(t, &http.Transport{}).Do(q)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != c.want || slices.Contains([]string{"GET", "PUT"}, c.method) && strings.Contains(string(b), Marker) {
			t.Errorf("%s %s: got %d %q, want %d", c.method, c.path, res.StatusCode, b, c.want)
		}
	}
}

// FuzzMCP: whatever is sent, the answer is one JSON object and holds no canary but in the text of the tool.
func FuzzMCP(f *testing.F) {
	f.Add(modern, "tools/call", "echo", []byte(callEcho))
	f.Add(legacy, "", "", []byte(initialize))
	f.Add("", "", "", []byte(`{"id":null,"method":"ping","params":[]}`))
	open, err := newSessions()
	if err != nil {
		f.Fatal(err)
	}
	s := &Server{cfg: Config{Seed: seed, AnswerBytes: 100}, padding: padding(100), stall: newStall(), sessions: open}
	f.Fuzz(func(t *testing.T, version, method, name string, body []byte) {
		r := httptest.NewRequest("POST", "/mcp", bytes.NewReader(body))
		r.Header = http.Header{"Content-Type": {"application/json"}, versionHeader: {version}, "Mcp-Method": {method}, "Mcp-Name": {name}}
		r = r.WithContext(context.WithValue(t.Context(), placeKey{}, place{tenant: 1, canary: Canary(seed, 1)}))
		w := httptest.NewRecorder()
		s.handleMCP(w, r)
		if w.Code == http.StatusAccepted && w.Body.Len() == 0 {
			return
		}
		var answer struct {
			Result, Error json.RawMessage
		}
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || (answer.Result == nil) == (answer.Error == nil) {
			t.Errorf("answer: got %d %q, %v, want a result or an error", w.Code, w.Body, err)
		}
		if bytes.Contains(answer.Error, []byte(Canary(seed, 1))) {
			t.Errorf("an error with a canary: %s", answer.Error)
		}
	})
}

func FuzzReadMessage(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x03\x0a\x01a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		err := readMessage(bytes.NewReader(b))
		if err == nil && (len(b) < 5 || b[0] != 0) {
			t.Errorf("%q is taken for a message", b)
		}
	})
}
