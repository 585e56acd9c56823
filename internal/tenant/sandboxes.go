package tenant

import (
	"slices"
	"strings"

	"github.com/polygate/polygate/internal/fault"
)

// PodSecurity is the Pod Security Standard that a tenant's namespace enforces.
type PodSecurity string

// The levels.
const (
	PodRestricted PodSecurity = "restricted"
	PodBaseline   PodSecurity = "baseline"
	PodPrivileged PodSecurity = "privileged"
)

// NetworkMode says whether a tenant's NetworkPolicies are put in force.
type NetworkMode string

// The modes.
const (
	NetworkEnforce NetworkMode = "enforce"
	NetworkObserve NetworkMode = "observe" // what would be put in force is reported, and nothing changed
)

// Bounds of Sandboxes.
const (
	maxImages   = 32
	maxClasses  = 16
	maxEgress   = 32
	maxImageLen = 255
)

// Sandboxes is what platform operators decide of a tenant's sandboxes. A member cannot change it.
type Sandboxes struct {
	PodSecurity PodSecurity `json:"pod_security,omitempty"` // "" = restricted
	Network     NetworkMode `json:"network,omitempty"`      // "" = enforce
	// Adopted says that Record.Namespace was there before: its admin has labelled it for this tenant. It is left as it was found,
	// and observed, until Hardened.
	Adopted  bool `json:"adopted,omitempty"`
	Hardened bool `json:"hardened,omitempty"`
	// Images that may be run: a repository ("registry.example/team/agent"), which allows its tags and digests, or a prefix that
	// ends in "/"; none = the platform's list.
	Images         []string `json:"images,omitempty"`
	RuntimeClasses []string `json:"runtime_classes,omitempty"` // that may be asked for; none = the platform's list
	// Egress that sandboxes may reach beside DNS and the gateway: CIDR prefixes with an optional ":port"; "internet" = all
	// public addresses. None = nothing.
	Egress []string `json:"egress,omitempty"`
}

// Clone returns a deep copy.
func (s *Sandboxes) Clone() *Sandboxes {
	if s == nil {
		return nil
	}
	c := *s
	c.Images, c.RuntimeClasses, c.Egress = slices.Clone(s.Images), slices.Clone(s.RuntimeClasses), slices.Clone(s.Egress)
	return &c
}

// Observed says whether the tenant's namespace is to be left as it is.
func (s *Sandboxes) Observed() bool { return s != nil && s.Adopted && !s.Hardened }

func (r *Record) checkSandboxes() error {
	s := r.Sandboxes
	if s == nil {
		return nil
	}
	switch s.PodSecurity {
	case "", PodRestricted, PodBaseline, PodPrivileged:
	default:
		return fault.New(fault.Invalid, "sandboxes.pod_security %q is unknown: use restricted, baseline or privileged", s.PodSecurity)
	}
	switch s.Network {
	case "", NetworkEnforce, NetworkObserve:
	default:
		return fault.New(fault.Invalid, "sandboxes.network %q is unknown: use enforce or observe", s.Network)
	}
	if s.Adopted && r.Namespace == "" {
		return fault.New(fault.Invalid, "sandboxes.adopted is true but namespace is missing: name the namespace that is adopted")
	}
	if s.Hardened && !s.Adopted {
		return fault.New(fault.Invalid, "sandboxes.hardened is for an adopted namespace: others are hard from the beginning")
	}
	for i, image := range s.Images {
		if err := checkImagePrefix(image); err != nil {
			return fault.New(fault.Invalid, "sandboxes.images[%d]: %v", i, err)
		}
	}
	for i, c := range s.RuntimeClasses {
		if CheckNamespace(c) != nil || c == "" {
			return fault.New(fault.Invalid, "sandboxes.runtime_classes[%d]: %q is not the name of a RuntimeClass", i, c)
		}
	}
	for i, e := range s.Egress {
		if _, err := ParseEgress(e); err != nil {
			return fault.New(fault.Invalid, "sandboxes.egress[%d]: %v", i, err)
		}
	}
	switch {
	case len(s.Images) > maxImages:
		return fault.New(fault.Invalid, "sandboxes.images has %d entries: at most %d", len(s.Images), maxImages)
	case len(s.RuntimeClasses) > maxClasses:
		return fault.New(fault.Invalid, "sandboxes.runtime_classes has %d entries: at most %d", len(s.RuntimeClasses), maxClasses)
	case len(s.Egress) > maxEgress:
		return fault.New(fault.Invalid, "sandboxes.egress has %d entries: at most %d", len(s.Egress), maxEgress)
	}
	return nil
}

func checkImagePrefix(s string) error {
	switch {
	case s == "" || len(s) > maxImageLen:
		return fault.New(fault.Invalid, "an image is 1 to %d bytes long", maxImageLen)
	case strings.ContainsAny(s, "@ \t*?\\") || strings.Contains(s, "//") || strings.Contains(s, "..") || s[0] == '/':
		return fault.New(fault.Invalid, "%q is no repository: write registry.example/team/agent, or registry.example/team/ for all below it", s)
	}
	for _, c := range s {
		if c <= ' ' || c >= 0x7f {
			return fault.New(fault.Invalid, "%q holds a character that no repository has", s)
		}
	}
	last := s[strings.LastIndexByte(s, '/')+1:]
	if strings.Contains(last, ":") && strings.Contains(s, "/") {
		return fault.New(fault.Invalid, "%q has a tag: a repository is allowed with all its tags", s)
	}
	return nil
}
