package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/tenant"
)

// maxHeadsFile bounds a file of heads, in bytes.
const maxHeadsFile = 256 << 20

// auditHeads is the answer of /api/v1/audit/heads, and the content of a heads file.
type auditHeads struct {
	Heads map[string]audit.Head `json:"heads"`
}

func newAuditCommand() *cobra.Command {
	a := newAdmins()
	heads, verify, tail := a.auditHeads(), a.auditVerify(), a.auditTail()
	cmd := commandGroup("audit", "Query, verify and read the audit log",
		`Query, verify and read the audit log: JSON lines, one hash chain per tenant and one for the platform ("_platform"). "audit query"
asks a gateway; "verify" and "tail" read files, and "heads" is for operators.

The gateway anchors the head of every chain in its store at least once a second. "audit verify" compares the file with
these heads, so that a record which was flipped, dropped, reordered or cut off at the end is found.`,
		auditQuery(), verify, tail, heads)
	cmd.Example = "  polygate audit query --since 1h --decision deny\n  polygate audit verify --file audit.jsonl\n  polygate audit tail --file audit.jsonl -f --tenant team-a"
	for _, c := range []*cobra.Command{heads, verify, tail} {
		a.bind(c)
	}
	return cmd
}

func (a *admins) auditHeads() *cobra.Command {
	return &cobra.Command{
		Use: "heads", Short: "Print the anchored heads of all chains as JSON",
		Long:    "Print the anchored heads of all chains as JSON, to keep in a safe place and give to \"audit verify --heads-file\" later.",
		Example: "  polygate audit heads > heads.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.run(cmd, func(ctx context.Context, c *client) error {
				heads, err := fetchHeads(ctx, c)
				if err != nil {
					return err
				}
				if a.out.format == formatYAML {
					return a.out.data(cmd.OutOrStdout(), auditHeads{heads})
				}
				return printJSON(cmd.OutOrStdout(), auditHeads{heads})
			})
		},
	}
}

func fetchHeads(ctx context.Context, c *client) (map[string]audit.Head, error) {
	var h auditHeads
	if err := c.do(ctx, http.MethodGet, "/api/v1/audit/heads", nil, &h); err != nil {
		return nil, fmt.Errorf("read the anchored heads: %w", err)
	}
	if h.Heads == nil {
		h.Heads = map[string]audit.Head{}
	}
	return h.Heads, nil
}

func (a *admins) auditVerify() *cobra.Command {
	var headsFile string
	var files, keys []string
	var logs auditLogs
	var offline bool
	cmd := &cobra.Command{
		Use: "verify {--file <audit log> | --dir <folder>}", Short: "Find any altered, dropped, reordered or cut record",
		Long: `Check every hash chain of an audit log from its first record, and against the heads that the gateway anchored. The log's closed
segments beside the file are a part of it; where retention removed the first of them, the chains are checked from the
checkpoint that the rest begins with. Several --file, in order, are taken as one log.

Each replica writes a log of its own, whose chains bear its name (team-a@node-1). Name the folders of all of them with --dir: a
chain that is anchored and in none of them is a fault. To check one replica's log alone, say whose it is with --replica.

With --public-key, every checkpoint must be signed with that key (Ed25519): what is before a good one is then as the gateway
wrote it, even where somebody could change the file and the anchored heads.

The heads come from the operators' listener, or from a file with --heads-file. With --offline only the chains themselves
are checked: records that were cut off at the end of a chain, or a chain that was made anew from its start, are then not found.

Exit code 1 says that the log is not what was written; each finding is one line.`,
		Example: "  polygate audit verify --file audit.jsonl\n  polygate audit verify --file audit.jsonl --heads-file heads.json\n  polygate audit verify --file audit.jsonl --offline\n  polygate audit verify --file audit.jsonl --public-key audit.pem\n  polygate audit verify --dir /mnt/node-1/data --dir /mnt/node-2/data --tenant team-a",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.out.check(); err != nil {
				return err
			}
			// Heads first, then the file: what is anchored is in the file already, while the daemon goes on writing.
			heads, err := a.heads(cmd, headsFile, offline)
			if err != nil {
				return err
			}
			opts := audit.VerifyOptions{Heads: heads}
			if opts.PublicKeys, err = readPublicKeys(keys); err != nil {
				return err
			}
			if logs.given() {
				return a.verifyLogs(cmd, logs, opts, offline)
			}
			report, err := verifyFiles(files, opts)
			if err != nil {
				return err
			}
			return a.showReport(cmd, report, offline)
		},
	}
	cmd.Flags().StringArrayVar(&files, "file", nil, "the audit log; may be repeated; this or --dir is required")
	cmd.Flags().StringArrayVar(&keys, "public-key", nil, "key of the checkpoints' signatures: a PEM file, or 64 hexadecimal digits; may be repeated")
	cmd.Flags().StringVar(&headsFile, "heads-file", "", "take the heads from this file, which \"audit heads\" wrote")
	cmd.Flags().BoolVar(&offline, "offline", false, "check the chains without any heads")
	logs.bind(cmd)
	cmd.MarkFlagsMutuallyExclusive("heads-file", "offline")
	cmd.MarkFlagsMutuallyExclusive("file", "dir")
	cmd.MarkFlagsOneRequired("file", "dir")
	return cmd
}

