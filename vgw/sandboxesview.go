package vgw

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// sandboxView is a sandbox as the API shows it.
type sandboxView struct {
	ID         string              `json:"id"`
	Name       string              `json:"name"`
	Owner      string              `json:"owner"`
	State      sandbox.State       `json:"state"`
	Want       sandbox.Want        `json:"want"`
	Conditions []sandbox.Condition `json:"conditions"`

	Image              string            `json:"image,omitzero"`
	Command            []string          `json:"command,omitempty"`
	Args               []string          `json:"args,omitempty"`
	Env                []varView         `json:"env,omitempty"`
	WorkingDir         string            `json:"working_dir,omitzero"`
	Resources          resourcesView     `json:"resources"`
	Ports              []sandbox.Port    `json:"ports,omitempty"`
	RuntimeClass       string            `json:"runtime_class,omitzero"`
	LifetimeSeconds    int64             `json:"lifetime_seconds,omitzero"`
	IdleTimeoutSeconds int64             `json:"idle_timeout_seconds,omitzero"`
	Labels             map[string]string `json:"labels,omitempty"`
	Providers          []string          `json:"providers,omitempty"`
	Session            string            `json:"session,omitzero"`

	Run             *runView  `json:"run,omitzero"`
	Created         time.Time `json:"created"`
	Updated         time.Time `json:"updated"`
	Expires         time.Time `json:"expires,omitzero"` // when its lifetime is over
	ResourceVersion string    `json:"resource_version"` // also the ETag
}

// varView is a variable; its value is for the owner alone.
type varView struct {
	Name  string  `json:"name"`
	Value *string `json:"value,omitzero"`
}

// resourcesView is what is set aside, in the words of Kubernetes.
type resourcesView struct {
	CPU     string           `json:"cpu,omitzero"`
	Memory  string           `json:"memory,omitzero"`
	Storage string           `json:"storage,omitzero"`
	GPUs    map[string]int64 `json:"gpus,omitempty"`
}

type runView struct {
	Number   int       `json:"number"`
	Begun    time.Time `json:"begun,omitzero"`
	Started  time.Time `json:"started,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
	ExitCode *int      `json:"exit_code,omitzero"`
	Reason   string    `json:"reason,omitzero"`
}

func (c *call) sandboxView(s *sandbox.Sandbox) sandboxView {
	owner := ownableSandbox(s).object(c.e.Record).Owner
	v := sandboxView{
		ID: s.ID, Name: s.Name, Owner: owner, State: s.State, Want: s.Want, Conditions: append([]sandbox.Condition{}, s.Conditions...),
		Image: s.Spec.Image, Command: s.Spec.Command, Args: s.Spec.Args, WorkingDir: s.Spec.WorkingDir, Resources: viewResources(s.Spec.Resources),
		Ports: s.Spec.Ports, RuntimeClass: s.Spec.RuntimeClass, LifetimeSeconds: int64(s.Spec.Lifetime / time.Second),
		IdleTimeoutSeconds: int64(s.Spec.IdleTimeout / time.Second), Labels: s.Spec.Labels, Providers: s.Spec.Providers, Session: s.Session,
		Created: s.Created, Updated: s.Updated, ResourceVersion: strconv.FormatInt(s.Version, 10),
	}
	mine := owner != "" && owner == c.r.Visit.Principal().Ref()
	for _, e := range s.Spec.Env {
		shown := varView{Name: e.Name}
		if mine {
			shown.Value = &e.Value
		}
		v.Env = append(v.Env, shown)
	}
	if s.Runs > 0 {
		v.Run = &runView{s.Runs, s.Run.Begun, s.Run.Started, s.Run.Ended, s.Run.Exit, s.Run.Reason}
	}
	if s.Run.Live() && !s.Run.Started.IsZero() && s.Spec.Lifetime > 0 {
		v.Expires = s.Run.Started.Add(s.Spec.Lifetime)
	}
	return v
}

func viewResources(r sandbox.Resources) resourcesView {
	v := resourcesView{GPUs: r.GPUs}
	if r.CPU > 0 {
		v.CPU = sandbox.FormatCPU(r.CPU)
	}
	if r.Memory > 0 {
		v.Memory = sandbox.FormatBytes(r.Memory)
	}
	if r.Storage > 0 {
		v.Storage = sandbox.FormatBytes(r.Storage)
	}
	return v
}

// sandboxBody is the body of POST /api/v1/sandboxes.
type sandboxBody struct {
	Name               string            `json:"name"`
	Image              string            `json:"image"`
	Command            []string          `json:"command"`
	Args               []string          `json:"args"`
	Env                []sandbox.Var     `json:"env"`
	WorkingDir         string            `json:"working_dir"`
	Resources          resourcesView     `json:"resources"`
	Ports              []sandbox.Port    `json:"ports"`
	RuntimeClass       string            `json:"runtime_class"`
	LifetimeSeconds    int64             `json:"lifetime_seconds"`
	IdleTimeoutSeconds int64             `json:"idle_timeout_seconds"`
	Labels             map[string]string `json:"labels"`
	Providers          []string          `json:"providers"`
}

// spec returns what is asked for, not judged yet.
func (b *sandboxBody) spec() (sandbox.Spec, error) {
	s := sandbox.Spec{
		Image: b.Image, Command: b.Command, Args: b.Args, Env: slices.Clone(b.Env), WorkingDir: b.WorkingDir, Ports: b.Ports,
		RuntimeClass: b.RuntimeClass, Labels: b.Labels, Providers: b.Providers,
	}
	slices.SortStableFunc(s.Env, func(x, y sandbox.Var) int { return cmp.Compare(x.Name, y.Name) })
	var err error
	if s.Lifetime, err = seconds("lifetime_seconds", b.LifetimeSeconds); err != nil {
		return s, err
	}
	if s.IdleTimeout, err = seconds("idle_timeout_seconds", b.IdleTimeoutSeconds); err != nil {
		return s, err
	}
	s.Resources, err = b.Resources.read()
	return s, err
}

// maxSeconds bounds a time in a body: 31 years, far from what a time.Duration can hold.
const maxSeconds = 1_000_000_000

func seconds(field string, n int64) (time.Duration, error) {
	if n < 0 || n > maxSeconds {
		return 0, fault.New(fault.Invalid, "%s must be 0 to %d", field, maxSeconds)
	}
	return time.Duration(n) * time.Second, nil
}

func (v *resourcesView) read() (r sandbox.Resources, err error) {
	r.GPUs = v.GPUs
	for _, q := range []struct {
		field, text string
		to          *int64
		parse       func(string) (int64, error)
	}{
		{"cpu", v.CPU, &r.CPU, sandbox.ParseCPU}, {"memory", v.Memory, &r.Memory, sandbox.ParseBytes}, {"storage", v.Storage, &r.Storage, sandbox.ParseBytes},
	} {
		if q.text == "" {
			continue
		}
		if *q.to, err = q.parse(q.text); err != nil {
			return r, fault.Wrap(fault.Invalid, err, "resources.%s: %s", q.field, fault.From(err).Detail)
		}
		if *q.to == 0 {
			return r, fault.New(fault.Invalid, "resources.%s must be above 0: leave it out for the default", q.field)
		}
	}
	return r, nil
}
