package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// Who is not served any more is cut at once: suspended, deleted, or deleted and made again.
func TestPassthroughRevoked(t *testing.T) {
	g := newRawGateway(t)
	for name, end := range map[string]func(f *front){
		"suspended": func(f *front) {
			f.change("team-p", func(r *tenant.Record) { r.State = tenant.StateSuspended })
		},
		"deleted": func(f *front) { f.drop("team-p") },
		"made again": func(f *front) {
			f.change("team-p", func(r *tenant.Record) { r.UID = "another" })
		},
	} {
		f := newFront(t, splicing(t))
		f.put(passthrough("team-p", g.addr()))
		client, up := f.spliced(g)
		talk(t, client, up)
		began := time.Now()
		end(f)
		wantReset(t, name+", client", client)
		wantReset(t, name+", gateway", up)
		if took := time.Since(began); took > time.Second {
			t.Errorf("%s: cut after %v", name, took)
		}
		eventually(t, "it ends", func() bool { return f.open() == 0 })
		f.wantEvent(`"status":101`, `"kind":`)
	}
}

// A connection whose tenant is suspended before it has its place is cut as well: what Revalidate could not find yet, the
// connection finds itself.
func TestPassthroughSuspendedWhileBeginning(t *testing.T) {
	g := newRawGateway(t)
	f := newFront(t, splicing(t))
	f.put(passthrough("team-p", g.addr()))
	old := f.entry("team-p")
	f.change("team-p", func(r *tenant.Record) { r.State = tenant.StateSuspended })
	client, server := tcpPair(t)
	hello := []byte("a hello")
	c := &helloConn{Conn: server, door: newDoor(nil, 1), hello: &hello}
	c.door.slots <- struct{}{}
	if !c.take() {
		t.Fatal("not taken")
	}
	f.splice(c, old, hostP)
	wantReset(t, "suspended meanwhile", client)
	g.none("suspended meanwhile")
	client = f.tcp()
	_, _ = client.Write(helloBytes(t, &tls.Config{ServerName: hostP}))
	wantReset(t, "suspended before", client)
	g.none("suspended before")
	f.wantEvent(`"status":503`, "suspended")
}

// tcpPair returns both ends of a TCP connection.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l := listen(t)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); d.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

// After a change of mode, upstream or host, connections stay until they end, or until max_drain; a change back in time
// keeps them.
func TestPassthroughDrain(t *testing.T) {
	t.Parallel()
	g, other := newRawGateway(t), newRawGateway(t)
	for name, change := range map[string]func(*tenant.Record){
		"mode":     func(r *tenant.Record) { r.Mode, r.Passthrough = tenant.ModeVirtual, nil },
		"upstream": func(r *tenant.Record) { r.Passthrough.Upstream = other.addr() },
	} {
		f := newFront(t, splicing(t, func(p *Passthrough) { p.MaxDrain = time.Second }),
			func(c *Config) { c.Limits.WriteIdle = 80 * time.Millisecond })
		f.put(passthrough("team-p", g.addr()))
		client, up := f.spliced(g)
		back := f.entry("team-p").Record.Clone()
		f.change("team-p", change)
		f.put(back) // in time
		time.Sleep(1300 * time.Millisecond)
		talk(t, client, up)
		f.change("team-p", change)
		began := time.Now()
		talk(t, client, up)
		wantReset(t, name, client)
		if took := time.Since(began); took < 900*time.Millisecond || took > 4*time.Second {
			t.Errorf("%s: cut after %v", name, took)
		}
		f.wantEvent("max_drain", `"status":101`)
		eventually(t, "the audit has it", func() bool { return strings.Contains(strings.Join(f.outcomes(), ","), "unavailable") })
	}
	f := newFront(t, splicing(t), func(c *Config) { c.Limits.WriteIdle = 80 * time.Millisecond }) // without max_drain
	f.put(passthrough("team-p", g.addr()))
	client, up := f.spliced(g)
	f.change("team-p", func(r *tenant.Record) { r.Mode, r.Passthrough = tenant.ModeVirtual, nil })
	time.Sleep(500 * time.Millisecond)
	talk(t, client, up)
}