// heads returns the heads to verify against; nil for none.
func (a *admins) heads(cmd *cobra.Command, file string, offline bool) (heads map[string]audit.Head, err error) {
	if offline {
		return nil, nil
	}
	if file == "" {
		err = a.run(cmd, func(ctx context.Context, c *client) (err error) {
			heads, err = fetchHeads(ctx, c)
			return err
		})
		return heads, err
	}
	b, err := readFile(file, cmd.InOrStdin(), maxHeadsFile)
	if err != nil {
		return nil, err
	}
	var h auditHeads
	if err := json.Unmarshal(b, &h); err != nil {
		return nil, fmt.Errorf("%s holds no heads: %w", file, err)
	}
	if h.Heads == nil {
		return nil, fmt.Errorf("%s holds no heads: write it with \"polygate audit heads\"", file)
	}
	return h.Heads, nil
}

// verifyFiles checks one log: with its segments, or several files that are all of it.
func verifyFiles(files []string, opts audit.VerifyOptions) (*audit.Report, error) {
	if len(files) == 1 {
		return audit.VerifyLog(files[0], opts)
	}
	return audit.VerifyFiles(files, opts)
}

// readPublicKeys reads Ed25519 keys, in PEM files (PKIX, RFC 8410) or written out.
func readPublicKeys(list []string) ([]ed25519.PublicKey, error) {
	keys := make([]ed25519.PublicKey, 0, len(list))
	for _, text := range list {
		if raw, err := hex.DecodeString(text); err == nil && len(raw) == ed25519.PublicKeySize {
			keys = append(keys, raw)
			continue
		}
		b, err := readFile(text, nil, maxSecret)
		if err != nil {
			return nil, fmt.Errorf("read the public key: %w", err)
		}
		key, err := parsePublicKey(b)
		if err != nil {
			return nil, fmt.Errorf("%s holds no Ed25519 public key in PEM: %w", text, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func parsePublicKey(b []byte) (ed25519.PublicKey, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("there is no PEM block")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("it is of another kind")
	}
	return key, nil
}

func (a *admins) showReport(cmd *cobra.Command, r *audit.Report, offline bool) error {
	out := cmd.OutOrStdout()
	if a.out.isData() {
		if err := a.out.data(out, r); err != nil {
			return err
		}
	} else if err := reportTable(out, r, offline); err != nil {
		return err
	}
	if r.OK {
		return nil
	}
	problems := r.Problems()
	for _, p := range problems {
		fmt.Fprintf(cmd.ErrOrStderr(), "polygate: audit: %s\n", clean(p))
	}
	return errReported
}

func reportTable(w io.Writer, r *audit.Report, offline bool) error {
	var rows [][]string
	for _, name := range slices.Sorted(maps.Keys(r.Chains)) {
		c := r.Chains[name]
		verdict := "ok"
		switch {
		case c.Bad != nil:
			verdict = "BAD: " + c.Bad.Why
		case c.NoAnchor:
			verdict = "ok, but no head of it is anchored"
		}
		anchored := ""
		if !offline {
			anchored = strconv.FormatUint(c.Anchored.Seq, 10)
		}
		rows = append(rows, []string{name, strconv.FormatInt(c.Lines, 10), anchored, verdict})
	}
	if err := printTable(w, []string{"CHAIN", "RECORDS", "ANCHORED", "VERDICT"}, rows); err != nil {
		return err
	}
	verdict := "the log is whole"
	switch {
	case !r.OK:
		verdict = "THE LOG IS NOT WHAT WAS WRITTEN"
	case offline:
		verdict = "the chains hold; without heads, a cut at the end cannot be seen"
	}
	if c := r.Checkpoints; c.Count > 0 {
		verdict += fmt.Sprintf("; %d checkpoints, %d of them signed with a given key", c.Count, c.Signed)
	}
	if s := r.Start; s != nil {
		verdict += fmt.Sprintf("; it begins at the checkpoint of %s", stamp(s.Time))
	}
	if r.TornBytes > 0 {
		verdict += fmt.Sprintf(" (%d bytes behind the last line are of an unfinished write)", r.TornBytes)
	}
	_, err := fmt.Fprintf(w, "\n%d records in %d chains: %s\n", r.Lines, len(r.Chains), verdict)
	return err
}

func (a *admins) auditTail() *cobra.Command {
	var cfg audit.TailConfig
	cmd := &cobra.Command{
		Use: "tail --file <audit log>", Short: "Print the last records of the audit log",
		Long:    "Print the last records of the audit log, and with -f those that are added. Nothing is verified: use \"audit verify\" for that.",
		Example: "  polygate audit tail --file audit.jsonl -n 20\n  polygate audit tail --file audit.jsonl -f --tenant team-a -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.out.check(); err != nil {
				return err
			}
			if cfg.Lines < 0 {
				return usage("-n is %d: use 0 or more", cfg.Lines)
			}
			if _, err := tenant.ParseID(cfg.Chain); cfg.Chain != "" && cfg.Chain != audit.PlatformChain && err != nil {
				return usage("%v", plain(err))
			}
			return a.tail(cmd, cfg)
		},
	}
	cmd.Flags().StringVar(&cfg.Path, "file", "", "the audit log (required)")
	cmd.Flags().IntVarP(&cfg.Lines, "lines", "n", 10, "how many records to begin with")
	cmd.Flags().BoolVarP(&cfg.Follow, "follow", "f", false, "go on with what is added")
	cmd.Flags().StringVar(&cfg.Chain, "tenant", "", "only this tenant's records (_platform: those of no tenant)")
	_ = cmd.MarkFlagRequired("file")
	return cmd
}

func (a *admins) tail(cmd *cobra.Command, cfg audit.TailConfig) error {
	for line, err := range audit.Tail(cmd.Context(), cfg) {
		switch {
		case errors.Is(err, audit.ErrMalformed):
			fmt.Fprintf(cmd.ErrOrStderr(), "polygate: audit: %s\n", clean(err.Error()))
			continue
		case err != nil:
			return err
		}
		if a.out.isData() {
			if err := a.tailData(cmd.OutOrStdout(), line.Entry); err != nil {
				return err
			}
			continue
		}
		e, err := line.Decode()
		if err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), clean(tailText(line, &e)))
	}
	return nil
}

// tailData writes one record as a line of JSON, or a document of YAML.
func (a *admins) tailData(w io.Writer, entry []byte) error {
	if a.out.format != formatYAML {
		_, err := fmt.Fprintf(w, "%s\n", cleanJSON(entry))
		return err
	}
	b, err := jsonToYAML(entry)
	if err == nil {
		_, err = fmt.Fprintf(w, "---\n%s", b)
	}
	return err
}

// tailText is one record as a line for people.
func tailText(l audit.Line, e *audit.Entry) string {
	outcome := e.Decision
	if e.Outcome != "" {
		outcome += "/" + e.Outcome
	}
	return fmt.Sprintf("%s %s#%d %s %s %s %s", e.Time.UTC().Format(time.RFC3339), l.Chain, l.Seq, e.Principal, e.Action, e.Resource, outcome)
}
