package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/tenant"
)

// memberInfo is a user or a group with a role, as both APIs show it.
type memberInfo struct {
	ID            string    `json:"id"`
	Kind          string    `json:"kind"`
	Authenticator string    `json:"authenticator"`
	Name          string    `json:"name"`
	Role          string    `json:"role"`
	Source        string    `json:"source"`
	Created       time.Time `json:"created"`
	By            string    `json:"created_by"`
}

// ref names a member as the commands do: user:corp/alice, group:corp/engineering.
func (m *memberInfo) ref() string { return m.Kind + ":" + m.Authenticator + "/" + m.Name }

func memberColumns() []column[memberInfo] {
	return []column[memberInfo]{
		{"MEMBER", func(m *memberInfo) string { return m.ref() }}, {"ROLE", func(m *memberInfo) string { return m.Role }},
		{"SOURCE", func(m *memberInfo) string { return m.Source }}, {"CREATED", func(m *memberInfo) string { return stamp(m.Created) }},
		{"BY", func(m *memberInfo) string { return m.By }}, {"ID", func(m *memberInfo) string { return m.ID }},
	}
}

func newMemberCommand() *cobra.Command {
	s := newScoped(true)
	cmd := commandGroup("member", "Give users and groups roles, and take them away",
		`Manage who is a member of a tenant: users and groups of its authenticators, with the role viewer, editor or admin. A tenant's
admin gives roles below his own; operators, with --tenant, every role. The last admin cannot be removed by members.

A member is named as user:<authenticator>/<subject> or group:<authenticator>/<group>, by its name alone where only one has it,
or by its id.`,
		s.memberList(), s.memberAdd(), s.memberSetRole(), s.memberRemove(), s.memberRevoke())
	cmd.Example = "  polygate member add user:corp/248289761001 --role editor\n  polygate member list --tenant team-a\n  polygate member revoke user:corp/248289761001"
	s.bind(cmd)
	return cmd
}

func (s *scoped) memberList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the members",
		Long:    "List the users and groups that have a role, sorted by authenticator, kind and name.",
		Example: "  polygate member list\n  polygate member list --tenant team-a -o yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				list, err := all[memberInfo](ctx, c, "members")
				if err != nil {
					return fmt.Errorf("list members: %w", err)
				}
				return printList(cmd, &s.out, list, memberColumns())
			})
		},
	}
}

// roleFlag adds the required --role.
func roleFlag(cmd *cobra.Command, role *string) {
	cmd.Flags().StringVar(role, "role", "", "viewer, editor or admin (required)")
	_ = cmd.MarkFlagRequired("role")
	_ = cmd.RegisterFlagCompletionFunc("role", completeWords("viewer", "editor", "admin"))
}

// parseMember reads user:corp/alice or group:corp/engineering. A name may have colons and slashes of its own.
func parseMember(text string) (kind, authenticator, name string, ok bool) {
	kind, rest, ok := strings.Cut(text, ":")
	if !ok || kind != string(tenant.MemberUser) && kind != string(tenant.MemberGroup) {
		return "", "", "", false
	}
	authenticator, name, ok = strings.Cut(rest, "/")
	return kind, authenticator, name, ok && authenticator != "" && name != ""
}

func (s *scoped) memberAdd() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use: "add <user:authenticator/subject | group:authenticator/group> --role <role>", Short: "Give a user or a group a role",
		Long: `Give a user or a group of one of the tenant's authenticators a role. A user is named by the subject that the authenticator
vouches for, byte for byte, not by a user name that can change. Of several roles the greatest counts.`,
		Example: "  polygate member add user:corp/248289761001 --role editor\n  polygate member add group:corp/engineering --role viewer\n  polygate member add user:corp/248289761001 --role admin --tenant team-a",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, authenticator, name, ok := parseMember(args[0])
			if !ok {
				return usage("%q is no member: write user:<authenticator>/<subject> or group:<authenticator>/<group>", args[0])
			}
			if _, err := tenant.ParseRole(role); err != nil {
				return usage("%v", plain(err))
			}
			body := map[string]string{"kind": kind, "authenticator": authenticator, "name": name, "role": role}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				var m answered[memberInfo]
				if err := c.do(ctx, http.MethodPost, c.path("members"), body, &m); err != nil {
					return fmt.Errorf("add member %q: %w", args[0], err)
				}
				return said(cmd, &s.out, &m, "member %s is %s", args[0], m.is.Role)
			})
		},
	}
	roleFlag(cmd, &role)
	return cmd
}

