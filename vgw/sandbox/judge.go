package sandbox

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/polygate/polygate/internal/fault"
)

// Rules is what a tenant's sandboxes may be. It is made from the platform's settings and the tenant's routing record.
type Rules struct {
	Images         []string      // repositories, or prefixes that end in "/"; none = only DefaultImage
	HostImage      bool          // the driver runs programs of this machine: the image is "" or "host", and nothing else
	RuntimeClasses []string      // that may be asked for
	DefaultImage   string        // of a sandbox that names none; "" = an image is required, unless HostImage
	Default        Resources     // of a sandbox that says nothing
	Max            Resources     // of one sandbox; a zero field = no limit. GPUs are not looked at
	GPUs           []string      // resource names that count as GPUs and may be asked for; none = those of the usual device plugins
	MaxLifetime    time.Duration // also of a sandbox that asks for none; 0 = no limit
	Providers      []string      // names of the tenant's providers
}

// HostImage is the image of a driver that runs programs of this machine.
const HostImage = "host"

// Bounds of a Spec. What is stored of one sandbox stays below 128 KiB.
const (
	maxArgs      = 256
	maxArgBytes  = 32 << 10 // of command and args together
	maxVars      = 256
	maxVarBytes  = 32 << 10 // of all names and values together
	maxVarName   = 128
	maxPorts     = 16
	maxLabels    = 32
	maxProviders = 16
	maxGPUNames  = 4
	maxDir       = 1024
	minCPU       = 10      // thousandths
	minMemory    = 4 << 20 // less does not hold a process and its tools
	minStorage   = 1 << 20
)

// Judge fills in the defaults, brings what can be written in several ways into one, and refuses, as fault.Invalid that names the field,
// what is not allowed. It is pure, and judges its own result to be the same.
func (s Spec) Judge(r Rules) (Spec, error) {
	for _, judge := range []func(*Spec, Rules) error{
		(*Spec).judgeImage, (*Spec).judgeCommand, (*Spec).judgeEnv, (*Spec).judgeDir, (*Spec).judgeResources, (*Spec).judgeGPUs,
		(*Spec).judgePorts, (*Spec).judgeClass, (*Spec).judgeTimes, (*Spec).judgeLabels, (*Spec).judgeProviders,
	} {
		if err := judge(&s, r); err != nil {
			return Spec{}, err
		}
	}
	return s, nil
}

func invalid(format string, args ...any) error { return fault.New(fault.Invalid, format, args...) }

func (s *Spec) judgeImage(r Rules) error {
	if r.HostImage {
		if s.Image != "" && s.Image != HostImage {
			return invalid("image %q cannot be run here: this platform runs programs of its own machine, so leave image out", clip(s.Image))
		}
		s.Image = HostImage
		return nil
	}
	asked := s.Image
	if asked == "" {
		if asked = r.DefaultImage; asked == "" {
			return invalid("image is missing, and this platform has no default: name one")
		}
	}
	i, err := parseImage(asked)
	if err != nil {
		return err
	}
	s.Image = i.String()
	if d, err := parseImage(r.DefaultImage); err == nil && d == i {
		return nil
	}
	if !slices.ContainsFunc(r.Images, func(entry string) bool { return allows(entry, i.repository) }) {
		return invalid("image %q is not allowed: this tenant may run %s", clip(asked), listed(r.Images, r.DefaultImage))
	}
	return nil
}

// listed names what is allowed, shortened.
func listed(images []string, also string) string {
	all := slices.Clone(images)
	if also != "" {
		all = append(all, also)
	}
	switch {
	case len(all) == 0:
		return "none; ask a platform operator"
	case len(all) > 8:
		return strings.Join(all[:8], ", ") + ", …"
	}
	return strings.Join(all, ", ")
}

func (s *Spec) judgeCommand(Rules) error {
	total := 0
	for _, l := range []struct {
		field string
		words []string
	}{{"command", s.Command}, {"args", s.Args}} {
		if len(l.words) > maxArgs {
			return invalid("%s has %d words: at most %d", l.field, len(l.words), maxArgs)
		}
		for i, w := range l.words {
			if !isText(w) {
				return invalid("%s[%d] is not UTF-8, or holds a NUL", l.field, i)
			}
			total += len(w)
		}
	}
	switch {
	case total > maxArgBytes:
		return invalid("command and args have %d bytes: at most %d together", total, maxArgBytes)
	case len(s.Command) > 0 && s.Command[0] == "":
		return invalid("command[0] is empty: name the program")
	}
	return nil
}

