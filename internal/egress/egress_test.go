package egress_test

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polygate/polygate/internal/egress"
	"github.com/polygate/polygate/internal/fault"
)

func TestMain(m *testing.M) {
	os.Setenv("HTTP_PROXY", "http://127.0.0.4:9") // net/http reads it once
	goleak.VerifyTestMain(m)
}

// canary is a listener that must see no connection.
type canary struct {
	net.Listener
	hits atomic.Int32
}

func newCanary(t *testing.T, addr string) *canary {
	t.Helper()
	c := &canary{Listener: listen(t, addr)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := c.Accept()
			if err != nil {
				return
			}
			c.hits.Add(1)
			conn.Close()
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return c
}

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// expectSilence fails if the canary was connected to. A connection of ours that follows marks the end of what was queued.
func (c *canary) expectSilence(t *testing.T) {
	t.Helper()
	conn, err := net.Dial("tcp", c.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Read(make([]byte, 1)) // returns when the canary has accepted and closed it
	if n := c.hits.Load(); n != 1 {
		t.Errorf("the canary saw %d connections, want 1 (the test's own)", n)
	}
}

func serve(t *testing.T, addr string, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = listen(t, addr)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func allowing(p ...string) *egress.Guard {
	var cfg egress.Config
	for _, s := range p {
		cfg.Allow = append(cfg.Allow, netip.MustParsePrefix(s))
	}
	return egress.New(cfg)
}

func TestDialRefusesAndDoesNotConnect(t *testing.T) {
	c := newCanary(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(c.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "[::1]"} {
		conn, err := egress.New(egress.Config{}).DialContext(false)(t.Context(), "tcp", host+":"+port)
		if err == nil {
			conn.Close()
			t.Errorf("%s: connected", host)
			continue
		}
		if !errors.Is(err, egress.ErrRefused) || !fault.Is(err, fault.BadUpstream) {
			t.Errorf("%s: got %v, want a BadUpstream of ErrRefused", host, err)
		}
		if d := fault.From(err).Detail; strings.Contains(d, "127.") || strings.Contains(d, "::") {
			t.Errorf("%s: the detail tells the address: %q", host, d)
		}
	}
	c.expectSilence(t)
}

func TestDialTrustedAndAllowed(t *testing.T) {
	s := serve(t, "127.0.0.2:0", func(w http.ResponseWriter, _ *http.Request) {})
	for name, dial := range map[string]func(context.Context, string, string) (net.Conn, error){
		"trusted": egress.New(egress.Config{}).DialContext(true),
		"allowed": allowing("127.0.0.2/32").DialContext(false),
	} {
		conn, err := dial(t.Context(), "tcp", s.Listener.Addr().String())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		conn.Close()
	}
}

func TestDialOnlyTCP(t *testing.T) {
	for _, network := range []string{"udp", "unix", "ip4:icmp", ""} {
		if _, err := egress.New(egress.Config{}).DialContext(true)(t.Context(), network, "127.0.0.1:1"); !errors.Is(err, egress.ErrRefused) {
			t.Errorf("%q: got %v, want ErrRefused", network, err)
		}
	}
}

func TestDialErrorsStayTheDialers(t *testing.T) {
	l := listen(t, "127.0.0.2:0")
	addr := l.Addr().String()
	l.Close()
	_, err := allowing("127.0.0.2/32").DialContext(false)(t.Context(), "tcp", addr)
	var op *net.OpError
	if !errors.As(err, &op) || errors.Is(err, egress.ErrRefused) {
		t.Errorf("nobody listens: got %v, want a net.OpError", err)
	}
}

// TestRedirectIsJudgedAgain is X33: an allowed server sends the client to an address that is not.
func TestRedirectIsJudgedAgain(t *testing.T) {
	c := newCanary(t, "127.0.0.3:0")
	s := serve(t, "127.0.0.2:0", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+c.Addr().String()+"/latest/meta-data/", http.StatusFound)
	})
	_, err := allowing("127.0.0.2/32").Client(false).Get(s.URL)
	if !errors.Is(err, egress.ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
	c.expectSilence(t)
}

// TestEnvironmentProxyIsIgnored: a proxy would dial for us, past the guard. TestMain sets one.
func TestEnvironmentProxyIsIgnored(t *testing.T) {
	_, err := allowing("127.0.0.4/32").Client(false).Get("http://192.0.2.1/")
	if !errors.Is(err, egress.ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
}

func TestClientRedirects(t *testing.T) {
	s := serve(t, "127.0.0.2:0", func(w http.ResponseWriter, r *http.Request) {
		switch left := strings.TrimPrefix(r.URL.Path, "/"); left {
		case "":
			_, _ = io.WriteString(w, "there")
		case "file":
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(http.StatusFound)
		default:
			http.Redirect(w, r, "/"+left[1:], http.StatusFound)
		}
	})
	client := allowing("127.0.0.2/32").Client(false)
	for path, want := range map[string]string{"/": "", "/xxx": "", "/xxxx": "more than 3 redirects", "/file": "redirect from http to file"} {
		resp, err := client.Get(s.URL + path)
		if err == nil {
			resp.Body.Close()
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}

func TestClientRefusesDowngrade(t *testing.T) {
	c := newCanary(t, "127.0.0.3:0")
	s := httptest.NewUnstartedServer(http.RedirectHandler("http://"+c.Addr().String(), http.StatusFound))
	s.Listener.Close()
	s.Listener = listen(t, "127.0.0.2:0")
	s.StartTLS()
	t.Cleanup(s.Close)
	trusting := s.Client().Transport.(*http.Transport)
	trusting.TLSClientConfig.ServerName = "example.com" // which the test's certificate is for
	client := allowing("127.0.0.0/8").Client(false)
	client.Transport = trusting
	if _, err := client.Get(s.URL); err == nil || !strings.Contains(err.Error(), "redirect from https to http") {
		t.Errorf("got %v", err)
	}
	trusting.CloseIdleConnections()
	c.expectSilence(t)
}

// TestClientBounds is X34: bodies that do not end, or grow when unpacked, and answers that do not come.
func TestClientBounds(t *testing.T) {
	s := serve(t, "127.0.0.2:0", func(w http.ResponseWriter, r *http.Request) {
		chunk := make([]byte, 64<<10)
		switch r.URL.Path {
		case "/exact":
			_, _ = w.Write(make([]byte, egress.MaxFetchBytes))
		case "/over":
			_, _ = w.Write(make([]byte, egress.MaxFetchBytes+1))
		case "/endless":
			for {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		case "/bomb":
			w.Header().Set("Content-Encoding", "gzip")
			w.(http.Flusher).Flush()
			z := gzip.NewWriter(w)
			for range 1024 {
				_, _ = z.Write(chunk)
			}
			z.Close()
		case "/silent":
			<-r.Context().Done()
		}
	})
	cfg := egress.Config{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}, Fetch: time.Minute}
	patient := egress.New(cfg).Client(false)
	cfg.Fetch = 100 * time.Millisecond
	hasty := egress.New(cfg).Client(false)
	for path, want := range map[string]string{
		"/exact": "", "/over": "more than 1048576 bytes", "/endless": "more than 1048576 bytes",
		"/bomb": "compressed", "/silent": "exceeded",
	} {
		client := patient
		if path == "/silent" {
			client = hasty
		}
		n, err := get(client, s.URL+path)
		if n > egress.MaxFetchBytes {
			t.Errorf("%s: %d bytes read", path, n)
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}

func get(c *http.Client, url string) (int64, error) {
	resp, err := c.Get(url)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return io.Copy(io.Discard, resp.Body)
}

// TestRebinding answers a name with a public address first and a private one afterwards: only what is dialed counts.
func TestRebinding(t *testing.T) {
	c := newCanary(t, "127.0.0.3:0")
	_, port, _ := net.SplitHostPort(c.Addr().String())
	g := egress.New(egress.Config{Resolver: loopbackDNS(t, [4]byte{127, 0, 0, 3})})
	_, err := g.DialContext(false)(t.Context(), "tcp4", net.JoinHostPort("rebind.example", port))
	if !errors.Is(err, egress.ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
	c.expectSilence(t)
}

// loopbackDNS returns a resolver whose every A record is ip.
func loopbackDNS(t *testing.T, ip [4]byte) *net.Resolver {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 512)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(answerA(buf[:n], ip), from)
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
}

// answerA turns a DNS query of one question into its answer.
func answerA(q []byte, ip [4]byte) []byte {
	end := 12
	for q[end] != 0 {
		end += int(q[end]) + 1
	}
	end += 5 // the root label, type, class
	a := append([]byte(nil), q[:end]...)
	a[2], a[3] = 0x81, 0x80                 // response, recursion available, no error
	copy(a[6:12], []byte{0, 1, 0, 0, 0, 0}) // one answer
	a = append(a, 0xc0, 12, 0, 1, 0, 1)     // the question's name, A, IN
	a = append(a, 0, 0, 0, 0, 0, 4)         // TTL 0, 4 bytes
	return append(a, ip[:]...)
}
