package proxy

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// A door that is closed lets nobody in, those that wait for a place neither; it does not spend places on what fails.
func TestDoor(t *testing.T) {
	l := listen(t)
	d := newDoor(l, 1)
	first, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	c, err := d.Accept()
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	go func() { _, err := d.Accept(); waiting <- err }()
	select {
	case err := <-waiting:
		t.Fatalf("a second connection is let in: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	d.Close()
	if err := <-waiting; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept when closed: %v", err)
	}
	for range 3 {
		c.Close() // more than once gives one place back
	}
	if len(d.slots) != 0 {
		t.Errorf("%d places taken", len(d.slots))
	}
	if _, err := d.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
}

// A connection that was taken looks to its former owners as if all went well, and does nothing of what they ask.
func TestTakenConnection(t *testing.T) {
	client, server := tcpPair(t)
	d := newDoor(nil, 1)
	d.slots <- struct{}{}
	c := &helloConn{Conn: server, door: d}
	pass(t, client, c, "hello")
	if !c.take() || c.take() {
		t.Fatal("it is to be taken once")
	}
	if n, err := c.Write([]byte("alert")); n != 5 || err != nil {
		t.Errorf("Write: %d, %v", n, err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, errSpliced) {
		t.Errorf("Read: %v", err)
	}
	for _, err := range []error{c.Close(), c.SetDeadline(past), c.SetReadDeadline(past), c.SetWriteDeadline(past)} {
		if err != nil {
			t.Error(err)
		}
	}
	if string(*c.hello) != "hello" || len(d.slots) != 1 {
		t.Errorf("kept %q, %d places taken", *c.hello, len(d.slots))
	}
	talk(t, client, server) // nothing was written, closed or given a deadline
	c.leave()
	if len(d.slots) != 0 {
		t.Error("it keeps its place")
	}
	c = &helloConn{Conn: server, door: d}
	d.slots <- struct{}{}
	c.Close()
	if c.take() {
		t.Error("a closed connection is taken")
	}
}

// What is kept of a hello that does not end is bounded.
func TestHelloIsBounded(t *testing.T) {
	d := newDoor(nil, 1)
	c := &helloConn{Conn: &wire{in: make([]byte, 1<<20), piece: 1000}, door: d}
	n, err := 0, error(nil)
	for buf := make([]byte, 4096); err == nil; n++ {
		_, err = c.Read(buf)
	}
	if !errors.Is(err, errHelloTooLong) || n*1000 > maxHello+2000 || n*1000 < 66<<10 {
		t.Errorf("%d bytes were read, and then %v", n*1000, err)
	}
}

// OpenSSL and curl, which Go did not write, go through as well.
func TestPassthroughOtherClients(t *testing.T) {
	g := newOwnGateway(t, http.HandlerFunc(whoami))
	f := newFront(t, splicing(t))
	f.put(passthrough("team-p", g.addr))
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.ca.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(f.addr)
	for name, args := range map[string][]string{
		"openssl": {"s_client", "-connect", f.addr, "-servername", hostP, "-CAfile", ca, "-verify_return_error", "-verify_hostname", hostP, "-quiet", "-ign_eof"},
		"curl":    {"-sS", "--max-time", "10", "--cacert", ca, "--resolve", hostP + ":" + port + ":127.0.0.1", "https://" + hostP + ":" + port + "/"},
	} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Logf("%s is not installed", name)
			continue
		}
		cmd := exec.Command(path, args...)
		cmd.Stdin = strings.NewReader("GET / HTTP/1.1\r\nHost: " + hostP + "\r\nConnection: close\r\n\r\n")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "own gateway: nobody at "+hostP) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// wire is a client's end that was written before: it gives its bytes in pieces, and keeps what it is sent.
type wire struct {
	net.Conn // nil: for the methods that nobody calls
	in       []byte
	piece    int
	out      bytes.Buffer
	closed   atomic.Bool
}

func (w *wire) Read(p []byte) (int, error) {
	if len(w.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), w.piece)], w.in)
	w.in = w.in[n:]
	return n, nil
}

func (w *wire) Write(p []byte) (int, error)      { return w.out.Write(p) }
func (w *wire) Close() error                     { w.closed.Store(true); return nil }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }
func (w *wire) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
func (w *wire) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2} }

// named returns the server name that crypto/tls by itself reads of the bytes; ok = it came that far.
func named(in []byte) (name string, ok bool) {
	stop := errors.New("seen")
	_ = tls.Server(&wire{in: in, piece: 1 << 20}, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		name, ok = h.ServerName, true
		return nil, stop
	}}).Handshake()
	return name, ok
}

// Whatever a client sends, in whatever pieces: no panic; it is spliced if and only if crypto/tls names a host of such a
// tenant, then with every byte and without an answer of ours; and nothing is kept of a connection that goes on.
func FuzzHello(f *testing.F) {
	for _, name := range []string{hostP, "TEAM-P.gw.test", customP, hostA, "nobody.gw.test", ""} {
		for _, cfg := range []*tls.Config{{}, {MaxVersion: tls.VersionTLS12}, {NextProtos: []string{"acme-tls/1"}}} {
			cfg.ServerName, cfg.InsecureSkipVerify = name, true
			hello := helloBytes(f, cfg)
			f.Add(hello, uint16(1))
			f.Add(append(bytes.Clone(hello), "\x17\x03\x03\x00\x05early"...), uint16(9000))
			f.Add(rerecord(hello, 3), uint16(4))
			f.Add(hello[:len(hello)/2], uint16(100))
		}
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint16(3))
	f.Add([]byte("\x80\x2e\x01\x00\x02"), uint16(1))
	dir := &directory{entries: map[tenant.ID]*tenant.Entry{}}
	for _, r := range []*tenant.Record{passthrough("team-p", "192.0.2.1:443"), virtual("team-a")} {
		dir.entries[r.ID] = &tenant.Entry{Record: r, Scope: tenant.Confine(r.ID, r.UID)}
	}
	ours, err := newIssuer(f).issue(hostA)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in []byte, piece uint16) {
		if len(in) > maxHello {
			return // whether the hello's end is before the bound is not asked here
		}
		s := &Server{cfg: Config{Directory: dir}, splices: newSplices(), log: slog.New(slog.DiscardHandler)}
		s.splices.close() // what is spliced ends at once, and is looked at here
		w := &wire{in: bytes.Clone(in), piece: max(1, int(piece))}
		d := newDoor(nil, 1)
		d.slots <- struct{}{}
		c := &helloConn{Conn: w, door: d}
		var kept []byte
		err := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*ours}, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			if c.hello != nil {
				kept = bytes.Clone(*c.hello)
			}
			if s.passthrough(h) {
				return nil, errSpliced
			}
			return nil, nil
		}}).Handshake()
		name, ok := named(in)
		e, known := dir.ByHost(strings.ToLower(name))
		want := ok && known && e.Record.Mode == tenant.ModePassthrough
		taken := c.state.Load() == helloSpliced
		if taken != want {
			t.Fatalf("taken %v for %q, want %v: %v", taken, name, want, err)
		}
		if taken {
			if all := append(kept, w.in...); !bytes.Equal(all, in) {
				t.Fatalf("%d bytes of %d are left", len(all), len(in))
			}
			if w.out.Len() > 0 {
				t.Fatalf("the client was sent %x", w.out.Bytes())
			}
			return
		}
		if c.state.Load() == helloTerminated && c.hello != nil {
			t.Fatal("the hello is kept")
		}
	})
}
