package audit

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// Bounds of a query of all replicas.
const (
	peerTime   = 3 * time.Second // for one page of a replica
	maxPeerRun = 8 << 20         // bytes of the records in one answer between replicas
	flushFirst = time.Second     // for which an answer waits for what was just recorded
	maxSources = 256             // replicas in one listing
)

// peerVersion is that of the calls between replicas.
const peerVersion = 1

// The names that Page.Incomplete has beside those of replicas.
const (
	AwayAlone   = "-" // the replica that had no other when it wrote
	AwayUnknown = "?" // the registry could not be asked who has written
)

// ClusterConfig is what a Cluster is made with.
type ClusterConfig struct {
	Self   string // this replica's name
	Reader *Reader
	Flush  func(ctx context.Context) error // Drain.Flush; nil = nothing is flushed for others
	// Live returns the names of the replicas that can be asked; this one may be among them.
	Live func() []string
	// Call asks another replica, whose Handle answers.
	Call func(ctx context.Context, replica string, body []byte) ([]byte, error)
	// Writers returns who has written a chain of this name, as registry.Outbox does.
	Writers func(ctx context.Context, chain string) ([]string, error)
	Logger  *slog.Logger // nil = slog.Default()
}

// Cluster answers queries from the logs of all replicas: its own by reading, the others' by asking them. It is safe for concurrent
// use.
type Cluster struct {
	cfg ClusterConfig
}

