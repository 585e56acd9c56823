package proxy

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"crypto/x509"
	"encoding/pem"

	"github.com/polygate/polygate/internal/tenant"
)

// X10: a handshake that stands still, or trickles, is cut when the time for it is over; others do not notice.
func TestX10StalledHandshake(t *testing.T) {
	const limit = 300 * time.Millisecond
	f := newFront(t, func(c *Config) { c.Limits.HeaderTime = limit })
	hello := recordHello(t, hostA)
	for name, send := range map[string]func(net.Conn){
		"nothing is sent":       func(net.Conn) {},
		"half of the hello":     func(c net.Conn) { _, _ = c.Write(hello[:len(hello)/2]) },
		"nothing after a hello": func(c net.Conn) { _, _ = c.Write(hello) },
		"a byte now and then": func(c net.Conn) {
			for i := range hello {
				if _, err := c.Write(hello[i : i+1]); err != nil {
					return
				}
				<-time.After(5 * time.Millisecond)
			}
		},
		"a record of no end": func(c net.Conn) { _, _ = c.Write([]byte{22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc}) },
	} {
		c, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		began := time.Now()
		go send(c)
		_ = c.SetReadDeadline(began.Add(5 * time.Second))
		_, err = io.Copy(io.Discard, c)
		if d := time.Since(began); errors.Is(err, os.ErrDeadlineExceeded) || d > 3*time.Second {
			t.Errorf("%s: cut after %s: %v", name, d, err)
		}
	}
	if got := f.visit(hostB, keyB, &tls.Config{}); got.status != 200 {
		t.Errorf("a bystander: %+v", got)
	}
	if DefaultLimits().HeaderTime > 10*time.Second {
		t.Error("by default a handshake has more than 10 s")
	}
}

// recordHello returns the bytes of a ClientHello.
func recordHello(t *testing.T, sni string) []byte {
	t.Helper()
	a, b := net.Pipe()
	go func() {
		_ = tls.Client(a, &tls.Config{ServerName: sni, InsecureSkipVerify: true}).HandshakeContext(context.Background())
	}()
	defer a.Close()
	head := make([]byte, 5)
	if _, err := io.ReadFull(b, head); err != nil {
		t.Fatal(err)
	}
	rest := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(b, rest); err != nil {
		t.Fatal(err)
	}
	return append(head, rest...)
}

// records writes TLS 1.3 records of any type on a connection whose handshake crypto/tls has made.
type records struct {
	net.Conn
	aead cipher.AEAD
	iv   []byte
	seq  uint64
	key  []byte // the traffic secret
}

// openRecords connects with TLS_AES_128_GCM_SHA256.
func openRecords(t *testing.T, f *front, sni string) *records {
	t.Helper()
	raw, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	_ = raw.(*net.TCPConn).SetReadBuffer(1 << 10) // answers that nobody reads fill it soon
	_ = raw.(*net.TCPConn).SetWriteBuffer(1 << 10)
	var log bytes.Buffer
	c := tls.Client(raw, &tls.Config{ServerName: sni, RootCAs: f.issuer.pool(), MinVersion: tls.VersionTLS13, KeyLogWriter: &log, NextProtos: []string{"http/1.1"}})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if c.ConnectionState().CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skip("another cipher suite is preferred here")
	}
	for l := range strings.Lines(log.String()) {
		if p := strings.Fields(l); p[0] == "CLIENT_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(p[2])
			if err != nil {
				t.Fatal(err)
			}
			r := &records{Conn: raw}
			r.use(t, secret)
			return r
		}
	}
	t.Fatal("no traffic secret was logged")
	return nil
}

// use derives the keys of a traffic secret (RFC 8446 §7.3).
func (r *records) use(t *testing.T, secret []byte) {
	r.key, r.iv, r.seq = secret, expand(t, secret, "iv", 12), 0
	block, err := aes.NewCipher(expand(t, secret, "key", 16))
	if err != nil {
		t.Fatal(err)
	}
	if r.aead, err = cipher.NewGCM(block); err != nil {
		t.Fatal(err)
	}
}

