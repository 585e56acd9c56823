package sandbox

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

func rules() Rules {
	return Rules{
		Images: []string{"registry.example/team/agent", "registry.example/tools/", "nginx", "GHCR.io/"}, DefaultImage: "registry.example/default:1",
		RuntimeClasses: []string{"gvisor"}, Default: Resources{CPU: 500, Memory: 512 << 20, Storage: 1 << 30},
		Max: Resources{CPU: 4000, Memory: 8 << 30}, MaxLifetime: 24 * time.Hour, Providers: []string{"openai"},
	}
}

// TestJudge: defaults are filled in, spellings brought into one, and the result is judged to be itself.
func TestJudge(t *testing.T) {
	got, err := Spec{Image: "nginx", Env: []Var{{"B", "2"}, {"A", "1"}}, Resources: Resources{CPU: 250, GPUs: map[string]int64{"nvidia.com/gpu": 1, "amd.com/gpu": 0}}}.Judge(rules())
	if err != nil {
		t.Fatal(err)
	}
	want := Spec{
		Image: "docker.io/library/nginx", Env: []Var{{"A", "1"}, {"B", "2"}}, Lifetime: 24 * time.Hour,
		Resources: Resources{CPU: 250, Memory: 512 << 20, Storage: 1 << 30, GPUs: map[string]int64{"nvidia.com/gpu": 1}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if again, err := got.Judge(rules()); err != nil || !reflect.DeepEqual(again, got) {
		t.Errorf("judged again: %+v, %v", again, err)
	}
	if got, err := (Spec{}).Judge(rules()); err != nil || got.Image != "registry.example/default:1" {
		t.Errorf("nothing asked: %+v, %v", got, err)
	}
	if got, err := (Spec{}).Judge(Rules{HostImage: true, Default: rules().Default}); err != nil || got.Image != HostImage {
		t.Errorf("on the machine itself: %+v, %v", got, err)
	}
}

// TestX52: what could be a way to more rights than a sandbox has is refused, or cannot be said.
func TestX52NotExpressible(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Spec)
		field  string
	}{
		"an image of nobody's":          {func(s *Spec) { s.Image = "evil.example/team/agent" }, "image"},
		"a prefix without its end":      {func(s *Spec) { s.Image = "registry.example/team/agent-evil" }, "image"},
		"a repository below one":        {func(s *Spec) { s.Image = "registry.example/team/agent/evil" }, "image"},
		"the registry as a user":        {func(s *Spec) { s.Image = "registry.example@evil.example/team/agent" }, "image"},
		"dots in a path":                {func(s *Spec) { s.Image = "registry.example/tools/../other/x" }, "image"},
		"an escape in a path":           {func(s *Spec) { s.Image = "registry.example/tools/%2e%2e/x" }, "image"},
		"two tags":                      {func(s *Spec) { s.Image = "registry.example/team/agent:1:2" }, "image"},
		"a port for a tag":              {func(s *Spec) { s.Image = "registry.example:443/team/agent" }, "image"},
		"an odd digest":                 {func(s *Spec) { s.Image = "nginx@sha256:zz" }, "image"},
		"a digest of another kind":      {func(s *Spec) { s.Image = "nginx@md5:" + strings.Repeat("0", 64) }, "image"},
		"a space":                       {func(s *Spec) { s.Image = " nginx" }, "image"},
		"the host itself":               {func(s *Spec) { s.Image = "host" }, "image"},
		"NUL in an argument":            {func(s *Spec) { s.Args = []string{"a\x00b"} }, "args[0]"},
		"no program":                    {func(s *Spec) { s.Command = []string{""} }, "command[0]"},
		"too much":                      {func(s *Spec) { s.Args = []string{strings.Repeat("x", 40<<10)} }, "args"},
		"a name with =":                 {func(s *Spec) { s.Env = []Var{{"A=B", ""}} }, "env[0].name"},
		"a variable of ours":            {func(s *Spec) { s.Env = []Var{{"POLYGATE_TOKEN", ""}} }, "env[0].name"},
		"a variable twice":              {func(s *Spec) { s.Env = []Var{{"A", "1"}, {"A", "2"}} }, "env"},
		"NUL in a value":                {func(s *Spec) { s.Env = []Var{{"A", "\x00"}} }, "env[0].value"},
		"a folder above":                {func(s *Spec) { s.WorkingDir = "/workspace/../../host" }, "working_dir"},
		"a folder that is relative":     {func(s *Spec) { s.WorkingDir = "etc" }, "working_dir"},
		"more than there is":            {func(s *Spec) { s.Resources.CPU = 5000 }, "resources.cpu"},
		"less than nothing":             {func(s *Spec) { s.Resources.Memory = -1 }, "resources.memory"},
		"a device of the node":          {func(s *Spec) { s.Resources.GPUs = map[string]int64{"devices.kubevirt.io/kvm": 1} }, "resources.gpus"},
		"a resource of the cluster's":   {func(s *Spec) { s.Resources.GPUs = map[string]int64{"hugepages-2Mi": 1} }, "resources.gpus"},
		"less than no GPU":              {func(s *Spec) { s.Resources.GPUs = map[string]int64{"nvidia.com/gpu": -1} }, "resources.gpus"},
		"a privileged port":             {func(s *Spec) { s.Ports = []Port{{"web", 80}} }, "ports[0].port"},
		"a port's name":                 {func(s *Spec) { s.Ports = []Port{{"Web", 8080}} }, "ports[0].name"},
		"a port twice":                  {func(s *Spec) { s.Ports = []Port{{"a", 8080}, {"b", 8080}} }, "ports[1]"},
		"a runtime class":               {func(s *Spec) { s.RuntimeClass = "runc-privileged" }, "runtime_class"},
		"longer than allowed":           {func(s *Spec) { s.Lifetime = 25 * time.Hour }, "lifetime_seconds"},
		"a fraction of a second":        {func(s *Spec) { s.IdleTimeout = time.Millisecond }, "idle_timeout_seconds"},
		"our label":                     {func(s *Spec) { s.Labels = map[string]string{"polygate.dev/tenant": "b"} }, "labels"},
		"a label below ours":            {func(s *Spec) { s.Labels = map[string]string{"x.polygate.dev/tenant": "b"} }, "labels"},
		"a label of Pod Security":       {func(s *Spec) { s.Labels = map[string]string{"pod-security.kubernetes.io/enforce": "privileged"} }, "labels"},
		"a label of agent-sandbox":      {func(s *Spec) { s.Labels = map[string]string{"agents.x-k8s.io/claim-uid": "u"} }, "labels"},
		"a label that is none":          {func(s *Spec) { s.Labels = map[string]string{"a b": ""} }, "labels"},
		"a label's value that is none":  {func(s *Spec) { s.Labels = map[string]string{"a": "x\ny"} }, "labels"},
		"a provider of another tenant":  {func(s *Spec) { s.Providers = []string{"theirs"} }, "providers[0]"},
		"so many variables":             {func(s *Spec) { s.Env = make([]Var, 300) }, "env"},
		"so much in the environment":    {func(s *Spec) { s.Env = []Var{{"A", strings.Repeat("x", 40<<10)}} }, "env"},
		"storage above all measure":     {func(s *Spec) { s.Resources.Storage = 1 << 62 }, "resources.storage"},
		"a lifetime before it began":    {func(s *Spec) { s.Lifetime = -time.Second }, "lifetime_seconds"},
		"capitals that name a registry": {func(s *Spec) { s.Image = "TEAM/agent" }, "image"},
		"a registry's name in capitals": {func(s *Spec) { s.Image = "EVIL.example/x" }, "image"},
	} {
		t.Run(name, func(t *testing.T) {
			s := Spec{Image: "nginx"}
			c.change(&s)
			got, err := s.Judge(rules())
			if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.field) {
				t.Errorf("judged %+v with %v, want a refusal of %s", got, err, c.field)
			}
		})
	}
	forbidden := []string{"namespace", "node", "host", "privileged", "serviceaccount", "volume", "mount", "owner", "securitycontext", "capabilities", "user", "tolerations", "affinity", "annotations", "finalizers", "automount"}
	for _, kind := range []reflect.Type{reflect.TypeFor[Spec](), reflect.TypeFor[Resources](), reflect.TypeFor[Port](), reflect.TypeFor[Var]()} {
		for i := range kind.NumField() {
			for _, f := range forbidden {
				if name := kind.Field(i).Name; strings.Contains(strings.ToLower(name), f) {
					t.Errorf("%s has a field %s, with which a tenant could name %s", kind, name, f)
				}
			}
		}
	}
}

