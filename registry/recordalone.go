package registry

import (
	"context"
	"fmt"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
)

// Record makes an audit entry durable that comes with no change of the registry: of something that another replica is about
// to be asked for. No record, no change: it is stored before.
func (s *Store) Record(ctx context.Context, e audit.Entry) error {
	if err := ctx.Err(); err != nil {
		return fault.From(err)
	}
	p, err := auditPut(e, e.Tenant)
	if err != nil {
		return err
	}
	t := new(Txn)
	t.putAbsent(p)
	res, err := s.commit(context.WithoutCancel(ctx), t)
	if err != nil {
		return fmt.Errorf("record %s: %w", e.Action, err)
	}
	// An entry that was there already is that of an earlier attempt, or the drain has taken it: ids are not given twice.
	if !res.OK && res.attempts == 1 {
		return fault.Wrap(fault.Internal, errRecordReused, "")
	}
	s.noteCommit()
	return nil
}