// isText says whether s can be handed to a process.
func isText(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

func (s *Spec) judgeEnv(Rules) error {
	if len(s.Env) > maxVars {
		return invalid("env has %d variables: at most %d", len(s.Env), maxVars)
	}
	total := 0
	for i, v := range s.Env {
		switch {
		case !isVarName(v.Name):
			return invalid("env[%d].name %q: use 1 to %d of A-Z, a-z, 0-9 and _, and no digit first", i, clip(v.Name), maxVarName)
		case strings.HasPrefix(v.Name, "POLYGATE_"):
			return invalid("env[%d].name %q: names that begin with POLYGATE_ are the gateway's", i, v.Name)
		case !isText(v.Value):
			return invalid("env[%d].value of %q is not UTF-8, or holds a NUL", i, v.Name)
		}
		total += len(v.Name) + len(v.Value)
	}
	if total > maxVarBytes {
		return invalid("env has %d bytes: at most %d", total, maxVarBytes)
	}
	s.Env = slices.SortedFunc(slices.Values(s.Env), func(a, b Var) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(s.Env); i++ {
		if s.Env[i].Name == s.Env[i-1].Name {
			return invalid("env has %q twice", s.Env[i].Name)
		}
	}
	return nil
}

func isVarName(s string) bool {
	if s == "" || len(s) > maxVarName || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_') {
			return false
		}
	}
	return true
}

func (s *Spec) judgeDir(Rules) error {
	if d := s.WorkingDir; d != "" && (d[0] != '/' || path.Clean(d) != d || len(d) > maxDir || !isText(d)) {
		return invalid("working_dir %q is no absolute path without .., // or a / at its end", clip(d))
	}
	return nil
}

func (s *Spec) judgeResources(r Rules) error {
	for _, f := range []struct {
		field       string
		v           *int64
		least       int64
		most, given int64
		format      func(int64) string
	}{
		{"resources.cpu", &s.Resources.CPU, minCPU, r.Max.CPU, r.Default.CPU, FormatCPU},
		{"resources.memory", &s.Resources.Memory, minMemory, r.Max.Memory, r.Default.Memory, FormatBytes},
		{"resources.storage", &s.Resources.Storage, minStorage, r.Max.Storage, r.Default.Storage, FormatBytes},
	} {
		if *f.v == 0 {
			*f.v = f.given
			if f.most > 0 {
				*f.v = min(f.given, f.most) // a default above what this tenant may have is no reason to refuse
			}
		}
		most := int64(maxQuantity)
		if f.most > 0 {
			most = min(most, f.most)
		}
		switch {
		case *f.v < f.least:
			return invalid("%s is %s: at least %s", f.field, f.format(*f.v), f.format(f.least))
		case *f.v > most:
			return invalid("%s is %s: at most %s", f.field, f.format(*f.v), f.format(most))
		}
	}
	return nil
}

// judgeGPUs lets only resources be named that are GPUs: other extended resources are devices of the node, such as /dev/kvm or /dev/fuse.
func (s *Spec) judgeGPUs(r Rules) error {
	if len(s.Resources.GPUs) > maxGPUNames {
		return invalid("resources.gpus has %d names: at most %d", len(s.Resources.GPUs), maxGPUNames)
	}
	kept := map[string]int64{}
	for _, name := range slices.Sorted(maps.Keys(s.Resources.GPUs)) {
		n := s.Resources.GPUs[name]
		switch {
		case !isGPU(name, r.GPUs):
			return invalid("resources.gpus: %q is not the resource name of a GPU: use one such as nvidia.com/gpu", clip(name))
		case n < 0 || n > 64:
			return invalid("resources.gpus: %d of %q: 0 to 64", n, name)
		case n > 0:
			kept[name] = n
		}
	}
	s.Resources.GPUs = kept
	if len(kept) == 0 {
		s.Resources.GPUs = nil
	}
	return nil
}

func isGPU(name string, allowed []string) bool {
	if len(allowed) > 0 {
		return slices.Contains(allowed, name)
	}
	switch name {
	case "nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe":
		return true
	}
	slice, ok := strings.CutPrefix(name, "nvidia.com/mig-") // such as nvidia.com/mig-1g.5gb
	return ok && len(slice) <= 32 && isPathPart(slice)
}

