package registry

import (
	"context"
	"fmt"
	"strings"

	"github.com/polygate/polygate/internal/fault"
)

// maxRaces is how often a Put of any revision is tried again when others were faster.
const maxRaces = 32

// Platform is data of the platform's own, under c/: certificates, demo marks. It takes no audit entry, and so is not for
// what an operator or a tenant changes. Values are the caller's to encode, and to begin with their version.
type Platform struct {
	store *Store
}

// Platform returns the platform's data.
func (s *Store) Platform() *Platform { return &Platform{s} }

// Get returns a value and its revision; fault.NotFound if there is none.
func (p *Platform) Get(ctx context.Context, key string) (value []byte, rev int64, err error) {
	k, err := dataKey(key)
	if err != nil {
		return nil, 0, err
	}
	kv, ok, err := p.store.get(ctx, k)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", key, err)
	}
	if !ok {
		return nil, 0, fault.New(fault.NotFound, "there is no %s", key)
	}
	return kv.Value, kv.ModRevision, nil
}

// Create stores a value under a new key; fault.Conflict if the key exists. If several create it at once, one succeeds.
func (p *Platform) Create(ctx context.Context, key string, value []byte) error {
	k, err := dataKey(key)
	if err != nil {
		return err
	}
	return p.put(ctx, key, value, Cmp{Key: k, Kind: Absent}, fault.Conflict)
}

// Put replaces a value of revision ifRev, or whatever is there if ifRev is 0; fault.PreconditionFailed if it has another.
func (p *Platform) Put(ctx context.Context, key string, value []byte, ifRev int64) error {
	k, err := dataKey(key)
	if err != nil {
		return err
	}
	if ifRev != 0 {
		return p.put(ctx, key, value, Cmp{k, ModIs, ifRev}, fault.PreconditionFailed)
	}
	for range maxRaces { // compared all the same: a repeated attempt must not undo what others wrote in between
		kv, _, err := p.store.get(ctx, k)
		if err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		err = p.put(ctx, key, value, unchanged(k, kv), fault.PreconditionFailed)
		if !fault.Is(err, fault.PreconditionFailed) {
			return err
		}
	}
	return fault.New(fault.Unavailable, "%s is being changed by others all the time", key).After(retryAdvice)
}

func (p *Platform) put(ctx context.Context, key string, value []byte, cmp Cmp, refusal fault.Kind) error {
	if err := ctx.Err(); err != nil {
		return fault.From(err)
	}
	t := &Txn{If: []Cmp{cmp}, Puts: []Put{{Key: cmp.Key, Value: value}}, Else: []string{cmp.Key}}
	res, err := p.store.commit(context.WithoutCancel(ctx), t)
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	applied := res.OK || res.attempts > 1 && string(res.Else[cmp.Key].Value) == string(value)
	if !applied {
		return fault.New(refusal, "%s exists already or has changed", key)
	}
	return nil
}

// dataKey checks a name under c/: segments joined by '/'. What the store keeps there itself, such as
// the anchored heads, is not for others.
func dataKey(key string) (string, error) {
	for seg := range strings.SplitSeq(key, "/") {
		if seg == "" || strings.ContainsFunc(seg, func(r rune) bool { return r < 0x21 || r == 0x7f }) {
			return "", fault.New(fault.Invalid, "%q cannot name platform data", key)
		}
	}
	k := prefixData + key
	if ownData(k) || len(k) > 1024 {
		return "", fault.New(fault.Invalid, "%q cannot name platform data", key)
	}
	return k, nil
}

// ownData says whether a key under c/ is the store's own.
func ownData(key string) bool {
	for _, p := range []string{prefixUsed, prefixOnce, prefixLock, prefixDue, prefixLane, prefixTaken, prefixHanded} {
		if strings.HasPrefix(key, p) {
			return true
		}
	}
	return strings.HasPrefix(key+"/", prefixHeads)
}
