package policy

import (
	"encoding/json"

	"github.com/polygate/polygate/internal/fault"
)

var errNotBuilt = fault.New(fault.NotImplemented, "policy is not built yet")

// Bundle is the source of one tenant's policy, as it was uploaded or read from a folder. It is not changed by this package.
type Bundle struct {
	RegoVersion string            `json:"rego_version,omitempty"` // "v1", "v0", or "": v1, and v0 with a warning if v1 does not parse
	Modules     map[string]string `json:"modules"`                // path, such as "actions.rego" or "lib/groups.rego", to source; *_test.rego are for Test alone
	Data        json.RawMessage   `json:"data,omitempty"`         // a JSON object, or empty; seen as `data` from its root on
}

// Digest returns "sha256:…" over the bundle's content: its Rego version, its modules and the canonical form of its data.
func (b *Bundle) Digest() string { return "" }

// ReadDir reads a bundle from a folder: every *.rego below it, and data.json or data.yaml at its top. It returns the
// files that it read as well, to be watched. It refuses what leads out of the folder and what is over the bounds of l.
func ReadDir(dir string, l Limits) (*Bundle, []string, error) { return nil, nil, errNotBuilt }

// Encode returns the stored form of a bundle: a version byte and gzipped JSON.
func Encode(b *Bundle) ([]byte, error) { return nil, errNotBuilt }

// Decode reads the stored form. It is bounded: what unpacks to more than a bundle may hold is refused.
func Decode(p []byte) (*Bundle, error) { return nil, errNotBuilt }
