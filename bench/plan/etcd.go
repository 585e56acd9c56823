package plan

import "fmt"

// flow is something that goes on writing to etcd at the peak.
type flow struct {
	name         string
	rate         float64 // events a second
	transactions float64 // each
	puts         float64 // each
	deletes      float64 // each
	bytes        float64 // of keys and values, each
}

// Bytes of keys where nothing is stored under them but a few characters.
const (
	tombstoneBytes = 80  // of a deleted key
	markBytes      = 90  // of a due mark, or a lock
	headsPerTxn    = 100 // that one transaction of a settlement has (registry/outbox.go)
	usesPerTxn     = 40  // tenants whose uses go together (registry/used.go)
	usesEvery      = 60  // seconds
	billedEvery    = 300 // seconds between two bills of a sandbox that runs
	sandboxCommits = 8   // from creation to removal
	saysEvery      = 2.5 // seconds: half of replica.ttl
	lanes          = 3   // markers of an open gateway, usually; 8 at most
	periodsKept    = 40  // of a sandbox's owner
	orderTxns      = 8   // of one order: locks, the account, the challenge, the record
)

// flows returns all that writes, by its cause. DESIGN.md says where each figure is from.
func (s *shape) flows() []flow {
	c, certs := s.c, float64(s.d.Certificates.Number)
	entry := c.of(storeEntry) + c.of(storeHead) + tombstoneBytes
	starts := s.perDay(s.d.Sandboxes.StartsPerDay) * sandboxCommits
	uses := c.of(storeUsed) + float64(s.d.Keys)*c.of(storeUsedKey)
	return []flow{
		{"audit heads of tenants that were asked something", s.heads(s.running()), 1.0 / headsPerTxn, 1, 0, c.of(storeHead)},
		{"settlements of the audit", s.settlements(), 1, 0, 0, 0},
		{"last uses of keys", s.uses(), 1.0 / usesPerTxn, 1, 0, uses},
		{"changes, with their audit entries", s.changes(), 1, 4, 1, s.record() + c.of(storeMarker) + entry},
		{"gateways opened and closed", s.openings(), 2, 1, 1, c.of(storeOwner) + tombstoneBytes},
		{"bills of sandboxes", float64(s.d.Sandboxes.Open) / billedEvery, 1, 6, 1, c.of(storeSandbox) + 2*c.of(storePeriod) + c.of(storeMarker) + entry},
		{"starts and ends of sandboxes", starts, 1, 6, 1, c.of(storeSandbox) + 2*c.of(storePeriod) + c.of(storeMarker) + entry},
		{"what replicas say of their load", s.running() / saysEvery, 1, 1, 0, c.of(storeReplica)},
		{"daily looks at certificates", certs / 86400, 3, 4, 2, c.of(storeCert) + 4*markBytes},
		{"orders of certificates", s.orders(), orderTxns, 2 * orderTxns, orderTxns, 2*c.of(storeCert) + 2*orderTxns*markBytes},
	}
}

// settleWindow is the time between two settlements, in seconds.
func (s *shape) settleWindow() float64 { return 1 / s.c.of(costSettle) }

// running is how many replicas there are with the spare ones, which write like the others.
func (s *shape) running() float64 { return float64(s.replicas().Total) }

// heads is how many heads so many replicas anchor a second: at each settlement one for each chain that got a record since the last. A
// virtual tenant's records are its owner's; a dedicated one's are of each replica that served it, each in a chain of its own.
func (s *shape) heads(n float64) float64 {
	w := s.settleWindow()
	virtual := distinct(s.activeVirtual(), s.virtualRate()*w)
	dedicated := n * distinct(s.activeDedicated(), s.dedicatedRate()*w/n)
	return (virtual + dedicated) / w
}

// settlements is how many settlements of all replicas are begun a second for which there is something: their last transaction is not full.
func (s *shape) settlements() float64 {
	n, w := s.running(), s.settleWindow()
	records := s.d.Requests.PerSecond + s.changes() + float64(s.d.Sandboxes.Open)/billedEvery
	return n * distinct(1, records*w/n) / w
}

