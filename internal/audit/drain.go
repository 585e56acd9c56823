package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// Pending is an entry that was committed with its change and is not in its chain yet.
type Pending struct {
	Key   string // where the outbox keeps it
	Entry Entry
	Chain string // that it is in; "" = Entry.Chain()
}

// InChain returns the chain that the entry is in.
func (p *Pending) InChain() string {
	if p.Chain != "" {
		return p.Chain
	}
	return p.Entry.Chain()
}

// Outbox is the registry's half of the log: entries committed in one transaction with their change, and the heads that
// anchor the chains out of reach of whoever can write the file. Only one drain at a time may work on an outbox: each replica
// has one.
type Outbox interface {
	// Pending returns up to limit of this replica's entries that are not drained, of all chains, in the order of their commits.
	Pending(ctx context.Context, limit int) ([]Pending, error)
	// OwnHeads returns the anchored heads of all chains that can be in this replica's log, by the chain's name.
	OwnHeads(ctx context.Context) (map[string]Head, error)
	// Settle anchors heads and removes the drained entries, a chain's head and its entries in one transaction: of a chain
	// that has a head among heads there are at most 64. Entries of other chains may be removed in any number of
	// transactions. The chain of checkpoints comes last, since it vouches for the others. After an error some chains may be
	// settled and others not. It is called again with the same or more, so to remove what is gone already must succeed;
	// unless another replica took it over: that refuses the transaction, and the error wraps ErrTaken.
	Settle(ctx context.Context, heads map[string]Head, drained []Pending) error
	// Committed has a value when something was committed since it was last received from.
	Committed() <-chan struct{}
}

// Shared is an Outbox beside those of other replicas.
type Shared interface {
	Outbox
	// Unnamed returns up to limit entries that name no replica, of a version that knew of one alone.
	Unnamed(ctx context.Context, limit int) ([]Pending, error)
	// TakeOver makes entries this replica's that others left who have been dead for so long, and those that name none. It
	// returns how many.
	TakeOver(ctx context.Context, dead time.Duration) (int, error)
	// Taken returns the ids of what others took over from this replica. Asked for after Pending and Unnamed, it holds whatever
	// is missing there for that reason.
	Taken(ctx context.Context) (map[string]bool, error)
	// Forget says that these are not in this replica's log any more.
	Forget(ctx context.Context, ids map[string]bool) error
}

// Sink is where the lines go; *File is one.
type Sink interface {
	io.ReaderAt
	Size() int64
	Append(lines []byte) error // durable and whole, or an error and nothing of it remains
	Truncate(size int64) error
	Replace(at int64, lines []byte) error // what is behind at becomes lines, as a whole and durably
	Mark() []byte                         // the last SetMark, or anything: it is checked
	SetMark(mark []byte) error
}

// The actions of the log's own entries, in the platform's chain.
const (
	ActionDropped   = "audit.dropped"   // the buffer was full; the resource says how many entries were lost
	ActionTruncated = "audit.truncated" // a start removed an unfinished write; the resource says how many bytes
	ActionTaken     = "audit.taken"     // records that another replica took over were taken out, not anchored yet; the resource says how many
)

// Bounds of one round of the drain.
const (
	outboxBatch   = 256
	bufferBatch   = 4096
	maxWithHead   = 64      // outbox entries of a chain that leave in one transaction with its head
	maxUnsettled  = 4096    // outbox entries written and not settled: beyond, no more are fetched
	maxUnanchored = 1 << 16 // lines written and not anchored: beyond, the buffer is left to fill and to drop
	startBatch    = 1 << 16 // outbox entries that a start looks for in the file
	yieldAfter    = 128     // lines, some 300 µs: requests that share the processor wait for no more, unless the buffer fills
)

