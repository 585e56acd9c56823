package lab

import (
	"context"
	"fmt"

	"github.com/polygate/polygate/bench/gateway"
	"github.com/polygate/polygate/bench/result"
	"github.com/polygate/polygate/bench/scenario"
)

// Capacity measures what tenants cost a gateway that are registered, active and connected.
func (l *Lab) Capacity(ctx context.Context, binary string, sc *scenario.Scenario) ([]result.CapacityPoint, error) {
	if err := l.take(sc.Site.Cores); err != nil {
		return nil, err
	}
	dir, err := l.folder("capacity")
	if err != nil {
		return nil, err
	}
	defer l.clear(dir)
	defer l.cfg.Watcher.End()
	return gateway.Capacity(ctx, gateway.CapacityConfig{Binary: binary, Dir: dir, Cores: l.split.subject}, *sc.Capacity,
		func(s string) { l.cfg.Watcher.Begin(fmt.Sprintf("%s, %s", sc.Name, s), 0) })
}
