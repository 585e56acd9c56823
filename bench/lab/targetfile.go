package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/polygate/polygate/bench/client"
	"github.com/polygate/polygate/internal/strictyaml"
)

// targetFile is how tenants of an installation elsewhere are written down.
type targetFile struct {
	Address string         `yaml:"address"` // host:port that is dialled for all; default: each tenant's host, port 443
	Tenants []targetTenant `yaml:"tenants"`
}

type targetTenant struct {
	Name    string `yaml:"name"`     // in reports and for draws by list; default: the host's first label
	Host    string `yaml:"host"`     // server name and Host; required
	Address string `yaml:"address"`  // host:port; default: the file's
	KeyFile string `yaml:"key_file"` // holds its API key; relative to this file
	KeyEnv  string `yaml:"key_env"`  // or the variable that does
	Canary  string `yaml:"canary"`   // what each right answer holds, and no other tenant's; default: answers are judged by their status
}

// ReadTarget reads the tenants of an installation from a file. Keys are read from the files and variables that it names, never
// from itself. env is os.Getenv as a rule.
func ReadTarget(path string, env func(string) string) ([]client.Tenant, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the target's tenants: %w", err)
	}
	return ParseTarget(path, b, env)
}

// ParseTarget does ReadTarget's work on what the file at path holds.
func ParseTarget(path string, b []byte, env func(string) string) ([]client.Tenant, error) {
	var f targetFile
	m := &mistakes{file: path}
	strictyaml.Decoder{Mistakes: m}.Document(strictyaml.Parse(b, 8, m), &f)
	if len(m.list) > 0 {
		return nil, errors.New(strings.Join(m.list, "\n"))
	}
	if len(f.Tenants) == 0 {
		return nil, fmt.Errorf("%s: it lists no tenants", path)
	}
	names := make(map[string]bool)
	out := make([]client.Tenant, 0, len(f.Tenants))
	for i, t := range f.Tenants {
		c, err := t.tenant(f.Address, filepath.Dir(path), env)
		if err == nil && names[c.Name] {
			err = fmt.Errorf("the name %q is there twice", c.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: tenants[%d]: %w", path, i, err)
		}
		names[c.Name] = true
		out = append(out, c)
	}
	return out, nil
}

// mistakes collects what is wrong with a file, a line each.
type mistakes struct {
	file string
	list []string
}

// Add implements strictyaml.Mistakes.
func (m *mistakes) Add(at strictyaml.Position, format string, args ...any) {
	m.list = append(m.list, fmt.Sprintf("%s:%d:%d: %s", m.file, at.Line, at.Column, fmt.Sprintf(format, args...)))
}

// Full implements strictyaml.Mistakes.
func (m *mistakes) Full() bool { return len(m.list) >= 20 }

func (t targetTenant) tenant(address, dir string, env func(string) string) (client.Tenant, error) {
	if t.Host == "" {
		return client.Tenant{}, errors.New("host is missing")
	}
	c := client.Tenant{Name: t.Name, Host: t.Host, Addr: t.Address, Canary: t.Canary}
	if c.Name == "" {
		c.Name, _, _ = strings.Cut(t.Host, ".")
	}
	if c.Addr == "" {
		c.Addr = address
	}
	if c.Addr == "" {
		c.Addr = Address(t.Host, "443")
	}
	if _, _, err := net.SplitHostPort(c.Addr); err != nil {
		return c, fmt.Errorf("address %q is not host:port", c.Addr)
	}
	key, err := t.key(dir, env)
	c.Key = key
	return c, err
}

// Address is what is dialled for a host: itself, but loopback for localhost and what ends in it, which not every resolver knows
// (RFC 6761 §6.3).
func Address(host, port string) string {
	if name := strings.ToLower(strings.TrimSuffix(host, ".")); name == "localhost" || strings.HasSuffix(name, ".localhost") {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func (t targetTenant) key(dir string, env func(string) string) (string, error) {
	switch {
	case t.KeyFile != "" && t.KeyEnv != "":
		return "", errors.New("key_file and key_env are alternatives: give one")
	case t.KeyEnv != "":
		if env(t.KeyEnv) == "" {
			return "", fmt.Errorf("key_env: the variable %s is empty", t.KeyEnv)
		}
		return env(t.KeyEnv), nil
	case t.KeyFile == "":
		return "", nil
	}
	path := t.KeyFile
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("key_file: %w", err)
	}
	if key := strings.TrimSpace(string(b)); key != "" {
		return key, nil
	}
	return "", fmt.Errorf("key_file: %s is empty", path)
}
