package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/proxy/admin"
)

// replicaCommands is what the commands about replicas share.
type replicaCommands struct{ *admins }

func newReplicasCommand() *cobra.Command {
	r := replicaCommands{newAdmins()}
	cmd := &cobra.Command{
		Use: "replicas", Short: "List the replicas of the platform",
		Long: `List the replicas whose session with the registry is live: how many tenants each serves, and how busy it is. Requests, streams, CPU
and memory are as each said last, which is some seconds ago at most.`,
		Example: "  polygate replicas\n  polygate replicas -o json | jq '.items[] | select(.state == \"draining\")'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.run(cmd, func(ctx context.Context, c *client) error {
				var list admin.ReplicaList
				if err := c.do(ctx, http.MethodGet, replicasPath, nil, &list); err != nil {
					return fmt.Errorf("list replicas: %w", err)
				}
				return r.out.print(cmd.OutOrStdout(), list, replicaHead(), replicaRows(list.Items))
			})
		},
	}
	r.bind(cmd)
	return cmd
}

const replicasPath = "/api/v1/replicas"

func replicaHead() []string {
	return []string{"NAME", "STATE", "TENANTS", "CAPACITY", "REQUESTS", "STREAMS", "CPU", "MEMORY", "VERSION", "ADDRESS", "STARTED"}
}

func replicaRows(list []admin.Replica) [][]string {
	rows := make([][]string, len(list))
	for i, r := range list {
		name := r.Name
		if r.Self {
			name += " *"
		}
		rows[i] = []string{
			name, r.State, strconv.Itoa(r.Tenants), strconv.Itoa(r.Capacity), strconv.FormatInt(r.Requests, 10), strconv.FormatInt(r.Streams, 10),
			fmt.Sprintf("%.0f%%", 100*r.CPU), fmt.Sprintf("%dMiB", r.Memory>>20), r.Version, r.Address, stamp(r.Started),
		}
	}
	return rows
}

func newDrainCommand() *cobra.Command {
	r := replicaCommands{newAdmins()}
	var resume, noWait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "drain [replica]", Short: "Have a replica give up its tenants",
		Long: `Have a replica give up its tenants, one by one, to the others, and get no more: the one that answers if none is named. The command waits
until it has none. A replica that is drained goes on passing requests to those who serve them; "--resume" lets it have tenants
again, as a restart does. SIGTERM drains a replica as well, and then ends it.`,
		Example: "  polygate drain replica-0\n  polygate drain replica-0 --resume",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.run(cmd, func(ctx context.Context, c *client) error {
				name, err := r.named(ctx, c, args)
				if err != nil {
					return err
				}
				if resume {
					return r.resume(ctx, cmd, c, name)
				}
				return r.drain(ctx, cmd, c, name, timeout, noWait)
			})
		},
	}
	cmd.Flags().BoolVar(&resume, "resume", false, "let it have tenants again")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return at once")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait")
	r.bind(cmd)
	return cmd
}

// named returns the name of the replica that is meant.
func (r replicaCommands) named(ctx context.Context, c *client, args []string) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	var list admin.ReplicaList
	if err := c.do(ctx, http.MethodGet, replicasPath, nil, &list); err != nil {
		return "", fmt.Errorf("list replicas: %w", err)
	}
	for _, one := range list.Items {
		if one.Self {
			return one.Name, nil
		}
	}
	return "", fmt.Errorf("the replica that answers has no session with the registry: name one")
}

func (r replicaCommands) resume(ctx context.Context, cmd *cobra.Command, c *client, name string) error {
	var one admin.Replica
	if err := c.do(ctx, http.MethodPost, replicasPath+"/"+url.PathEscape(name)+"/resume", nil, &one); err != nil {
		return fmt.Errorf("resume replica %q: %w", name, whichReplicas(err))
	}
	return r.done(cmd, one, "replica %s may have tenants again", name)
}

// whichReplicas adds to the error of a replica that is not live where those that are can be seen.
func whichReplicas(err error) error {
	if isStatus(err, http.StatusNotFound) {
		return fmt.Errorf("%w: polygate replicas lists those that are live", err)
	}
	return err
}

// done prints the replica for programs, or one line for people.
func (r replicaCommands) done(cmd *cobra.Command, one admin.Replica, format string, args ...any) error {
	if r.out.isData() {
		return r.out.data(cmd.OutOrStdout(), one)
	}
	return tell(cmd, format, args...)
}

