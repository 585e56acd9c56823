package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/archive"
	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/registry"
)

func newRestoreCommand() *cobra.Command {
	var path, file string
	var force bool
	c := &cobra.Command{
		Use: "restore", Short: "Restore a backup, while no replica runs",
		Long: `Make the registry that a configuration names what it was when a backup was made: the embedded etcd's folder, or a prefix in an
etcd of its own. Stop all replicas first.

The whole backup is checked before anything is written. Where the restore is broken off, no replica starts, and the same command goes
on with it. A registry that holds data is left alone, unless --force erases it first. kek_file must hold the key that the backup's
secrets are sealed with.

Where replicas are members of one embedded etcd (etcd.embedded.cluster), more than half of them have to take part: run the command
without --file on the others, which lend their members until the restore ends. Start them in any order: they wait for each other
until Ctrl-C, and say so. A member that comes long after the end waits in vain: end it with Ctrl-C.

The lease of a replica that was killed counts as a replica for some seconds more. With an embedded etcd, restore waits for it; with one
of its own, it refuses, and is to be run again.`,
		Example: "  polygate restore --config polygate.yaml --file polygate.backup\n  polygate restore --config polygate.yaml   # on the other members of a cluster",
		Args:    cobra.NoArgs,
	}
	c.Flags().StringVarP(&path, "config", "c", "polygate.yaml", "the platform's configuration `file`")
	c.Flags().StringVarP(&file, "file", "f", "", "the `file` to read; - is standard input (required, but for other members of a cluster)")
	c.Flags().BoolVar(&force, "force", false, "erase what the registry holds")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.LoadPlatform(path)
		if err != nil {
			return reportConfig(cmd.ErrOrStderr(), err)
		}
		r := &restorer{cfg: cfg, force: force, out: cmd.ErrOrStderr()}
		switch {
		case file != "":
			return r.run(cmd.Context(), file, cmd.InOrStdin())
		case len(r.members()) == 0:
			return usage("--file is missing: name the backup")
		}
		return r.lend(cmd.Context())
	}
	return c
}

// restorer restores one backup into the registry of a configuration.
type restorer struct {
	cfg   *config.Platform
	force bool
	out   io.Writer
}

func (r *restorer) run(ctx context.Context, file string, stdin io.Reader) (err error) {
	backup, done, err := seekable(file, stdin)
	if err != nil {
		return fmt.Errorf("read the backup: %w", err)
	}
	defer done()
	ring, err := seal.LoadKeyring(r.cfg.KEKFile)
	if err != nil {
		return fmt.Errorf("%w: restore the kek_file that belongs to the backup first", err)
	}
	if m, err := archive.Verify(backup); err != nil { // before the store is touched
		return err
	} else if err := checkKeys(m, ring); err != nil {
		return plain(err)
	}
	if _, err := backup.Seek(0, io.SeekStart); err != nil {
		return err
	}
	d := r.daemon()
	defer func() { err = errors.Join(err, d.parts.stop()) }()
	store, err := r.open(ctx, d)
	if err != nil {
		return err
	}
	shown := 0
	m, err := store.Restore(ctx, backup, registry.RestoreOptions{
		Force: r.force, Accept: func(m archive.Manifest) error { return checkKeys(m, ring) },
		Patience: r.patience(), Waiting: r.waiting(),
	}, func(done, total int) {
		if tenth := done * 10 / max(total, 1); tenth > shown {
			shown = tenth
			fmt.Fprintf(r.out, "restored %d of %d keys\n", done, total)
		}
	})
	if err != nil {
		return plain(err)
	}
	if len(r.members()) > 0 {
		r.linger(ctx, d.etcd.backend)
	}
	_, err = fmt.Fprintf(r.out, "restored %d keys of %s (sha256 %s)\n", m.End.Entries, stamp(m.Created), m.End.Sum)
	return err
}

// checkKeys refuses a backup whose secrets nothing here could open.
func checkKeys(m archive.Manifest, ring *seal.Keyring) error {
	for _, id := range m.End.KEKs {
		if !ring.Has(id) {
			return fault.New(fault.Conflict, "the backup's secrets are sealed with the key %s, and kek_file holds %s: put that key's line there first",
				strings.Join(m.End.KEKs, ", "), strings.Join(ring.IDs(), ", "))
		}
	}
	return nil
}

// open opens the registry without running a replica.
func (r *restorer) open(ctx context.Context, d *daemon) (*registry.Store, error) {
	if len(r.cfg.Etcd.Endpoints) == 0 { // the lock proves that no replica runs on the folder
		if err := d.openFolder(ctx); err != nil {
			return nil, err
		}
	}
	stop := func() {}
	if all := r.members(); len(all) > 0 {
		stop = r.sayOften(ctx, sayEvery, "waiting for more than half of the members "+strings.Join(all, ", ")+": run polygate restore on them too")
	}
	backend, err := d.openBackend(ctx)
	stop()
	if err != nil {
		return nil, err
	}
	return registry.New(registry.Config{Backend: backend, Replica: r.cfg.Replica.Name, BaseDomain: r.cfg.BaseDomain, Logger: d.log})
}

// seekable returns a file that can be read twice; stdin is copied to one.
func seekable(file string, stdin io.Reader) (f *os.File, done func(), err error) {
	if file != "-" {
		f, err = os.Open(file)
		return f, func() { _ = f.Close() }, err
	}
	if f, err = os.CreateTemp("", "polygate-restore-*"); err != nil {
		return nil, nil, err
	}
	done = func() { _, _ = f.Close(), os.Remove(f.Name()) }
	_, err = io.Copy(f, stdin)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		done()
	}
	return f, done, err
}
