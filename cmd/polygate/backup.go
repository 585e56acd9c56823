package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/archive"
	"github.com/polygate/polygate/proxy/admin"
)

func newBackupCommand() *cobra.Command {
	a, out := newAdmins(), ""
	c := &cobra.Command{
		Use: "backup", Short: "Back up everything that the registry holds",
		Long: `Write all tenants, their state and certificates, and the platform's own data to a file, as of one moment, while everything runs.

What is secret in it is sealed with the key-encryption key: keep kek_file too, in another place. Audit logs are files of their own
and not part of it. The file holds host names and hashes of keys, so it is made readable by its owner alone.`,
		Example: "  polygate backup --file polygate.backup\n  polygate backup --file - | ssh vault 'cat > polygate.backup'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.run(cmd, func(ctx context.Context, c *client) error {
				m, err := c.download(ctx, "/api/v1/backup", nil, out, cmd.OutOrStdout())
				if err != nil {
					return fmt.Errorf("back up: %w", err)
				}
				_, err = fmt.Fprintf(cmd.ErrOrStderr(), "backed up %d keys, %d bytes, revision %d, sealed with key %s (sha256 %s)\n",
					m.End.Entries, m.End.Bytes, m.Revision, strings.Join(m.End.KEKs, ", "), m.End.Sum)
				return err
			})
		},
	}
	a.bind(c)
	c.Flags().StringVarP(&out, "file", "f", "", "the `file` to write; - is standard output (required)")
	_ = c.MarkFlagRequired("file")
	return c
}

// download sends a request whose answer is an archive, and writes it to a file, - is stdout. The file appears whole or not at all:
// what comes is verified before it gets its name.
func (c *client) download(ctx context.Context, path string, in any, file string, stdout io.Writer) (archive.Manifest, error) {
	if file == "-" {
		return c.receive(ctx, path, in, stdout)
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".polygate-archive-*") // O_EXCL, 0600
	if err != nil {
		return archive.Manifest{}, err
	}
	defer os.Remove(f.Name()) // fails once it was renamed
	m, err := c.receive(ctx, path, in, f)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return m, err
	}
	return m, os.Rename(f.Name(), file)
}

func (c *client) receive(ctx context.Context, path string, in any, w io.Writer) (archive.Manifest, error) {
	resp, err := c.long(ctx, path, in, "application/json")
	if err != nil {
		return archive.Manifest{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != admin.ArchiveType {
		return archive.Manifest{}, c.answer(resp, new(struct{}))
	}
	m, err := archive.Verify(io.TeeReader(resp.Body, w))
	if err != nil {
		return m, fmt.Errorf("the answer broke off, see the gateway's log: %w", err)
	}
	return m, nil
}

// long posts a request that may take as long as the listener lets it.
func (c *client) long(ctx context.Context, path string, in any, contentType string) (*http.Response, error) {
	body, ok := in.(io.Reader)
	if !ok {
		b, err := marshalBody(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.String()+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.secret)
	req.Header.Set("Content-Type", contentType)
	hc := *c.http
	hc.Timeout = 0 // the listener bounds it
	resp, err := hc.Do(req)
	if err != nil {
		return nil, c.unreached(err)
	}
	return resp, nil
}

func (a *admins) tenantExport() *cobra.Command {
	var file, recipient string
	cmd := &cobra.Command{
		Use: "export <tenant>", Short: "Write a tenant's archive",
		Long: `Write one tenant with its record, servers, delegations and policies to a file, to import it elsewhere.

Without a recipient, secrets are left out and listed: headers of servers, secrets of issuers, keys of certificates, and the hashes of
API keys. With one, they are in the file, sealed so that only the holder of its age identity can open them.`,
		Example: "  polygate tenant export team-a --file team-a.archive\n  age-keygen -o me.key   # prints the recipient, age1...\n  polygate tenant export team-a --file team-a.archive --recipient age1...",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.complete(tenantNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := tenantPath(args[0])
			if err != nil {
				return err
			}
			return a.run(cmd, func(ctx context.Context, c *client) error {
				m, err := c.download(ctx, path+"/archive", admin.ArchiveRequest{Recipient: recipient}, file, cmd.OutOrStdout())
				if err != nil {
					return fmt.Errorf("export tenant %s: %w", args[0], err)
				}
				for _, left := range m.End.Omitted {
					fmt.Fprintf(cmd.ErrOrStderr(), "left out: %s\n", clean(left))
				}
				_, err = fmt.Fprintf(cmd.ErrOrStderr(), "tenant %s exported (sha256 %s)\n", args[0], m.End.Sum)
				return err
			})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "the `file` to write; - is standard output (required)")
	cmd.Flags().StringVar(&recipient, "recipient", "", "the age `recipient` (age1...) for whom secrets are sealed; without it they are left out")
	_ = cmd.MarkFlagRequired("file")
	return cmd
}

func (a *admins) tenantImport() *cobra.Command {
	var as, identity string
	cmd := &cobra.Command{
		Use: "import <file>", Short: "Make a tenant of an archive",
		Long: `Make a tenant of an archive that "tenant export" wrote. It is a new one: what its secrets are sealed with, and what tells it from
others, is made here. Its id, hosts and keys must be free.

Sealed secrets are opened here, with the age identity that they are for, which is sent nowhere.`,
		Example: "  polygate tenant import team-a.archive --as team-b\n  polygate tenant import team-a.archive --identity me.key",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := openArchive(args[0], identity, cmd.InOrStdin())
			if err != nil {
				return fmt.Errorf("import %s: %w", args[0], err)
			}
			return a.run(cmd, func(ctx context.Context, c *client) error {
				return a.importArchive(ctx, cmd, c, body, as)
			})
		},
	}
	cmd.Flags().StringVar(&as, "as", "", "the `tenant`'s id here (default: as it was)")
	cmd.Flags().StringVar(&identity, "identity", "", "the `file` with the age identity that the secrets are sealed for")
	return cmd
}

func (a *admins) importArchive(ctx context.Context, cmd *cobra.Command, c *client, body io.Reader, as string) error {
	path := "/api/v1/archives"
	if as != "" {
		if _, err := tenantPath(as); err != nil {
			return err
		}
		path += "?as=" + as
	}
	resp, err := c.long(ctx, path, body, admin.ArchiveType)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	var t admin.Tenant
	if err := c.answer(resp, &t); err != nil {
		return fmt.Errorf("import: %w", err)
	}
	if a.out.isData() {
		return a.out.data(cmd.OutOrStdout(), t)
	}
	_, err = fmt.Fprintf(cmd.ErrOrStderr(), "tenant %s imported\n", t.ID)
	return err
}

// openArchive reads an archive, with its secrets opened if there is an identity.
func openArchive(file, identity string, stdin io.Reader) (io.Reader, error) {
	b, err := readFile(file, stdin, admin.MaxArchive)
	if err != nil || identity == "" {
		return bytes.NewReader(b), err
	}
	text, err := readFile(identity, nil, maxSecret)
	if err != nil {
		return nil, fmt.Errorf("read the identity: %w", err)
	}
	ids, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s holds no age identity: %w", identity, err)
	}
	var opened bytes.Buffer
	_, err = archive.Open(&opened, bytes.NewReader(b), ids...)
	return &opened, err
}

// marshalBody makes the body of a request; nil is none.
func marshalBody(in any) ([]byte, error) {
	if in == nil {
		return []byte("{}"), nil
	}
	return json.Marshal(in)
}
