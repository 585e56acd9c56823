package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
)

// Bounds of a chain's name, in bytes.
const (
	maxBase    = 64 // of a tenant's id, or of a chain of the platform
	maxReplica = 64 // of a replica's name in it
	maxChain   = maxBase + 1 + maxReplica
)

// ErrTaken is in the error of a settlement that came too late: another replica took an entry over.
var ErrTaken = errors.New("another replica took the entry over")

// ChainName returns the name of the chain that a replica writes for a tenant, or of the platform's own. Each chain is written by
// one replica alone; an empty replica gives the name that it has on a platform that has one. A replica's name that no chain can
// hold is replaced by its digest.
func ChainName(base, replica string) string {
	if replica == "" {
		return base
	}
	if len(replica) > maxReplica || strings.ContainsFunc(replica, func(r rune) bool { return r > 0x7e || !nameByte(byte(r)) }) {
		sum := sha256.Sum256([]byte(replica))
		replica = "sha256-" + hex.EncodeToString(sum[:16])
	}
	return base + "@" + replica
}

// SplitChain returns the two parts of a chain's name.
func SplitChain(chain string) (base, replica string) {
	base, replica, _ = strings.Cut(chain, "@")
	return base, replica
}

// nameByte says whether a byte may be in a replica's part of a chain's name.
func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_'
}

func baseByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// chainOK says whether a line can have this chain.
func chainOK(chain string) bool {
	c := cursor{rest: []byte(chain), ok: true}
	return c.name() == chain && chain != ""
}

func baseOf(chain string) string      { base, _ := SplitChain(chain); return base }
func isCheckpoints(chain string) bool { return baseOf(chain) == CheckpointChain }
func isPlatforms(chain string) bool   { return baseOf(chain) == PlatformChain }
