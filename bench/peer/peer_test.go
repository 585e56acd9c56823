package peer

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/backend"
)

// TestRoutes asks every subject for every tenant, in both HTTPs.
func TestRoutes(t *testing.T) {
	each(t, func(t *testing.T, p Peer) {
		r := newRig(t, 5, NoAuth)
		run := r.start(p)
		for i := range r.site.Tenants {
			for _, major := range []int{1, 2} {
				a := r.do(r.client(run, i, major == 2), r.request("GET", i, "/", "", nil))
				if wrong := r.right(a, i); wrong != "" || a.proto != major || a.tls != tls.VersionTLS13 {
					t.Errorf("tenant %d: HTTP/%d, %s, %s; want HTTP/%d and a right answer", i, a.proto, tls.VersionName(a.tls), wrong, major)
				}
			}
		}
		body := bytes.Repeat([]byte("x"), 3<<20)
		if wrong := r.right(r.do(r.client(run, 1, false), r.request("POST", 1, "/", "", body)), 1); wrong != "" {
			t.Errorf("POST of %d bytes: %s", len(body), wrong)
		}
	})
}

// TestKeys shows that a tenant's key opens its own host and nothing else does.
func TestKeys(t *testing.T) {
	each(t, func(t *testing.T, p Peer) {
		r := newRig(t, 3, KeyAuth)
		run := r.start(p)
		key := r.site.Tenants[1].Key
		for _, c := range []struct {
			name, header string
			want         int
		}{
			{"its own", "Authorization: Bearer " + key, 200},
			{"none", "", 401},
			{"another tenant's", "Authorization: Bearer " + r.site.Tenants[2].Key, 401},
			{"nobody's", "Authorization: Bearer pk_nobody", 401},
			{"an empty one", "Authorization: Bearer ", 401},
			{"in capitals", "Authorization: Bearer " + strings.ToUpper(key), 401},
			{"with more behind it", "Authorization: Bearer " + key + "0", 401},
			{"cut", "Authorization: Bearer " + key[:len(key)-1], 401},
			{"in another scheme", "Authorization: Basic " + key, 401},
			{"in another header", "X-Api-Key: " + key, 401},
		} {
			for _, path := range []string{"/", "/events?n=1", "/ws", "/mcp", backend.EchoMethod} {
				a := r.do(r.client(run, 1, false), r.request("GET", 1, path, c.header, nil))
				if path == "/" && a.status != c.want || c.want == 401 && a.status != 401 {
					t.Errorf("key %s at %s: status %d, want %d", c.name, path, a.status, c.want)
				}
				if c.want != 200 && strings.Contains(a.body, backend.Marker) {
					t.Errorf("key %s at %s: refused, and yet the upstream's answer came", c.name, path)
				}
			}
		}
	})
}

// TestForeignHost shows that a connection made for one tenant reaches another one only with that one's key.
func TestForeignHost(t *testing.T) {
	each(t, func(t *testing.T, p Peer) {
		r := newRig(t, 2, KeyAuth)
		run := r.start(p)
		for name, key := range map[string]string{"the connection's key": r.site.Tenants[0].Key, "no key": ""} {
			a := r.do(r.client(run, 0, false), r.request("GET", 1, "/", "Authorization: Bearer "+key, nil))
			if a.status < 400 || strings.Contains(a.body, backend.Marker) {
				t.Errorf("%s: status %d: %.60s", name, a.status, a.body)
			}
		}
	})
}

// TestUnknownHost shows that a host that no tenant has is nobody's, whatever the connection was made for.
func TestUnknownHost(t *testing.T) {
	each(t, func(t *testing.T, p Peer) {
		r := newRig(t, 2, NoAuth)
		run := r.start(p)
		for _, host := range []string{"nobody.bench.test", "xt0.bench.test", "bench.test"} {
			req := r.request("GET", 0, "/", "", nil)
			req.Host = host
			if a := r.do(r.client(run, 0, false), req); a.status < 400 || strings.Contains(a.body, backend.Marker) {
				t.Errorf("host %s: status %d: %.60s", host, a.status, a.body)
			}
		}
	})
}

// TestUnknownName shows that who asks for a name that no tenant has gets no certificate of one.
func TestUnknownName(t *testing.T) {
	each(t, func(t *testing.T, p Peer) {
		r := newRig(t, 2, NoAuth)
		run := r.start(p)
		c, err := tls.Dial("tcp", run.Addr(0), &tls.Config{InsecureSkipVerify: true, ServerName: "nobody.bench.test"})
		if err == nil {
			defer c.Close()
			t.Error("a name that no tenant has got a handshake")
		}
	})
}

// TestKeptUpstream shows that connections to the upstream are kept, or the comparison would be of handshakes.
func TestKeptUpstream(t *testing.T) {
	each(t, func(t *testing.T, p Peer) {
		r := newRig(t, 1, NoAuth)
		l, opened := countingUpstream(t)
		r.site.Tenants[0].Upstream = l
		run := r.start(p)
		c := r.client(run, 0, false)
		for range 50 {
			if a := r.do(c, r.request("GET", 0, "/", "", nil)); a.status != 200 {
				t.Fatalf("status %d: %s", a.status, a.body)
			}
		}
		if n := opened(); n > 2 {
			t.Errorf("%d connections to the upstream for 50 requests one after the other, want 1", n)
		}
	})
}

