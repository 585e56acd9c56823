package registry

import (
	"context"
	"path"
	"strings"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/tenant"
)

// Where the parts of the audit lie. The replica comes first, after an '@' that no chain begins with, so that each reads its own
// alone:
//
//	a/@<replica>/<chain>/<entry>   an entry that the replica committed
//	a/<chain>/<entry>              one that names no replica, as versions for one replica wrote them
//	c/audit/@<replica>/<chain>     the head of chain <chain>@<replica>
//	c/audit/<chain>                the head of a chain of a platform of one replica
//	c/taken/@<replica>/<entry>     another replica took the entry over, and drains it
//	c/taken/-/<entry>              the same of one that names no replica
const replicaSign = "@"

// auditKey returns where an entry is put.
func auditKey(e *audit.Entry) string {
	if e.Replica == "" || tenant.CheckSegment(e.Replica) != nil {
		return prefixAudit + e.Chain() + "/" + e.ID
	}
	return entriesOf(e.Replica) + e.Chain() + "/" + e.ID
}

// entriesOf is the prefix of a replica's entries.
func entriesOf(replica string) string { return prefixAudit + replicaSign + replica + "/" }

// entryReplica returns the replica whose an entry's key is; "" if it names none.
func entryReplica(key string) string {
	rest, ok := strings.CutPrefix(key, prefixAudit+replicaSign)
	if !ok {
		return ""
	}
	replica, _, _ := strings.Cut(rest, "/")
	return replica
}

// isEntryKey says whether an entry can lie under a key. Its replica is not asked for: it may have been taken over.
func isEntryKey(key string, e *audit.Entry) bool {
	prefix := prefixAudit
	if r := entryReplica(key); r != "" {
		prefix = entriesOf(r)
	}
	return key == prefix+e.Chain()+"/"+e.ID
}

// headsOf is the prefix of the heads of a replica's chains.
func headsOf(replica string) string {
	return strings.TrimSuffix(headKey(audit.ChainName("x", replica)), "x")
}

func headKey(chain string) string {
	base, replica := audit.SplitChain(chain)
	if replica == "" {
		return prefixHeads + base
	}
	return prefixHeads + replicaSign + replica + "/" + base
}

// headChain is the reverse of headKey.
func headChain(key string) string {
	rest := strings.TrimPrefix(key, prefixHeads)
	if named, ok := strings.CutPrefix(rest, replicaSign); ok {
		replica, base, _ := strings.Cut(named, "/")
		return audit.ChainName(base, replica)
	}
	return rest
}

// takenKey marks that an entry was taken over from a replica.
func takenKey(from, entry string) string { return takenFrom(from) + entry }

func takenFrom(replica string) string {
	if replica == "" {
		return prefixTaken + "-/"
	}
	return prefixTaken + replicaSign + replica + "/"
}

// unnamed returns the ranges of what names no replica below a prefix: all before the sign, and all behind it.
func unnamed(prefix string) []Range {
	return []Range{{Prefix: prefix, Before: prefix + replicaSign}, {Prefix: prefix, After: prefix + afterSign}}
}

const afterSign = "A" // follows the sign, and nothing of ours begins with it

// replicasBelow returns the replicas that have something below a prefix. It costs one read for each.
func (s *Store) replicasBelow(ctx context.Context, prefix string) (names []string, err error) {
	q := Range{Prefix: prefix, After: prefix + replicaSign, Before: prefix + afterSign, Limit: 1}
	for {
		res, err := s.read(ctx, q)
		if err != nil || len(res.KVs) == 0 {
			return names, err
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(res.KVs[0].Key, prefix+replicaSign), "/")
		names = append(names, name)
		q.After = prefix + replicaSign + name + "0" // '0' follows '/'
	}
}

// eachIn calls f for each key of a range, in pages that need not be of one moment.
func (s *Store) eachIn(ctx context.Context, q Range, f func(KV) error) error {
	q.Limit = pageSize
	for {
		res, err := s.read(ctx, q)
		if err != nil {
			return err
		}
		for _, kv := range res.KVs {
			if err := f(kv); err != nil {
				return err
			}
		}
		if !res.More || len(res.KVs) == 0 {
			return nil
		}
		q.After = res.KVs[len(res.KVs)-1].Key
	}
}

// entryOf returns the id at the end of a key.
func entryOf(key string) string { return path.Base(key) }
