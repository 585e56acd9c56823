package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/proxy/admin"
)

func newSecretCommand() *cobra.Command {
	a := newAdmins()
	cmd := commandGroup("secret", "Change the key-encryption key, and see what it wraps",
		`One key-encryption key, in the kek_file of every replica, wraps the data keys with which everything secret is sealed. To change it
without a stop:

  1. polygate secret add data/kek, at one replica: a new key, on the first line of the file
  2. copy that file to every other replica
  3. polygate secret rekey: all replicas read their files, and everything is wrapped anew
  4. when polygate secret status says that the old key wraps nothing, take its line out of the files

Backups made before are sealed with the old key: keep it as long as them.`,
		a.secretStatus(), a.secretRekey(), newSecretAddCommand())
	cmd.Example = "  polygate secret status\n  polygate secret rekey"
	a.bind(cmd)
	return cmd
}

func (a *admins) secretStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show which key wraps how much",
		Long:    "Show the key-encryption keys by their ids, how many stored secrets each wraps, and how far the last change is.",
		Example: "  polygate secret status -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.run(cmd, func(ctx context.Context, c *client) error {
				s, err := secretStatus(ctx, c)
				if err != nil {
					return err
				}
				return a.showSecrets(cmd, s)
			})
		},
	}
}

func secretStatus(ctx context.Context, c *client) (*admin.SecretStatus, error) {
	var s admin.SecretStatus
	if err := c.do(ctx, http.MethodGet, "/api/v1/secrets", nil, &s); err != nil {
		return nil, fmt.Errorf("read the state of the keys: %w", err)
	}
	return &s, nil
}

func (a *admins) showSecrets(cmd *cobra.Command, s *admin.SecretStatus) error {
	rows := make([][]string, len(s.Keys))
	for i, k := range s.Keys {
		rows[i] = []string{k.ID, strconv.FormatBool(k.InForce), strconv.FormatBool(k.InFile), strconv.Itoa(k.Wraps)}
	}
	if err := a.out.print(cmd.OutOrStdout(), s, []string{"KEY", "IN FORCE", "IN FILE", "WRAPS"}, rows); err != nil || a.out.isData() {
		return err
	}
	if r := s.Rekey; r != nil {
		fmt.Fprintf(cmd.OutOrStdout(), "\nchange to %s: %s (replica %s, since %s)%s\n", r.To, clean(r.State), clean(r.Replica), stamp(r.Started), because(r.Error))
	}
	return nil
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + clean(why)
}

func (a *admins) secretRekey() *cobra.Command {
	var key string
	var wait bool
	cmd := &cobra.Command{
		Use: "rekey", Short: "Wrap everything with another key",
		Long: `Have everything that a key-encryption key wraps wrapped by the one on the first line of kek_file, or the one that --to names. Every
replica must hold both keys. Nothing stops meanwhile; broken off, the same command goes on.`,
		Example: "  polygate secret rekey\n  polygate secret rekey --to 0a1b2c3d4e5f",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.run(cmd, func(ctx context.Context, c *client) error {
				var s admin.SecretStatus
				if err := c.do(ctx, http.MethodPost, "/api/v1/secrets/rekey", admin.RekeyRequest{Key: key}, &s); err != nil {
					return fmt.Errorf("change the key: %w", err)
				}
				if wait {
					return a.awaitRekey(ctx, cmd, c, &s)
				}
				return a.showSecrets(cmd, &s)
			})
		},
	}
	cmd.Flags().StringVar(&key, "to", "", "the `id` of the key (default: the first line of kek_file)")
	cmd.Flags().BoolVar(&wait, "wait", true, "wait until it is done")
	return cmd
}

// awaitRekey asks how far a change is until it has ended.
func (a *admins) awaitRekey(ctx context.Context, cmd *cobra.Command, c *client, s *admin.SecretStatus) error {
	pause := 100 * time.Millisecond
	for s.Rekey != nil && s.Rekey.State == "running" {
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, 5*time.Second)
		next, err := secretStatus(ctx, c)
		if err != nil {
			return err
		}
		s = next
		fmt.Fprintf(cmd.ErrOrStderr(), "%s\n", progressText(s))
	}
	if err := a.showSecrets(cmd, s); err != nil {
		return err
	}
	if s.Rekey == nil || s.Rekey.State != "done" {
		return fmt.Errorf("the change stopped%s: run it again", because(s.Rekey.Error))
	}
	return nil
}

func progressText(s *admin.SecretStatus) string {
	var parts []string
	for _, k := range s.Keys {
		parts = append(parts, fmt.Sprintf("%s wraps %d", k.ID, k.Wraps))
	}
	return strings.Join(parts, ", ")
}

func newSecretAddCommand() *cobra.Command {
	return &cobra.Command{
		Use: "add <kek_file>", Short: "Put a new key on the first line of a kek_file",
		Long: `Make a new key-encryption key and put it on the first line of a kek_file, before those that it holds. It wraps nothing before
polygate secret rekey. The file is that of this machine: no gateway is asked.`,
		Example: "  polygate secret add data/kek",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := seal.AddKey(args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", id)
			return err
		},
	}
}
