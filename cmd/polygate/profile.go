package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/tenant"
)

// maxProfiles bounds the file of profiles, in bytes.
const maxProfiles = 1 << 20

// profile is where a gateway is and how to come in. Relative paths in the file begin at its folder.
type profile struct {
	Name           string `yaml:"name" json:"name"`
	URL            string `yaml:"url" json:"url,omitempty"`                           // a tenant's host
	KeyFile        string `yaml:"key_file" json:"key_file,omitempty"`                 // holds an API key for it
	Key            string `yaml:"key" json:"key,omitempty"`                           // in its place, the key itself
	TokenFile      string `yaml:"token_file" json:"token_file,omitempty"`             // holds a token of the tenant's issuer, in place of a key
	AdminURL       string `yaml:"admin_url" json:"admin_url,omitempty"`               // the operators' listener
	AdminTokenFile string `yaml:"admin_token_file" json:"admin_token_file,omitempty"` // holds an operator's token
	CAFile         string `yaml:"ca_file" json:"ca_file,omitempty"`                   // the authority to trust
	Tenant         string `yaml:"tenant" json:"tenant,omitempty"`                     // that an operator means where none is named
}

// profiles is the file: $XDG_CONFIG_HOME/polygate/config.yaml.
type profiles struct {
	Current  string    `yaml:"current" json:"current,omitempty"`
	Profiles []profile `yaml:"profiles" json:"profiles"`

	path string
}

// profilesPath returns where the profiles are; "" if the user has no folder for such. A relative XDG_CONFIG_HOME is to be
// ignored, as the XDG Base Directory Specification says.
func profilesPath() string {
	dir := os.Getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "polygate", "config.yaml")
}

// loadProfiles reads the file; one that is missing is empty.
func loadProfiles() (*profiles, error) {
	f := &profiles{path: profilesPath(), Profiles: []profile{}}
	if f.path == "" {
		return f, nil
	}
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the profiles: %w", err)
	}
	src, err := readFile(f.path, nil, maxProfiles)
	if err != nil {
		return nil, fmt.Errorf("read the profiles: %w", err)
	}
	d := config.Decode(f.path, src, f)
	f.check(d, info.Mode().Perm())
	if err := d.Err(); err != nil {
		return nil, err
	}
	return f, nil
}

// check adds what is wrong with the profiles as a whole.
func (f *profiles) check(d *config.Document, mode fs.FileMode) {
	seen := make(map[string]bool)
	for i := range f.Profiles {
		p, at := &f.Profiles[i], fmt.Sprintf("profiles[%d]", i)
		if err := tenant.CheckName("name", p.Name, false); err != nil {
			d.Wrong(at+".name", "%v", plain(err))
		} else if seen[p.Name] {
			d.Wrong(at+".name", "profile %q is there twice", p.Name)
		}
		seen[p.Name] = true
		p.check(d, at)
		if p.Key != "" && mode&0o077 != 0 {
			d.Wrong(at+".key", "the file holds a key and others may read it (mode %04o): chmod 600 it, and replace the key", mode)
		}
	}
	if f.Current != "" && !seen[f.Current] {
		d.Wrong("current", "there is no profile %q", f.Current)
	}
}

func (p *profile) check(d *config.Document, at string) {
	for _, u := range []struct{ field, value string }{{"url", p.URL}, {"admin_url", p.AdminURL}} {
		if _, err := parseBase(u.value); u.value != "" && err != nil {
			d.Wrong(at+"."+u.field, "%v", err)
		}
	}
	if n := count(p.Key != "", p.KeyFile != "", p.TokenFile != ""); n > 1 {
		d.Wrong(at, "key, key_file and token_file are ways to say the same: set one of them")
	}
	if p.Tenant != "" {
		if _, err := tenant.ParseID(p.Tenant); err != nil {
			d.Wrong(at+".tenant", "%v", plain(err))
		}
	}
}

func count(all ...bool) (n int) {
	for _, one := range all {
		if one {
			n++
		}
	}
	return n
}

func (f *profiles) byName(name string) *profile {
	i := slices.IndexFunc(f.Profiles, func(p profile) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return &f.Profiles[i]
}

// need returns a profile, or an error that names those there are.
func (f *profiles) need(name string) (*profile, error) {
	if p := f.byName(name); p != nil {
		return p, nil
	}
	names := make([]string, len(f.Profiles))
	for i, p := range f.Profiles {
		names[i] = p.Name
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("there is no profile %q, nor any other: make one with \"polygate profile set\"", name)
	}
	return nil, fmt.Errorf("there is no profile %q: there are %s", name, strings.Join(names, ", "))
}

// currentProfile returns the named profile, else the current one, else an empty one. Its paths are absolute.
func currentProfile(name string) (*profile, error) {
	f, err := loadProfiles()
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = f.Current
	}
	if name == "" {
		return &profile{}, nil
	}
	p, err := f.need(name)
	if err != nil {
		return nil, err
	}
	found := *p
	for _, path := range []*string{&found.KeyFile, &found.TokenFile, &found.AdminTokenFile, &found.CAFile} {
		*path = f.resolve(*path)
	}
	return &found, nil
}

// resolve returns a path of the file: ~/ is the home folder, and relative ones begin at the file's.
func (f *profiles) resolve(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(f.path), path)
}

// save replaces the file as one step, readable by its owner alone.
func (f *profiles) save() error {
	if f.path == "" {
		return errors.New("there is no place for profiles: set XDG_CONFIG_HOME or HOME")
	}
	var text strings.Builder
	if err := printYAML(&text, f); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return fmt.Errorf("write the profiles: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(f.path), ".config-*") // with mode 0600
	if err != nil {
		return fmt.Errorf("write the profiles: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // nothing, once it is renamed
	_, err = tmp.WriteString(text.String())
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), f.path)
	}
	if err != nil {
		return fmt.Errorf("write the profiles: %w", err)
	}
	return nil
}

// shown is a profile without its secret.
func (p profile) shown() profile {
	if p.Key != "" {
		p.Key = "(set, not shown)"
	}
	return p
}
