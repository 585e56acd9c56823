package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/proxy/admin"
)

// storePath is where the registry's etcd is looked after.
const storePath = "/api/v1/store"

func newEtcdCommand() *cobra.Command {
	a := newAdmins()
	cmd := &cobra.Command{
		Use: "etcd", Short: "Look after the etcd under the registry",
		Long: `Look after the etcd under the registry: the members of the embedded cluster, and a database that has become too large. How it is,
tells "polygate status".`,
		Example: "  polygate etcd member list\n  polygate etcd defrag",
	}
	member := &cobra.Command{
		Use: "member", Short: "The members of the embedded cluster",
		Long:    "The members of the embedded etcd cluster. One that lost its data folder is removed and added again before its replica is started.",
		Example: "  polygate etcd member remove replica-2\n  polygate etcd member add replica-2.example.com:2380",
	}
	member.AddCommand(
		a.etcdCommand("list", "List the members", "List the members as the cluster knows them. One without a name was added, and has not been started yet.",
			"  polygate etcd member list", cobra.NoArgs, http.MethodGet),
		a.etcdCommand("add <host:port>", "Take a member in", "Take a member in, by the address at which the others reach it. Then start its replica with an empty data_dir/etcd.",
			"  polygate etcd member add replica-2.example.com:2380", cobra.ExactArgs(1), http.MethodPost),
		a.etcdCommand("remove <member>", "Take a member out", `Take a member out, by name or address: before one that lost its data folder is added again, or for good. The replica that is asked
must be another's.`, "  polygate etcd member remove replica-2", cobra.ExactArgs(1), http.MethodDelete),
	)
	cmd.AddCommand(member, a.etcdDefrag())
	a.bind(cmd)
	return cmd
}

func (a *admins) etcdCommand(use, short, long, example string, args cobra.PositionalArgs, method string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			path, body := storePath+"/members", any(nil)
			switch method {
			case http.MethodPost:
				body = admin.StoreMemberRequest{Address: args[0]}
			case http.MethodDelete:
				path += "/" + url.PathEscape(args[0])
			}
			return a.etcdCall(cmd, method, path, body)
		},
	}
}

func (a *admins) etcdDefrag() *cobra.Command {
	return &cobra.Command{
		Use: "defrag", Short: "Give back what the database does not need",
		Long: `Compact the history, defragment every member, one after the other, and take back the alarm of a full database (NOSPACE). Delete
what is not needed before. A member stops for as long as it takes: some seconds for a gigabyte.`,
		Example: "  polygate etcd defrag", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.etcdCall(cmd, http.MethodPost, storePath+"/defrag", nil)
		},
	}
}

// etcdCall asks, and prints the members that there are then.
func (a *admins) etcdCall(cmd *cobra.Command, method, path string, body any) error {
	return a.run(cmd, func(ctx context.Context, c *client) error {
		var list admin.StoreMemberList
		if err := c.do(ctx, method, path, body, &list); err != nil {
			return fmt.Errorf("etcd: %w", err)
		}
		rows := make([][]string, len(list.Items))
		for i, m := range list.Items {
			rows[i] = []string{m.Name, m.Address}
		}
		return a.out.print(cmd.OutOrStdout(), list, []string{"NAME", "ADDRESS"}, rows)
	})
}
