package main

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/config"
)

// profileCommands is what the profile commands share.
type profileCommands struct{ out printer }

func newProfileCommand() *cobra.Command {
	p := &profileCommands{}
	cmd := commandGroup("profile", "Keep gateways and credentials under names",
		`Keep the settings of the client commands in profiles, in $XDG_CONFIG_HOME/polygate/config.yaml (~/.config if that is not
set). A flag counts before a variable of the environment, that before the profile, and that before the default.

A profile is chosen by --profile, by POLYGATE_PROFILE, or by "profile use". Its credential is used with its own URL alone.
The file has the mode 0600; name files with the credentials in it rather than a key itself.`,
		p.list(), p.use(), p.set(), p.show(), p.delete())
	cmd.Example = "  polygate profile set team-a --url https://team-a.localhost:8443 --key-file team-a.key --ca-file ca.pem\n  polygate profile use team-a\n  polygate server list"
	p.out.bind(cmd)
	return cmd
}

// edit changes the file.
func (p *profileCommands) edit(cmd *cobra.Command, change func(*profiles) error) error {
	f, err := p.load(cmd)
	if err != nil {
		return err
	}
	if err := change(f); err != nil {
		return err
	}
	return f.save()
}

func (p *profileCommands) load(cmd *cobra.Command) (*profiles, error) {
	if err := p.out.check(); err != nil {
		return nil, err
	}
	f, err := loadProfiles()
	if err != nil {
		return nil, reportConfig(cmd.ErrOrStderr(), err)
	}
	return f, nil
}

func (p *profileCommands) list() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the profiles",
		Long:    "List the profiles. The current one has a star. Keys are never shown.",
		Example: "  polygate profile list\n  polygate profile list -o yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := p.load(cmd)
			if err != nil {
				return err
			}
			rows := make([][]string, len(f.Profiles))
			for i, one := range f.Profiles {
				f.Profiles[i] = one.shown()
				mark := ""
				if one.Name == f.Current {
					mark = "*"
				}
				rows[i] = []string{mark, one.Name, one.URL, one.AdminURL, one.Tenant, one.credentials()}
			}
			return p.out.print(cmd.OutOrStdout(), f, []string{"CURRENT", "NAME", "URL", "ADMIN URL", "TENANT", "CREDENTIALS"}, rows)
		},
	}
}

// credentials says what a profile has, without showing it.
func (p profile) credentials() string {
	var all []string
	for _, one := range []struct {
		has  bool
		what string
	}{{p.Key != "", "key"}, {p.KeyFile != "", "key file"}, {p.TokenFile != "", "token file"}, {p.AdminTokenFile != "", "operator token file"}} {
		if one.has {
			all = append(all, one.what)
		}
	}
	return strings.Join(all, ", ")
}

func (p *profileCommands) use() *cobra.Command {
	return &cobra.Command{
		Use: "use <profile>", Short: "Make a profile the current one",
		Long:    "Make a profile the one that commands use where no other is named.",
		Example: "  polygate profile use team-a",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeProfiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.edit(cmd, func(f *profiles) error {
				if _, err := f.need(args[0]); err != nil {
					return err
				}
				f.Current = args[0]
				fmt.Fprintf(cmd.ErrOrStderr(), "profile %s is in use\n", args[0])
				return nil
			})
		},
	}
}