// A custom host that the tenant lost leads to it no more: new connections at once, old ones by max_drain.
func TestPassthroughLosesHost(t *testing.T) {
	g := newRawGateway(t)
	f := newFront(t, splicing(t, func(p *Passthrough) { p.MaxDrain = 200 * time.Millisecond }),
		func(c *Config) { c.Limits.WriteIdle = 80 * time.Millisecond })
	f.put(passthrough("team-p", g.addr()))
	own, ownUp := f.spliced(g)
	client := f.tcp()
	_, _ = client.Write(helloBytes(t, &tls.Config{ServerName: customP}))
	up := g.next()
	pass(t, up, client, "hi")
	f.change("team-p", func(r *tenant.Record) { r.Hosts = nil })
	wantReset(t, "on the lost host", client)
	talk(t, own, ownUp)
	if _, err := f.tlsDial(&tls.Config{ServerName: customP, InsecureSkipVerify: true}); err == nil {
		t.Error("the lost host is served")
	}
}

// Modes change under load: virtual, passthrough, dedicated and back. Every request is answered by whom the mode says, at
// once for new connections; no request fails, on connections of before either, and spliced connections stay.
func TestPassthroughChangesUnderLoad(t *testing.T) {
	g := newOwnGateway(t, http.HandlerFunc(whoami))
	dedicatedTo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "dedicated") }))
	t.Cleanup(dedicatedTo.Close)
	f := newFront(t, splicing(t))
	records := map[tenant.Mode]*tenant.Record{
		tenant.ModeVirtual:     virtual("team-p", key("p", "key-of-team-p", tenant.Editor)),
		tenant.ModePassthrough: passthrough("team-p", g.addr, key("p", "key-of-team-p", tenant.Editor)),
		tenant.ModeDedicated:   dedicated("team-p", dedicatedTo.URL, tenant.AuthGateway, key("p", "key-of-team-p", tenant.Editor)),
	}
	f.put(records[tenant.ModeVirtual].Clone())
	both := f.issuer.pool()
	both.AddCert(g.ca.cert)
	answers := map[string]tenant.Mode{"tenant=": tenant.ModeVirtual, "own gate": tenant.ModePassthrough, "dedicate": tenant.ModeDedicated}
	ask := func(c *http.Client) (tenant.Mode, error) {
		req, _ := http.NewRequest("GET", "https://"+hostP+"/x", nil)
		req.Header.Set("Authorization", "Bearer key-of-team-p")
		res, err := c.Do(req)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil || len(b) < 8 {
			return "", errors.Join(errors.New(string(b)), err)
		}
		for prefix, m := range answers {
			if strings.HasPrefix(string(b), prefix) {
				return m, nil
			}
		}
		return "", errors.New(string(b))
	}
	client := func(h2 bool) *http.Client { return f.spliceClient(&tls.Config{RootCAs: both}, h2) }
	var asked, failed atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	var load sync.WaitGroup
	for i := range 6 {
		c := client(i%2 == 0) // keeps its connection: who is answered by may lag, but never fails
		load.Go(func() {
			for ctx.Err() == nil {
				if _, err := ask(c); err != nil {
					failed.Add(1)
					t.Errorf("under load: %v", err)
					return
				}
				asked.Add(1)
			}
		})
	}
	spliced := client(false)
	for round := range 4 {
		for _, m := range []tenant.Mode{tenant.ModeVirtual, tenant.ModePassthrough, tenant.ModeDedicated, tenant.ModePassthrough, tenant.ModeVirtual} {
			f.put(records[m].Clone())
			c := client(round%2 == 0)
			if got, err := ask(c); got != m || err != nil {
				t.Errorf("a new connection in mode %s is answered by %q: %v", m, got, err)
			}
			c.CloseIdleConnections()
			if m == tenant.ModePassthrough && round == 0 {
				_, _ = ask(spliced)
			}
			n := asked.Load()
			eventually(t, "load goes on", func() bool { return asked.Load() > n+20 || failed.Load() > 0 })
		}
	}
	if got, err := ask(spliced); got != tenant.ModePassthrough || err != nil {
		t.Errorf("the spliced connection did not stay: %q, %v", got, err)
	}
	cancel()
	load.Wait()
}