func expand(t *testing.T, secret []byte, label string, n int) []byte {
	t.Helper()
	info := append([]byte{byte(n >> 8), byte(n), byte(len("tls13 " + label))}, "tls13 "+label...)
	out, err := hkdf.Expand(sha256.New, secret, string(append(info, 0)), n)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// seal makes one record.
func (r *records) seal(kind byte, content []byte) []byte {
	head := []byte{23, 3, 3, 0, 0}
	binary.BigEndian.PutUint16(head[3:], uint16(len(content)+1+16))
	nonce := bytes.Clone(r.iv)
	for i := range 8 {
		nonce[4+i] ^= byte(r.seq >> (56 - 8*i))
	}
	r.seq++
	return r.aead.Seal(head, nonce, append(bytes.Clone(content), kind), head)
}

// keyUpdate makes a KeyUpdate that asks for one in return (RFC 8446 §4.6.3).
func (r *records) keyUpdate(t *testing.T) []byte {
	t.Helper()
	b := r.seal(22, []byte{24, 0, 0, 1, 1})
	r.use(t, expand(t, r.key, "traffic upd", 32))
	return b
}

// narrow is a listener whose connections block early in writing, and tell when they are closed.
type narrow struct {
	net.Listener
	conns chan *watched
}

func (n narrow) Accept() (net.Conn, error) {
	c, err := n.Listener.Accept()
	if err != nil {
		return nil, err
	}
	w := &watched{TCPConn: c.(*net.TCPConn), closed: make(chan struct{})}
	n.conns <- w
	return w, w.SetWriteBuffer(1 << 10)
}

type watched struct {
	*net.TCPConn
	once   sync.Once
	closed chan struct{}
}

func (w *watched) Close() error {
	err := w.TCPConn.Close()
	w.once.Do(func() { close(w.closed) })
	return err
}

// X10: a flood of KeyUpdates is cut, also where data between them makes each look useful and nobody reads the answers. The
// client is not the one to ask when: with its buffer full it takes no acknowledgement, and maybe not the reset either.
func TestX10KeyUpdateFlood(t *testing.T) {
	const bound = 5 * time.Second // HeaderTime twice, and what a slow machine needs
	conns := make(chan *watched, 10)
	f := newFront(t, func(c *Config) {
		c.Public, c.Limits.HeaderTime, c.Limits.WriteIdle = narrow{c.Public, conns}, 2*time.Second, time.Second
	})
	r := openRecords(t, f, hostA)
	<-conns
	if _, err := r.Write(r.seal(23, []byte("GET /healthz HTTP/1.1\r\nHost: "+hostA+"\r\n\r\n"))); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAtLeast(r, make([]byte, 1<<16), 100); err != nil {
		t.Fatalf("a request in records of our own: %v", err)
	}
	for name, between := range map[string]int{"nothing else": 0, "data between": 15} {
		r := openRecords(t, f, hostA)
		server := <-conns
		_ = r.SetDeadline(time.Now().Add(bound))
		began, sent := time.Now(), 0
		var err error
		for err == nil {
			var burst []byte
			for range 100 {
				burst = append(burst, r.keyUpdate(t)...)
				if sent++; between > 0 && sent%between == 0 {
					burst = append(burst, r.seal(23, []byte("G"))...)
				}
			}
			_, err = r.Write(burst)
		}
		select {
		case <-server.closed:
			t.Logf("%s: cut after %d KeyUpdates and at most %s: %v", name, sent, time.Since(began), err)
		case <-time.After(time.Until(began.Add(bound + time.Second))):
			t.Errorf("%s: not cut after %d KeyUpdates and %s: %v", name, sent, time.Since(began), err)
		}
	}
	if got := f.visit(hostB, keyB, &tls.Config{}); got.status != 200 {
		t.Errorf("a bystander: %+v", got)
	}
}

// tool is a program with files for it.
type tool struct {
	t    *testing.T
	f    *front
	dir  string
	path string
}

func newTool(t *testing.T, f *front, name string) *tool {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skip(name + " is not installed")
	}
	o := &tool{t, f, t.TempDir(), path}
	o.write("root.pem", f.issuer.rootPEM())
	return o
}

func (o *tool) file(name string) string { return filepath.Join(o.dir, name) }

func (o *tool) write(name, text string) {
	o.t.Helper()
	if err := os.WriteFile(o.file(name), []byte(text), 0o600); err != nil {
		o.t.Fatal(err)
	}
}