// uses is how many tenants' last uses of keys are stored a second: once a minute by each replica on which one was used.
func (s *shape) uses() float64 {
	keyed := s.d.Requests.Credentials["key"] * usesEvery
	tenants := s.activeVirtual() + s.activeDedicated()
	n := s.running()
	return n * distinct(tenants, s.d.Requests.PerSecond*keyed/n) / usesEvery
}

// record is the size of a routing record, with the entries that find the tenant by its keys and hosts.
func (s *shape) record() float64 {
	c := s.c
	return c.of(storeRecord) + (1-s.d.VirtualShare)*c.of(storeDedicated) + float64(s.d.Keys)*c.of(storeKey) + float64(s.d.Hosts)*c.of(storeHost)
}

// kept is something that lies in etcd.
type kept struct {
	name  string
	keys  float64
	bytes float64 // of each key and value
}

// live returns all that is in force.
func (s *shape) live() []kept {
	c, d := s.c, s.d
	tenants, virtual, open := float64(d.Tenants), s.virtual(), s.activeVirtual()
	entries := tenants * (1 + float64(d.Keys+d.Hosts))
	list := []kept{
		{"routing records, their keys and hosts", entries, tenants * s.record() / entries},
		{"heads of the audit chains", virtual + s.dedicated()*s.running(), c.of(storeHead)},
		{"servers and other objects", virtual * float64(d.Servers), c.of(storeServer)},
		{"data keys", virtual, c.of(storeDataKey)},
		{"claims", open, c.of(storeOwner)},
		{"markers of open gateways", open * lanes, c.of(storeMarker)},
		{"certificates and their due marks", float64(d.Certificates.Number) * 2, (c.of(storeCert) + markBytes) / 2},
		{"sandboxes and their use", float64(d.Sandboxes.Open) * (1 + periodsKept), (c.of(storeSandbox) + periodsKept*c.of(storePeriod)) / (1 + periodsKept)},
	}
	if d.Keys > 0 {
		list = append(list, kept{"last uses of keys", tenants, c.of(storeUsed) + float64(d.Keys)*c.of(storeUsedKey)})
	}
	if d.PolicyBytes > 0 {
		list = append(list, kept{"policies", virtual, float64(d.PolicyBytes)})
	}
	return list
}

func count(all []kept) (keys float64) {
	for _, k := range all {
		keys += k.keys
	}
	return keys
}

// historySeconds is for how long superseded revisions are kept at most: etcd compacts once in each span, an hour at most, up to where
// it was a span before (its v3compactor/periodic.go).
func (s *shape) historySeconds() float64 {
	span := s.d.Etcd.CompactAfter.Seconds()
	return span + min(span, 3600)
}

// etcd is what the store takes.
func (s *shape) etcd() Etcd {
	var live, size, transactions, puts []Term
	over := s.c.of(storeOverhead)
	for _, k := range s.live() {
		live = append(live, store(k.name, k.keys, k.bytes+over))
	}
	for _, f := range s.flows() {
		per := f.bytes + (f.puts+f.deletes)*over
		size = append(size, Term{"superseded: " + f.name, f.rate * per * s.historySeconds(), fmt.Sprintf("%s/s × %.0f bytes × %.0f s", figure(f.rate, 4), per, s.historySeconds())})
		transactions = append(transactions, Term{f.name, f.rate * f.transactions, fmt.Sprintf("%s/s × %.3g", figure(f.rate, 4), f.transactions)})
		puts = append(puts, Term{f.name, f.rate * (f.puts + f.deletes), fmt.Sprintf("%s/s × %.3g", figure(f.rate, 4), f.puts+f.deletes)})
	}
	e := Etcd{Live: sum(live...), Writes: sum(transactions...), Puts: sum(puts...)}
	pages := s.c.of(storePages)
	e.Size = sum(append(size, Term{"in force", e.Live.Total * pages, fmt.Sprintf("%s × %.3g, as compaction leaves pages half empty", bytesText(e.Live.Total), pages)})...)
	return e
}
