package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// settings is what all connections of one command share.
type settings struct {
	ca      string
	profile string

	loaded bool // current is what there is; see load
	chosen *profile
}

func (s *settings) bind(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&s.ca, "ca", "", "PEM file with the certificate authority to trust, in place of the system's (default $POLYGATE_CA)")
	f.StringVar(&s.profile, "profile", "", "profile that holds what is not set otherwise (default $POLYGATE_PROFILE, or the current one: see polygate profile)")
	_ = cmd.RegisterFlagCompletionFunc("profile", completeProfiles)
}

// load returns the profile in use: an empty one if there is none.
func (s *settings) load() (*profile, error) {
	if s.loaded {
		return s.chosen, nil
	}
	p, err := currentProfile(cmp.Or(s.profile, os.Getenv("POLYGATE_PROFILE")))
	if err != nil {
		return nil, err
	}
	s.loaded, s.chosen = true, p
	return p, nil
}

// credential is one way to say who asks. The secret itself is no flag: a command line is visible to every user of the machine.
type credential struct {
	flag, env, what string
	inProfile       func(*profile) (file, plain string)
	file            string // the flag's value
}

// connection is the flags with which a command reaches a listener.
type connection struct {
	*settings
	urlFlag, urlEnv, urlDefault string
	url                         string
	urlInProfile                func(*profile) string
	credentials                 []*credential
}

func adminConnection(s *settings) *connection {
	return &connection{
		settings: s, urlFlag: "admin-url", urlEnv: "POLYGATE_ADMIN_URL", urlDefault: "https://localhost:9443",
		urlInProfile: func(p *profile) string { return p.AdminURL },
		credentials: []*credential{{flag: "admin-token-file", env: "POLYGATE_ADMIN_TOKEN", what: "operator token",
			inProfile: func(p *profile) (string, string) { return p.AdminTokenFile, "" }}},
	}
}

func tenantConnection(s *settings) *connection {
	return &connection{
		settings: s, urlFlag: "url", urlEnv: "POLYGATE_URL", urlInProfile: func(p *profile) string { return p.URL },
		credentials: []*credential{
			{flag: "key-file", env: "POLYGATE_KEY", what: "API key", inProfile: func(p *profile) (string, string) { return p.KeyFile, p.Key }},
			{flag: "token-file", env: "POLYGATE_TOKEN", what: "token", inProfile: func(p *profile) (string, string) { return p.TokenFile, "" }},
		},
	}
}

// bind adds the flags.
func (c *connection) bind(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	def := ""
	if c.urlDefault != "" {
		def = ", or " + c.urlDefault
	}
	f.StringVar(&c.url, c.urlFlag, "", "URL to reach it under (default $"+c.urlEnv+def+")")
	for _, one := range c.credentials {
		f.StringVar(&one.file, one.flag, "", "file that holds the "+one.what+"; - reads stdin (default: the value of $"+one.env+")")
	}
}

// given says whether the flags or the environment name a URL.
func (c *connection) given() bool { return cmp.Or(c.url, os.Getenv(c.urlEnv)) != "" }

// open reads the settings and returns a client.
func (c *connection) open(stdin io.Reader) (*client, error) {
	p, err := c.load()
	if err != nil {
		return nil, err
	}
	raw := cmp.Or(c.url, os.Getenv(c.urlEnv), c.urlInProfile(p), c.urlDefault)
	if raw == "" {
		return nil, usage("no URL: set --%s or %s, or have it in a profile", c.urlFlag, c.urlEnv)
	}
	base, err := parseBase(raw)
	if err != nil {
		return nil, err
	}
	what, secret, err := c.secret(stdin, p, base)
	if err != nil {
		return nil, err
	}
	roots, err := loadRoots(cmp.Or(c.ca, os.Getenv("POLYGATE_CA"), p.CAFile))
	if err != nil {
		return nil, err
	}
	return &client{base: base, secret: secret, whatItIs: what, http: httpClient(roots), api: "/api/v1"}, nil
}

func parseBase(raw string) (*url.URL, error) {
	base, err := url.Parse(strings.TrimSuffix(raw, "/"))
	switch {
	case err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http":
		return nil, usage("%q is no URL such as https://localhost:9443", raw)
	case base.User != nil || base.RawQuery != "" || base.Fragment != "":
		return nil, usage("%q holds more than scheme, host, port and path", base.Redacted())
	case base.Scheme == "http" && !isLoopback(base.Hostname()):
		return nil, usage("%q would send the credential unencrypted: use https", raw)
	}
	return base, nil
}

// secret returns the credential and what it is: of the flags, else of the environment, else of the profile.
func (c *connection) secret(stdin io.Reader, p *profile, base *url.URL) (what, secret string, err error) {
	for _, from := range []func(*credential) (string, string){
		func(one *credential) (string, string) { return one.file, "" },
		func(one *credential) (string, string) { return "", os.Getenv(one.env) },
		func(one *credential) (string, string) { return c.ofProfile(one, p, base) },
	} {
		var found *credential
		var file, plain string
		for _, one := range c.credentials {
			f, text := from(one)
			if f == "" && strings.TrimSpace(text) == "" {
				continue
			}
			if found != nil {
				return "", "", usage("%s and %s are both set: choose one", found.what, one.what)
			}
			found, file, plain = one, f, text
		}
		if found != nil {
			secret, err = found.read(file, plain, stdin)
			return found.what, secret, err
		}
	}
	return "", "", c.missing(p, base)
}

// ofProfile returns a credential of the profile, for the profile's own URL alone: it must not go to another that a flag or
// a variable names.
func (c *connection) ofProfile(one *credential, p *profile, base *url.URL) (file, plain string) {
	if own, err := parseBase(cmp.Or(c.urlInProfile(p), c.urlDefault)); err != nil || own.String() != base.String() {
		return "", ""
	}
	return one.inProfile(p)
}

func (c *connection) missing(p *profile, base *url.URL) error {
	first := c.credentials[0]
	for _, one := range c.credentials {
		if file, plain := one.inProfile(p); file != "" || plain != "" {
			return usage("no %s for %s: that of profile %q is for its own URL alone; set %s or --%s", first.what, base, p.Name, first.env, first.flag)
		}
	}
	return usage("no %s: set %s, or --%s to a file that holds it", first.what, first.env, first.flag)
}

func (c *credential) read(file, plain string, stdin io.Reader) (string, error) {
	if file != "" {
		b, err := readFile(file, stdin, maxSecret)
		if err != nil {
			return "", fmt.Errorf("read the %s: %w", c.what, err)
		}
		plain = string(b)
	}
	plain = strings.TrimSpace(plain)
	if plain == "" {
		return "", usage("no %s: set %s, or --%s to a file that holds it", c.what, c.env, c.flag)
	}
	if strings.ContainsFunc(plain, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", usage("the %s holds a character that no header may carry: is it the right file?", c.what)
	}
	return plain, nil
}

// errNoTenant is the mistake of a command that could be either a member's or an operator's.
var errNoTenant = errors.New("no URL: set --url or POLYGATE_URL to a tenant's host, or --tenant as an operator")
