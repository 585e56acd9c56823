package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/fault"
)

// vaultLanes is how many changes of the vault one replica makes at once.
const vaultLanes = 16

// errLane says that the lane is not as this replica left it: it was used before a session that is over.
var errLane = errors.New("the lane of the vault has been changed by others")

// vaultLane is a place for one change at a time, as a lane of a claim is: each change rewrites the marker c/lane/<lease>/<n>
// with an id of its own and compares that nobody has since the last one. So one that is repeated because its answer was
// lost applies once, also where it compares nothing else, and the marker says whether it did. The markers hang on the
// replica's lease, so a dead one leaves none.
type vaultLane struct {
	n     int
	lease LeaseID // of the session in which mod was seen
	mod   int64   // the marker's ModRevision; 0 = there is none
}

func (l *vaultLane) key() string { return fmt.Sprintf("%s%x/%d", prefixLane, int64(l.lease), l.n) }

// doubtfulLanes are those whose last change has an unknown outcome, and may still arrive.
type doubtfulLanes struct {
	turn chan struct{} // buffered 1: held by who settles them, and no other change goes ahead of that
	any  atomic.Bool   // whether there are any, without waiting
	mu   sync.Mutex    // guards list
	list []*vaultLane
}

func (d *doubtfulLanes) init() { d.turn = make(chan struct{}, 1) }

func (d *doubtfulLanes) add(l *vaultLane) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = append(d.list, l)
	d.any.Store(true)
}

// first returns a lane that is to be settled; nil if there is none, and then any is false.
func (d *doubtfulLanes) first() *vaultLane {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.list) == 0 {
		d.any.Store(false)
		return nil
	}
	return d.list[0]
}

func (d *doubtfulLanes) drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = d.list[1:]
}

// settle rewrites the markers of lanes in doubt, so that what was sent on them has been made by now, or never will be: it
// could otherwise undo what is changed next.
func (v *Vault) settle(ctx context.Context) error {
	if !v.doubt.any.Load() {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	select {
	case v.doubt.turn <- struct{}{}:
		defer func() { <-v.doubt.turn }()
	case <-wait.Done():
		return fault.Wrap(fault.Unavailable, wait.Err(), "what became of an earlier change is still being found out").After(retryAdvice)
	}
	for l := v.doubt.first(); l != nil; l = v.doubt.first() {
		if err := v.rewrite(ctx, l); err != nil {
			return err
		}
		v.doubt.drop()
		v.lanes <- l
	}
	return nil
}

// rewrite makes a lane's marker another one than that which a change that is still under way compares.
func (v *Vault) rewrite(ctx context.Context, l *vaultLane) error {
	ses := v.store.session.Load()
	if ses == nil || !ses.live() {
		return v.store.noSession()
	}
	if l.lease != ses.lease {
		return nil // its session is over: what was sent finds neither its marker nor its lease
	}
	val, err := encode(markerValue{storedVersion, uuid.NewString()})
	if err != nil {
		return err
	}
	t := &Txn{If: []Cmp{unchanged(l.key(), KV{ModRevision: l.mod})}, Puts: []Put{{l.key(), val, l.lease}}, Else: []string{l.key()}}
	res, err := v.store.commit(context.WithoutCancel(ctx), t)
	if err != nil {
		return err
	}
	if l.mod = res.Revision; !res.OK {
		l.mod = res.Else[l.key()].ModRevision // it was made; or this was, and its answer lost
	}
	return nil
}