// Times of the drain.
const (
	maxInterval     = time.Second
	defaultInterval = 200 * time.Millisecond
	anchorEvery     = 800 * time.Millisecond // with the interval's 200 ms, a head is anchored within a second
	pollEvery       = 5 * time.Second        // ask the outbox even when nothing was announced: another replica may have committed
	callTimeout     = 5 * time.Second        // of one call of the outbox
	closeTimeout    = 5 * time.Second        // of the last flush
	defaultPatience = 30 * time.Second       // a restart should not cost that others take over
)

// DrainConfig is what a drain is made with.
type DrainConfig struct {
	Outbox   Outbox           // required; a Shared one if there may be other replicas
	Buffer   *Buffer          // required
	Sink     Sink             // required
	Interval time.Duration    // how often lines are written, at most 1 s; 0 = 200 ms
	Replica  string           // for the log's own entries, and the names of the chains
	Shared   bool             // there may be other replicas: each writes chains of its own, which bear its name
	Patience time.Duration    // for which a replica must be dead before its entries are taken over; 0 = 30 s
	Logger   *slog.Logger     // nil = slog.Default()
	Now      func() time.Time // nil = time.Now

	Rotation   Rotation      // when the file is closed and a new one begun; zero = never. The sink must be a Rotator
	Retention  Retention     // when closed files are removed; zero = never
	Signer     Signer        // signs the checkpoints; nil = they are written unsigned, and only if there is a Rotation
	Checkpoint time.Duration // how often a checkpoint is written while there are records; 0 = 10 min
	Mirrors    []Mirror      // what else gets the lines, once they are in the file
}

// Drain moves entries from the outbox and the buffer into the chains. An outbox entry is written exactly once, whatever
// happens when; see DESIGN.md for each crash.
type Drain struct {
	cfg    DrainConfig
	shared Shared // nil without other replicas
	writer string // the replica in the names of the chains; "" without other replicas
	ready  bool   // the file was read and the state below holds

	// The state of the one goroutine that runs.
	tips       map[string]Head     // the last line of each chain in the file
	dirty      map[string]struct{} // chains whose tip is not anchored
	unsettled  []Pending           // outbox entries that are in the file
	written    map[string]struct{} // their ids
	unanchored int                 // lines behind the anchored heads
	reported   uint64              // drops that have their entry in the file
	notes      []Entry             // entries of our own that wait to be written
	ask        bool                // the outbox may hold something new
	asked      time.Time
	settledAt  time.Time
	mark       markState
	entries    []Entry // reused
	text       []byte  // reused
	upkeep     upkeep

	flushes chan chan error // requests of Flush
	ended   chan struct{}   // closed when Run has returned

	lines atomic.Uint64 // written since the start
	lag   atomic.Int64  // when the oldest line that is not anchored was written, in unix nanoseconds; 0 = all are

	mu        sync.Mutex
	sinkErr   error // guarded by mu: why nothing can be written, or nil
	outboxErr error // guarded by mu: why nothing can be fetched or anchored, or nil
	signErr   error // guarded by mu: why no checkpoint can be signed, or nil
}

// NewDrain checks cfg and makes a drain. It touches nothing until Run.
func NewDrain(cfg DrainConfig) (*Drain, error) {
	if cfg.Outbox == nil || cfg.Buffer == nil || cfg.Sink == nil {
		return nil, errors.New("audit: Outbox, Buffer and Sink are required")
	}
	if cfg.Interval < 0 || cfg.Interval > maxInterval {
		return nil, fmt.Errorf("audit: interval %v: 1ms to %v are allowed, or 0 for %v", cfg.Interval, maxInterval, defaultInterval)
	}
	if cfg.Interval == 0 {
		cfg.Interval = defaultInterval
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Patience == 0 {
		cfg.Patience = defaultPatience
	}
	d := &Drain{cfg: cfg, flushes: make(chan chan error), ended: make(chan struct{})}
	d.shared, _ = cfg.Outbox.(Shared)
	if cfg.Shared {
		if d.writer = cfg.Replica; d.writer == "" || d.shared == nil {
			return nil, errors.New("audit: beside other replicas, Replica and a Shared outbox are required")
		}
	}
	if err := d.checkUpkeep(); err != nil {
		return nil, err
	}
	return d, nil
}

// Run reads where the file ends, then drains until ctx ends, and then once more within 5 s. It starts no goroutine, and
// is called once. The error is nil unless the last flush could not finish; the entries of changes are safe in the outbox
// even then.
func (d *Drain) Run(ctx context.Context) error {
	defer close(d.ended)
	tick := time.NewTicker(d.cfg.Interval)
	defer tick.Stop()
	for {
		d.round(ctx, false)
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
			defer cancel()
			d.ask, d.upkeep.closing = true, true
			d.round(last, true)
			return d.Err()
		case <-tick.C:
		case <-d.cfg.Buffer.half:
		case asked := <-d.flushes:
			d.ask = true
			d.answer(ctx, asked)
		}
	}
}