// A connection that was terminated before the change keeps being served as it was, and is asked to go: by Connection:
// close, and on HTTP/2 by GOAWAY.
func TestPassthroughConnectionsOfBefore(t *testing.T) {
	g := newRawGateway(t)
	seen := make(chan string, 10)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Get("X-Forwarded-User") + " " + r.URL.Path
		_, _ = io.WriteString(w, "dedicated")
	}))
	t.Cleanup(upstream.Close)
	f := newFront(t, splicing(t))
	k := key("p", "key-of-team-p", tenant.Editor)
	request := "GET /tenant/team-p/servers HTTP/1.1\nHost: " + hostP + "\n" + bearer("key-of-team-p") + "\n\n"
	for _, before := range []*tenant.Record{virtual("team-p", k), dedicated("team-p", upstream.URL, tenant.AuthGateway, k)} {
		f.put(before.Clone())
		c := f.raw(hostP)
		h2 := f.client("h2")
		if got := f.do(h2, "GET", "https://"+hostP+"/x", nil, bearer("key-of-team-p")); got.status != 200 {
			t.Fatalf("before: %d %s", got.status, got.body)
		}
		f.put(passthrough("team-p", g.addr(), k))
		c.send(request)
		got := c.answer()
		if got.status != 200 || !c.closed() {
			t.Errorf("%s, HTTP/1.1: %d %q, or the connection stays", before.Mode, got.status, got.body)
		}
		if virtual := strings.HasPrefix(got.body, "tenant=team-p path=/servers"); virtual != (before.Mode == tenant.ModeVirtual) {
			t.Errorf("%s: %q", before.Mode, got.body)
		}
		if got := f.do(h2, "GET", "https://"+hostP+"/x", nil, bearer("key-of-team-p")); got.status != 200 {
			t.Errorf("%s, HTTP/2: %d", before.Mode, got.status)
		}
		go func() { _, _ = h2.Get("https://" + hostP + "/y") }() // on a new connection: GOAWAY has come
		g.next().Close()
	}
	if got := <-seen; got != "name of p /x" {
		t.Errorf("the dedicated gateway saw %q", got)
	}
	f.put(virtual("team-p", k)) // without its custom host: one of two tenants must have it
	f.change("team-a", func(r *tenant.Record) { r.Hosts = []string{customP} })
	moved := f.raw(customP)
	f.change("team-a", func(r *tenant.Record) { r.Hosts = nil })
	f.put(passthrough("team-p", g.addr(), k))
	moved.send("GET /servers HTTP/1.1\nHost: " + customP + "\n" + bearer("key-of-team-p") + "\n\n")
	check(t, "a host that such a tenant got from another", moved.answer().status, 421)
	c := f.raw2(t, hostP, virtual("team-p", k), passthrough("team-p", g.addr())) // the key is revoked with the change
	c.send(request)
	check(t, "a key that is no more", c.answer().status, 401)
}

// raw2 opens a connection while a record is in force, and puts another in its place.
func (f *front) raw2(t *testing.T, sni string, before, after *tenant.Record) *rawConn {
	t.Helper()
	f.put(before)
	c := f.raw(sni)
	f.put(after)
	return c
}

// The bounds: in total, of the tenant, of its streams, of its rate. Who is over one is reset, and nobody else.
func TestPassthroughBounds(t *testing.T) {
	g := newRawGateway(t)
	hello := helloBytes(t, &tls.Config{ServerName: hostP})
	for _, tc := range []struct {
		name  string
		edit  func(*Passthrough)
		quota tenant.Quotas
		event string
	}{
		{"in total", func(p *Passthrough) { p.MaxConnections = 2 }, tenant.Quotas{}, "max_connections"},
		{"of a tenant", func(p *Passthrough) { p.MaxPerTenant = 2 }, tenant.Quotas{}, "max_connections_per_tenant"},
		{"streams", func(*Passthrough) {}, tenant.Quotas{MaxStreams: 2}, "quota of 2 streams"},
		{"concurrency", func(*Passthrough) {}, tenant.Quotas{MaxConcurrentRequests: 2}, "2 concurrent"},
		{"rate", func(*Passthrough) {}, tenant.Quotas{RequestsPerSecond: 0.01, Burst: 2}, "requests per second"},
	} {
		f := newFront(t, splicing(t, tc.edit))
		r := passthrough("team-p", g.addr())
		r.Quotas = tc.quota
		f.put(r)
		a, aUp := f.spliced(g)
		b, bUp := f.spliced(g)
		c := f.tcp()
		_, _ = c.Write(hello)
		wantReset(t, tc.name, c)
		g.none(tc.name)
		f.wantEvent(tc.event)
		talk(t, a, aUp)
		talk(t, b, bUp)
		if tc.name == "rate" {
			continue
		}
		a.Close()
		aUp.Close()
		eventually(t, "one ends", func() bool { return f.open() == 1 })
		c, cUp := f.spliced(g)
		talk(t, c, cUp)
	}
}

