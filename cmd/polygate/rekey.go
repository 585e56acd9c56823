package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/peer"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
	"github.com/polygate/polygate/proxy/admin"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/vgw"
)

// rekeyKey is where the change of the key-encryption key is recorded, under c/; rekeyLock is held by who carries it out.
const (
	rekeyKey  = "rekey"
	rekeyLock = "rekey"
)

// The phases of a change. While it wraps, every replica has both keys, and wraps with the new one.
const (
	phaseWrap = "wrap"
	phaseDone = "done"
)

// rekeyState is the record of the last change of the key-encryption key.
type rekeyState struct {
	V       int       `json:"v"`
	To      string    `json:"to"` // the id of the new key
	Phase   string    `json:"phase"`
	Replica string    `json:"replica"` // who carries it out
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	Error   string    `json:"error,omitempty"` // why it stopped; run again, it goes on
}

// rekeyer changes the key-encryption key while everything runs: it has every replica take up the new key, wraps all that the old
// one wrapped anew, and says at the end, when nothing is left, that the new one is the platform's. Each step may be repeated by
// anybody at any time, so that a change which was broken off goes on where it was.
type rekeyer struct {
	self   string
	ring   *seal.Keyring
	store  *registry.Store
	keeper *keep.Keeper
	mux    *vgw.Mux
	call   func() peer.Caller // nil, or returns nil: this replica is alone
	entry  func(e *tenant.Entry, resource string) (audit.Entry, error)
	log    *slog.Logger

	stop    context.CancelFunc
	ctx     context.Context // ends with the daemon
	wg      sync.WaitGroup
	mu      sync.Mutex // guards what follows
	running bool
	closed  bool
}

// openRekey makes what changes the key-encryption key. It does nothing by itself.
func (d *daemon) openRekey(context.Context) error {
	d.rekey = newRekeyer(&rekeyer{
		self: d.cfg.Replica.Name, ring: d.kek, store: d.store, keeper: keep.New(d.store.Vault(), d.kek), mux: d.mux,
		entry: d.rekeyEntry, log: d.log.With("part", "rekey"),
	})
	d.parts.onStop("change of keys", func() error { d.rekey.close(); return nil })
	return nil
}

// rekeyEntry makes the record of a secret that was wrapped anew. It passes the platform's guard like everything that has an effect.
func (d *daemon) rekeyEntry(e *tenant.Entry, resource string) (audit.Entry, error) {
	visit, err := d.guards.Platform().Enter(tenant.System("rekey"), guard.Request{ID: "rekey-" + audit.NewID()})
	if err != nil {
		return audit.Entry{}, err
	}
	defer visit.Leave()
	effect := guard.Effect{Action: authz.SecretRekey, Resource: resource}
	if e != nil {
		effect.Subject = e.Scope
	}
	permit, err := visit.Admit(effect)
	if err != nil {
		return audit.Entry{}, err
	}
	return permit.Entry(audit.OutcomeOK), nil
}

func newRekeyer(r *rekeyer) *rekeyer {
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r
}

// caller returns who asks other replicas; nil if there are none that could be.
func (k *rekeyer) caller() peer.Caller {
	if k.call == nil {
		return nil
	}
	return k.call()
}

// close ends a change that is under way, and waits.
func (k *rekeyer) close() {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.stop()
	k.wg.Wait()
}

// state reads the record of the last change; the zero one if there never was any.
func (k *rekeyer) state(ctx context.Context) (s rekeyState, rev int64, err error) {
	return readRekey(ctx, k.store)
}

func readRekey(ctx context.Context, store *registry.Store) (s rekeyState, rev int64, err error) {
	value, rev, err := store.Platform().Get(ctx, rekeyKey)
	if fault.Is(err, fault.NotFound) {
		return rekeyState{}, 0, nil
	}
	if err == nil {
		err = json.Unmarshal(value, &s)
	}
	if err != nil {
		return s, 0, fmt.Errorf("read the state of the change of keys: %w", err)
	}
	return s, rev, nil
}

// Rekey implements admin.Secrets: it begins or resumes the change to a key, "" = the one on the first line of kek_file.
func (k *rekeyer) Rekey(ctx context.Context, to string, e audit.Entry) error {
	if err := k.enter(); err != nil {
		return err
	}
	begun := false
	defer func() {
		if !begun {
			k.leave()
		}
	}()
	lock, ok, err := k.store.Vault().TryLock(ctx, rekeyLock)
	if err != nil {
		return err
	}
	if !ok {
		return fault.New(fault.Conflict, "another replica is changing the key-encryption key: see polygate secret status")
	}
	defer func() {
		if !begun {
			k.unlock(lock)
		}
	}()
	st, rev, err := k.begin(ctx, to, e)
	if err != nil {
		return err
	}
	begun = true
	go func() {
		defer k.leave()
		defer k.unlock(lock)
		k.run(st, rev)
	}()
	return nil
}