// findMember returns the member that a user of the command means.
func findMember(ctx context.Context, c *client, name string) (*memberInfo, error) {
	list, err := all[memberInfo](ctx, c, "members")
	if err != nil {
		return nil, err
	}
	var found []*memberInfo
	for i := range list.Items {
		m := &list.Items[i].is
		if m.ID == name || m.ref() == name {
			return m, nil
		}
		if m.Name == name {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("no such member: \"polygate member list\" shows them")
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%d members have this name: write it as %s or %s", len(found), found[0].ref(), found[1].ref())
}

func memberNames(ctx context.Context, c *client) ([]string, error) {
	list, err := all[memberInfo](ctx, c, "members")
	if err != nil {
		return nil, err
	}
	out := make([]string, len(list.Items))
	for i := range list.Items {
		out[i] = list.Items[i].is.ref()
	}
	return out, nil
}

func (s *scoped) memberSetRole() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use: "set-role <member> --role <role>", Short: "Change a member's role",
		Long:    "Change the role of a member. It holds for the member's next request. What a file declares is changed in the file.",
		Example: "  polygate member set-role user:corp/248289761001 --role viewer",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.complete(memberNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := tenant.ParseRole(role); err != nil {
				return usage("%v", plain(err))
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				m, err := findMember(ctx, c, args[0])
				if err != nil {
					return fmt.Errorf("member %q: %w", args[0], err)
				}
				var after answered[memberInfo]
				if err := c.do(ctx, http.MethodPatch, c.path("members", m.ID), map[string]string{"role": role}, &after); err != nil {
					return fmt.Errorf("member %q: %w", args[0], err)
				}
				return said(cmd, &s.out, &after, "member %s is %s", m.ref(), role)
			})
		},
	}
	roleFlag(cmd, &role)
	return cmd
}

func (s *scoped) memberRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove <member>", Aliases: []string{"rm"}, Short: "Take a member's role away",
		Long:    "Take the role of a user or a group away. The last admin stays, but for operators.",
		Example: "  polygate member remove user:corp/248289761001\n  polygate member remove engineering --tenant team-a",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.complete(memberNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				m, err := findMember(ctx, c, args[0])
				if err == nil {
					err = c.do(ctx, http.MethodDelete, c.path("members", m.ID), nil, nil)
				}
				if err != nil {
					return fmt.Errorf("remove member %q: %w", args[0], err)
				}
				return tell(cmd, "member %s removed", m.ref())
			})
		},
	}
}

// revocation is the end of a user's logins.
type revocation struct {
	Principal string    `json:"principal"`
	Before    time.Time `json:"before"`
	Until     time.Time `json:"until"`
}

func (s *scoped) memberRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke <user>", Short: "End all logins of a user",
		Long: `End everything that a user is logged in with: tokens and browser sessions that were issued before now are refused from now on,
and open streams end within a second. The user may log in again; "member remove" takes the role away. A user without a role
of his own, who has one by a group, is named as user:<authenticator>/<subject>. For the tenant's own admins.`,
		Example: "  polygate member revoke user:corp/248289761001",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.complete(memberNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				if c.operator {
					return usage("the operators' API ends no logins: a tenant's admin does, on the tenant's host (--url); an operator can suspend the tenant, or remove the member")
				}
				ref := args[0]
				if kind, _, _, ok := parseMember(ref); !ok {
					m, err := findMember(ctx, c, ref)
					if err != nil {
						return fmt.Errorf("user %q: %w", ref, err)
					}
					ref = m.ref()
				} else if kind == string(tenant.MemberGroup) {
					return usage("%s is a group: logins are those of users", ref)
				}
				var r answered[revocation]
				if err := c.do(ctx, http.MethodPost, c.path("members", "revoke"), map[string]string{"principal": ref}, &r); err != nil {
					return fmt.Errorf("end the logins of %q: %w", ref, err)
				}
				return said(cmd, &s.out, &r, "%s: what was issued before %s is refused", r.is.Principal, stamp(r.is.Before))
			})
		},
	}
}
