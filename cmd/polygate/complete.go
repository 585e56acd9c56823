package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// completeIn bounds the completion of a name: a shell waits for it.
const completeIn = 2 * time.Second

type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// names reads what a word may be completed to.
type names func(ctx context.Context, c *client) ([]string, error)

// complete completes the first argument, or a flag's value, by what the gateway answers. Whatever goes wrong, there are no
// proposals: a message would be written into the user's command line.
func (s *scoped) complete(list names) completer {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return s.propose(cmd, list, prefix)
	}
}

func (s *scoped) propose(cmd *cobra.Command, list names, prefix string) ([]string, cobra.ShellCompDirective) {
	c, err := s.open(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.close()
	return proposals(cmd, c, list, prefix)
}

// completeTenant completes the id of a tenant for operators.
func (s *scoped) completeTenant(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	a := &admins{conn: s.operator}
	return a.complete(tenantNames)(cmd, args, prefix)
}

// completeKey completes a key, or a key of the tenant that is named before it.
func (s *scoped) completeKey(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if len(args) == 1 {
		s.tenant = args[0]
	}
	return s.propose(cmd, named("keys"), prefix)
}

func (a *admins) complete(list names) completer {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		c, err := a.conn.open(cmd.InOrStdin())
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.close()
		return proposals(cmd, c, list, prefix)
	}
}

func proposals(cmd *cobra.Command, c *client, list names, prefix string) ([]string, cobra.ShellCompDirective) {
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, completeIn)
	defer cancel()
	found, err := list(ctx, c)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var fit []string
	for _, name := range found {
		if strings.HasPrefix(name, prefix) && !strings.ContainsFunc(name, hostile) {
			fit = append(fit, name)
		}
	}
	return fit, cobra.ShellCompDirectiveNoFileComp
}

// tenantNames asks the operators' listener, whatever tenant the command is about.
func tenantNames(ctx context.Context, c *client) ([]string, error) {
	list, err := listTenants(ctx, c)
	if err != nil {
		return nil, err
	}
	out := make([]string, len(list.Items))
	for i, t := range list.Items {
		out[i] = string(t.ID)
	}
	return out, nil
}

// named lists the names of a collection.
func named(parts ...string) names {
	return func(ctx context.Context, c *client) ([]string, error) {
		list, err := all[struct{ Name string }](ctx, c, parts...)
		if err != nil {
			return nil, err
		}
		out := make([]string, len(list.Items))
		for i := range list.Items {
			out[i] = list.Items[i].is.Name
		}
		return out, nil
	}
}

func completeProfiles(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	f, err := loadProfiles()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var fit []string
	for _, p := range f.Profiles {
		if strings.HasPrefix(p.Name, prefix) {
			fit = append(fit, p.Name)
		}
	}
	return fit, cobra.ShellCompDirectiveNoFileComp
}

// completeWords proposes fixed words.
func completeWords(words ...string) completer {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}