// Flush returns once everything that was recorded or committed on this replica before the call can be read in the log, or
// says why it cannot. It needs Run to be running. Callers at the same time share one write.
func (d *Drain) Flush(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case d.flushes <- answer:
	case <-d.ended:
		return errors.New("audit: the log is closed")
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// answer makes the round that a Flush waits for, and those that came meanwhile with it: their records are older than it.
func (d *Drain) answer(ctx context.Context, first chan error) {
	waiting := []chan error{first}
	for more := true; more; {
		select {
		case w := <-d.flushes:
			waiting = append(waiting, w)
		default:
			more = false
		}
	}
	d.round(ctx, false)
	err := d.Err()
	if err == nil {
		err = ctx.Err()
	}
	for _, w := range waiting {
		w <- err
	}
}

// Err returns nil while the log is being written and anchored, else why not; it is for a readiness check.
func (d *Drain) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(d.sinkErr, d.outboxErr)
}

// SignErr returns nil while checkpoints can be signed, else why not. Records are written all the same, so this is no
// reason to be unready; but the file is not rotated, and nothing vouches for what comes.
func (d *Drain) SignErr() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.signErr
}

// Written returns how many lines were written since the start.
func (d *Drain) Written() uint64 { return d.lines.Load() }

// Lag returns for how long the oldest line that is not anchored has been in the file; 0 if all are anchored.
func (d *Drain) Lag() time.Duration {
	since := d.lag.Load()
	if since == 0 {
		return 0
	}
	return max(d.cfg.Now().Sub(time.Unix(0, since)), 0)
}

// round writes what there is, and anchors it when that is due or when final.
func (d *Drain) round(ctx context.Context, final bool) {
	if !d.ready {
		if d.ready = d.start(ctx); !d.ready {
			return
		}
	}
	for {
		more := d.write(ctx)
		if due := d.cfg.Now().Sub(d.settledAt) >= anchorEvery; final || due || len(d.unsettled) >= outboxBatch {
			d.settle(ctx)
			d.rotate()
		}
		if !more || ctx.Err() != nil || !d.ready {
			return
		}
	}
}

// write takes one batch from the outbox and the buffer into the file. It says whether there may be more at once.
func (d *Drain) write(ctx context.Context) bool {
	d.resolveRotation()
	d.planRemoval()
	fresh := d.fetch(ctx)
	room := max(min(bufferBatch, maxUnanchored-d.unanchored), 0)
	d.entries = d.cfg.Buffer.peek(d.entries[:0], room)
	dropped := d.cfg.Buffer.Dropped()
	notes := d.notes
	if dropped > d.reported {
		notes = append(notes, d.note(ActionDropped, "records/"+strconv.FormatUint(dropped-d.reported, 10)))
	}
	b := batch{tips: d.tips, next: make(map[string]Head), text: d.text[:0], writer: d.writer}
	if len(fresh)+len(d.entries)+len(notes) > 0 {
		d.addFirstHeader(&b)
	}
	for i := range fresh {
		fresh[i].Chain = b.add(fresh[i].Entry)
	}
	for i := range d.entries {
		if i%yieldAfter == yieldAfter-1 && !d.cfg.Buffer.crowded() {
			runtime.Gosched()
		}
		b.add(d.entries[i])
	}
	for i := range notes {
		b.add(notes[i])
	}
	d.addCheckpoint(&b)
	d.text = b.text
	n := len(d.entries)
	clear(d.entries)
	if b.lines == 0 || !d.append(&b) {
		return false
	}
	d.cfg.Buffer.discard(n)
	d.reported, d.notes = dropped, nil
	d.removeExpired()
	for _, p := range fresh {
		d.unsettled = append(d.unsettled, p)
		d.written[p.Entry.ID] = struct{}{}
	}
	return n == bufferBatch || len(fresh) >= outboxBatch
}

