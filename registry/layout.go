package registry

import (
	"strings"

	"github.com/polygate/polygate/internal/tenant"
)

// The layout under the root. The one watch covers the first four prefixes only. Every prefix that is ranged over ends
// in '/', and no segment holds one, so the keys of t1 never include those of t10 (X37).
const (
	prefixRecord  = "x/"
	prefixOwner   = "o/"
	prefixReplica = "n/"
	prefixVault   = "v/"
	prefixHost    = "u/host/"
	prefixKey     = "u/key/"
	prefixState   = "t/"
	prefixAudit   = "a/"
	prefixData    = "c/"
	prefixHeads   = "c/audit/"
	prefixUsed    = "c/used/"
	prefixOnce    = "c/once/"
	prefixLock    = "c/lock/"
	prefixDue     = "c/due/"
	prefixLane    = "c/lane/"
	prefixTaken   = "c/taken/"
	prefixHanded  = "c/handed/"
	markerKind    = "_" // not a kind that a Write can have
)

func recordKey(id tenant.ID) string    { return prefixRecord + string(id) }
func ownerKey(id tenant.ID) string     { return prefixOwner + string(id) }
func replicaKey(name string) string    { return prefixReplica + name }
func hostKey(host string) string       { return prefixHost + host }
func statePrefix(id tenant.ID) string  { return prefixState + string(id) + "/" }
func markerPrefix(id tenant.ID) string { return statePrefix(id) + markerKind + "/" }
func kindPrefix(id tenant.ID, kind string) string {
	return statePrefix(id) + kind + "/"
}
func vaultPrefix(owner string) string { return prefixVault + owner + "/" }
func lockKey(name string) string      { return prefixLock + name }
func handedKey(id tenant.ID) string   { return prefixHanded + string(id) }
func usedKey(id tenant.ID) string     { return prefixUsed + string(id) }

// hashKey leaves out the hash's "sha256:", which says nothing here.
func hashKey(h tenant.Hash) string {
	return prefixKey + strings.TrimPrefix(h.String(), "sha256:")
}

// kindOK says whether a Write may have this kind: [a-z][a-z0-9-]*.
func kindOK(kind string) bool {
	for i := range len(kind) {
		c := kind[i]
		letter, other := c >= 'a' && c <= 'z', c >= '0' && c <= '9' || c == '-'
		if !letter && (i == 0 || !other) {
			return false
		}
	}
	return kind != "" && len(kind) <= 63
}