// drain begins, and tells how many tenants are left until none is.
func (r replicaCommands) drain(ctx context.Context, cmd *cobra.Command, c *client, name string, timeout time.Duration, noWait bool) error {
	path := replicasPath + "/" + url.PathEscape(name)
	var one admin.Replica
	if err := c.do(ctx, http.MethodPost, path+"/drain", nil, &one); err != nil {
		return fmt.Errorf("drain replica %q: %w", name, whichReplicas(err))
	}
	end := time.Now().Add(timeout)
	for told := -1; !noWait && one.Tenants > 0; {
		if one.Tenants != told && !r.out.isData() {
			told = one.Tenants
			if err := tell(cmd, "replica %s: tenants left: %d", name, told); err != nil {
				return err
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("drain replica %q: it has %d tenants left after %s: it goes on by itself; see polygate replicas", name, one.Tenants, timeout)
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
		if err := c.do(ctx, http.MethodGet, path, nil, &one); err != nil {
			return fmt.Errorf("drain replica %q: %w", name, err)
		}
	}
	if noWait && one.Tenants > 0 {
		return r.done(cmd, one, "replica %s drains: tenants left: %d", name, one.Tenants)
	}
	return r.done(cmd, one, "replica %s is drained", name)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *admins) tenantOwner() *cobra.Command {
	return &cobra.Command{
		Use: "owner <tenant>", Short: "Tell which replica serves a tenant",
		Long:    "Tell which replica serves a tenant. A tenant that has not been used for a while is served by nobody, until the next request.",
		Example: "  polygate tenant owner team-a\n  polygate tenant owner team-a -o json | jq -r .replica",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd, func(ctx context.Context, c *client) error {
				path, err := tenantPath(args[0])
				if err != nil {
					return err
				}
				var o admin.Owner
				if err := c.do(ctx, http.MethodGet, path+"/owner", nil, &o); err != nil {
					return fmt.Errorf("owner of tenant %q: %w", args[0], err)
				}
				return a.owner(cmd, o)
			})
		},
	}
}

// owner prints who serves a tenant.
func (a *admins) owner(cmd *cobra.Command, o admin.Owner) error {
	return a.out.print(cmd.OutOrStdout(), o, []string{"TENANT", "SERVED BY", "NEXT"}, [][]string{{string(o.Tenant), o.Replica, o.Preferred}})
}

func (a *admins) tenantMove() *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use: "move <tenant>", Short: "Have a tenant served by another replica",
		Long: `Have a tenant served by another replica: the named one, or whichever suits best. No request fails: those that come meanwhile wait for
some milliseconds, those in flight go on, and streams are told to come again after drain.streams.`,
		Example: "  polygate tenant move team-a --to replica-1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd, func(ctx context.Context, c *client) error {
				path, err := tenantPath(args[0])
				if err != nil {
					return err
				}
				var o admin.Owner
				if err := c.do(ctx, http.MethodPost, path+"/move", admin.MoveRequest{To: to}, &o); err != nil {
					return fmt.Errorf("move tenant %q: %w", args[0], err)
				}
				return a.owner(cmd, o)
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the replica's `name`; default: whichever suits best, but not its owner")
	return cmd
}

func newStatusCommand() *cobra.Command {
	a := newAdmins()
	cmd := &cobra.Command{
		Use: "status", Short: "Tell the numbers of all replicas together",
		Long:    "Tell the numbers of the whole platform: replicas, the registry's storage, tenants, requests, and what is wrong. As JSON; -o yaml for YAML.",
		Example: "  polygate status\n  polygate status -o yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.run(cmd, func(ctx context.Context, c *client) error {
				var raw json.RawMessage
				if err := c.do(ctx, http.MethodGet, "/api/v1/status", nil, &raw); err != nil {
					return fmt.Errorf("status: %w", err)
				}
				if a.out.format == formatYAML {
					var v any
					if err := json.Unmarshal(raw, &v); err != nil {
						return err
					}
					return printYAML(cmd.OutOrStdout(), v)
				}
				return printJSON(cmd.OutOrStdout(), raw)
			})
		},
	}
	a.bind(cmd)
	return cmd
}
