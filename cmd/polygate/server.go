package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// maxHeaderFile bounds a --header-file, in bytes.
const maxHeaderFile = 64 << 10

// mcpServer is an MCP server as a tenant's API shows it. Header values are write-only.
type mcpServer struct {
	ID              string    `json:"id"`
	Name            string    `json:"name"`
	URL             string    `json:"url"`
	Headers         []string  `json:"headers"` // names
	TimeoutSeconds  int       `json:"timeout_seconds,omitzero"`
	Source          string    `json:"source"`
	File            string    `json:"file,omitzero"`
	Owner           string    `json:"owner,omitzero"`
	Created         time.Time `json:"created"`
	Updated         time.Time `json:"updated"`
	ResourceVersion string    `json:"resource_version"`
}

type mcpServerList struct {
	Items []mcpServer `json:"items"`
}

// newMCPServer is the body of a server's creation.
type newMCPServer struct {
	Name    string            `json:"name"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers,omitempty"`
}

func newServerCommand() *cobra.Command {
	s := newScoped(false)
	cmd := commandGroup("server", "List, add and remove a tenant's MCP servers",
		`Manage the MCP servers of one tenant, on the tenant's own host and with one of its API keys. Adding and removing need a
key with the role admin. Servers that the operator's files declare are changed there.`,
		s.serverList(), s.serverAdd(), s.serverRemove())
	cmd.Example = "  export POLYGATE_URL=https://team-a.localhost:8443 POLYGATE_KEY=pgk_...\n  polygate server add docs https://mcp.example.com/mcp --header 'Authorization: Bearer s3cret'"
	s.bind(cmd)
	return cmd
}

func (s *scoped) serverList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the tenant's MCP servers",
		Long:    "List the MCP servers of the tenant. The values of their headers are never shown.",
		Example: "  polygate server list --url https://team-a.localhost:8443 --key-file team-a.key",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				list, err := listServers(ctx, c)
				if err != nil {
					return fmt.Errorf("list servers: %w", err)
				}
				rows := make([][]string, len(list.Items))
				for i, one := range list.Items {
					rows[i] = []string{one.Name, one.URL, strings.Join(one.Headers, ","), one.Source, one.Owner, stamp(one.Created)}
				}
				return s.out.print(cmd.OutOrStdout(), list, []string{"NAME", "URL", "HEADERS", "SOURCE", "OWNER", "CREATED"}, rows)
			})
		},
	}
}

// listServers reads all pages.
func listServers(ctx context.Context, c *client) (*mcpServerList, error) {
	all := &mcpServerList{Items: []mcpServer{}}
	path := "/api/v1/servers"
	for {
		var page struct {
			mcpServerList
			NextCursor string `json:"next_cursor"`
		}
		if err := c.do(ctx, http.MethodGet, path, nil, &page); err != nil {
			return nil, err
		}
		all.Items = append(all.Items, page.Items...)
		next := "/api/v1/servers?cursor=" + url.QueryEscape(page.NextCursor)
		if page.NextCursor == "" || next == path {
			return all, nil
		}
		path = next
	}
}

func (s *scoped) serverAdd() *cobra.Command {
	var headers []string
	var headerFile string
	cmd := &cobra.Command{
		Use: "add <name> <url>", Short: "Add an MCP server",
		Long: `Add an MCP server to the tenant's catalog. It is then at <tenant's host>/servers/<name>/mcp.

The headers, such as the server's credential, are sealed at once and never shown again. A header on the command line is
visible to other users of this machine: --header-file takes the same lines from a file (- for stdin).`,
		Example: "  polygate server add docs https://mcp.example.com/mcp --header-file docs.headers\n  polygate server add docs https://mcp.example.com/mcp --header 'X-Team: a'",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := readHeaders(headers, headerFile, cmd.InOrStdin())
			if err != nil {
				return err
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				var made mcpServer
				if err := c.do(ctx, http.MethodPost, "/api/v1/servers", newMCPServer{args[0], args[1], set}, &made); err != nil {
					return fmt.Errorf("add server %q: %w", args[0], err)
				}
				if s.out.isData() {
					return s.out.data(cmd.OutOrStdout(), made)
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "server %s added: %s/servers/%s/mcp\n", clean(args[0]), c.base, url.PathEscape(cmp.Or(made.Name, args[0])))
				return err
			})
		},
	}
	cmd.Flags().StringArrayVar(&headers, "header", nil, "header to send to the server, as 'Name: value'; may be repeated")
	cmd.Flags().StringVar(&headerFile, "header-file", "", "file with one 'Name: value' a line; - reads stdin")
	return cmd
}

// readHeaders parses the lines of the flag and of the file. An error never shows a value.
func readHeaders(lines []string, file string, stdin io.Reader) (map[string]string, error) {
	if file != "" {
		b, err := readFile(file, stdin, maxHeaderFile)
		if err != nil {
			return nil, fmt.Errorf("read the headers: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				lines = append(lines, line)
			}
		}
	}
	set := make(map[string]string, len(lines))
	for i, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		name, value = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)), strings.TrimSpace(value)
		if !ok || name == "" || value == "" {
			return nil, usage("header %d is not of the form 'Name: value'", i+1)
		}
		if _, twice := set[name]; twice {
			return nil, usage("header %s is given twice", name)
		}
		set[name] = value
	}
	return set, nil
}

func (s *scoped) serverRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove <name>", Aliases: []string{"rm"}, Short: "Remove an MCP server",
		Long:    "Remove an MCP server from the tenant's catalog, with its sealed headers. Sessions with it end.",
		Example: "  polygate server remove docs",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.complete(named("servers")),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd, func(ctx context.Context, c *client) error {
				if err := c.do(ctx, http.MethodDelete, "/api/v1/servers/"+url.PathEscape(args[0]), nil, nil); err != nil {
					return fmt.Errorf("remove server %q: %w", args[0], err)
				}
				_, err := fmt.Fprintf(cmd.ErrOrStderr(), "server %s removed\n", clean(args[0]))
				return err
			})
		},
	}
}
