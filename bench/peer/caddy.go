package peer

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The Caddy that is built: its module, and which of its versions.
const (
	caddyModule  = "github.com/caddyserver/caddy/v2/cmd/caddy"
	caddyVersion = "v2.11.9"
)

// Caddy is one Caddy for all tenants, built into the folder cacheDir by Install.
func Caddy(cacheDir string, o ...Option) Peer { return &caddy{cacheDir, choose(o)} }

type caddy struct {
	cache string
	options
}

func (*caddy) Name() string { return "caddy" }

func (c *caddy) Version(context.Context) (string, error) { return caddyBuilt(c.cache) }

// caddyFile is where Install puts it: by version, so that another one is built anew.
func caddyFile(cacheDir string) string {
	return filepath.Join(cacheDir, "caddy-"+caddyVersion, "caddy")
}

// caddyBuilt reads the version from the binary: one that `go install` built does not know its own.
func caddyBuilt(cacheDir string) (string, error) {
	info, err := buildinfo.ReadFile(caddyFile(cacheDir))
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("caddy is %w: build it once with `polybench peers --install`, which needs Go and takes minutes", ErrMissing)
	}
	if err != nil {
		return "", fmt.Errorf("read the version of %s: %w; remove it and build it again", caddyFile(cacheDir), err)
	}
	return strings.TrimPrefix(info.Main.Version, "v") + " (" + info.GoVersion + ")", nil
}

// Install builds the subjects that come as source into cacheDir: Caddy, with the Go toolchain on the PATH. What is there already
// is not built again. progress gets a line now and then; nil = nobody is told.
func Install(ctx context.Context, cacheDir string, progress func(string)) error {
	if progress == nil {
		progress = func(string) {}
	}
	if version, err := caddyBuilt(cacheDir); err == nil {
		progress("caddy " + version + " is there")
		return nil
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		return fmt.Errorf("build caddy: the Go toolchain is %w: install it from https://go.dev/dl", ErrMissing)
	}
	dir, err := filepath.Abs(filepath.Dir(caddyFile(cacheDir)))
	if err != nil {
		return fmt.Errorf("build caddy: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("build caddy: %w", err)
	}
	progress("building caddy " + caddyVersion + ": some minutes")
	cmd := exec.CommandContext(ctx, goTool, "install", "-trimpath", caddyModule+"@"+caddyVersion) //nolint:gosec // a module that we name
	cmd.Dir = dir                                                                                 // outside of any module, whose flags and versions must not matter
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build caddy: %w: %s", err, last(out))
	}
	progress("caddy " + caddyVersion + " is built")
	return nil
}

func last(b []byte) string {
	return strings.TrimSpace(string(b[max(0, len(b)-tail):]))
}

func (c *caddy) Start(ctx context.Context, s *Site) (Running, error) {
	if err := caddyCan(c.cache, s); err != nil {
		return nil, err
	}
	return running(c.configured("caddy").start(ctx, s, s.Dir))
}

// caddyCan says why it cannot serve a site.
func caddyCan(cacheDir string, s *Site) error {
	if _, err := caddyBuilt(cacheDir); err != nil {
		return err
	}
	if s.Auth == JWTAuth {
		return fmt.Errorf("caddy %w: it checks no JWT without modules of others", ErrCannot)
	}
	return nil
}

func (c *caddy) configured(name string) configured {
	return configured{name: name, write: func(dir string, s *Site, port int) ([]string, error) {
		text, err := json.MarshalIndent(c.config(s, dir, port), "", "\t")
		if err != nil {
			return nil, err
		}
		file := filepath.Join(dir, "caddy.json")
		return []string{caddyFile(c.cache), "run", "--config", file}, os.WriteFile(file, text, 0o600)
	}}
}
