package main

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/smallstep/truststore"
	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/config"
)

// trustStore is where a machine keeps the authorities that its programs trust.
type trustStore interface {
	Install(root *x509.Certificate) error
	Uninstall(root *x509.Certificate) error
}

// systemTrust is the machine's own.
type systemTrust struct{}

// named gives the file in the store a name of ours: what is in the certificate could otherwise name any path.
func (systemTrust) named() truststore.Option { return truststore.WithPrefix("polygate-") }

// Install implements trustStore.
func (s systemTrust) Install(root *x509.Certificate) error {
	return trustError(truststore.Install(root, s.named()))
}

// Uninstall implements trustStore.
func (s systemTrust) Uninstall(root *x509.Certificate) error {
	return trustError(truststore.Uninstall(root, s.named()))
}

// trustError adds what the system's own command said.
func trustError(err error) error {
	var failed *truststore.CmdError
	switch {
	case errors.As(err, &failed):
		out := strings.TrimSpace(string(failed.Out()))
		return fmt.Errorf("%w: %s: it takes the rights of the machine's administrator", err, cmp.Or(out, "it said nothing"))
	case errors.Is(err, truststore.ErrNotSupported):
		return errors.New("this command does not know the trust store of this system: print the root and install it by hand")
	}
	return err
}

// rootInfo is an authority's certificate, as data.
type rootInfo struct {
	Subject     string    `json:"subject"`
	Fingerprint string    `json:"fingerprint"` // SHA-256, hexadecimal
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	PEM         string    `json:"pem"`
}

// trust is the command that prints and installs the root of the local authority.
type trust struct {
	settings           *settings
	store              trustStore
	root, config       string
	install, uninstall bool
	out                *printer
}

func newTrustCommand(s *settings, store trustStore) *cobra.Command {
	t := &trust{settings: s, store: store, out: &printer{}}
	cmd := &cobra.Command{
		Use: "trust", Short: "Print the local authority's root, or have this machine trust it",
		Long: `Print the root certificate of the gateway's local authority, as PEM, for clients to trust. With --install it is put into this
machine's trust store, with --uninstall it is taken out; both take the rights of the machine's administrator and change what
every program on it trusts, but for those with a store of their own, such as Firefox and Java.

The root is read from the file of --root; else from the data folder of polygate.yaml (--config), which holds it as ca.pem
since the gateway's last start; else from the file of --ca, POLYGATE_CA or the profile. On other machines, name a copy, and compare the
fingerprint first: whoever holds the key of a trusted root can pass for any host.`,
		Example: "  polygate cert trust > ca.pem\n  polygate cert trust --config /etc/polygate/polygate.yaml --install\n  polygate cert trust --root ca.pem --uninstall",
		Args:    cobra.NoArgs,
		RunE:    t.run,
	}
	f := cmd.Flags()
	f.StringVar(&t.root, "root", "", "PEM file with the root")
	f.StringVarP(&t.config, "config", "c", "", "the platform's configuration `file` (default polygate.yaml, if it is there)")
	f.BoolVar(&t.install, "install", false, "have this machine trust the root")
	f.BoolVar(&t.uninstall, "uninstall", false, "have it trust the root no more")
	cmd.MarkFlagsMutuallyExclusive("install", "uninstall")
	return cmd
}

func (t *trust) run(cmd *cobra.Command, _ []string) error {
	t.out.format, _ = cmd.Flags().GetString("output")
	t.out.format = cmp.Or(t.out.format, formatTable)
	if err := t.out.check(); err != nil {
		return err
	}
	path, err := t.file()
	if err != nil {
		return err
	}
	roots, err := readAuthorities(path, time.Now())
	if err != nil {
		return err
	}
	switch {
	case t.install:
		return t.change(cmd, roots, t.store.Install, "install", "is trusted on this machine now")
	case t.uninstall:
		return t.change(cmd, roots, t.store.Uninstall, "uninstall", "is not trusted on this machine any more, as far as this command had installed it")
	}
	return t.print(cmd, roots)
}

// file finds the file with the root.
func (t *trust) file() (string, error) {
	if t.root != "" {
		return t.root, nil
	}
	path := cmp.Or(t.config, "polygate.yaml")
	if _, err := os.Stat(path); t.config == "" && errors.Is(err, fs.ErrNotExist) {
		return t.trusted()
	}
	p, err := config.LoadPlatform(path)
	if err != nil {
		return "", err
	}
	return filepath.Join(p.DataDir, "ca.pem"), nil
}

// trusted returns the file that the client commands trust.
func (t *trust) trusted() (string, error) {
	p, err := t.settings.load()
	if err != nil {
		return "", err
	}
	path := cmp.Or(t.settings.ca, os.Getenv("POLYGATE_CA"), p.CAFile)
	if path == "" {
		return "", usage("no root: name its file with --root, or the gateway's polygate.yaml with --config")
	}
	return path, nil
}

// readAuthorities reads a file of roots. Nothing else is taken for one: a host's own certificate would be trusted in vain,
// and one that is over too.
func readAuthorities(path string, now time.Time) ([]*x509.Certificate, error) {
	text, err := config.RootsPEM(path)
	if err != nil {
		return nil, err
	}
	var roots []*x509.Certificate
	for b, rest := pem.Decode([]byte(text)); b != nil; b, rest = pem.Decode(rest) {
		root, err := x509.ParseCertificate(b.Bytes)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: %w", path, err)
		case !root.IsCA:
			return nil, fmt.Errorf("%s: %s is no authority's certificate: is it the right file?", path, root.Subject)
		case now.After(root.NotAfter):
			return nil, fmt.Errorf("%s: the certificate of %s expired at %s: start the gateway, which writes its present one", path, root.Subject, stamp(root.NotAfter))
		}
		roots = append(roots, root)
	}
	return roots, nil
}

func (t *trust) change(cmd *cobra.Command, roots []*x509.Certificate, do func(*x509.Certificate) error, verb, done string) error {
	for _, root := range roots {
		if err := do(root); err != nil {
			return fmt.Errorf("%s %s: %w", verb, root.Subject, err)
		}
		if err := tell(cmd, "%s (SHA-256 %s) %s", root.Subject, fingerprint(root), done); err != nil {
			return err
		}
	}
	return nil
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// print writes the roots: alone on stdout, with what they are on stderr.
func (t *trust) print(cmd *cobra.Command, roots []*x509.Certificate) error {
	list := struct {
		Items []rootInfo `json:"items"`
	}{Items: []rootInfo{}}
	for _, root := range roots {
		text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}))
		list.Items = append(list.Items, rootInfo{root.Subject.String(), fingerprint(root), root.NotBefore, root.NotAfter, text})
		if t.out.isData() {
			continue
		}
		if err := tell(cmd, "%s, until %s, SHA-256 %s", root.Subject, stamp(root.NotAfter), fingerprint(root)); err != nil {
			return err
		}
		if _, err := fmt.Fprint(cmd.OutOrStdout(), text); err != nil {
			return err
		}
	}
	if t.out.isData() {
		return t.out.data(cmd.OutOrStdout(), list)
	}
	return nil
}
