package chaos

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"
)

// nemesis does harm, one thing after the other, from a seeded source.
type nemesis struct {
	f        *fleet
	load     *load
	rng      *rand.Rand
	injected []injection
	counts   map[string]int // signals, moves and so on
	mu       sync.Mutex     // guards counts
}

// injection is one fault as it was injected.
type injection struct {
	fault    string
	what     string
	from, to time.Duration // until all was well again and a pause was over
	lasted   time.Duration // until the fault itself was over
	recovery time.Duration // from then until all was well
}

// fault is a kind of harm. do returns when it is over; recovery is awaited afterwards.
type fault struct {
	name   string
	weight int
	do     func(n *nemesis) (what string)
}

func newNemesis(f *fleet, l *load) *nemesis {
	return &nemesis{f: f, load: l, rng: rand.New(rand.NewPCG(f.settings.seed, 0)), counts: make(map[string]int)}
}

func allFaults() []fault {
	return []fault{
		{"kill replica", 6, (*nemesis).killReplica},
		{"kill two replicas", 1, (*nemesis).killTwo},
		{"freeze replica", 5, (*nemesis).freezeReplica},
		{"cut from etcd", 3, (*nemesis).cutOff},
		{"half-open to etcd", 2, (*nemesis).halfOpen},
		{"deaf to etcd", 2, (*nemesis).deaf},
		{"slow etcd", 2, (*nemesis).slow},
		{"late to etcd", 2, (*nemesis).late},
		{"kill etcd leader", 3, (*nemesis).killLeader},
		{"kill etcd follower", 2, (*nemesis).killFollower},
		{"kill all of etcd", 1, (*nemesis).killAllMembers},
		{"freeze etcd member", 2, (*nemesis).freezeMember},
		{"move tenants", 3, (*nemesis).moveMany},
		{"drain and resume", 2, (*nemesis).drainResume},
		{"terminate replica", 2, (*nemesis).terminate},
		{"freeze one, kill another", 1, (*nemesis).freezeAndKill},
	}
}

// run injects faults for a time. Each kind comes once before any is drawn by weight.
func (n *nemesis) run(length time.Duration) {
	var pool []fault
	for _, f := range allFaults() {
		if len(n.f.settings.faults) == 0 || slices.Contains(n.f.settings.faults, f.name) {
			pool = append(pool, f)
		}
	}
	if len(pool) == 0 {
		n.f.t.Fatalf("POLYGATE_CHAOS_FAULTS: %q names no fault", n.f.settings.faults)
	}
	n.pause(2 * time.Second)
	for i, end := 0, time.Now().Add(length); time.Now().Before(end); i++ {
		var f fault
		if order := n.rng.Perm(len(pool)); i < len(pool) && length >= 5*time.Minute {
			f = pool[i]
		} else {
			f = draw(pool, n.rng, order[0])
		}
		n.inject(f)
	}
}

// draw picks by weight.
func draw(pool []fault, rng *rand.Rand, fallback int) fault {
	total := 0
	for _, f := range pool {
		total += f.weight
	}
	at := rng.IntN(total)
	for _, f := range pool {
		if at -= f.weight; at < 0 {
			return f
		}
	}
	return pool[fallback]
}

func (n *nemesis) inject(f fault) {
	in := injection{fault: f.name, from: time.Since(n.f.clock)}
	in.what = f.do(n)
	over := time.Since(n.f.clock)
	in.lasted = over - in.from
	n.f.awaitWhole(time.Minute)
	in.recovery = time.Since(n.f.clock) - over
	n.pause(n.between(500*time.Millisecond, 2*time.Second))
	in.to = time.Since(n.f.clock)
	n.injected = append(n.injected, in)
	n.f.t.Logf("%8.1fs %-24s %-40s lasted %6.2fs, all ready after %6.2fs", in.from.Seconds(), in.fault, in.what, in.lasted.Seconds(), in.recovery.Seconds())
}

func (n *nemesis) count(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.counts[what]++
}

func (n *nemesis) pause(d time.Duration) { <-time.After(d) }

func (n *nemesis) between(a, b time.Duration) time.Duration {
	return a + time.Duration(n.rng.Int64N(int64(b-a)+1))
}

func (n *nemesis) ttls(a, b float64) time.Duration {
	ttl := float64(n.f.settings.ttl)
	return n.between(time.Duration(a*ttl), time.Duration(b*ttl))
}

func (n *nemesis) anyReplica() *replica { return n.f.replicas[n.rng.IntN(len(n.f.replicas))] }

