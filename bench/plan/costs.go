package plan

import (
	_ "embed"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// Costs are what things cost, each with how that is known.
type Costs struct {
	Source string          `yaml:"source"` // machine, version and date in words
	Costs  map[string]Cost `yaml:"costs"`  // by name; the embedded costs.yaml has all, with what each is
}

// Cost is one of them.
type Cost struct {
	Value    float64 `yaml:"value"`
	Unit     string  `yaml:"unit"`
	Measured bool    `yaml:"measured"` // false: it follows from the code, or is estimated from what was measured
	From     string  `yaml:"from"`     // how it is known
}

//go:embed costs.yaml
var embedded []byte

// DefaultCosts returns the set that comes with the program.
func DefaultCosts() (*Costs, error) { return ParseCosts("costs.yaml", embedded) }

// ParseCosts reads a set of costs, strictly. It has to hold all that a plan is computed from.
func ParseCosts(name string, b []byte) (*Costs, error) {
	if len(b) > maxBytes {
		return nil, fmt.Errorf("%s: is larger than %d KiB", name, maxBytes>>10)
	}
	if err := shallow(name, b); err != nil {
		return nil, err
	}
	c := new(Costs)
	if err := yaml.UnmarshalWithOptions(b, c, yaml.Strict()); err != nil {
		return nil, located(name, err)
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// YAML returns the costs as ParseCosts reads them.
func (c *Costs) YAML() ([]byte, error) { return yaml.Marshal(c) }

func (c *Costs) check() error {
	for _, name := range costNames() {
		k, ok := c.Costs[name]
		if !ok {
			return fmt.Errorf("there is no cost %s: take the default set and change what you measured", name)
		}
		if !(k.Value >= 0) || math.IsInf(k.Value, 0) {
			return fmt.Errorf("cost %s is %v: it has to be 0 or more", name, k.Value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Costs)) {
		if !slices.Contains(costNames(), name) {
			return fmt.Errorf("%q is not a cost that a plan uses: known are %s", clip(name), strings.Join(costNames(), ", "))
		}
	}
	for _, name := range []string{costTransactions, costPuts, costClaims, costSettle} {
		if c.Costs[name].Value == 0 {
			return fmt.Errorf("cost %s is 0: it is a bound, and has to be above 0", name)
		}
	}
	return nil
}

func (c *Costs) of(name string) float64 { return c.Costs[name].Value }

// The names of costs that are not of a protocol or credential.
const (
	costAnswer       = "cpu.answer_kib"        // µs for each KiB of an answer beyond the first half
	costForward      = "cpu.forward"           // µs more where another replica serves
	costFull         = "cpu.handshake"         // µs of a full handshake
	costResumed      = "cpu.handshake_resumed" // µs
	costOpening      = "cpu.opening"           // µs of a gateway that is opened
	costChange       = "cpu.change"            // µs
	costHead         = "cpu.head"              // µs for an anchored head, etcd's part in an embedded store included
	memBase          = "memory.base"           // bytes of a replica without tenants, on an external etcd
	memRegistered    = "memory.registered"     // bytes of a tenant, on each replica
	memActive        = "memory.active"         // bytes of an active tenant, where it is served
	memConnection    = "memory.connection"     // bytes
	memStream        = "memory.stream"         // bytes, beside its connection
	memCertificate   = "memory.certificate"    // bytes of one that is in use
	memRequest       = "memory.request"        // bytes of a request in flight
	memSandbox       = "memory.sandbox"        // bytes
	memMember        = "memory.member"         // bytes more of a replica that holds a member of etcd, before there is anything in it
	memStoreByte     = "memory.store_byte"     // bytes for each of the database, in a replica that holds a member
	memStoreKey      = "memory.store_key"      // bytes for each key and superseded revision, there
	storeOverhead    = "store.overhead"        // bytes of a revision beside key and value
	storePages       = "store.pages"           // bytes of the file for each that is in force: compaction leaves pages half empty
	storeRecord      = "store.record"          // bytes of a routing record without keys
	storeDedicated   = "store.dedicated"       // bytes more of a dedicated tenant's
	storeKey         = "store.key"             // bytes of a key in it, and of its index entry
	storeHost        = "store.host"            // bytes of a host in it, and of its index entry
	storeServer      = "store.server"          // bytes of a server or another object
	storeDataKey     = "store.data_key"        // bytes
	storeMarker      = "store.marker"          // bytes of a lane's marker
	storeHead        = "store.head"            // bytes of an anchored head
	storeUsed        = "store.used"            // bytes of the last uses of a tenant's keys, without them
	storeUsedKey     = "store.used_key"        // bytes for each key that was used
	storeEntry       = "store.audit_entry"     // bytes of a change's audit entry, until it is in the log
	storeOwner       = "store.owner"           // bytes of a claim
	storeReplica     = "store.replica"         // bytes of a replica's record
	storeCert        = "store.certificate"     // bytes of a stored certificate
	storeSandbox     = "store.sandbox"         // bytes of a sandbox
	storePeriod      = "store.period"          // bytes of a period of use
	costSettle       = "rate.settle"           // settlements of the audit a second, at each of which a chain's head is anchored once
	costClaims       = "bound.claims"          // of one lease
	costPuts         = "bound.puts"            // a second, of one etcd
	costTransactions = "bound.transactions"    // a second, of one etcd
	costPeakDay      = "peak.day"              // a day's changes and starts come in this part of it
)

func costNames() []string {
	names := []string{costAnswer, costForward, costFull, costResumed, costOpening, costChange, costHead, memBase, memRegistered, memActive,
		memConnection, memStream, memCertificate, memRequest, memSandbox, memMember, memStoreByte, memStoreKey, storeOverhead, storePages, storeRecord, storeDedicated,
		storeKey, storeHost, storeServer, storeDataKey, storeMarker, storeHead, storeUsed, storeUsedKey, storeEntry, storeOwner,
		storeReplica, storeCert, storeSandbox, storePeriod, costSettle, costClaims, costPuts, costTransactions, costPeakDay}
	for _, p := range protocols() {
		names = append(names, requestCost(p))
	}
	for _, c := range credentials() {
		names = append(names, credentialCost(c))
	}
	slices.Sort(names)
	return names
}

// requestCost is µs of a request without a credential, on a kept connection, with the answer that the default has.
func requestCost(protocol string) string { return "cpu.request." + protocol }

// credentialCost is µs more of a request with one.
func credentialCost(kind string) string { return "cpu.credential." + kind }
