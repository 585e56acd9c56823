package registry

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
)

// A due mark is a key c/due/<milliseconds since 1970, in 20 digits>/<owner>/<name>, so that a range from the first up to
// now finds what is due, and costs what it finds.

// dueValue is the value of a mark; the key says all.
type dueValue struct {
	V int `json:"v"`
}

func dueTime(at time.Time) string {
	return fmt.Sprintf("%020d", max(at.UnixMilli(), 0))
}

func dueKey(owner, name string, at time.Time) string {
	return prefixDue + dueTime(at) + "/" + owner + "/" + name
}

// parseDue reads a mark's key; false if it is none.
func parseDue(key string) (vault.Due, bool) {
	digits, rest, _ := strings.Cut(strings.TrimPrefix(key, prefixDue), "/")
	owner, name, ok := strings.Cut(rest, "/")
	ms, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || owner == "" || !dueNameOK(name) || len(digits) != 20 {
		return vault.Due{}, false
	}
	return vault.Due{Owner: owner, Name: name, At: time.UnixMilli(ms).UTC()}, true
}

func dueNameOK(name string) bool {
	return !strings.Contains(name, "/") && segmentsOK(name, maxDueName)
}

// Due returns up to limit (0 = 1000) of the names that are due until a time, of all owners, oldest first. next is what to
// pass as after to go on, and empty where there is no more. Marks may be of tenants that are gone: see Forget.
func (v *Vault) Due(ctx context.Context, until time.Time, after string, limit int) (list []vault.Due, next string, err error) {
	if limit <= 0 || limit > pageSize {
		limit = pageSize
	}
	end := until.UnixMilli()
	if end < 0 || end == math.MaxInt64 {
		return nil, "", fault.New(fault.Invalid, "nothing is due at %v", until)
	}
	q := Range{Prefix: prefixDue, Before: fmt.Sprintf("%s%020d", prefixDue, end+1), Limit: limit}
	if after != "" {
		q.After = prefixDue + after
		if after[0] < '0' || after[0] > '9' { // it may be a mark that this version cannot read, and passes over
			return nil, "", fault.New(fault.Invalid, "%q is not where a list of what is due goes on", after)
		}
	}
	if q.After >= q.Before {
		return nil, "", nil
	}
	res, err := v.store.read(ctx, q)
	if err != nil {
		return nil, "", fmt.Errorf("look for what is due: %w", err)
	}
	list = make([]vault.Due, 0, len(res.KVs))
	for _, kv := range res.KVs {
		if d, ok := parseDue(kv.Key); ok {
			list = append(list, d)
		}
	}
	if res.More && len(res.KVs) > 0 {
		next = strings.TrimPrefix(res.KVs[len(res.KVs)-1].Key, prefixDue)
	}
	return list, next, nil
}

// Forget removes a mark of a tenant that is gone. Where there is a tenant of this id, be it a new one, the mark may be its
// own, whatever this replica's index knows by now: the error is then fault.Conflict, and a Move of a Batch removes it.
func (v *Vault) Forget(ctx context.Context, d vault.Due) error {
	if d.Owner == "" || d.Owner == vault.PlatformOwner || strings.Contains(d.Owner, "/") || !dueNameOK(d.Name) {
		return fault.New(fault.Conflict, "the mark of %q is not of a tenant that is gone", d.Name)
	}
	x := recordKey(tenant.ID(d.Owner))
	t := &Txn{If: []Cmp{{Key: x, Kind: Absent}}, Deletes: []string{dueKey(d.Owner, d.Name, d.At)}}
	res, err := v.store.commit(context.WithoutCancel(ctx), t) // again is no harm: while the tenant is absent, nobody makes marks of it
	if err != nil {
		return fmt.Errorf("remove the mark of %s of %s: %w", d.Name, d.Owner, err)
	}
	if !res.OK {
		return fault.New(fault.Conflict, "there is a tenant %s: the mark of %s may be its own", d.Owner, d.Name)
	}
	return nil
}