// Spliced connections, which need no credential, leave a tenth of the listener's places to the others.
func TestPassthroughLeavesPlaces(t *testing.T) {
	g := newRawGateway(t)
	f := newFront(t, splicing(t), func(c *Config) { c.Limits.Connections, c.Limits.ConnectionsPerAddress = 10, 10 })
	f.put(passthrough("team-p", g.addr()))
	for range 9 {
		f.spliced(g)
	}
	c := f.tcp()
	_, _ = c.Write(helloBytes(t, &tls.Config{ServerName: hostP}))
	wantReset(t, "one too many", c)
	f.wantEvent("limits.max_connections")
	check(t, "a terminated one", f.ask(hostA, "GET /x HTTP/1.1\nHost: "+hostA+"\n"+bearer(keyA)+"\nConnection: close\n\n").status, 200)
}

// A client whom the gateway turned away cannot keep its place by saying nothing; what the gateway said last still reaches a
// client that reads late, and one that goes on talking is heard.
func TestPassthroughAbandoned(t *testing.T) {
	g := newRawGateway(t)
	f := newFront(t, splicing(t, func(p *Passthrough) { p.HandshakeTime = 400 * time.Millisecond }))
	f.put(passthrough("team-p", g.addr()))
	silent, silentUp := f.spliced(g)
	pass(t, silentUp, silent, "alert")
	talking, talkingUp := f.spliced(g)
	pass(t, talkingUp, talking, "half")
	last := make([]byte, 512<<10)
	wrote := make(chan error, 1)
	go func() { _, err := silentUp.Write(last); wrote <- errors.Join(err, silentUp.Close()) }()
	_ = talkingUp.CloseWrite()
	for range 8 {
		time.Sleep(100 * time.Millisecond)
		pass(t, talking, talkingUp, ".")
	}
	eventually(t, "the silent one gives its place back", func() bool { return f.open() == 1 })
	n, err := io.Copy(io.Discard, silent)
	if err := errors.Join(err, <-wrote); int(n) != len(last) || err != nil {
		t.Errorf("the client read %d bytes of %d and %v", n, len(last), err)
	}
	f.wantEvent(`"status":101`, `"bytes_out":524293`)
	eventually(t, "so does one that stops", func() bool { return f.open() == 0 })
}

// A spliced connection keeps its place among those of the listener until it ends.
func TestPassthroughKeepsItsPlace(t *testing.T) {
	g := newRawGateway(t)
	f := newFront(t, splicing(t), func(c *Config) { c.Limits.Connections, c.Limits.ConnectionsPerAddress = 2, 2 })
	f.put(passthrough("team-p", g.addr()))
	a, aUp := f.spliced(g)
	b, bUp := f.spliced(g)
	c := f.tcp()
	_, _ = c.Write(helloBytes(t, &tls.Config{ServerName: hostP}))
	time.Sleep(100 * time.Millisecond)
	g.none("a third")
	a.Close()
	aUp.Close()
	up := g.next()
	pass(t, up, c, "in")
	for _, c := range []*net.TCPConn{b, bUp, c, up} {
		c.Close()
	}
	for range 5 { // places come back for terminated connections too
		check(t, "terminated", f.ask(hostA, "GET /x HTTP/1.1\nHost: "+hostA+"\n"+bearer(keyA)+"\nConnection: close\n\n").status, 200)
	}
}

// At shutdown spliced connections have the grace, and then are cut and reported. Those that come meanwhile do not begin.
func TestPassthroughShutdown(t *testing.T) {
	g := newRawGateway(t)
	f := newFront(t, splicing(t), func(c *Config) { c.Limits.ShutdownGrace = time.Second })
	f.put(passthrough("team-p", g.addr()))
	ending, endingUp := f.spliced(g)
	staying, stayingUp := f.spliced(g)
	late := f.tcp()
	hello := helloBytes(t, &tls.Config{ServerName: hostP})
	_, _ = late.Write(hello[:10])
	eventually(t, "both have their place", func() bool { return f.open() == 2 })
	began := time.Now()
	f.stop()
	eventually(t, "it drains", f.draining.Load)
	_, _ = late.Write(hello[10:])
	wantReset(t, "while shutting down", late)
	talk(t, ending, endingUp)
	talk(t, staying, stayingUp)
	ending.Close()
	if n, err := io.Copy(io.Discard, endingUp); n > 0 || err != nil {
		t.Errorf("one that ends in time: %d, %v", n, err)
	}
	endingUp.Close()
	wantReset(t, "client", staying)
	wantReset(t, "gateway", stayingUp)
	f.wait()
	if took := time.Since(began); took < 900*time.Millisecond || took > 4*time.Second {
		t.Errorf("Run returned after %v", took)
	}
	f.wantEvent("shutting down", `"status":101`)
	if !strings.Contains(f.log.String(), `"connections":1`) {
		t.Errorf("not reported:\n%s", f.log.String())
	}
}

