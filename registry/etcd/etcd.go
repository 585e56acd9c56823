// Package etcd is the registry.Backend on etcd, an external cluster or a server embedded in this process. It knows etcd
// and nothing of tenants.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap/zapcore"

	"github.com/polygate/polygate/registry"
)

// Defaults.
const (
	DefaultRoot           = "polygate/"
	DefaultRequestTimeout = 5 * time.Second
	dialTimeout           = 3 * time.Second
	keepAliveTime         = 6 * time.Second // etcd refuses pings more often than each 5 s (--grpc-keepalive-min-time)
	keepAliveTimeout      = 3 * time.Second
	closeTimeout          = 2 * time.Second
)

// Config says how to reach an external etcd.
type Config struct {
	Endpoints      []string      // host:port or URLs; required
	TLS            *tls.Config   // nil = plain text
	Username       string        // empty = no authentication
	Password       string        //
	Root           string        // prefix of all our keys, ends in '/'; empty = DefaultRoot
	RequestTimeout time.Duration // bound of one request; 0 = DefaultRequestTimeout
	Logger         *slog.Logger  // nil = discard
}

// Backend is a registry.Backend on etcd.
type Backend struct {
	client  *clientv3.Client
	root    string
	timeout time.Duration
	tls     *tls.Config
	leads   func() bool                             // of a member in this process: whether it knows a leader; nil = calls fail without
	fellows func(context.Context) []registry.Member // of a member in this process: how the others are; nil = there are none

	// defrag defragments the embedded server: a client in its process would make it panic. nil = ask the members.
	defrag func() error
}

var _ registry.Backend = (*Backend)(nil)

// New makes a client of an external etcd. With a user it logs in, and so fails if etcd cannot be reached or does not
// accept the user; without, it does not wait for a connection: use Check for that.
func New(cfg Config) (*Backend, error) {
	root, err := checkRoot(cfg.Root)
	if err != nil {
		return nil, err
	}
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("etcd: no endpoints are configured")
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		TLS:                  cfg.TLS,
		Username:             cfg.Username,
		Password:             cfg.Password,
		DialTimeout:          dialTimeout,
		DialKeepAliveTime:    keepAliveTime,
		DialKeepAliveTimeout: keepAliveTimeout,
		PermitWithoutStream:  false,
		Logger:               newLogger(cfg.Logger, zapcore.ErrorLevel, nil),
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd at %s: %w", strings.Join(cfg.Endpoints, ", "), diagnose(context.Background(), cfg.Endpoints, cfg.TLS, classify(err)))
	}
	b := newBackend(client, root, cfg.RequestTimeout)
	b.tls = cfg.TLS
	return b, nil
}

func newBackend(client *clientv3.Client, root string, timeout time.Duration) *Backend {
	if timeout <= 0 {
		timeout = DefaultRequestTimeout
	}
	return &Backend{client: client, root: root, timeout: timeout}
}

// checkRoot insists on the '/' at the end: without it, the keys of one root would be among those of a longer one (X37).
func checkRoot(root string) (string, error) {
	if root == "" {
		return DefaultRoot, nil
	}
	if !strings.HasSuffix(root, "/") {
		return "", fmt.Errorf("etcd: the root %q must end in /", root)
	}
	return root, nil
}

// Close closes the client's connections.
func (b *Backend) Close() error {
	if err := b.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close the etcd client: %w", err)
	}
	return nil
}

// Check asks whether etcd answers, accepts our user, lets it read and write under the root, and is new enough.
func (b *Backend) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	if _, err := b.client.Delete(ctx, b.root+"c/check"); err != nil { // a write that changes nothing: there is no such key
		return fmt.Errorf("etcd: %w", diagnose(ctx, b.client.Endpoints(), b.tls, classify(err)))
	}
	for _, ep := range b.client.Endpoints() {
		st, err := b.client.Status(ctx, ep)
		if err != nil {
			continue // one member that is down is no reason not to start
		}
		if err := checkVersion(st.Version); err != nil {
			return fmt.Errorf("etcd at %s: %w", ep, err)
		}
	}
	return nil
}

// Compact forgets the history up to a revision, as etcd does by itself where auto-compaction is on.
func (b *Backend) Compact(ctx context.Context, rev int64) error {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	_, err := b.client.Compact(ctx, rev)
	return classify(err)
}

// checkVersion refuses what is older than 3.5.13. In earlier ones, word of progress that was asked for could run ahead of
// events that were still to come, which would then be taken for old (etcd issue 15220), or fail to come for a watch that
// gets no events (17507).
func checkVersion(v string) error {
	if olderVersion(v, "3.5.13") {
		return fmt.Errorf("version %s is too old: 3.5.13 or later is needed", v)
	}
	return nil
}

// olderVersion compares two versions; one that we cannot read is not known to be older.
func olderVersion(v, than string) bool {
	a, okA := parseVersion(v)
	b, okB := parseVersion(than)
	return okA && okB && slices.Compare(a, b) < 0
}