// enter makes sure that this replica runs one change at a time, and none after its end.
func (k *rekeyer) enter() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.closed:
		return fault.New(fault.Unavailable, "this replica stops").After(time.Second)
	case k.running:
		return fault.New(fault.Conflict, "the key-encryption key is being changed already: see polygate secret status")
	}
	k.running = true
	k.wg.Add(1)
	return nil
}

func (k *rekeyer) leave() {
	k.mu.Lock()
	k.running = false
	k.mu.Unlock()
	k.wg.Done()
}

func (k *rekeyer) unlock(l vault.Lock) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := k.store.Vault().Unlock(ctx, l); err != nil {
		k.log.Warn("the lock of the change of keys was not given back; it goes with the session", "error", err)
	}
}

// begin makes sure that all replicas have the key, records that it is coming, and has all wrap with it. A replica that starts
// meanwhile registers before it reads the record: so it is among those that are asked, or knows by itself.
func (k *rekeyer) begin(ctx context.Context, to string, e audit.Entry) (rekeyState, int64, error) {
	st, rev, err := k.state(ctx)
	if err != nil {
		return st, 0, err
	}
	if err := k.ring.Reload(); err != nil {
		return st, 0, fault.Wrap(fault.Conflict, err, "%s", err.Error())
	}
	if to == "" {
		to = k.ring.First()
	}
	if !k.ring.Has(to) {
		return st, 0, fault.New(fault.Conflict, "kek_file of replica %s holds no key %.64q: put its line in the kek_file of every replica first", k.self, to)
	}
	if st.Phase == phaseWrap && st.To != to {
		return st, 0, fault.New(fault.Conflict, "a change to the key %s has begun and not ended: end it first, with polygate secret rekey --to %s", st.To, st.To)
	}
	if err := k.tellAll(ctx, rekeyCall{Op: opPrepare, Key: to}); err != nil {
		return st, 0, err
	}
	next := rekeyState{V: 1, To: to, Phase: phaseWrap, Replica: k.self, Started: time.Now().UTC()}
	if st.Phase == phaseWrap {
		next.Started = st.Started
	}
	value, err := json.Marshal(next)
	if err != nil {
		return st, 0, err
	}
	if rev, err = k.store.Platform().Change(ctx, rekeyKey, rev, value, e); err != nil {
		return st, 0, err
	}
	return next, rev, nil
}

// run carries a change out, and records how it ended. Nothing is to be done if that cannot be: to run it again does no harm.
func (k *rekeyer) run(st rekeyState, rev int64) {
	err := k.carryOut(k.ctx, st.To)
	if err != nil {
		st.Error = plain(err).Error()
		k.log.Error("the change of the key-encryption key stopped: run polygate secret rekey again", "key", st.To, "error", err)
	} else {
		st.Phase, st.Ended = phaseDone, time.Now().UTC()
		k.log.Info("the key-encryption key was changed", "key", st.To, "took", st.Ended.Sub(st.Started).String())
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.ctx), 5*time.Second)
	defer cancel()
	if err := k.record(ctx, st, rev); err != nil {
		k.log.Error("the end of the change of keys was not recorded: run polygate secret rekey again", "error", err)
	}
}

func (k *rekeyer) record(ctx context.Context, st rekeyState, rev int64) error {
	e, err := k.entry(nil, "secret/kek/"+st.To)
	if err != nil {
		return err
	}
	if st.Error != "" {
		e.Outcome = fault.Conflict.String()
	}
	value, err := json.Marshal(st)
	if err != nil {
		return err
	}
	_, err = k.store.Platform().Change(ctx, rekeyKey, rev, value, e)
	return err
}

// Bounds of the passes over what is wrapped.
const (
	idlePasses = 40                     // without anything done
	passPause  = 250 * time.Millisecond // between them: owners change, replicas come back
)