// Without spliced connections that last, shutdown does not wait; nor does it for one that is being dialed.
func TestPassthroughShutdownWhileDialing(t *testing.T) {
	f := newFront(t, splicing(t), func(c *Config) {
		c.Limits.ShutdownGrace = 200 * time.Millisecond
		c.Passthrough.Dial = func(bool) func(context.Context, string, string) (net.Conn, error) {
			return func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
		}
	})
	f.put(passthrough("team-p", "192.0.2.1:443"))
	c := f.tcp()
	_, _ = c.Write(helloBytes(t, &tls.Config{ServerName: hostP}))
	eventually(t, "it is being dialed", func() bool { return f.open() == 1 })
	f.stop()
	f.wait()
	wantReset(t, "dialing", c)
}

// Nothing either way for the idle time cuts; a byte now and then, either way, keeps.
func TestPassthroughIdle(t *testing.T) {
	g := newRawGateway(t)
	f := newFront(t, splicing(t, func(p *Passthrough) { p.Idle = 1500 * time.Millisecond }),
		func(c *Config) { c.Limits.WriteIdle = 80 * time.Millisecond })
	f.put(passthrough("team-p", g.addr()))
	idle, _ := f.spliced(g)
	client, up := f.spliced(g)
	pass(t, up, client, "hi")
	for range 6 {
		time.Sleep(400 * time.Millisecond)
		pass(t, up, client, ".")
	}
	wantReset(t, "idle", idle)
	f.wantEvent("passthrough.idle")
	talk(t, client, up)
}

// Bytes beyond the tenant's bandwidth wait.
func TestPassthroughBandwidth(t *testing.T) {
	g := newRawGateway(t)
	f := newFront(t, splicing(t))
	r := passthrough("team-p", g.addr())
	r.Quotas = tenant.Quotas{BytesPerSecond: 1 << 20, BytesBurst: 256 << 10}
	f.put(r)
	client, up := f.spliced(g)
	began := time.Now()
	go func() { _, _ = up.Write(make([]byte, 2<<20)); _ = up.CloseWrite() }()
	n, err := io.Copy(io.Discard, client)
	if took := time.Since(began); n != 2<<20 || err != nil || took < time.Second || took > 5*time.Second {
		t.Errorf("%d bytes in %v, %v; want 2 MiB in about 1.75 s", n, took, err)
	}
}

// Without a way to dial, such tenants are not served; and never with a certificate of ours.
func TestPassthroughWithoutDial(t *testing.T) {
	f := newFront(t)
	f.put(passthrough("team-p", "192.0.2.1:443"))
	c := f.tcp()
	_, _ = c.Write(helloBytes(t, &tls.Config{ServerName: hostP}))
	wantReset(t, "no dial", c)
	f.wantEvent("no way to dial", `"status":503`)
}

// The dial guard knows whose upstream it is: an operator's, from a file, is trusted.
func TestPassthroughTrust(t *testing.T) {
	g := newRawGateway(t)
	trusted := make(chan bool, 2)
	f := newFront(t, splicing(t), func(c *Config) {
		c.Passthrough.Dial = func(ok bool) func(context.Context, string, string) (net.Conn, error) {
			trusted <- ok
			return new(net.Dialer).DialContext
		}
	})
	for _, source := range []tenant.Source{tenant.SourceFile, tenant.SourceAPI} {
		r := passthrough("team-p", g.addr())
		r.Source = source
		f.put(r)
		f.spliced(g)
		if got := <-trusted; got != (source == tenant.SourceFile) {
			t.Errorf("source %s: trusted %v", source, got)
		}
	}
}
