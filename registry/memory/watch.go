package memory

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/polygate/polygate/registry"
)

// Watch implements registry.Backend.
func (b *Backend) Watch(ctx context.Context, from int64, prefixes []string, deliver func(registry.Batch)) error {
	tick := time.NewTicker(registry.ProgressEvery)
	defer tick.Stop()
	for {
		batches, next, changed, err := b.since(from, prefixes)
		if err != nil {
			return err
		}
		for _, batch := range batches {
			deliver(batch)
		}
		from = next
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		case <-tick.C:
		}
	}
}

// since returns one batch per prefix with what happened from a revision on, the revision to ask from next, and a channel
// that is closed when there is more.
func (b *Backend) since(from int64, prefixes []string) ([]registry.Batch, int64, <-chan struct{}, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if from <= b.compacted {
		return nil, 0, nil, fmt.Errorf("watch from %d: %w", from, registry.ErrCompacted)
	}
	recent := b.log[sort.Search(len(b.log), func(i int) bool { return b.log[i].rev >= from }):]
	batches := make([]registry.Batch, 0, len(prefixes))
	for _, p := range prefixes {
		batch := registry.Batch{Prefix: p, Revision: b.rev}
		for _, l := range recent {
			if strings.HasPrefix(l.ev.KV.Key, p) {
				batch.Events = append(batch.Events, l.ev)
			}
		}
		batches = append(batches, batch)
	}
	return batches, max(from, b.rev+1), b.changed, nil
}