// TestX53: nothing that a member of a tenant says names its place in the cluster: that is in what drivers are opened with, which is
// made from the routing record.
func TestX53PlaceOfRecordOnly(t *testing.T) {
	for _, kind := range []reflect.Type{reflect.TypeFor[Spec](), reflect.TypeFor[Task](), reflect.TypeFor[Exec](), reflect.TypeFor[LogQuery](), reflect.TypeFor[Sandbox]()} {
		for i := range kind.NumField() {
			switch name := strings.ToLower(kind.Field(i).Name); name {
			case "namespace", "tenant", "scope", "place":
				t.Errorf("%s has a field %s", kind, name)
			}
		}
	}
	driver := reflect.TypeFor[Driver]()
	for i := range driver.NumMethod() {
		m := driver.Method(i)
		for j := range m.Type.NumIn() {
			if in := m.Type.In(j); in == reflect.TypeFor[Tenant]() || in == reflect.TypeFor[tenant.Scope]() || in == reflect.TypeFor[tenant.ID]() {
				t.Errorf("Driver.%s takes %s: a driver is one tenant's", m.Name, in)
			}
		}
	}
}

// TestImages: what is one image is allowed as one, however it is written.
func TestImages(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("0a", 32)
	for in, want := range map[string]string{
		"nginx":                                  "docker.io/library/nginx",
		"nginx:1.27":                             "docker.io/library/nginx:1.27",
		"library/nginx":                          "docker.io/library/nginx",
		"docker.io/nginx":                        "docker.io/library/nginx",
		"index.docker.io/library/nginx":          "docker.io/library/nginx",
		"Registry.Example/team/agent":            "registry.example/team/agent",
		"registry.example/team/agent:V1.0":       "registry.example/team/agent:V1.0",
		"registry.example/tools/a/b":             "registry.example/tools/a/b",
		"registry.example/team/agent:1" + digest: "registry.example/team/agent:1" + digest,
		"ghcr.io/a/b__c-d":                       "ghcr.io/a/b__c-d",
	} {
		got, err := Spec{Image: in}.Judge(rules())
		if err != nil || got.Image != want {
			t.Errorf("%s: %q, %v; want %s", in, got.Image, err, want)
		}
	}
	for _, in := range []string{"nginx/x", "docker.io/team/nginx", "registry.example/tools", "registry.example.evil.example/tools/x", "nginx/", "/nginx", "ghcr.io", "a//b", "nginx:", "nginx@", "-nginx", "nginx_"} {
		if got, err := (Spec{Image: in}).Judge(rules()); err == nil {
			t.Errorf("%s was allowed as %s", in, got.Image)
		}
	}
}

