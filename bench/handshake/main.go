// Command handshake measures what TLS handshakes cost a server: it makes connections over many server names and reads the
// CPU time of the server's process before and after. With -make it writes a certificate authority and certificates instead,
// for a peer that wants them as files.
package main

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

type options struct {
	addr, suffix, prefix, make string
	names, first, count        int
	workers, pid               int
	resume, quiet              bool
	sessions                   tls.ClientSessionCache // of all names, with -resume
	resumed                    *atomic.Int64          // handshakes that were
}

func main() {
	var o options
	flag.StringVar(&o.addr, "addr", "127.0.0.1:8443", "server's `host:port`")
	flag.StringVar(&o.prefix, "prefix", "t", "names are <prefix><number>.<suffix>")
	flag.StringVar(&o.suffix, "suffix", "bench.test", "see -prefix")
	flag.IntVar(&o.names, "names", 1, "how many names take turns")
	flag.IntVar(&o.first, "first", 0, "number of the first name")
	flag.IntVar(&o.count, "n", 2000, "how many handshakes")
	flag.IntVar(&o.workers, "workers", 2, "connections at a time")
	flag.IntVar(&o.pid, "pid", 0, "the server's process, whose CPU time is read")
	flag.BoolVar(&o.resume, "resume", false, "resume sessions, of which each name gets one before the measurement; not fewer names than workers")
	flag.BoolVar(&o.quiet, "quiet", false, "print the numbers alone: CPU µs, p50 µs, p99 µs, resident KiB")
	flag.StringVar(&o.make, "make", "", "write certificates for the names into this `folder`, and end")
	flag.Parse()
	run := measure
	if o.make != "" {
		run = makeCertificates
	}
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "handshake:", err)
		os.Exit(1)
	}
}

func (o *options) name(i int) string {
	return fmt.Sprintf("%s%d.%s", o.prefix, o.first+i%o.names, o.suffix)
}

// measure makes the handshakes and prints what they cost.
func measure(o options) error {
	if o.resume {
		if err := o.begin(); err != nil {
			return err
		}
	}
	before, err := cpuTime(o.pid)
	if err != nil {
		return err
	}
	began := time.Now()
	times, err := o.handshakes()
	if err != nil {
		return err
	}
	took := time.Since(began)
	after, err := cpuTime(o.pid)
	if err != nil {
		return err
	}
	if o.resume && o.resumed.Load() < int64(len(times))*99/100 { // a server may forget a few
		return fmt.Errorf("%d of %d handshakes were resumed: the figures would be of others", o.resumed.Load(), len(times))
	}
	slices.Sort(times)
	p := func(q float64) int64 { return times[int(q*float64(len(times)-1))].Microseconds() }
	cpu := (after - before).Microseconds() / int64(len(times))
	if o.quiet {
		fmt.Println(cpu, p(0.5), p(0.99), resident(o.pid))
		return nil
	}
	fmt.Printf("%d handshakes over %d names: %.0f/s, CPU %d µs each, p50 %d µs, p99 %d µs, resident %d KiB\n",
		len(times), o.names, float64(len(times))/took.Seconds(), cpu, p(0.5), p(0.99), resident(o.pid))
	return nil
}

// begin makes a session with each name, which the measured handshakes resume.
func (o *options) begin() error {
	if o.names < o.workers { // two that hold the one ticket of a name: one would make a full handshake
		return fmt.Errorf("-resume with %d names and %d workers: give each worker a name", o.names, o.workers)
	}
	o.sessions, o.resumed = tls.NewLRUClientSessionCache(2*o.names), new(atomic.Int64)
	first := *o
	first.count = o.names
	_, err := first.handshakes()
	return err
}

// handshakes returns how long each took.
func (o *options) handshakes() ([]time.Duration, error) {
	var next atomic.Int64
	var mu sync.Mutex
	var times []time.Duration
	var errs []error
	var all sync.WaitGroup
	for range o.workers {
		all.Go(func() {
			mine, err := o.work(&next)
			mu.Lock()
			defer mu.Unlock()
			times, errs = append(times, mine...), append(errs, err)
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return times, nil
}

func (o *options) work(next *atomic.Int64) (times []time.Duration, err error) {
	c := &tls.Config{
		InsecureSkipVerify: true,                      //nolint:gosec // the server's cost is measured, on loopback
		CurvePreferences:   []tls.CurveID{tls.X25519}, // the same work for each server
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"http/1.1"},
	}
	if o.resume {
		c.ClientSessionCache = o.sessions
	}
	for {
		i := int(next.Add(1)) - 1
		if i >= o.count {
			return times, nil
		}
		c.ServerName = o.name(i)
		took, err := o.connect(c)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.ServerName, err)
		}
		times = append(times, took)
	}
}

// connect makes one handshake, and one request where tickets are wanted: the server sends them behind its answer.
func (o *options) connect(c *tls.Config) (time.Duration, error) {
	began := time.Now()
	raw, err := net.Dial("tcp", o.addr)
	if err != nil {
		return 0, err
	}
	defer raw.Close()
	conn := tls.Client(raw, c)
	if err := conn.Handshake(); err != nil {
		return 0, err
	}
	took := time.Since(began)
	if !o.resume {
		return took, nil
	}
	if conn.ConnectionState().DidResume {
		o.resumed.Add(1)
	}
	if _, err := fmt.Fprintf(conn, "GET /healthz HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", c.ServerName); err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, conn)
	return took, err
}

// clockTick is the unit of /proc/<pid>/stat, the same on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// cpuTime returns the CPU time that a process has used, 0 without one.
func cpuTime(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, err := strconv.ParseInt(f[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * clockTick, err
}

// resident returns the resident memory of a process, in KiB.
func resident(pid int) int64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n
		}
	}
	return 0
}