// TestLog shows that a subject writes a line for each request, and none when it shall not.
func TestLog(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		var o []Option
		want := 40
		if quiet {
			o, want = append(o, WithoutLog()), 0
		}
		for _, p := range subjects(t, o...) {
			t.Run(fmt.Sprint(p.Name(), " quiet ", quiet), func(t *testing.T) {
				r := newRig(t, 2, NoAuth)
				run := r.start(p)
				c := r.client(run, 1, false)
				for i := range 40 {
					r.do(c, r.request("GET", 1, fmt.Sprint("/?asked=", i), "", nil))
				}
				// The line is written after the answer, and by Caddy from a buffer.
				for end := time.Now().Add(5 * time.Second); asked(t, r.site.Dir) < want && time.Now().Before(end); {
					<-time.After(5 * time.Millisecond)
				}
				if err := run.Stop(); err != nil {
					t.Fatal(err)
				}
				if got := asked(t, r.site.Dir); got != want {
					t.Errorf("%d lines for 40 requests, want %d", got, want)
				}
			})
		}
	}
}

// asked counts the lines with a request in all files below a folder.
func asked(t *testing.T, dir string) int {
	t.Helper()
	lines := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".log") {
			return err
		}
		b, err := os.ReadFile(path)
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, "GET") {
				lines++
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// TestStop shows that nothing is left of a subject, not its port nor a process, and that stopping again does no harm.
func TestStop(t *testing.T) {
	each(t, func(t *testing.T, p Peer) {
		r := newRig(t, 2, NoAuth)
		run := r.start(p) // looks for processes of its group when the test ends
		for range 2 {
			if err := run.Stop(); err != nil {
				t.Error(err)
			}
		}
		if c, err := net.Dial("tcp", run.Addr(1)); err == nil {
			c.Close()
			t.Errorf("something still listens at %s", run.Addr(1))
		}
	})
}

// TestStopAfterCrash shows that the workers of a master that was killed end with Stop. The rig looks for them when the test ends.
func TestStopAfterCrash(t *testing.T) {
	each(t, func(t *testing.T, p Peer) {
		r := newRig(t, 2, NoAuth)
		run := r.start(p)
		for _, pid := range run.PIDs() {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		if err := run.Stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestBadSite shows that a subject that cannot start says why, in its own words, and leaves nothing.
func TestBadSite(t *testing.T) {
	each(t, func(t *testing.T, p Peer) {
		r := newRig(t, 2, NoAuth)
		if err := os.WriteFile(r.site.Tenants[1].CertFile, []byte("no certificate"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := p.Start(t.Context(), r.site)
		if err == nil || Skippable(err) || !strings.Contains(err.Error(), "ended before it served") || !strings.Contains(err.Error(), ".log") {
			t.Errorf("Start = %v, want what the subject said", err)
		}
	})
}

// TestCores shows that a subject and its workers stay on the cores that they were given, with a worker for each.
func TestCores(t *testing.T) {
	each(t, func(t *testing.T, p Peer) {
		r := newRig(t, 1, NoAuth)
		r.site.Cores = []int{0}
		run := r.start(p)
		for _, pid := range run.PIDs() {
			for _, member := range append(childrenOf(t, pid), pid) {
				if got := cpusOf(t, member); got != "0" {
					t.Errorf("process %d may run on %s, want 0", member, got)
				}
			}
			if n := len(childrenOf(t, pid)); n > 1 {
				t.Errorf("%d workers for one core", n)
			}
		}
	})
}

func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := find("no-such-program"); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "apt-get install") {
		t.Errorf("find = %v, want ErrMissing and what to install", err)
	}
	empty := t.TempDir()
	for _, p := range []Peer{Caddy(empty), CaddyEach(empty)} {
		_, err := p.Version(t.Context())
		_, started := p.Start(t.Context(), &Site{Tenants: make([]Tenant, 1)})
		if !errors.Is(err, ErrMissing) || !errors.Is(started, ErrMissing) {
			t.Errorf("%s: Version = %v, Start = %v, want ErrMissing", p.Name(), err, started)
		}
	}
	if err := Install(t.Context(), empty, nil); !errors.Is(err, ErrMissing) {
		t.Errorf("Install without Go = %v, want ErrMissing", err)
	}
}

func TestCannotJWT(t *testing.T) {
	for _, p := range subjects(t) {
		if p.Name() == "haproxy" {
			continue
		}
		s := &Site{Auth: JWTAuth, Tenants: make([]Tenant, 1), Dir: t.TempDir()}
		if _, err := p.Start(t.Context(), s); !Skippable(err) {
			t.Errorf("%s with JWT: %v, want ErrCannot", p.Name(), err)
		}
	}
}

func TestDirect(t *testing.T) {
	r := newRig(t, 3, NoAuth)
	run := r.start(Direct(r.ports.TLS, os.Getpid()))
	for i := range r.site.Tenants {
		for _, h2 := range []bool{false, true} {
			if wrong := r.right(r.do(r.client(run, i, h2), r.request("GET", i, "/", "", nil)), i); wrong != "" {
				t.Errorf("tenant %d: %s", i, wrong)
			}
		}
	}
	if _, err := Direct(1).Start(t.Context(), r.site); err == nil {
		t.Error("an upstream that does not listen was accepted")
	}
}

// countingUpstream answers everything and counts connections.
func countingUpstream(t *testing.T) (addr string, opened func() int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan struct{}, 1000)
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				conns <- struct{}{}
			}
		},
	}
	done := make(chan struct{})
	go func() {
		_ = server.Serve(l)
		close(done)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return l.Addr().String(), func() int { return len(conns) }
}
