package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// maxCertFile bounds a chain or a key, in bytes: the gateway takes no more.
const maxCertFile = 64 << 10

// certPair is the body of a certificate's import.
type certPair struct {
	Chain string `json:"chain"`
	Key   string `json:"key"`
}

func (s *certCommands) certImport() *cobra.Command {
	var cert, key string
	var hosts []string
	cmd := &cobra.Command{
		Use: "import --cert <chain.pem> --key <key.pem>", Short: "Provide a certificate with its key",
		Long: `Provide a certificate that somebody else issued: a PEM chain, the host's own certificate first, and its PEM key, which is not
encrypted. The gateway checks them against each other, the clock and the host, seals the key, and serves the certificate from
then on as long as it is valid, whatever the source of others. It does not renew it.

Without --host it is imported for every host that it names, of those that "polygate cert list" shows.`,
		Example: "  polygate cert import --cert chain.pem --key=key.pem\n  polygate cert import --cert chain.pem --key=key.pem --host tools.example.org\n  pass show tools/key | polygate cert import --cert chain.pem --key=-",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cert == "-" && key == "-" {
				return usage("--cert and --key are both -: stdin can hold one of them")
			}
			pair, err := readPair(cmd, cert, key)
			if err != nil {
				return err
			}
			return s.run(cmd, func(ctx context.Context, c *client) error { return s.importPair(ctx, cmd, c, pair, hosts) })
		},
	}
	cmd.Flags().StringVar(&cert, "cert", "", "PEM file with the certificate and those between it and its root; - reads stdin (required)")
	cmd.Flags().StringVar(&key, "key", "", "PEM file with its private key; - reads stdin (required)")
	cmd.Flags().StringSliceVar(&hosts, "host", nil, "for this host alone; may be given more than once (default every host that the certificate names)")
	_ = cmd.MarkFlagRequired("cert")
	_ = cmd.MarkFlagRequired("key")
	_ = cmd.RegisterFlagCompletionFunc("host", func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		return s.completeHost(cmd, nil, prefix)
	})
	return cmd
}

func readPair(cmd *cobra.Command, cert, key string) (certPair, error) {
	chain, err := readFile(cert, cmd.InOrStdin(), maxCertFile)
	if err != nil {
		return certPair{}, fmt.Errorf("read the certificate: %w", err)
	}
	private, err := readFile(key, cmd.InOrStdin(), maxCertFile)
	if err != nil {
		return certPair{}, fmt.Errorf("read the key: %w", err)
	}
	return certPair{string(chain), string(private)}, nil
}

// importPair imports a certificate for hosts, or those that it names. If one is refused, the others go on.
func (s *certCommands) importPair(ctx context.Context, cmd *cobra.Command, c *client, pair certPair, hosts []string) error {
	if len(hosts) == 0 {
		var err error
		if hosts, err = s.namedHosts(ctx, c, pair); err != nil {
			return err
		}
	}
	done := &listing[certInfo]{Items: []answered[certInfo]{}}
	failed := 0
	for _, host := range hosts {
		var a answered[certInfo]
		if err := c.do(ctx, http.MethodPut, c.path("certificates", host), pair, &a); err != nil {
			if len(hosts) == 1 {
				return fmt.Errorf("import the certificate for %q: %w", host, err)
			}
			failed++
			_ = tell(cmd, "polygate: import the certificate for %q: %v", host, err)
			continue
		}
		done.Items = append(done.Items, a)
		if !s.out.isData() {
			_ = tell(cmd, "certificate of %s imported: until %s", host, stampOr(a.is.NotAfter, "its end"))
		}
	}
	if s.out.isData() {
		if err := s.out.data(cmd.OutOrStdout(), done); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d hosts did not take the certificate", failed, len(hosts))
	}
	return nil
}

// namedHosts returns the hosts that there are and that the certificate names.
func (s *certCommands) namedHosts(ctx context.Context, c *client, pair certPair) ([]string, error) {
	leaf, err := firstCertificate(pair.Chain)
	if err != nil {
		return nil, err
	}
	all, err := hostNames("certificates", "")(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("look up the hosts%s: %w", s.of(), err)
	}
	if s.platform { // the base domain's wildcard is listed only once there is one
		for _, h := range slices.Clone(all) {
			if wildcard := "*." + h; slices.Contains(leaf.DNSNames, wildcard) && !slices.Contains(all, wildcard) {
				all = append(all, wildcard)
			}
		}
	}
	hosts := slices.DeleteFunc(slices.Clone(all), func(h string) bool { return !certFor(leaf, h) })
	if len(hosts) == 0 {
		return nil, fmt.Errorf("the certificate is for %s, and for none of the hosts%s: %s", orNone(leaf.DNSNames), s.of(), orNone(all))
	}
	return hosts, nil
}

// firstCertificate returns the certificate with which a chain begins.
func firstCertificate(chain string) (*x509.Certificate, error) {
	b, _ := pem.Decode([]byte(chain))
	if b == nil || b.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("the file with the certificate does not begin with one in PEM: is it the right file?")
	}
	leaf, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the certificate cannot be read: %w", err)
	}
	return leaf, nil
}

// certFor says whether a certificate is for a host, which may be a wildcard that it has to hold itself.
func certFor(leaf *x509.Certificate, host string) bool { return leaf.VerifyHostname(host) == nil }

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	const most = 20
	if n := len(list) - most; n > 0 {
		return strings.Join(list[:most], ", ") + fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(list, ", ")
}
