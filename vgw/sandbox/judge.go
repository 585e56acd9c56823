package sandbox

import (
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// Rules is what a tenant's sandboxes may be. It is made from the platform's settings and the tenant's routing record.
type Rules struct {
	Images         []string      // repositories, or prefixes that end in "/"; none = only DefaultImage, and "" where AnyImage is false
	HostImage      bool          // the driver runs programs of this machine: the image is "" or "host", and nothing else
	RuntimeClasses []string      // that may be asked for
	DefaultImage   string        // of a sandbox that names none; "" = an image is required, unless HostImage
	Default        Resources     // of a sandbox that says nothing
	Max            Resources     // of one sandbox; a zero field = no limit, but GPUs: what is not there is not allowed
	MaxLifetime    time.Duration // also of a sandbox that asks for none; 0 = no limit
	Providers      []string      // names of the tenant's providers
}

// Judge fills in the defaults, brings what can be written in several ways into one, and refuses, as fault.Invalid that names the field,
// what is not allowed. It is pure.
func (s Spec) Judge(r Rules) (Spec, error) {
	return s, nil
}

// CheckName says whether name can be that of a sandbox of tenant id: a DNS label without "--", no longer than "<name>--<tenant>" may be.
// A name in the form of a UUID is refused: it would be taken for an id.
func CheckName(name string, id tenant.ID) error { return nil }

// DefaultName is the name of a sandbox that was given none.
func DefaultName(id string) string { return "sb-" + id[:8] }

// IsID says whether a path parameter is an id, and no name.
func IsID(s string) bool { return false }

// OwnerHash is a hash of an owner's Ref that is fit for a label and a key, and differs between tenants: 32 hex digits.
func OwnerHash(scope tenant.Scope, ref string) string { return "" }

// ParseCPU reads "500m", "2" or "1.5": cores, into thousandths of one.
func ParseCPU(s string) (int64, error) { return 0, nil }

// ParseBytes reads "512Mi", "1Gi", "2G" or "1048576": bytes, with the suffixes of Kubernetes, and "MiB" and "MB" beside.
func ParseBytes(s string) (int64, error) { return 0, nil }

// FormatCPU writes what ParseCPU reads: "500m", "2".
func FormatCPU(millis int64) string { return "" }

// FormatBytes writes what ParseBytes reads: "512Mi", or plain digits.
func FormatBytes(n int64) string { return "" }
