// Package chaos runs three replicas on three members of etcd under load, breaks them in every way that it can, and checks
// what they said: that nothing acknowledged was lost, that histories are linearizable, that no change was made but by the
// owner, that no tenant saw another's data, and that each change has one audit record. README.md says how to run it.
package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// settings of a run, from the environment.
type settings struct {
	length  time.Duration // of the faults; the start and the checks at the end come on top
	seed    uint64
	tenants int
	ttl     time.Duration // of the replicas' leases
	rate    int           // requests a second, without the probes
	faults  []string      // names; empty = all
	program string        // a polygate that was built before; "" = build one
	dir     string        // where the replicas' folders and logs stay after the run; "" = nowhere
}

func readSettings(t *testing.T) settings {
	t.Helper()
	length := os.Getenv("POLYGATE_CHAOS")
	if length == "" {
		t.Skip("POLYGATE_CHAOS is not set: a duration, such as 2m")
	}
	s := settings{seed: rand.Uint64(), tenants: 500, rate: 120, program: os.Getenv("POLYGATE_CHAOS_BIN"), dir: os.Getenv("POLYGATE_CHAOS_DIR")}
	var err error
	if s.length, err = time.ParseDuration(length); err != nil {
		t.Fatalf("POLYGATE_CHAOS: %v", err)
	}
	s.ttl = 5 * time.Second
	if s.length < 10*time.Minute {
		s.ttl = 2 * time.Second
	}
	if v := os.Getenv("POLYGATE_CHAOS_TTL"); v != "" {
		if s.ttl, err = time.ParseDuration(v); err != nil {
			t.Fatalf("POLYGATE_CHAOS_TTL: %v", err)
		}
	}
	if v := os.Getenv("POLYGATE_CHAOS_SEED"); v != "" {
		if s.seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatalf("POLYGATE_CHAOS_SEED: %v", err)
		}
	}
	if v := os.Getenv("POLYGATE_CHAOS_FAULTS"); v != "" {
		s.faults = strings.Split(v, ",")
	}
	number(t, "POLYGATE_CHAOS_TENANTS", &s.tenants)
	number(t, "POLYGATE_CHAOS_RATE", &s.rate)
	return s
}

func number(t *testing.T, name string, into *int) {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < probed {
		t.Fatalf("%s: %q is not a number of at least %d", name, v, probed)
	}
	*into = n
}

// TestChaos is the fault run.
func TestChaos(t *testing.T) {
	s := readSettings(t)
	t.Logf("seed %d (POLYGATE_CHAOS_SEED repeats the faults), %s of faults, %d tenants, ttl %s", s.seed, s.length, s.tenants, s.ttl)
	f := newFleet(t, s)
	watch := f.watchStore()
	f.startAll()
	f.makeTenants()
	fresh := f.vitals()

	l := newLoad(f)
	l.start()
	p := f.startProbes()
	n := newNemesis(f, l)
	n.run(s.length)
	p.stop()
	l.stop()
	f.awaitWhole(time.Minute)

	l.readFinals()
	l.checkHistories(t)
	l.checkRecords(t)
	l.checkAnswers(t)
	f.checkServed(t)
	watch.check(t)
	f.checkVitals(t, fresh)
	f.checkAudit(t, l)
	n.report(t, p)
	p.check(t, n)
}

func tenantName(i int) string { return fmt.Sprintf("t%03d", i) }
