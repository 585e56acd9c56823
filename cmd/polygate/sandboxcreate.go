package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// maxEnvFile bounds an --env-file, in bytes.
const maxEnvFile = 256 << 10

// sandboxRequest is the body of a sandbox's creation. What is left out is the platform's default.
type sandboxRequest struct {
	Name         string            `json:"name,omitempty"`
	Image        string            `json:"image,omitempty"`
	Command      []string          `json:"command,omitempty"`
	Args         []string          `json:"args,omitempty"`
	Env          []sandboxVar      `json:"env,omitempty"`
	WorkingDir   string            `json:"working_dir,omitempty"`
	Resources    *sandboxResources `json:"resources,omitempty"`
	Ports        []sandboxPort     `json:"ports,omitempty"`
	RuntimeClass string            `json:"runtime_class,omitempty"`
	Lifetime     int64             `json:"lifetime_seconds,omitempty"`
	IdleTimeout  int64             `json:"idle_timeout_seconds,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Providers    []string          `json:"providers,omitempty"`
}

type sandboxVar struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// sandboxFlags are those of create, as they are given.
type sandboxFlags struct {
	image, dir, class, lifetime, idle string
	cpu, memory, storage              string
	gpus, env, ports, labels          []string
	envFile, key                      string
	providers                         []string
	asArgs                            bool
}

func (f *sandboxFlags) bind(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.image, "image", "", "image of the container, of those that the tenant may use (default: the platform's)")
	flags.StringVar(&f.cpu, "cpu", "", "cores set aside, and the limit, such as 500m or 2")
	flags.StringVar(&f.memory, "memory", "", "memory set aside, and the limit, such as 512Mi")
	flags.StringVar(&f.storage, "storage", "", "most that it may write, such as 1Gi")
	flags.StringArrayVar(&f.gpus, "gpu", nil, "GPUs by resource name, as name=count, such as nvidia.com/gpu=1; may be repeated")
	flags.StringArrayVar(&f.env, "env", nil, "variable of its environment, as NAME=value, or NAME alone for the value that it has here; may be repeated")
	flags.StringVar(&f.envFile, "env-file", "", "file with one NAME=value a line; - reads stdin")
	flags.StringVar(&f.dir, "workdir", "", "directory in which the command runs")
	flags.StringArrayVar(&f.ports, "port", nil, "port that it listens on, as name=number; may be repeated")
	flags.StringVar(&f.class, "runtime-class", "", "runtime class of the cluster, of those that the tenant may use")
	flags.StringVar(&f.lifetime, "lifetime", "", "stop it this long after each start, such as 2h (default: the tenant's limit)")
	flags.StringVar(&f.idle, "idle-timeout", "", "stop it when nobody has worked in it for so long, such as 30m")
	flags.StringArrayVarP(&f.labels, "label", "l", nil, "label, as name=value; may be repeated")
	flags.StringArrayVar(&f.providers, "provider", nil, "provider of the tenant to attach; may be repeated")
	flags.BoolVar(&f.asArgs, "args", false, "what follows -- are arguments for the image's own command")
	flags.StringVar(&f.key, "idempotency-key", "", "made up by the caller: the same one again answers with the sandbox that it made")
}

// request returns the body of the request. What the values mean, the gateway judges.
func (f *sandboxFlags) request(cmd *cobra.Command, name string, command []string) (*sandboxRequest, error) {
	r := &sandboxRequest{Name: name, Image: f.image, WorkingDir: f.dir, RuntimeClass: f.class, Providers: f.providers}
	if r.Command = command; f.asArgs {
		r.Command, r.Args = nil, command
	}
	res := sandboxResources{CPU: f.cpu, Memory: f.memory, Storage: f.storage}
	var err error
	if res.GPUs, err = parseCounts("gpu", f.gpus); err != nil {
		return nil, err
	}
	if res.CPU != "" || res.Memory != "" || res.Storage != "" || len(res.GPUs) > 0 {
		r.Resources = &res
	}
	if r.Ports, err = parsePorts(f.ports); err != nil {
		return nil, err
	}
	if r.Labels, err = parsePairs("label", f.labels); err != nil {
		return nil, err
	}
	if r.Lifetime, err = parseSeconds("lifetime", f.lifetime); err != nil {
		return nil, err
	}
	if r.IdleTimeout, err = parseSeconds("idle-timeout", f.idle); err != nil {
		return nil, err
	}
	r.Env, err = f.environment(cmd)
	return r, err
}

// environment reads the variables: those of the flags count before those of the file. An error shows no value.
func (f *sandboxFlags) environment(cmd *cobra.Command) ([]sandboxVar, error) {
	lines := f.env
	if f.envFile != "" {
		b, err := readFile(f.envFile, cmd.InOrStdin(), maxEnvFile)
		if err != nil {
			return nil, fmt.Errorf("read the environment: %w", err)
		}
		var fromFile []string
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimRight(line, "\r\n"); strings.TrimSpace(line) != "" && line[0] != '#' {
				fromFile = append(fromFile, line)
			}
		}
		lines = append(fromFile, lines...)
	}
	var all []sandboxVar
	at := make(map[string]int)
	for i, line := range lines {
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			if value, ok = os.LookupEnv(name); !ok {
				return nil, usage("variable %d is not of the form NAME=value, and is not set here", i+1)
			}
		}
		if name == "" {
			return nil, usage("variable %d has no name", i+1)
		}
		if j, again := at[name]; again {
			all[j].Value = value
			continue
		}
		at[name] = len(all)
		all = append(all, sandboxVar{name, value})
	}
	return all, nil
}

func parsePairs(flag string, list []string) (map[string]string, error) {
	set := make(map[string]string, len(list))
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		if _, twice := set[name]; !ok || name == "" || twice {
			return nil, usage("--%s %q is not of the form name=value, or is there twice", flag, text)
		}
		set[name] = value
	}
	return set, nil
}

func parseCounts(flag string, list []string) (map[string]int64, error) {
	set := make(map[string]int64, len(list))
	for _, text := range list {
		name, count, _ := strings.Cut(text, "=")
		n, err := strconv.ParseInt(count, 10, 32)
		if _, twice := set[name]; err != nil || n < 1 || name == "" || twice {
			return nil, usage("--%s %q is not of the form name=count, or is there twice", flag, text)
		}
		set[name] = n
	}
	return set, nil
}

func parsePorts(list []string) ([]sandboxPort, error) {
	var all []sandboxPort
	for _, text := range list {
		name, number, _ := strings.Cut(text, "=")
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || name == "" {
			return nil, usage("--port %q is not of the form name=number", text)
		}
		all = append(all, sandboxPort{name, int(n)})
	}
	return all, nil
}

// parseSeconds reads a span such as 2h or 7d; nothing is the gateway's default.
func parseSeconds(flag, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	d, err := parseSpan(text)
	if err != nil || d < time.Second {
		return 0, usage("--%s %q is no span of a second or more, such as 30m, 2h or 7d", flag, text)
	}
	return int64(d / time.Second), nil
}

func (s *sandboxes) create() *cobra.Command {
	var f sandboxFlags
	var w waiting
	cmd := &cobra.Command{
		Use: "create [name] [-- command …]", Short: "Make a sandbox and start it",
		Long: `Make a sandbox, which is one's own, and start it. The command takes the place of the image's own; with --args it is appended to that.
Without a name, one is made up. With --wait the command returns a second after the sandbox runs, and fails if it cannot or has failed
by then; what it lacks on the way is told on stderr. One that has ended with 0 by then is no failure.

A value on the command line is visible to other users of this machine: --env NAME takes it from the environment, --env-file from
a file (- for stdin). The values are shown to the owner of the sandbox alone.`,
		Example: "  polygate sandbox create web --image docker.io/library/python:3.13 --cpu 1 --memory 1Gi --wait -- python -m http.server 8000\n  polygate sandbox create --lifetime 2h --env TOKEN --label team=a -- sleep infinity",
		Args:    oneNameThenCommand,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			name, command := splitCommand(cmd, args)
			body, err := f.request(cmd, name, command)
			if err != nil {
				return err
			}
			return s.run(cmd, func(ctx context.Context, c *client) error { return s.makeOne(ctx, cmd, c, &w, body, f.key) })
		},
	}
	f.bind(cmd)
	w.bind(cmd, "return once it runs")
	return cmd
}

func (s *sandboxes) makeOne(ctx context.Context, cmd *cobra.Command, c *client, w *waiting, body *sandboxRequest, key string) error {
	head := http.Header{}
	if key != "" {
		head.Set("Idempotency-Key", key)
	}
	var made answered[sandboxInfo]
	if err := c.send(ctx, http.MethodPost, c.path("sandboxes"), head, body, &made); err != nil {
		return fmt.Errorf("create sandbox%s: %w", quotedName(body.Name), err)
	}
	if !w.on {
		return said(cmd, &s.out, &made, "sandbox %s made (%s)", made.is.Name, made.is.State)
	}
	_ = tell(cmd, "sandbox %s made", made.is.Name)
	// By its id: a sandbox that is deleted meanwhile, and another made of the same name, is not what is waited for.
	is, err := s.awaitRun(ctx, cmd, c, &made, w.timeout)
	if err != nil {
		return err
	}
	if s.out.isData() {
		return s.out.data(cmd.OutOrStdout(), is)
	}
	return nil
}

func quotedName(name string) string {
	if name == "" {
		return ""
	}
	return fmt.Sprintf(" %q", name)
}

// splitCommand parts what is before -- from what follows it.
func splitCommand(cmd *cobra.Command, args []string) (name string, command []string) {
	at := cmd.ArgsLenAtDash()
	if at < 0 {
		at = len(args)
	}
	if at > 0 {
		name = args[0]
	}
	return name, args[at:]
}

// oneNameThenCommand is for commands that take at most a name before --.
func oneNameThenCommand(cmd *cobra.Command, args []string) error {
	before := len(args)
	if at := cmd.ArgsLenAtDash(); at >= 0 {
		before = at
	}
	if before > 1 {
		return fmt.Errorf("%q is one name too many: write the command after --", args[1])
	}
	return nil
}