func (k *rekeyer) carryOut(ctx context.Context, to string) error {
	if err := k.ring.Use(to); err != nil {
		return err
	}
	if err := k.tellAllSoon(ctx, rekeyCall{Op: opUse, Key: to}); err != nil {
		return err
	}
	idle, before := 0, -1
	for {
		left, err := k.pass(ctx, to)
		if err != nil && ctx.Err() != nil {
			return err
		}
		if err == nil && len(left) == 0 {
			break
		}
		if idle++; before != len(left) {
			idle, before = 0, len(left)
		}
		if idle == idlePasses {
			return errors.Join(err, fault.New(fault.Conflict, "%d values are still wrapped by another key, such as %s", len(left), sample(left)))
		}
		if err := sleep(ctx, passPause); err != nil {
			return err
		}
	}
	return k.adopt(ctx)
}

func sample(keys []string) string { return strings.Join(keys[:min(3, len(keys))], ", ") }

// pass looks for all that another key wrapped, has it wrapped anew, and returns what is left for the next one. An error is of one
// value: the others are done all the same.
func (k *rekeyer) pass(ctx context.Context, to string) (left []string, err error) {
	err = k.store.EachWrapped(ctx, func(key string, ids []string) error {
		if !slices.Equal(ids, []string{to}) && key != "c/"+kekCheckKey {
			left = append(left, key)
		}
		return nil
	})
	if err != nil {
		return left, err
	}
	w := &rekeyWork{k: k, elsewhere: make(map[string][]tenant.ID)}
	for _, key := range left {
		if ctx.Err() != nil {
			return left, fault.From(ctx.Err())
		}
		w.note(w.rewrap(ctx, key))
	}
	for replica, ids := range w.elsewhere {
		w.note(k.tell(ctx, replica, rekeyCall{Op: opTenants, Key: to, Tenants: ids}))
	}
	return left, w.err
}

// adopt says that the key which wraps now is the platform's. Nothing is left under the one of before.
func (k *rekeyer) adopt(ctx context.Context) error {
	for range 5 {
		value, rev, err := k.store.Platform().Get(ctx, kekCheckKey)
		if err != nil {
			return err
		}
		var check kekCheck
		if err := json.Unmarshal(value, &check); err != nil {
			return fmt.Errorf("the stored check of the key-encryption key: %w", err)
		}
		next, changed, err := k.ring.Rewrap(check.Secret, kekCheckKey)
		if err != nil || !changed && check.ID == k.ring.ID() {
			return err
		}
		check.Secret = next
		check.ID, _ = seal.KeyOf(next)
		if value, err = json.Marshal(check); err != nil {
			return err
		}
		if err = k.store.Platform().Put(ctx, kekCheckKey, value, rev); !fault.Is(err, fault.PreconditionFailed) {
			return err
		}
	}
	return fault.New(fault.Unavailable, "the stored check of the key-encryption key is being changed all the time")
}

// Secrets implements admin.Secrets.
func (k *rekeyer) Secrets(ctx context.Context) (admin.SecretStatus, error) {
	running, err := k.store.Vault().Locked(ctx, rekeyLock) // before the record: who gives the lock back has written that
	if err != nil {
		return admin.SecretStatus{}, err
	}
	st, _, err := k.state(ctx)
	if err != nil {
		return admin.SecretStatus{}, err
	}
	check, err := readKEKCheck(ctx, k.store)
	if err != nil {
		return admin.SecretStatus{}, err
	}
	counts := make(map[string]int)
	err = k.store.EachWrapped(ctx, func(_ string, ids []string) error {
		for _, id := range ids {
			counts[id]++
		}
		return nil
	})
	if err != nil {
		return admin.SecretStatus{}, err
	}
	out := admin.SecretStatus{Keys: []admin.SecretKey{}}
	all := append([]string(nil), k.ring.IDs()...)
	for id := range counts {
		if !slices.Contains(all, id) {
			all = append(all, id)
		}
	}
	slices.Sort(all)
	for _, id := range all {
		out.Keys = append(out.Keys, admin.SecretKey{ID: id, Wraps: counts[id], InForce: id == check.ID, InFile: k.ring.Has(id)})
	}
	if st.V > 0 {
		out.Rekey = &admin.RekeyStatus{To: st.To, State: stateName(st, running), Replica: st.Replica, Started: st.Started, Ended: st.Ended, Error: st.Error}
	}
	return out, nil
}

// stateName says what became of a change. It is under way as long as its lock is held, which goes with the session of a replica that
// died.
func stateName(st rekeyState, running bool) string {
	switch {
	case st.Phase == phaseDone:
		return "done"
	case running:
		return "running"
	}
	return "stopped"
}