func TestQuantities(t *testing.T) {
	for in, want := range map[string]int64{"500m": 500, "2": 2000, "1.5": 1500, "0.25": 250, "0": 0} {
		if got, err := ParseCPU(in); err != nil || got != want {
			t.Errorf("%s cores: %d, %v; want %d", in, got, err, want)
		}
	}
	for in, want := range map[string]int64{"1048576": 1 << 20, "512Mi": 512 << 20, "1.5Gi": 3 << 29, "2G": 2e9, "1k": 1000, "1MiB": 1 << 20, "1MB": 1e6, "1Ki": 1024} {
		if got, err := ParseBytes(in); err != nil || got != want {
			t.Errorf("%s bytes: %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "-1", "+1", "1e3", "1.", ".5", "1,5", "0x10", " 1", "1 Gi", "1.0001", "99999999999999999999", "1Ei", "NaN", "1mi", "1Bi", "1iB", "١"} {
		if got, err := ParseCPU(in); err == nil && in != "1m" {
			t.Errorf("%q cores were read as %d", in, got)
		}
		if got, err := ParseBytes(in); err == nil {
			t.Errorf("%q bytes were read as %d", in, got)
		}
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "agent-1": true, "sb-0192d8a0": true, strings.Repeat("a", 57): true,
		"": false, strings.Repeat("a", 58): false, "A": false, "a--b": false, "-a": false, "a-": false, "a.b": false, "a/b": false, "ä": false, "a b": false,
		"0192d8a0-0000-7000-8000-000000000001": false,
	} {
		if err := CheckName(name, "acme"); (err == nil) != ok {
			t.Errorf("%q: %v, want it allowed: %v", name, err, ok)
		}
	}
	if OwnerHash(tenant.Confine("a", "1"), "user:x") == OwnerHash(tenant.Confine("a", "2"), "user:x") {
		t.Error("an owner has the same hash at a tenant and its successor")
	}
}

func FuzzParseImage(f *testing.F) {
	for _, s := range []string{"nginx", "a/b:1", "Registry.example:5000/a/b@sha256:" + strings.Repeat("0", 64), "localhost/a__b--c.d", "docker.io/library/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		i, err := parseImage(s)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		again, err := parseImage(i.String())
		if err != nil || again != i {
			t.Errorf("%q is %+v, and that is %+v, %v", s, i, again, err)
		}
		host, _, _ := strings.Cut(i.repository, "/")
		if strings.Contains(i.repository, "..") || strings.Contains(i.repository, "//") || strings.ToLower(i.repository) != i.repository {
			t.Errorf("%q is %q", s, i.repository)
		}
		if !allows(i.repository, i.repository) || !allows(host+"/", i.repository) || allows(i.repository, i.repository+"x") || allows("other.example/", i.repository) && host != "other.example" {
			t.Errorf("%q: what it allows is wrong", i.repository)
		}
	})
}

func FuzzQuantity(f *testing.F) {
	for _, s := range []string{"500m", "1.5", "512Mi", "1GiB", "2G", "0.000000001", "9007199254740993"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseCPU(s); err == nil {
			if again, err := ParseCPU(FormatCPU(n)); err != nil || again != n || n < 0 || n > maxQuantity {
				t.Errorf("%q is %d, written %q, read %d, %v", s, n, FormatCPU(n), again, err)
			}
		}
		if n, err := ParseBytes(s); err == nil {
			if again, err := ParseBytes(FormatBytes(n)); err != nil || again != n || n < 0 || n > maxQuantity {
				t.Errorf("%q is %d, written %q, read %d, %v", s, n, FormatBytes(n), again, err)
			}
		}
	})
}

