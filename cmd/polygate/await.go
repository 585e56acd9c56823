package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// Of a start that has much to read.
const (
	lookEvery = 500 * time.Millisecond
	tellEvery = 5 * time.Second
)

// awaitRegistry returns when the registry is ready. It waits for as long as more comes: a million tenants take a minute or more.
func (d *daemon) awaitRegistry(ctx context.Context) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	p := patience{limit: readyTimeout + d.cfg.Replica.TTL, since: time.Now()} // an earlier process's lease may have to run out first
	told := time.Now()
	for {
		select {
		case <-d.store.Ready():
			return nil
		case ended := <-d.parts.ended:
			return ended.early()
		case <-ctx.Done():
			return ctx.Err()
		case now := <-look.C:
			if p.over(now, d.store.Listed()) {
				return fmt.Errorf("the registry is not ready, and nothing more of it came for %s: %w", p.limit, cmp.Or(d.store.Healthy(), errors.New("no reason is known")))
			}
			if p.done > 0 && now.Sub(told) >= tellEvery {
				d.log.Info("reading the registry", "keys", p.done)
				told = now
			}
		}
	}
}

// patience bounds how long something may stand still.
type patience struct {
	limit time.Duration
	since time.Time // when it last went on
	done  int64     // how far it was then
}

// over says that what has come as far as done now has stood still for the limit.
func (p *patience) over(now time.Time, done int64) bool {
	if done != p.done {
		p.done, p.since = done, now
	}
	return now.Sub(p.since) >= p.limit
}
