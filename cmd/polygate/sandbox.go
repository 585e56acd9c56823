package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// sandboxInfo is a sandbox as a tenant's API shows it.
type sandboxInfo struct {
	ID           string             `json:"id"`
	Name         string             `json:"name"`
	Owner        string             `json:"owner"`
	State        string             `json:"state"`
	Want         string             `json:"want"`
	Conditions   []sandboxCondition `json:"conditions"`
	Image        string             `json:"image"`
	Command      []string           `json:"command"`
	Args         []string           `json:"args"`
	WorkingDir   string             `json:"working_dir"`
	Resources    sandboxResources   `json:"resources"`
	Ports        []sandboxPort      `json:"ports"`
	RuntimeClass string             `json:"runtime_class"`
	Lifetime     int64              `json:"lifetime_seconds"`
	IdleTimeout  int64              `json:"idle_timeout_seconds"`
	Labels       map[string]string  `json:"labels"`
	Providers    []string           `json:"providers"`
	Run          sandboxRun         `json:"run"`
	Created      time.Time          `json:"created"`
	Expires      time.Time          `json:"expires"`
}

type sandboxCondition struct {
	Type    string    `json:"type"`
	Status  bool      `json:"status"`
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Since   time.Time `json:"since"`
}

type sandboxResources struct {
	CPU     string           `json:"cpu,omitempty"`
	Memory  string           `json:"memory,omitempty"`
	Storage string           `json:"storage,omitempty"`
	GPUs    map[string]int64 `json:"gpus,omitempty"`
}

type sandboxPort struct {
	Name string `json:"name"`
	Port int    `json:"port"`
}

