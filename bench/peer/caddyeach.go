package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"
)

// CaddyEach is one Caddy process for each tenant: what tenants cost that share nothing.
func CaddyEach(cacheDir string, o ...Option) Peer { return &caddyEach{caddy{cacheDir, choose(o)}} }

type caddyEach struct{ caddy }

func (*caddyEach) Name() string { return "caddy-each" }

// atOnce is how many of them start at a time.
const atOnce = 4

func (c *caddyEach) Start(ctx context.Context, s *Site) (Running, error) {
	if err := caddyCan(c.cache, s); err != nil {
		return nil, err
	}
	r := &many{all: make([]*single, len(s.Tenants))}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i := range s.Tenants {
		g.Go(func() (err error) {
			r.all[i], err = c.startOne(ctx, s, i)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, errors.Join(fmt.Errorf("start a caddy for each tenant: %w", err), r.Stop())
	}
	return r, nil
}

func (c *caddyEach) startOne(ctx context.Context, s *Site, i int) (*single, error) {
	own := *s
	own.Tenants = s.Tenants[i : i+1]
	own.Dir = filepath.Join(s.Dir, s.Tenants[i].Name)
	if err := os.MkdirAll(own.Dir, 0o700); err != nil {
		return nil, err
	}
	return c.configured("caddy").start(ctx, &own, own.Dir)
}

// many are processes with one tenant each; nil where one did not start.
type many struct{ all []*single }

func (r *many) Addr(tenant int) string { return r.all[tenant].addr }

func (r *many) PIDs() []int {
	var pids []int
	for _, p := range r.all {
		pids = append(pids, p.PIDs()...)
	}
	return pids
}

func (r *many) Stop() error {
	errs := make([]error, len(r.all))
	var wg sync.WaitGroup
	for i, p := range r.all {
		if p != nil {
			wg.Go(func() { errs[i] = p.Stop() })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}