func (s *Spec) judgePorts(Rules) error {
	if len(s.Ports) > maxPorts {
		return invalid("ports has %d entries: at most %d", len(s.Ports), maxPorts)
	}
	for i, p := range s.Ports {
		if err := checkLabel(fmt.Sprintf("ports[%d].name", i), p.Name, 15); err != nil {
			return err
		}
		if strings.Trim(p.Name, "0123456789-") == "" {
			return invalid("ports[%d].name %q has no letter", i, p.Name)
		}
		if p.Number < 1024 || p.Number > 65535 {
			return invalid("ports[%d].port is %d: 1024 to 65535, since nothing runs as root", i, p.Number)
		}
		for _, q := range s.Ports[:i] {
			if p.Name == q.Name || p.Number == q.Number {
				return invalid("ports[%d]: the name or the number is there already", i)
			}
		}
	}
	return nil
}

func (s *Spec) judgeClass(r Rules) error {
	if s.RuntimeClass == "" || slices.Contains(r.RuntimeClasses, s.RuntimeClass) {
		return nil
	}
	return invalid("runtime_class %q is not allowed: this tenant may use %s", clip(s.RuntimeClass), listed(r.RuntimeClasses, ""))
}

func (s *Spec) judgeTimes(r Rules) error {
	for _, f := range []struct {
		field string
		v     time.Duration
	}{{"lifetime_seconds", s.Lifetime}, {"idle_timeout_seconds", s.IdleTimeout}} {
		if f.v < 0 || f.v%time.Second != 0 || f.v > 10*365*24*time.Hour {
			return invalid("%s is %v: a whole number of seconds, up to ten years", f.field, f.v)
		}
	}
	if r.MaxLifetime > 0 && s.Lifetime > r.MaxLifetime {
		return invalid("lifetime_seconds is %d: the quota sandbox_lifetime allows %d", s.Lifetime/time.Second, r.MaxLifetime/time.Second)
	}
	if s.Lifetime == 0 {
		s.Lifetime = r.MaxLifetime
	}
	return nil
}

func (s *Spec) judgeLabels(Rules) error {
	if len(s.Labels) > maxLabels {
		return invalid("labels has %d entries: at most %d", len(s.Labels), maxLabels)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		if err := checkLabelKey(k); err != nil {
			return err
		}
		if v := s.Labels[k]; v != "" && !isQualified(v) {
			return invalid("labels: the value of %q: use up to 63 of a-z, A-Z, 0-9, -, _ and ., a letter or digit first and last", k)
		}
	}
	return nil
}

// checkLabelKey refuses, beside what is no key, those that mean something to a cluster or to us: they are never labels of the cluster's
// objects, and whoever reads a listing should not take them for some either.
func checkLabelKey(k string) error {
	domain, name, prefixed := strings.Cut(k, "/")
	if !prefixed {
		domain, name = "", k
	}
	if !isQualified(name) || prefixed && (!checkRegistry(domain) || strings.Contains(domain, ":")) {
		return invalid("labels: %q is no key: use [prefix/]name, the name up to 63 of a-z, A-Z, 0-9, -, _ and .", clip(k))
	}
	for _, taken := range []string{"polygate.dev", "kubernetes.io", "k8s.io", "x-k8s.io", "openshift.io"} {
		if domain == taken || strings.HasSuffix(domain, "."+taken) {
			return invalid("labels: %q: keys of %s are taken", clip(k), taken)
		}
	}
	return nil
}

// isQualified says whether s is a label's value or the name in its key.
func isQualified(s string) bool {
	alnum := func(c byte) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
	}
	if s == "" || len(s) > 63 || !alnum(s[0]) || !alnum(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !alnum(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

func (s *Spec) judgeProviders(r Rules) error {
	if len(s.Providers) > maxProviders {
		return invalid("providers has %d names: at most %d", len(s.Providers), maxProviders)
	}
	for i, p := range s.Providers {
		if !slices.Contains(r.Providers, p) {
			return invalid("providers[%d]: there is no provider %q", i, clip(p))
		}
		if slices.Contains(s.Providers[:i], p) {
			return invalid("providers[%d]: %q is there twice", i, clip(p))
		}
	}
	return nil
}