func FuzzName(f *testing.F) {
	f.Add("agent-1", "acme")
	f.Add("a--b", "b")
	f.Add("0192d8a0-0000-7000-8000-000000000001", "x")
	f.Fuzz(func(t *testing.T, name, id string) {
		tid, err := tenant.ParseID(id)
		if err != nil || CheckName(name, tid) != nil {
			return
		}
		label := name + "--" + id
		if len(label) > 63 || IsID(name) || strings.Count(label, "--") != 1 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Errorf("%q would be the host label %q", name, label)
		}
	})
}

// FuzzJudge: whatever is asked, it is refused in words or judged to something that is judged to be itself.
func FuzzJudge(f *testing.F) {
	f.Add("nginx", "sleep", "A", "1", "/x", int64(500), int64(1<<30), "nvidia.com/gpu", int64(1), "web", 8080, "gvisor", int64(3600), "k", "v")
	f.Fuzz(func(t *testing.T, image, word, name, value, dir string, cpu, memory int64, gpu string, n int64, portName string, port int, class string, seconds int64, k, v string) {
		s := Spec{
			Image: image, Command: []string{word}, Env: []Var{{name, value}}, WorkingDir: dir, Resources: Resources{CPU: cpu, Memory: memory, GPUs: map[string]int64{gpu: n}},
			Ports: []Port{{portName, port}}, RuntimeClass: class, Lifetime: time.Duration(seconds) * time.Second, Labels: map[string]string{k: v},
		}
		got, err := s.Judge(rules())
		if err != nil {
			if !fault.Is(err, fault.Invalid) || len(fmt.Sprint(err)) > 4096 {
				t.Errorf("%v", err)
			}
			return
		}
		if again, err := got.Judge(rules()); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("judged %+v, and again %+v, %v", got, again, err)
		}
	})
}

// TestJudgeWithoutALimit: what no tenant can have is refused by its number, not by that of a limit that is not there.
func TestJudgeWithoutALimit(t *testing.T) {
	r := rules()
	r.Max = Resources{}
	_, err := (Spec{Resources: Resources{Memory: maxQuantity + 1}}).Judge(r)
	if err == nil || !strings.Contains(err.Error(), "at most "+FormatBytes(maxQuantity)) {
		t.Errorf("got %v", err)
	}
}
