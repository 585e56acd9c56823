package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/registry"
)

// What a restore into members of one etcd waits for.
const (
	sayEvery    = 10 * time.Second // while members are missing, or a lease lasts
	lentEvery   = time.Minute      // while a member is lent
	leaderTime  = 15 * time.Second // leases begin anew with each leader of etcd, and one that ended is noticed late on a busy machine
	lingerFirst = 2 * time.Second  // before those that were lent can be expected to have gone
	lingerEvery = 500 * time.Millisecond
	lingerTime  = 15 * time.Second
)

// lend runs this machine's member of the cluster while another one restores.
func (r *restorer) lend(ctx context.Context) (err error) {
	d := r.daemon()
	defer func() { err = errors.Join(err, d.parts.stop()) }()
	store, err := r.open(ctx, d)
	if err != nil {
		return err
	}
	fmt.Fprintf(r.out, "member %s is up, until a restore that another member runs with --file has ended\n", r.cfg.Replica.Name)
	stop := r.sayOften(ctx, lentEvery, "still waiting for a restore that another member runs with --file; Ctrl-C ends this member")
	err = store.AwaitRestored(ctx)
	stop()
	if ctx.Err() != nil {
		return errors.New("ended before a restore by another member has: while one is under way, run this again")
	}
	if err != nil {
		return plain(err)
	}
	_, err = fmt.Fprintln(r.out, "restored by another member")
	return err
}

// daemon returns one of which the registry's store is opened only. It waits for other members as long as the command runs.
func (r *restorer) daemon() *daemon {
	d := newDaemon(r.cfg, io.Discard, newLogger(config.Log{Level: slog.LevelError.String(), Format: "text"}, r.out))
	d.joinTimeout = -1
	return d
}

// patience is how long the leases of replicas that were killed are waited for. With an etcd of its own, nobody is waited for:
// nothing is lost by another try.
func (r *restorer) patience() time.Duration {
	if len(r.cfg.Etcd.Endpoints) > 0 {
		return 0
	}
	return 2*r.cfg.Replica.TTL + leaderTime
}

// waiting tells what a restore waits for: at once, and now and then.
func (r *restorer) waiting() func(replica string) {
	said := make(map[string]time.Time)
	return func(replica string) {
		if at, ok := said[replica]; ok && time.Since(at) < sayEvery {
			return
		}
		said[replica] = time.Now()
		if replica == "" {
			fmt.Fprintln(r.out, "waiting for etcd, which does not answer")
			return
		}
		fmt.Fprintf(r.out, "waiting for the lease of replica %s to end, as after a crash; at most %s: if it runs, stop it\n", replica, r.patience())
	}
}

// linger keeps this member up until those that were lent have gone: without a majority, who has not heard of the end never would.
func (r *restorer) linger(ctx context.Context, backend registry.StatusReader) {
	ctx, cancel := context.WithTimeout(ctx, lingerTime)
	defer cancel()
	for wait := lingerFirst; sleep(ctx, wait) == nil; wait = lingerEvery {
		st, _ := backend.Status(ctx) // of the others it tells with an error too
		if !slices.ContainsFunc(st.Members, r.isLent) {
			return
		}
	}
}

// isLent says whether a member is another one that is up.
func (r *restorer) isLent(m registry.Member) bool {
	return m.Healthy && m.Name != r.cfg.Replica.Name && slices.Contains(r.members(), m.Name)
}

// members names all members of the cluster, if etcd is one in the replicas.
func (r *restorer) members() []string {
	var all []string
	for _, m := range r.cfg.Etcd.Embedded.Cluster.Members {
		all = append(all, m.Name)
	}
	return all
}

// sayOften says the same again and again until stop is called, which does not return before the last word.
func (r *restorer) sayOften(ctx context.Context, every time.Duration, what string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for sleep(ctx, every) == nil {
			fmt.Fprintln(r.out, what)
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}
