package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/registry"
)

// kv converts a key. The value is shared with the response, which nothing else holds.
func (b *Backend) kv(kv *mvccpb.KeyValue) registry.KV {
	return registry.KV{
		Key: strings.TrimPrefix(string(kv.Key), b.root), Value: kv.Value,
		CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Lease: registry.LeaseID(kv.Lease),
	}
}

// silentAfter is how long a watch lasts that hears nothing, though it asks for progress twice a second.
const silentAfter = 3 * registry.ProgressEvery

// watchMsg is a response of the watch on one prefix.
type watchMsg struct {
	prefix string
	resp   clientv3.WatchResponse
	closed bool
}

// Watch implements registry.Backend. The prefixes are watches of their own on one gRPC stream: the client puts those on
// one stream whose contexts carry the same metadata. A member without a leader ends it (WithRequireLeader), so that a
// watch on the wrong side of a partition does not look alive.
func (b *Backend) Watch(ctx context.Context, from int64, prefixes []string, deliver func(registry.Batch)) error {
	// The watches outlive ctx by a moment: the asking for progress must end first, since asking when no watch is left
	// would open a stream that nobody closes.
	wctx, cancel := context.WithCancel(clientv3.WithRequireLeader(context.WithoutCancel(ctx)))
	msgs := make(chan watchMsg)
	var watches, asking sync.WaitGroup
	pctx, stopAsking := context.WithCancel(wctx)
	defer watches.Wait()
	defer cancel()
	defer asking.Wait()
	defer stopAsking()

	for _, p := range prefixes {
		watches.Go(func() { b.watchPrefix(wctx, from, p, msgs) })
	}
	asking.Go(func() { b.askProgress(pctx) })
	silence := time.NewTimer(silentAfter)
	defer silence.Stop()
	for {
		silence.Reset(silentAfter)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-silence.C: // a connection that is half open; the next watch may find a better one, long before keepalive does
			return fault.New(fault.Unavailable, "etcd has been silent for %v", silentAfter)
		case m := <-msgs:
			if err := m.err(); err != nil {
				return err
			}
			if batch, ok := b.batch(m); ok {
				deliver(batch)
			}
		}
	}
}

// watchPrefix passes on what the watch of one prefix says, until ctx ends.
func (b *Backend) watchPrefix(ctx context.Context, from int64, prefix string, msgs chan<- watchMsg) {
	send := func(m watchMsg) bool {
		select {
		case msgs <- m:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for resp := range b.client.Watch(ctx, b.root+prefix, clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithCreatedNotify()) {
		if !send(watchMsg{prefix: prefix, resp: resp}) {
			return
		}
	}
	send(watchMsg{prefix: prefix, closed: true})
}

// askProgress asks for word of how far the watches are, so that silence means trouble. The first time is after one
// interval, when the watches are there.
func (b *Backend) askProgress(ctx context.Context) {
	tick := time.NewTicker(registry.ProgressEvery / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if b.leads != nil && !b.leads() {
			continue // a member cut off from the others would answer all the same: it does not know what it has missed (X45)
		}
		actx, cancel := context.WithTimeout(ctx, registry.ProgressEvery)
		_ = b.client.RequestProgress(actx) // without an answer the follower notices the silence
		cancel()
	}
}

func (m *watchMsg) err() error {
	if m.closed {
		return fault.New(fault.Unavailable, "the watch of etcd was closed")
	}
	if m.resp.CompactRevision != 0 {
		return fmt.Errorf("watch: %w", registry.ErrCompacted)
	}
	if err := m.resp.Err(); err != nil {
		return fmt.Errorf("watch: %w", classify(err))
	}
	if m.resp.Canceled {
		return fmt.Errorf("watch: %w", errors.New("canceled by etcd"))
	}
	return nil
}

// batch converts a response. One with events speaks only of the revisions of its events: etcd may still be catching up
// to the revision in the header.
func (b *Backend) batch(m watchMsg) (registry.Batch, bool) {
	if m.resp.IsProgressNotify() {
		return registry.Batch{Prefix: m.prefix, Revision: m.resp.Header.Revision}, true
	}
	out := registry.Batch{Prefix: m.prefix, Events: make([]registry.Event, 0, len(m.resp.Events))}
	for _, ev := range m.resp.Events {
		kv := b.kv(ev.Kv)
		out.Revision = max(out.Revision, kv.ModRevision)
		out.Events = append(out.Events, registry.Event{Delete: ev.Type == clientv3.EventTypeDelete, KV: kv})
	}
	return out, len(out.Events) > 0
}