type sandboxRun struct {
	Number  int       `json:"number"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	Exit    *int      `json:"exit_code"`
	Reason  string    `json:"reason"`
}

// The states in which a sandbox rests, as the API names them.
const (
	sandboxRunning = "Running"
	sandboxStopped = "Stopped"
	sandboxFailed  = "Failed"
)

// reasonCompleted is that of a run whose process ended with 0.
const reasonCompleted = "Completed"

// why says in a word why the sandbox is where it is: of one that ended how, of one on its way what is missing.
func (i *sandboxInfo) why() string {
	switch i.State {
	case sandboxRunning:
		return ""
	case sandboxStopped, sandboxFailed:
		if i.Run.Exit != nil && *i.Run.Exit != 0 {
			return fmt.Sprintf("%s (exit %d)", i.Run.Reason, *i.Run.Exit)
		}
		return cmp.Or(i.Run.Reason, i.lacks().Reason)
	}
	return i.lacks().Reason
}

// lacks returns the condition that tells most of what is missing: that it is not Ready says only that something is.
func (i *sandboxInfo) lacks() (c sandboxCondition) {
	for _, one := range i.Conditions {
		if !one.Status && (c.Type == "" || c.Type == "Ready") {
			c = one
		}
	}
	return c
}

func (r sandboxResources) String() string {
	parts := []string{cmp.Or(r.CPU, "-") + " CPU", cmp.Or(r.Memory, "-") + " memory", cmp.Or(r.Storage, "-") + " storage"}
	for _, name := range slices.Sorted(maps.Keys(r.GPUs)) {
		parts = append(parts, fmt.Sprintf("%d %s", r.GPUs[name], name))
	}
	return strings.Join(parts, ", ")
}

// seconds shows a span of the API; none is an empty text.
func seconds(n int64) string {
	if n == 0 {
		return ""
	}
	return (time.Duration(n) * time.Second).String()
}

func sandboxColumns() []column[sandboxInfo] {
	return []column[sandboxInfo]{
		{"NAME", func(i *sandboxInfo) string { return i.Name }}, {"STATE", func(i *sandboxInfo) string { return i.State }},
		{"REASON", func(i *sandboxInfo) string { return i.why() }}, {"OWNER", func(i *sandboxInfo) string { return i.Owner }},
		{"IMAGE", func(i *sandboxInfo) string { return i.Image }}, {"CREATED", func(i *sandboxInfo) string { return stamp(i.Created) }},
		{"EXPIRES", func(i *sandboxInfo) string { return stamp(i.Expires) }}, {"ID", func(i *sandboxInfo) string { return i.ID }},
	}
}

// sandboxDetails are what one sandbox is shown with, beside the columns of the list.
func sandboxDetails() []column[sandboxInfo] {
	return append(sandboxColumns(), []column[sandboxInfo]{
		{"COMMAND", func(i *sandboxInfo) string { return strings.Join(append(slices.Clone(i.Command), i.Args...), " ") }},
		{"DIRECTORY", func(i *sandboxInfo) string { return i.WorkingDir }},
		{"RESOURCES", func(i *sandboxInfo) string { return i.Resources.String() }},
		{"PORTS", func(i *sandboxInfo) string { return i.ports() }}, {"CLASS", func(i *sandboxInfo) string { return i.RuntimeClass }},
		{"LIFETIME", func(i *sandboxInfo) string { return seconds(i.Lifetime) }}, {"IDLE TIMEOUT", func(i *sandboxInfo) string { return seconds(i.IdleTimeout) }},
		{"LABELS", func(i *sandboxInfo) string { return pairs(i.Labels) }}, {"PROVIDERS", func(i *sandboxInfo) string { return strings.Join(i.Providers, ", ") }},
		{"RUN", func(i *sandboxInfo) string { return i.Run.number() }}, {"STARTED", func(i *sandboxInfo) string { return stamp(i.Run.Started) }},
		{"ENDED", func(i *sandboxInfo) string { return stamp(i.Run.Ended) }},
	}...)
}

func (r *sandboxRun) number() string {
	if r.Number == 0 {
		return ""
	}
	return strconv.Itoa(r.Number)
}

func (i *sandboxInfo) ports() string {
	var all []string
	for _, p := range i.Ports {
		all = append(all, fmt.Sprintf("%s=%d", p.Name, p.Port))
	}
	return strings.Join(all, ", ")
}

func pairs(set map[string]string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(set)) {
		all = append(all, k+"="+set[k])
	}
	return strings.Join(all, ", ")
}

// sandboxes is what the commands about sandboxes share.
type sandboxes struct {
	*scoped
}

func newSandboxCommand() *cobra.Command {
	s := &sandboxes{scoped: newScoped(false)}
	cmd := commandGroup("sandbox", "Run programs in sandboxes of one's own, and work in them",
		`Make sandboxes and work in them: each is a process tree, in a container of the tenant's own namespace where the platform runs them on
Kubernetes, with limits of its own. Who makes a sandbox owns it. Admins of the tenant see, start, stop and delete all of them; its
logs, and to run commands in it, are for its owner and for whom the owner shares it with.

A sandbox is named by name or id. It is Pending, Starting, Running, Stopping, Stopped, Failed or Deleting. What is stopped keeps its
name and settings, and loses what it wrote.`,
		s.create(), s.list(), s.get(), s.wait(), s.start(), s.stop(), s.remove(), s.exec(), s.logs(), s.events(), s.watch(), s.share(), s.unshare())
	cmd.Example = "  polygate sandbox create web --wait -- sh -c 'while :; do date; sleep 1; done'\n  polygate sandbox exec web -it -- sh\n  polygate sandbox logs web --follow\n  polygate sandbox delete web --wait"
	s.bind(cmd)
	return cmd
}

// sandboxFilter is which sandboxes of a list are meant.
type sandboxFilter struct {
	selector, state string
	mine            bool
}

func (f *sandboxFilter) bind(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.selector, "selector", "l", "", "with these labels, as Kubernetes writes it: team=a,tier!=test,env in (dev,qa),!old")
	cmd.Flags().StringVar(&f.state, "state", "", "in this state, such as Running")
	cmd.Flags().BoolVar(&f.mine, "mine", false, "one's own alone")
	_ = cmd.RegisterFlagCompletionFunc("state", completeWords("Pending", "Starting", sandboxRunning, "Stopping", sandboxStopped, sandboxFailed, "Deleting"))
}

func (f *sandboxFilter) values() url.Values {
	q := url.Values{}
	if f.selector != "" {
		q.Set("selector", f.selector)
	}
	if f.state != "" {
		q.Set("state", f.state)
	}
	if f.mine {
		q.Set("owner", "me")
	}
	return q
}

func (s *sandboxes) list() *cobra.Command {
	var f sandboxFilter
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the sandboxes that one may see",
		Long:    "List one's own sandboxes and those that are shared with one; for an admin all of the tenant's.",
		Example: "  polygate sandbox list\n  polygate sandbox list -l team=a --state Running -o json\n  polygate sandbox list --mine",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				list, err := allOf[sandboxInfo](ctx, c, f.values(), "sandboxes")
				if err != nil {
					return fmt.Errorf("list sandboxes: %w", err)
				}
				return printList(cmd, &s.out, list, sandboxColumns())
			})
		},
	}
	f.bind(cmd)
	return cmd
}

func getSandbox(ctx context.Context, c *client, name string) (*answered[sandboxInfo], error) {
	var one answered[sandboxInfo]
	if err := c.do(ctx, http.MethodGet, c.path("sandboxes", name), nil, &one); err != nil {
		return nil, fmt.Errorf("sandbox %q: %w", name, err)
	}
	return &one, nil
}

func (s *sandboxes) get() *cobra.Command {
	return &cobra.Command{
		Use: "get <sandbox>", Short: "Show one sandbox with its conditions",
		Long:    "Show one sandbox: what was asked for, where it is, and its conditions, which tell what is missing and what to do. The values of its environment are shown to its owner alone, with -o json or yaml.",
		Example: "  polygate sandbox get web\n  polygate sandbox get web -o yaml",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.complete(named("sandboxes")),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				one, err := getSandbox(ctx, c, args[0])
				if err != nil {
					return err
				}
				return s.show(cmd, one)
			})
		},
	}
}

// show prints one sandbox with all that is known of it.
func (s *sandboxes) show(cmd *cobra.Command, one *answered[sandboxInfo]) error {
	if err := printOne(cmd, &s.out, one, sandboxDetails()); err != nil || s.out.isData() || len(one.is.Conditions) == 0 {
		return err
	}
	rows := make([][]string, len(one.is.Conditions))
	for i, c := range one.is.Conditions {
		rows[i] = []string{c.Type, strconv.FormatBool(c.Status), c.Reason, stamp(c.Since), c.Message}
	}
	fmt.Fprintln(cmd.OutOrStdout())
	return printTable(cmd.OutOrStdout(), []string{"CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"}, rows)
}

// sandboxEvent is a thing that happened to a sandbox.
type sandboxEvent struct {
	At      time.Time `json:"at"`
	Type    string    `json:"type"`
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Count   int       `json:"count"`
}

func (s *sandboxes) events() *cobra.Command {
	return &cobra.Command{
		Use: "events <sandbox>", Short: "Show what the cluster did with a sandbox",
		Long:    "Show what the cluster did with the run of a sandbox, oldest first: where it was placed, its image, why it does not start. The cluster keeps them for a while only.",
		Example: "  polygate sandbox events web",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.complete(named("sandboxes")),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				var list listing[sandboxEvent]
				if err := c.do(ctx, http.MethodGet, c.path("sandboxes", args[0], "events"), nil, &list); err != nil {
					return fmt.Errorf("events of sandbox %q: %w", args[0], err)
				}
				return printList(cmd, &s.out, &list, []column[sandboxEvent]{
					{"TIME", func(e *sandboxEvent) string { return stamp(e.At) }}, {"TYPE", func(e *sandboxEvent) string { return e.Type }},
					{"REASON", func(e *sandboxEvent) string { return e.Reason }}, {"COUNT", func(e *sandboxEvent) string { return strconv.Itoa(max(e.Count, 1)) }},
					{"MESSAGE", func(e *sandboxEvent) string { return e.Message }},
				})
			})
		},
	}
}