// NewCluster makes a Cluster. All fields but those that say otherwise are required.
func NewCluster(cfg ClusterConfig) (*Cluster, error) {
	if cfg.Self == "" || cfg.Reader == nil || cfg.Live == nil || cfg.Call == nil || cfg.Writers == nil {
		return nil, errors.New("audit: Self, Reader, Live, Call and Writers are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Cluster{cfg}, nil
}

// peerQuery asks a replica for a page of its logs.
type peerQuery struct {
	V     int   `json:"v"`
	Query Query `json:"query"`
}

// peerPage is the answer.
type peerPage struct {
	V       int      `json:"v"`
	Records []Record `json:"records"`
	Start   string   `json:"start,omitempty"` // the cursor before the first record
	After   []string `json:"after"`           // the cursor behind each record
	Next    string   `json:"next,omitempty"`
	Partial bool     `json:"partial,omitempty"`
	Damaged int      `json:"damaged,omitempty"`
	Writers []string `json:"writers"` // whose chains this replica's folder holds
}

// Handle answers another replica's call: it is a peer.Handler. What the query may see was decided by the one that asks, which is
// a replica of this platform: its certificate says so.
func (c *Cluster) Handle(ctx context.Context, from string, body []byte) ([]byte, error) {
	var q peerQuery
	if err := json.Unmarshal(body, &q); err != nil || q.V < 1 || q.V > peerVersion+1 {
		return nil, fault.Wrap(fault.Invalid, err, "replica %s asks for audit records in a way that this one does not know: upgrade it", clip(from, maxField))
	}
	if q.Query.Cursor == "" && c.cfg.Flush != nil {
		flush, cancel := context.WithTimeout(ctx, flushFirst)
		_ = c.cfg.Flush(flush) // what cannot be flushed in time is found later
		cancel()
	}
	p, err := c.local(ctx, q.Query)
	if err != nil {
		return nil, err
	}
	return json.Marshal(p)
}

// local returns a page of this replica's folder.
func (c *Cluster) local(ctx context.Context, q Query) (*peerPage, error) {
	p, err := c.cfg.Reader.query(ctx, q, true)
	if err != nil {
		return nil, err
	}
	out := &peerPage{V: peerVersion, Records: p.Records, Start: p.start, After: p.after, Next: p.Next, Partial: p.Partial, Damaged: p.Damaged, Writers: p.writers}
	size := 0
	for i := range out.Records {
		if size += 512 + len(out.Records[i].Resource) + len(out.After[i]); size > maxPeerRun {
			out.Records, out.After, out.Next = out.Records[:i], out.After[:i], out.After[i-1]
			break
		}
	}
	return out, nil
}

func (c *Cluster) ask(ctx context.Context, replica string, q Query) (*peerPage, error) {
	if replica == c.cfg.Self {
		return c.local(ctx, q)
	}
	body, err := json.Marshal(peerQuery{peerVersion, q})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	b, err := c.cfg.Call(ctx, replica, body)
	if err != nil {
		return nil, err
	}
	var p peerPage
	if err := json.Unmarshal(b, &p); err != nil || p.V < 1 || p.V > peerVersion+1 || len(p.After) != len(p.Records) {
		return nil, fault.Wrap(fault.Unavailable, err, "replica %s answers in a way that this one does not know: upgrade it", replica)
	}
	return &p, nil
}

// clusterCursor is where a listing over replicas stands: a cursor of each that may have more.
type clusterCursor struct {
	V     int               `json:"v"`
	Query string            `json:"q"`
	At    map[string]string `json:"at"`
	Away  []string          `json:"away,omitempty"` // did not answer at the beginning
	Here  []string          `json:"here,omitempty"` // whose chains are in the listing
	more  bool              // somebody who answers has more
}

// source is one replica's part of a page that is being made.
type source struct {
	replica string
	cursor  string // from which it was asked
	page    *peerPage
	taken   int
	err     error
}

// head returns the newest record that was not taken yet.
func (s *source) head() *Record {
	if s.page == nil || s.taken == len(s.page.Records) {
		return nil
	}
	return &s.page.Records[s.taken]
}

// position returns the cursor behind what was taken; "" if there is nothing more.
func (s *source) position() string {
	switch {
	case s.taken == len(s.page.Records):
		return s.page.Next
	case s.taken > 0:
		return s.page.After[s.taken-1]
	}
	return s.page.Start
}

// more says whether the source has records beyond its page.
func (s *source) more() bool { return s.page != nil && s.page.Next != "" }

// Query returns a page of records of all replicas, newest first, merged by time. Replicas that cannot be asked are named in
// Incomplete, and so are those that are gone and have written some of the chain, unless their logs lie in the folder of one that
// answers. A listing goes on with the replicas that were there when it began.
func (c *Cluster) Query(ctx context.Context, q Query) (*Page, error) {
	f, err := newFilter(q)
	if err != nil {
		return nil, err
	}
	sources, was, err := c.sources(q)
	if err != nil {
		return nil, err
	}
	c.fetch(ctx, q, sources)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, s := range sources {
		if s.err != nil && fault.Is(s.err, fault.Invalid) { // such as a bad cursor: the answer would be wrong
			return nil, s.err
		}
	}
	p := &Page{Records: []Record{}}
	mergeSources(sources, f.q.Limit, p)
	at := was.advance(q, sources)
	p.Next = at.String()
	p.Partial = p.Partial && p.Next != ""
	p.Incomplete = c.incomplete(ctx, f.chain, sources, at)
	return p, nil
}

// Each calls f with every record that matches q, newest first, until f returns an error, which it returns. Limit is not regarded.
// Where replicas are away, the error is fault.Unavailable and names them, after all that there is.
func (c *Cluster) Each(ctx context.Context, q Query, f func(Record) error) error {
	q.Limit = maxLimit
	away := make(map[string]bool)
	for {
		p, err := c.Query(ctx, q)
		if err != nil {
			return err
		}
		for i := range p.Records {
			if err := f(p.Records[i]); err != nil {
				return err
			}
		}
		for _, name := range p.Incomplete {
			away[name] = true
		}
		if q.Cursor = p.Next; p.Next == "" {
			break
		}
	}
	if len(away) > 0 {
		return fault.New(fault.Unavailable, "records of replicas that are away are missing: %v", slices.Sorted(maps.Keys(away)))
	}
	return nil
}

// Flush returns once what was recorded on this replica before can be found; the others flush when they are asked.
func (c *Cluster) Flush(ctx context.Context) error {
	if c.cfg.Flush == nil {
		return nil
	}
	return c.cfg.Flush(ctx)
}

// sources returns whom to ask: by the cursor, or all that live.
func (c *Cluster) sources(q Query) (out []*source, at clusterCursor, err error) {
	if q.Cursor == "" {
		names := append(c.cfg.Live(), c.cfg.Self)
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			out = append(out, &source{replica: name})
		}
		return out, at, nil
	}
	bad := fault.New(fault.Invalid, "the cursor is not one of this query: ask again without it")
	b, err := base64.RawURLEncoding.Strict().DecodeString(q.Cursor)
	if len(q.Cursor) > maxCursor || err != nil || json.Unmarshal(b, &at) != nil || at.V != 1 || at.Query != q.mark() || len(at.At) == 0 || len(at.At) > maxSources {
		return nil, at, bad
	}
	for _, name := range slices.Sorted(maps.Keys(at.At)) {
		if at.At[name] != "" {
			out = append(out, &source{replica: name, cursor: at.At[name]})
		}
	}
	if len(out) == 0 {
		return nil, at, bad
	}
	return out, at, nil
}

// mark is the query's digest as text.
func (q *Query) mark() string {
	d := q.digest()
	sum := sha256.Sum256(d[:])
	return hex.EncodeToString(sum[:8])
}

// fetch asks all sources at once.
func (c *Cluster) fetch(ctx context.Context, q Query, sources []*source) {
	var wg sync.WaitGroup
	for _, s := range sources {
		wg.Go(func() {
			own := q
			own.Cursor = s.cursor
			if s.page, s.err = c.ask(ctx, s.replica, own); s.err != nil && ctx.Err() == nil {
				c.cfg.Logger.Warn("audit query: a replica does not answer", "replica", s.replica, "error", s.err.Error())
			}
		})
	}
	wg.Wait()
}

// mergeSources takes the newest records until the page is full. It stops where a source has more than it gave: what comes next there
// could be newer than what others have.
func mergeSources(sources []*source, limit int, p *Page) {
	for _, s := range sources {
		if s.page != nil {
			p.Damaged += s.page.Damaged
		}
	}
	for len(p.Records) < limit {
		var newest *source
		for _, s := range sources {
			r := s.head()
			if r == nil && s.more() {
				p.Partial = true
				return
			}
			if r != nil && (newest == nil || r.Time.After(newest.head().Time)) {
				newest = s
			}
		}
		if newest == nil {
			return
		}
		r := *newest.head()
		p.Records = append(p.Records, r)
		for _, s := range sources { // replicas may read the same folder
			if h := s.head(); h != nil && h.ID == r.ID {
				s.taken++
			}
		}
	}
}

// advance returns the cursor behind a page.
func (c clusterCursor) advance(q Query, sources []*source) clusterCursor {
	next := clusterCursor{V: 1, Query: q.mark(), At: make(map[string]string), Away: slices.Clone(c.Away), Here: slices.Clone(c.Here)}
	for _, s := range sources {
		switch {
		case s.page == nil && s.cursor != "": // it may be back for the next page
			next.At[s.replica] = s.cursor
		case s.page == nil:
			next.Away = append(next.Away, s.replica)
		default:
			if at := s.position(); at != "" {
				next.At[s.replica], next.more = at, true
			}
			next.Here = append(append(next.Here, writerOf(s.replica)), s.page.Writers...)
		}
	}
	slices.Sort(next.Here)
	next.Here = slices.Compact(next.Here)
	return next
}

// String returns the cursor as text; "" where nobody who answers has more.
func (c clusterCursor) String() string {
	b, err := json.Marshal(c)
	if err != nil || !c.more { // strings always can be encoded
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// incomplete names who is missing.
func (c *Cluster) incomplete(ctx context.Context, chain string, sources []*source, at clusterCursor) []string {
	missing := make(map[string]bool)
	for _, name := range at.Away {
		missing[name] = true
	}
	for _, s := range sources {
		if s.page == nil {
			missing[s.replica] = true
		}
	}
	writers, err := c.cfg.Writers(ctx, chain)
	if err != nil {
		c.cfg.Logger.Warn("audit query: it is not known which replicas have written", "error", err.Error())
		missing[AwayUnknown] = true
	}
	for _, w := range writers {
		named := slices.ContainsFunc(slices.Collect(maps.Keys(missing)), func(name string) bool { return writerOf(name) == w })
		if !named && !slices.Contains(at.Here, w) {
			missing[cmp.Or(w, AwayAlone)] = true
		}
	}
	return slices.Sorted(maps.Keys(missing))
}

// writerOf returns a replica's name as it is in the names of its chains.
func writerOf(replica string) string {
	_, writer := SplitChain(ChainName("x", replica))
	return writer
}