// down is how long something that was killed stays away.
func (n *nemesis) down() time.Duration {
	if n.rng.IntN(2) == 0 {
		return n.between(0, 500*time.Millisecond)
	}
	return n.between(0, min(10*time.Second, 2*n.f.settings.ttl))
}

// patience is how long after a fault a tenant may be away, generously: a session's end, an election, another session, and
// what a busy machine adds.
func (n *nemesis) patience() time.Duration { return 3*n.f.settings.ttl + 10*time.Second }

func (n *nemesis) kill(r *replica) {
	r.end(syscall.SIGKILL)
	n.count("kill -9 of a replica")
}

func (n *nemesis) killReplica() string {
	r, d := n.anyReplica(), n.down()
	n.kill(r)
	n.pause(d)
	r.launch()
	return fmt.Sprintf("%s, away for %s", r.name, d.Round(time.Millisecond))
}

func (n *nemesis) killTwo() string {
	order, d := n.rng.Perm(len(n.f.replicas)), n.down()
	a, b := n.f.replicas[order[0]], n.f.replicas[order[1]]
	n.kill(a)
	n.kill(b)
	n.pause(d)
	a.launch()
	b.launch()
	return fmt.Sprintf("%s and %s, away for %s", a.name, b.name, d.Round(time.Millisecond))
}

// freezeReplica freezes a replica. Shortly before it wakes, it gets operations on objects that its successors have changed.
func (n *nemesis) freezeReplica() string {
	r, d := n.anyReplica(), n.ttls(0.3, 3)
	n.freeze(r, d)
	return fmt.Sprintf("%s for %s", r.name, d.Round(time.Millisecond))
}

func (n *nemesis) freeze(r *replica, d time.Duration) {
	r.signal(syscall.SIGSTOP)
	n.count("SIGSTOP of a replica")
	if d > n.f.settings.ttl {
		n.count("SIGSTOP of a replica past its ttl")
	}
	late := min(d/2, 500*time.Millisecond)
	n.pause(d - late)
	n.load.atFrozen(r, n.rng.Uint64(), requestTimeout+late)
	n.pause(late)
	r.signal(syscall.SIGCONT)
}

func (n *nemesis) freezeAndKill() string {
	order := n.rng.Perm(len(n.f.replicas))
	a, b, d := n.f.replicas[order[0]], n.f.replicas[order[1]], n.ttls(0.5, 2)
	a.signal(syscall.SIGSTOP)
	n.kill(b)
	n.freeze(a, d)
	b.launch()
	return fmt.Sprintf("%s for %s, %s", a.name, d.Round(time.Millisecond), b.name)
}

func (n *nemesis) cutOff() string {
	r, d := n.anyReplica(), n.ttls(0.5, 2.5)
	r.links.Refuse()
	n.pause(d)
	r.links.Heal()
	return fmt.Sprintf("%s for %s", r.name, d.Round(time.Millisecond))
}

func (n *nemesis) halfOpen() string {
	r, d := n.anyReplica(), n.ttls(0.5, 2.5)
	r.links.Hole()
	n.pause(d)
	r.links.Heal()
	return fmt.Sprintf("%s for %s", r.name, d.Round(time.Millisecond))
}

// deaf lets a replica's changes through and not the answers.
func (n *nemesis) deaf() string {
	r, d := n.anyReplica(), n.ttls(0.3, 2)
	r.links.Deaf()
	n.pause(d)
	r.links.Heal()
	return fmt.Sprintf("%s for %s", r.name, d.Round(time.Millisecond))
}

func (n *nemesis) slow() string {
	r, by, d := n.anyReplica(), n.between(50*time.Millisecond, 200*time.Millisecond), n.ttls(1, 2.5)
	r.links.Slow(by, by/4)
	n.pause(d)
	r.links.Heal()
	return fmt.Sprintf("%s by %s for %s", r.name, by.Round(time.Millisecond), d.Round(time.Millisecond))
}

// late has what a replica sends arrive when its lease is over: only the fence can refuse it then.
func (n *nemesis) late() string {
	r, by, d := n.anyReplica(), n.ttls(1.2, 2.5), n.ttls(1, 2)
	r.links.Late(by)
	n.pause(d)
	n.pause(by) // what is on its way arrives
	r.links.Heal()
	return fmt.Sprintf("%s by %s for %s", r.name, by.Round(time.Millisecond), d.Round(time.Millisecond))
}

func (n *nemesis) killMember(i int, d time.Duration) {
	n.f.etcd.Kill9(i)
	n.count("kill -9 of an etcd member")
	n.pause(d)
	n.f.etcd.Restart(i)
}

