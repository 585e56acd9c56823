package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// The labels of what the gateway makes. Users' labels never become labels: they are in the annotation AnnotationLabels, where no
// selector sees them.
const (
	LabelPrefix    = "polygate.dev/"
	LabelTenant    = LabelPrefix + "tenant"
	LabelTenantUID = LabelPrefix + "tenant-uid" // an earlier tenant of the same id had another
	LabelSandbox   = LabelPrefix + "sandbox"    // id
	LabelRun       = LabelPrefix + "run"        // nonce
	LabelOwner     = LabelPrefix + "owner"      // hash
	LabelSession   = LabelPrefix + "session"
	LabelInstance  = LabelPrefix + "instance" // of the platform
	LabelManagedBy = "app.kubernetes.io/managed-by"

	AnnotationName   = LabelPrefix + "name"   // of the sandbox, for people
	AnnotationLabels = LabelPrefix + "labels" // of its owner, a JSON object

	// Finalizer keeps an ended pod until its end and its use are stored.
	Finalizer = LabelPrefix + "accounted"
)

const manager = "polygate"

// mine returns the labels of all that the driver makes.
func (d *driver) mine() map[string]string {
	return map[string]string{
		LabelManagedBy: manager,
		LabelInstance:  d.config.Instance,
		LabelTenant:    string(d.tenant.Scope.ID()),
		LabelTenantUID: d.tenant.Scope.UID(),
	}
}

// labels returns the labels of a run. They are made of what the gateway knows, of nothing that a user wrote.
func (d *driver) labels(t sandbox.Task) map[string]string {
	l := d.mine()
	l[LabelSandbox], l[LabelRun] = t.Sandbox, t.Nonce
	if t.Owner != "" {
		l[LabelOwner] = labelValue(t.Owner)
	}
	if t.Session != "" {
		l[LabelSession] = labelValue(t.Session)
	}
	return l
}

// selector selects all runs of the tenant.
func (d *driver) selector() string {
	return LabelInstance + "=" + d.config.Instance + "," + LabelTenantUID + "=" + d.tenant.Scope.UID() + "," + LabelSandbox
}

// belongs says whether labels are those of a run of this tenant, and of no other platform's.
func (d *driver) belongs(l map[string]string) bool {
	return l[LabelInstance] == d.config.Instance && l[LabelTenant] == string(d.tenant.Scope.ID()) &&
		l[LabelTenantUID] == d.tenant.Scope.UID() && l[LabelSandbox] != "" && l[LabelRun] != ""
}

// carries says whether labels are those of the very run t: by them alone, what has its name is adopted.
func (d *driver) carries(l map[string]string, t sandbox.Task) bool {
	return d.belongs(l) && l[LabelSandbox] == t.Sandbox && l[LabelRun] == t.Nonce
}

// runName returns the name of a run's objects. The nonce is random and stored before the name is used, so that nobody can have put
// something there in advance.
func runName(sandboxID, nonce string) string {
	return "sb-" + sandboxID[:min(8, len(sandboxID))] + "-" + nonce
}

// checkTask refuses a task whose identity is not fit for names and labels.
func checkTask(t sandbox.Task) error {
	if !isLabelValue(t.Sandbox) || len(t.Sandbox) < 8 || !isLabelValue(t.Nonce) || !isName(runName(t.Sandbox, t.Nonce)) {
		return fault.New(fault.Internal, "sandbox %q, run %q: not fit for a name of the cluster", t.Sandbox, t.Nonce)
	}
	return nil
}

// labelValue returns s if it is fit for a label, and else a digest of it.
func labelValue(s string) string {
	if isLabelValue(s) {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return "h-" + hex.EncodeToString(sum[:16])
}

func isLabelValue(s string) bool {
	return len(s) > 0 && len(s) <= 63 && alnum(s[0]) && alnum(s[len(s)-1]) &&
		strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 || !alnum(byte(r)) && !strings.ContainsRune("-_.", r) }) < 0
}

// isName says whether s is a DNS label (RFC 1123).
func isName(s string) bool {
	return isLabelValue(s) && s == strings.ToLower(s) && !strings.ContainsAny(s, "_.")
}

func alnum(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
