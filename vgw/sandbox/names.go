package sandbox

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// CheckName says whether name can be that of a sandbox of tenant id: a DNS label without "--", no longer than "<name>--<tenant>" may be.
// A name in the form of a UUID is refused: it would be taken for an id.
func CheckName(name string, id tenant.ID) error {
	most := 63 - 2 - len(id)
	switch {
	case name == "" || len(name) > most:
		return fault.New(fault.Invalid, "name is %d bytes long: use 1 to %d of a-z, 0-9 and -", len(name), most)
	case IsID(name):
		return fault.New(fault.Invalid, "name %q has the form of an id: choose another", name)
	}
	return checkLabel("name", name, most)
}

// checkLabel says whether s is a DNS label of at most so many bytes, without "--".
func checkLabel(field, s string, most int) error {
	if s == "" || len(s) > most {
		return fault.New(fault.Invalid, "%s is %d bytes long: use 1 to %d of a-z, 0-9 and -", field, len(s), most)
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
		case c != '-':
			return fault.New(fault.Invalid, "%s %q holds %q: use only a-z, 0-9 and -", field, clip(s), c)
		case i == 0 || i == len(s)-1:
			return fault.New(fault.Invalid, "%s %q begins or ends with -", field, clip(s))
		case s[i-1] == '-':
			return fault.New(fault.Invalid, "%s %q holds --, which separates a sandbox from its tenant", field, clip(s))
		}
	}
	return nil
}

// clip bounds what an error repeats of its request.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

// DefaultName is the name of a sandbox that was given none.
func DefaultName(id string) string { return "sb-" + id[:min(8, len(id))] }

// IsID says whether a path parameter is an id, and no name: a UUID as ids are written, in lower case.
func IsID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case c >= '0' && c <= '9' || c >= 'a' && c <= 'f':
		default:
			return false
		}
	}
	return true
}

// OwnerHash is a hash of an owner's Ref that is fit for a label and a key: 32 hex digits. It hangs on the tenant's UID, so that
// the same name at two tenants, or at a tenant and its successor, is not the same hash.
func OwnerHash(scope tenant.Scope, ref string) string {
	h := sha256.New()
	h.Write([]byte("polygate sandbox owner\x00" + scope.UID() + "\x00" + ref))
	return hex.EncodeToString(h.Sum(nil)[:16])
}