// writePair writes a certificate and its key to cert.pem and key.pem.
func (o *tool) writePair(c *tls.Certificate) {
	o.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		o.t.Fatal(err)
	}
	o.write("cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})))
	o.write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

// run runs the program and returns all that it says. in is written line by line, each after something was heard, so that
// s_client takes them for commands.
func (o *tool) run(in []string, args ...string) string {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, o.path, args...)
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	stdin, err := cmd.StdinPipe()
	if err != nil {
		o.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		o.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	for _, line := range in {
		n := len(out.String())
		for end := time.Now().Add(2 * time.Second); len(out.String()) == n && time.Now().Before(end); {
			select {
			case <-done:
				return out.String()
			case <-time.After(10 * time.Millisecond):
			}
		}
		_, _ = io.WriteString(stdin, line)
	}
	if len(in) == 0 {
		_ = stdin.Close()
	}
	<-done
	return out.String()
}

// What openssl sees: alerts, versions, client certificates, no renegotiation.
func TestOpenSSL(t *testing.T) {
	f := newFront(t)
	o := newTool(t, f, "openssl")
	ca := newIssuer(t)
	o.writePair(certFor(t, ca, "client"))
	f.demand("team-b", &tenant.TLS{ClientCA: ca.rootPEM(), MinVersion: "1.3"})
	common := []string{"s_client", "-connect", f.addr, "-CAfile", o.file("root.pem"), "-verify_return_error"}
	request := func(host, key string) string {
		return "GET /x HTTP/1.1\r\nHost: " + host + "\r\n" + bearer(key) + "\r\nConnection: close\r\n\r\n"
	}
	pair := []string{"-cert", o.file("cert.pem"), "-key", o.file("key.pem")}
	for _, tc := range []struct {
		name string
		in   []string
		args []string
		want string
		not  string
	}{
		{"no name", nil, []string{"-noservername"}, "unrecognized name", "BEGIN CERTIFICATE"},
		{"unknown name", nil, []string{"-servername", "nobody." + base}, "unrecognized name", "BEGIN CERTIFICATE"},
		{"unknown name, TLS 1.2", nil, []string{"-servername", "nobody." + base, "-tls1_2"}, "unrecognized name", "BEGIN CERTIFICATE"},
		{"a known name", []string{request(hostA, keyA)}, []string{"-servername", hostA, "-ign_eof"}, "200 OK", ""},
		{"TLS 1.2 at a tenant of 1.3", nil, append([]string{"-servername", hostB, "-tls1_2"}, pair...), "protocol version", "BEGIN CERTIFICATE"},
		{"no client certificate", []string{request(hostB, keyB)}, []string{"-servername", hostB, "-ign_eof"}, "certificate required", "200 OK"},
		{"a client certificate", []string{request(hostB, keyB)}, append([]string{"-servername", hostB, "-ign_eof"}, pair...), "200 OK", ""},
		{"names of authorities", []string{"Q\n"}, append([]string{"-servername", hostB}, pair...), "CN = test CA", ""},
		{"validation", nil, []string{"-servername", hostA, "-alpn", acmeProto}, "ALPN protocol: " + acmeProto, ""},
		{"CBC suites", nil, []string{"-servername", hostA, "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:AES128-SHA"}, "alert handshake failure", ""},
		{"renegotiation", []string{"R\n", "Q\n"}, []string{"-servername", hostA, "-tls1_2"}, "RENEGOTIATING", "HTTP/"},
	} {
		got := o.run(tc.in, append(common, tc.args...)...)
		if !strings.Contains(got, tc.want) || tc.not != "" && strings.Contains(got, tc.not) {
			t.Errorf("%s: want %q and not %q in:\n%s", tc.name, tc.want, tc.not, got)
		}
	}
}

// What curl sees.
func TestCurl(t *testing.T) {
	f := newFront(t)
	o := newTool(t, f, "curl")
	ca := newIssuer(t)
	o.writePair(certFor(t, ca, "client"))
	f.demand("team-b", &tenant.TLS{ClientCA: ca.rootPEM()})
	_, port, _ := net.SplitHostPort(f.addr)
	curl := func(host, key string, args ...string) string {
		return o.run(nil, append([]string{"-sS", "--cacert", o.file("root.pem"), "--connect-to", "::127.0.0.1:" + port, "-w", "%{http_code} %{http_version}",
			"-H", bearer(key), "https://" + host + "/x"}, args...)...)
	}
	for _, proto := range []string{"--http1.1", "--http2"} {
		if got := curl(hostA, keyA, proto); !strings.Contains(got, "200 ") {
			t.Errorf("%s: %s", proto, got)
		}
		if got := curl(hostB, keyB, proto); strings.Contains(got, "200 ") || !strings.Contains(got, "curl: (") {
			t.Errorf("%s: without a certificate: %s", proto, got)
		}
		if got := curl(hostB, keyB, proto, "--cert", o.file("cert.pem"), "--key", o.file("key.pem")); !strings.Contains(got, "200 ") {
			t.Errorf("%s: with a certificate: %s", proto, got)
		}
	}
	if got := curl("nobody."+base, keyA); !strings.Contains(got, "unrecognized name") {
		t.Errorf("an unknown name: %s", got)
	}
}
