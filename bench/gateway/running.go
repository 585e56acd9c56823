package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/polygate/polygate/bench/peer"
)

// Running is a started gateway, with what scenarios do to it. One goroutine uses its actions at a time; Addr and PIDs may be called
// meanwhile.
type Running struct {
	site     *peer.Site
	opt      Options
	replicas []*replica
	etcd     *child    // nil with one replica, which has it inside
	balancer *balancer // nil with one replica
	reloads  int

	mu   sync.Mutex
	away map[*replica]bool // under mu: those that an action has ended, for now
}

var _ peer.Running = (*Running)(nil)

// downtime is how long a replica that crashed stays away: what a supervisor takes to start it again.
const downtime = 2 * time.Second

// Addr implements peer.Running: all tenants have one address, that of the balancer where there are several replicas.
func (r *Running) Addr(int) string {
	if r.balancer != nil {
		return r.balancer.addr()
	}
	return r.replicas[0].public
}

// PIDs implements peer.Running: those of the replicas that run. An etcd of their own is none of them.
func (r *Running) PIDs() []int {
	var pids []int
	for _, one := range r.replicas {
		if pid := one.pid(); pid != 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Stop implements peer.Running. It hands nothing over: what the gateway has stored is of no use any more. The error tells of a
// replica that had ended by itself: what was measured of it is worth nothing.
func (r *Running) Stop() error {
	var errs []error
	for _, one := range r.replicas {
		if one.pid() == 0 && !r.isAway(one) {
			errs = append(errs, one.failed(errEnded))
		}
	}
	r.destroy()
	return errors.Join(errs...)
}

// destroy ends all that was begun.
func (r *Running) destroy() {
	if r.balancer != nil {
		r.balancer.close()
	}
	for _, one := range r.replicas {
		one.destroy()
	}
	if r.etcd != nil {
		r.etcd.kill()
	}
}

func (r *Running) isAway(one *replica) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.away[one]
}

func (r *Running) setAway(one *replica, away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away == nil {
		r.away = make(map[*replica]bool)
	}
	r.away[one] = away
}

// Reload changes one tenant in the tenants file, has it read again (SIGHUP), and returns when the change is in force on all replicas
// that run.
func (r *Running) Reload(ctx context.Context) error {
	r.reloads++
	display := fmt.Sprintf("changed %d times", r.reloads)
	b, err := r.opt.tenantsYAML(r.site, display)
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(r.site.Dir, "tenants.yaml"), b); err != nil {
		return fmt.Errorf("polygate: change the tenants: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, callLimit, fmt.Errorf("the change is not in force after %s", callLimit))
	defer cancel()
	for _, one := range r.replicas {
		if p, _ := one.running(); p != nil {
			_ = p.Signal(syscall.SIGHUP)
		}
	}
	for _, one := range r.replicas {
		if one.pid() == 0 {
			continue
		}
		if err := one.awaitUp(ctx, func(ctx context.Context) error { return one.shows(ctx, r.site.Tenants[0].Name, display) }); err != nil {
			return fmt.Errorf("reload: %w", err)
		}
	}
	return nil
}

// shows fails unless the replica knows a tenant by that name for people.
func (r *replica) shows(ctx context.Context, tenant, display string) error {
	var t struct {
		DisplayName string `json:"display_name"`
	}
	if err := r.operator(ctx, http.MethodGet, "/api/v1/tenants/"+tenant, nil, &t); err != nil {
		return err
	}
	if t.DisplayName != display {
		return fmt.Errorf("tenant %s is %q there, not %q", tenant, t.DisplayName, display)
	}
	return nil
}

// Crash kills (SIGKILL) the replica that owns most of the tenants with these numbers, of all if there are none. It is started again
// 2 s later; Crash returns when it is ready, or when ctx ends, which leaves the replica away.
func (r *Running) Crash(ctx context.Context, tenants []int) error {
	victim, err := r.victim(ctx, tenants)
	if err != nil {
		return err
	}
	r.setAway(victim, true)
	victim.kill()
	if err := pause(ctx, downtime); err != nil {
		return err
	}
	return r.back(ctx, victim)
}

// Drain ends that replica as an operator does (SIGTERM), and starts it again when it has ended. It returns when it is ready.
func (r *Running) Drain(ctx context.Context, tenants []int) error {
	victim, err := r.victim(ctx, tenants)
	if err != nil {
		return err
	}
	r.setAway(victim, true)
	if err := victim.down(ctx); err != nil {
		return err
	}
	return r.back(ctx, victim)
}

func (r *Running) back(ctx context.Context, one *replica) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := one.up(ctx); err != nil {
		return err
	}
	r.setAway(one, false)
	return nil
}

// askAbout is of how many tenants the owner is asked for, at most.
const askAbout = 64

// victim chooses the replica to end.
func (r *Running) victim(ctx context.Context, tenants []int) (*replica, error) {
	var living []*replica
	for _, one := range r.replicas {
		if one.pid() != 0 {
			living = append(living, one)
		}
	}
	if len(living) == 0 {
		return nil, errors.New("polygate: no replica runs that could be ended")
	}
	if len(living) == 1 {
		return living[0], nil
	}
	if len(tenants) == 0 {
		for i := range r.site.Tenants {
			tenants = append(tenants, i)
		}
	}
	var owners, names []string
	for _, i := range tenants[:min(askAbout, len(tenants))] {
		var o struct{ Replica string }
		if err := living[0].operator(ctx, http.MethodGet, "/api/v1/tenants/"+r.site.Tenants[i].Name+"/owner", nil, &o); err != nil {
			return nil, fmt.Errorf("ask who owns tenant %d: %w", i, err)
		}
		owners = append(owners, o.Replica)
	}
	for _, one := range living {
		names = append(names, one.replica)
	}
	return living[busiest(owners, names)], nil
}

// busiest returns the index of the name that is most often among the owners, the first of several. Tenants without an owner, as
// dedicated ones are, count for nobody.
func busiest(owners, names []string) int {
	count := make(map[string]int)
	for _, o := range owners {
		count[o]++
	}
	best := 0
	for i, n := range names {
		if count[n] > count[names[best]] {
			best = i
		}
	}
	return best
}