func (n *nemesis) killLeader() string {
	i, d := n.f.etcd.Leader(), n.down()
	n.killMember(i, d)
	return fmt.Sprintf("m%d, away for %s", i+1, d.Round(time.Millisecond))
}

func (n *nemesis) killFollower() string {
	i, d := (n.f.etcd.Leader()+1+n.rng.IntN(2))%n.f.etcd.Len(), n.down()
	n.killMember(i, d)
	return fmt.Sprintf("m%d, away for %s", i+1, d.Round(time.Millisecond))
}

func (n *nemesis) killAllMembers() string {
	d := n.between(0, 4*time.Second)
	for i := range n.f.etcd.Len() {
		n.f.etcd.Kill9(i)
		n.count("kill -9 of an etcd member")
	}
	n.pause(d)
	for i := range n.f.etcd.Len() {
		n.f.etcd.Launch(i)
	}
	for i := range n.f.etcd.Len() {
		n.f.etcd.WaitReady(i)
	}
	return fmt.Sprintf("away for %s", d.Round(time.Millisecond))
}

func (n *nemesis) freezeMember() string {
	i, d := n.rng.IntN(n.f.etcd.Len()), n.between(500*time.Millisecond, 4*time.Second)
	n.f.etcd.Stop(i)
	n.count("SIGSTOP of an etcd member")
	n.pause(d)
	n.f.etcd.Cont(i)
	n.f.etcd.WaitReady(i)
	return fmt.Sprintf("m%d for %s", i+1, d.Round(time.Millisecond))
}

func (n *nemesis) moveMany() string {
	moved, times := 0, 20+n.rng.IntN(40)
	for range times {
		tenant := n.rng.IntN(n.f.settings.tenants)
		switch n.rng.IntN(4) {
		case 0:
			tenant = n.rng.IntN(probed)
		case 1:
			tenant = (int(n.load.focus.Load()) + n.rng.IntN(8)) % n.f.settings.tenants
		}
		to := map[string]string{"to": n.anyReplica().name}
		if got := n.f.anyOperator(n.rng, http.MethodPost, "/api/v1/tenants/"+tenantName(tenant)+"/move", to); got.status == 200 {
			moved++
			n.count("move of a tenant")
		}
		n.pause(n.between(0, 60*time.Millisecond))
	}
	return fmt.Sprintf("%d of %d", moved, times)
}

func (n *nemesis) drainResume() string {
	r := n.anyReplica()
	path := "/api/v1/replicas/" + r.name
	n.f.anyOperator(n.rng, http.MethodPost, path+"/drain", nil)
	n.count("drain")
	n.pause(n.between(500*time.Millisecond, 5*time.Second))
	for range 20 {
		if got := n.f.anyOperator(n.rng, http.MethodPost, path+"/resume", nil); got.status == 200 {
			return r.name
		}
		n.pause(200 * time.Millisecond)
	}
	n.f.t.Errorf("%s cannot be resumed", r.name)
	return r.name
}

func (n *nemesis) terminate() string {
	r := n.anyReplica()
	took := r.end(syscall.SIGTERM)
	n.count("SIGTERM of a replica")
	r.launch()
	return fmt.Sprintf("%s, which took %s", r.name, took.Round(time.Millisecond))
}

// report prints the table of faults: for how long tenants were away, of those that were away at all.
func (n *nemesis) report(t *testing.T, p *probes) {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "fault\tinjected\ttenants away\tp50\tp99\tmax\trecovery max\t")
	for _, f := range allFaults() {
		times, tenants := 0, 0
		var lengths []time.Duration
		var recovery time.Duration
		for _, in := range n.injected {
			if in.fault != f.name {
				continue
			}
			times++
			tenants += probed
			recovery = max(recovery, in.recovery)
			lengths = append(lengths, sortedLengths(p.during(in.from, in.to))...)
		}
		if times == 0 {
			continue
		}
		slices.Sort(lengths)
		fmt.Fprintf(w, "%s\t%d\t%d of %d\t%.2fs\t%.2fs\t%.2fs\t%.2fs\t\n", f.name, times, len(lengths), tenants,
			quantile(lengths, 0.5).Seconds(), quantile(lengths, 0.99).Seconds(), quantile(lengths, 1).Seconds(), recovery.Seconds())
	}
	_ = w.Flush()
	t.Logf("seed %d, ttl %s, %d probes of %d tenants\n%s\n%v", n.f.settings.seed, n.f.settings.ttl, p.sent, probed, b.String(), n.counts)
}