func (p *profileCommands) set() *cobra.Command {
	var in profile
	var key bool
	cmd := &cobra.Command{
		Use: "set <profile>", Short: "Make or change a profile",
		Long: `Make a profile, or change the settings of one that are named. An empty value takes a setting out. The first profile is
the current one. Comments in the file are not kept.

A key itself comes through stdin with --key-stdin, so that no command line holds it; --key-file only names its file.`,
		Example: "  polygate profile set team-a --url https://team-a.localhost:8443 --key-file team-a.key\n  polygate profile set ops --admin-url https://localhost:9443 --admin-token-file .polygate/operator-token\n  pass show team-a | polygate profile set team-a --key-stdin",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeProfiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			if key {
				one := credential{flag: "key-stdin", what: "API key"}
				var err error
				if in.Key, err = one.read("-", "", cmd.InOrStdin()); err != nil {
					return err
				}
			}
			return p.edit(cmd, func(f *profiles) error { return f.set(cmd, args[0], in, key) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&in.URL, "url", "", "a tenant's host, such as https://team-a.localhost:8443")
	flags.StringVar(&in.KeyFile, "key-file", "", "file that holds an API key of the tenant")
	flags.BoolVar(&key, "key-stdin", false, "keep the API key that stdin holds in the profile itself")
	flags.StringVar(&in.TokenFile, "token-file", "", "file that holds a token of the tenant's issuer, in place of a key")
	flags.StringVar(&in.AdminURL, "admin-url", "", "the operators' listener")
	flags.StringVar(&in.AdminTokenFile, "admin-token-file", "", "file that holds an operator's token")
	flags.StringVar(&in.CAFile, "ca-file", "", "PEM file with the certificate authority to trust")
	flags.StringVar(&in.Tenant, "tenant", "", "the tenant that an operator means where none is named")
	return cmd
}

// set takes over the fields whose flags were given.
func (f *profiles) set(cmd *cobra.Command, name string, in profile, key bool) error {
	p := f.byName(name)
	if p == nil {
		f.Profiles = append(f.Profiles, profile{Name: name})
		p = &f.Profiles[len(f.Profiles)-1]
		if len(f.Profiles) == 1 {
			f.Current = name
		}
	}
	for _, field := range []struct {
		flag string
		to   *string
		from string
		path bool
	}{
		{"url", &p.URL, in.URL, false}, {"key-file", &p.KeyFile, in.KeyFile, true}, {"token-file", &p.TokenFile, in.TokenFile, true},
		{"admin-url", &p.AdminURL, in.AdminURL, false}, {"admin-token-file", &p.AdminTokenFile, in.AdminTokenFile, true},
		{"ca-file", &p.CAFile, in.CAFile, true}, {"tenant", &p.Tenant, in.Tenant, false},
	} {
		if !cmd.Flags().Changed(field.flag) {
			continue
		}
		*field.to = field.from
		if field.path && field.from != "" {
			abs, err := filepath.Abs(field.from)
			if err != nil {
				return err
			}
			*field.to = abs
		}
	}
	if key {
		p.Key, p.KeyFile, p.TokenFile = in.Key, "", ""
	} else if in.KeyFile != "" || in.TokenFile != "" {
		p.Key = ""
	}
	d := config.Decode("profile "+name, nil, &profiles{})
	f.check(d, 0o600)
	if err := d.Err(); err != nil {
		return reportConfig(cmd.ErrOrStderr(), err)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "profile %s is kept in %s\n", name, clean(f.path))
	return nil
}

func (p *profileCommands) show() *cobra.Command {
	return &cobra.Command{
		Use: "show [profile]", Short: "Show a profile without its key",
		Long:    "Show a profile, or the current one. A key is not shown, only that there is one.",
		Example: "  polygate profile show\n  polygate profile show team-a -o json",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: completeProfiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := p.load(cmd)
			if err != nil {
				return err
			}
			name := f.Current
			if len(args) == 1 {
				name = args[0]
			}
			one, err := f.need(name)
			if err != nil {
				return err
			}
			return p.print(cmd.OutOrStdout(), one.shown())
		},
	}
}

func (p *profileCommands) print(w io.Writer, v profile) error {
	if p.out.isData() {
		return p.out.data(w, v)
	}
	return printFields(w, [][2]string{{"Name", v.Name}, {"URL", v.URL}, {"Key", v.Key}, {"Key file", v.KeyFile}, {"Token file", v.TokenFile},
		{"Admin URL", v.AdminURL}, {"Admin token file", v.AdminTokenFile}, {"CA file", v.CAFile}, {"Tenant", v.Tenant}})
}

func (p *profileCommands) delete() *cobra.Command {
	return &cobra.Command{
		Use: "delete <profile>", Aliases: []string{"rm"}, Short: "Forget a profile",
		Long:    "Forget a profile. The files that it names stay, and a key that it held is not revoked.",
		Example: "  polygate profile delete team-a",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeProfiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.edit(cmd, func(f *profiles) error {
				if _, err := f.need(args[0]); err != nil {
					return err
				}
				f.Profiles = slices.DeleteFunc(f.Profiles, func(one profile) bool { return one.Name == args[0] })
				if f.Current == args[0] {
					f.Current = ""
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "profile %s is forgotten\n", args[0])
				return nil
			})
		},
	}
}