// fetch returns the outbox entries that are not in the file.
func (d *Drain) fetch(ctx context.Context) []Pending {
	select {
	case <-d.cfg.Outbox.Committed():
		d.ask = true
	default:
	}
	now := d.cfg.Now()
	if now.Sub(d.asked) >= pollEvery {
		d.takeOver(ctx)
		d.ask = true
	}
	if !d.ask || len(d.unsettled) >= maxUnsettled {
		return nil
	}
	// What is in the file and not settled comes first in the order of commits, so this reaches outboxBatch new ones.
	limit := len(d.unsettled) + outboxBatch
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	all, err := d.cfg.Outbox.Pending(call, limit)
	if err != nil {
		d.noteOutbox(ctx, fmt.Errorf("read the audit outbox: %w", err))
		return nil
	}
	d.ask, d.asked = len(all) >= limit, now
	if len(d.unsettled) == 0 {
		d.noteOutbox(ctx, nil)
	}
	fresh := all[:0]
	for _, p := range all {
		if _, ok := d.written[p.Entry.ID]; !ok {
			fresh = append(fresh, p)
		}
	}
	return fresh
}

// takeOver looks for what dead replicas left. That it cannot is told by the reading of our own entries, which comes next.
func (d *Drain) takeOver(ctx context.Context) {
	if d.writer == "" {
		return
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	n, err := d.shared.TakeOver(call, d.cfg.Patience)
	if err != nil && ctx.Err() == nil {
		d.cfg.Logger.Warn("audit log: entries of dead replicas cannot be taken over", "error", err.Error())
	}
	if n > 0 {
		d.cfg.Logger.Info("audit log: entries of dead replicas taken over", "entries", n)
	}
}

// append makes a batch durable and moves the tips.
func (d *Drain) append(b *batch) bool {
	err := d.cfg.Sink.Append(b.text)
	d.noteSink(err)
	if err != nil {
		d.ask = true // what was fetched is fetched again
		return false
	}
	d.advance(b)
	d.upkeep.wrote(b, d.cfg.Now())
	return true
}

// advance moves the tips to the end of a batch that is in the file.
func (d *Drain) advance(b *batch) {
	for name, tip := range b.next {
		d.mark.tip.replace(name, d.tips[name], tip)
		d.tips[name] = tip
		d.dirty[name] = struct{}{}
	}
	if d.unanchored == 0 {
		d.lag.Store(d.cfg.Now().UnixNano())
	}
	d.unanchored += b.lines
	d.lines.Add(uint64(b.lines))
	for _, m := range d.cfg.Mirrors {
		m.Mirror(b.text)
	}
}

// settle anchors the tips and removes from the outbox what is in the file. The mark is written first: it names the end
// of the file before and after, so that a start finds its place whichever of the two the registry then holds.
func (d *Drain) settle(ctx context.Context) {
	d.settledAt = d.cfg.Now()
	if len(d.dirty) == 0 && len(d.unsettled) == 0 {
		return
	}
	heads := make(map[string]Head, len(d.dirty))
	for name := range d.dirty {
		heads[name] = d.tips[name]
	}
	end := d.mark.save(d.cfg.Sink)
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	first, rest := splitSettlement(d.unsettled)
	var err error
	if len(first) > 0 {
		err = d.cfg.Outbox.Settle(call, nil, first)
	}
	if err == nil {
		err = d.cfg.Outbox.Settle(call, heads, rest)
	}
	if errors.Is(err, ErrTaken) { // we were taken for dead: what is in the file behind the anchored heads is not all ours
		d.cfg.Logger.Warn("audit log: another replica took over entries of this one", "error", err.Error())
		d.ready = false
		return
	}
	if err != nil {
		d.noteOutbox(ctx, fmt.Errorf("anchor the audit log: %w", err))
		return
	}
	d.noteOutbox(ctx, nil)
	d.mark.anchored, d.mark.settled = d.mark.tip, end
	clear(d.dirty)
	clear(d.written)
	d.unsettled, d.unanchored = nil, 0
	d.lag.Store(0)
}

// splitSettlement keeps back, of each chain, as many entries as fit one transaction with the chain's head. The others
// come first and without a head: a crash between the two leaves lines behind the head that are in no outbox, which a
// start adopts. The other way round it would leave entries in the outbox that the head covers, and a start would write
// them a second time.
func splitSettlement(all []Pending) (first, rest []Pending) {
	if len(all) <= maxWithHead {
		return nil, all
	}
	kept := make(map[string]int)
	for _, p := range all {
		if chain := p.InChain(); kept[chain] < maxWithHead {
			kept[chain]++
			rest = append(rest, p)
		} else {
			first = append(first, p)
		}
	}
	return first, rest
}

// note makes an entry of the log's own.
func (d *Drain) note(action, resource string) Entry {
	who := tenant.System("audit")
	return Entry{ID: NewID(), Time: d.cfg.Now().UTC(), Replica: d.cfg.Replica, Principal: who.Ref(), Name: who.Name,
		Action: action, Resource: resource, Decision: Allow, Rule: "system", Outcome: OutcomeOK}
}

// noteSink and noteOutbox keep the state for Err, and log when it changes from good to bad or back, not at each try.

func (d *Drain) noteSink(err error) {
	d.mu.Lock()
	was := d.sinkErr
	d.sinkErr = err
	d.mu.Unlock()
	d.logChange(was, err, "audit log cannot be written", "audit log is written again")
}

func (d *Drain) noteOutbox(ctx context.Context, err error) {
	if err != nil && ctx.Err() != nil { // we are being stopped; that is no fault of the outbox
		return
	}
	d.mu.Lock()
	was := d.outboxErr
	d.outboxErr = err
	d.mu.Unlock()
	d.logChange(was, err, "audit log cannot be anchored", "audit log is anchored again")
}

func (d *Drain) logChange(was, is error, bad, good string) {
	switch {
	case was == nil && is != nil:
		d.cfg.Logger.Error(bad, "error", is.Error())
	case was != nil && is == nil:
		d.cfg.Logger.Info(good)
	}
}

// batch is the text of the lines that one append writes.
type batch struct {
	tips  map[string]Head // of the file
	next  map[string]Head // of the chains in the batch, once it is written
	text  []byte
	lines int

	writer     string // the replica in the names of the chains
	checkpoint bool   // the last line is one
}

// add returns the chain that the entry is in now.
func (b *batch) add(e Entry) (chain string) {
	base := e.Chain()
	if _, named := SplitChain(base); !chainOK(base) || named != "" || base == CheckpointChain {
		base = PlatformChain // no tenant has such an id, and no name may break the line
	}
	chain = ChainName(base, b.writer)
	b.put(b.tip(chain).Next(chain, EncodeEntry(e)))
	return chain
}

// tip returns the last line of a chain at the end of the batch.
func (b *batch) tip(chain string) Head {
	if tip, ok := b.next[chain]; ok {
		return tip
	}
	return b.tips[chain]
}

// put adds a line, which continues its chain.
func (b *batch) put(l Line) {
	b.text = AppendLine(b.text, l)
	b.next[l.Chain] = l.Head()
	b.lines++
	b.checkpoint = isCheckpoints(l.Chain)
}