func parseVersion(v string) ([]int, bool) {
	var major, minor, patch int
	_, err := fmt.Sscanf(v, "%d.%d.%d", &major, &minor, &patch)
	return []int{major, minor, patch}, err == nil
}

// Range implements registry.Backend.
func (b *Backend) Range(ctx context.Context, q registry.Range) (*registry.RangeResult, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	key, opts := b.rangeOp(q)
	resp, err := b.client.Get(ctx, key, opts...)
	if err != nil {
		return nil, classify(err)
	}
	res := &registry.RangeResult{More: resp.More, Revision: resp.Header.Revision, KVs: make([]registry.KV, 0, len(resp.Kvs))}
	for _, kv := range resp.Kvs {
		res.KVs = append(res.KVs, b.kv(kv))
	}
	return res, nil
}

func (b *Backend) rangeOp(q registry.Range) (string, []clientv3.OpOption) {
	opts := []clientv3.OpOption{clientv3.WithRev(q.Revision)}
	if q.Key != "" {
		return b.root + q.Key, opts
	}
	start := b.root + q.Prefix
	if q.After != "" {
		start = b.root + q.After + "\x00"
	}
	end := clientv3.GetPrefixRangeEnd(b.root + q.Prefix)
	if q.Before != "" { // etcd counts all keys of the range, whatever the limit
		end = b.root + q.Before
	}
	opts = append(opts, clientv3.WithRange(end), clientv3.WithLimit(int64(q.Limit)))
	if q.ByCreation {
		opts = append(opts, clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
	}
	return start, opts
}

// Txn implements registry.Backend.
func (b *Backend) Txn(ctx context.Context, t *registry.Txn) (*registry.TxnResult, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	resp, err := b.client.Txn(ctx).If(b.compares(t.If)...).Then(b.ops(t)...).Else(b.gets(t.Else)...).Commit()
	if err != nil {
		return nil, classify(err)
	}
	res := &registry.TxnResult{OK: resp.Succeeded, Revision: resp.Header.Revision}
	if resp.Succeeded {
		return res, nil
	}
	res.Else = make(map[string]registry.KV, len(t.Else))
	for _, r := range resp.Responses {
		for _, kv := range r.GetResponseRange().GetKvs() {
			got := b.kv(kv)
			res.Else[got.Key] = got
		}
	}
	return res, nil
}

func (b *Backend) compares(cs []registry.Cmp) []clientv3.Cmp {
	out := make([]clientv3.Cmp, 0, len(cs))
	for _, c := range cs {
		k := b.root + c.Key
		switch c.Kind {
		case registry.Absent:
			out = append(out, clientv3.Compare(clientv3.CreateRevision(k), "=", 0))
		case registry.Exists:
			out = append(out, clientv3.Compare(clientv3.CreateRevision(k), ">", 0))
		case registry.ModIs:
			out = append(out, clientv3.Compare(clientv3.ModRevision(k), "=", c.Revision))
		case registry.CreateIs:
			out = append(out, clientv3.Compare(clientv3.CreateRevision(k), "=", c.Revision))
		}
	}
	return out
}

func (b *Backend) ops(t *registry.Txn) []clientv3.Op {
	out := make([]clientv3.Op, 0, len(t.Puts)+len(t.Deletes)+len(t.DeletePrefixes))
	for _, p := range t.Puts {
		out = append(out, clientv3.OpPut(b.root+p.Key, string(p.Value), clientv3.WithLease(clientv3.LeaseID(p.Lease))))
	}
	for _, k := range t.Deletes {
		out = append(out, clientv3.OpDelete(b.root+k))
	}
	for _, p := range t.DeletePrefixes {
		out = append(out, clientv3.OpDelete(b.root+p, clientv3.WithPrefix()))
	}
	return out
}

func (b *Backend) gets(keys []string) []clientv3.Op {
	out := make([]clientv3.Op, 0, len(keys))
	for _, k := range keys {
		out = append(out, clientv3.OpGet(b.root+k))
	}
	return out
}

// Grant implements registry.Backend. etcd counts in whole seconds, and has a least time to live of its own.
func (b *Backend) Grant(ctx context.Context, ttl time.Duration) (registry.LeaseID, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	resp, err := b.client.Grant(ctx, int64((ttl+time.Second-1)/time.Second))
	if err != nil {
		return 0, 0, classify(err)
	}
	return registry.LeaseID(resp.ID), time.Duration(resp.TTL) * time.Second, nil
}

// KeepAlive implements registry.Backend.
func (b *Backend) KeepAlive(ctx context.Context, id registry.LeaseID) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	resp, err := b.client.KeepAliveOnce(ctx, clientv3.LeaseID(id))
	if err != nil {
		return 0, classify(err)
	}
	return time.Duration(resp.TTL) * time.Second, nil
}

// Revoke implements registry.Backend.
func (b *Backend) Revoke(ctx context.Context, id registry.LeaseID) error {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	_, err := b.client.Revoke(ctx, clientv3.LeaseID(id))
	if err = classify(err); errors.Is(err, registry.ErrLeaseNotFound) {
		return nil
	}
	return err
}
