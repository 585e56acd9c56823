package vgw

import (
	"slices"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
)

// routes is the table of everything that a gateway answers.
func routes() []route {
	table := slices.Concat(baseRoutes(), memberRoutes(), botRoutes(), authenticatorRoutes(), grantRoutes(), policyRoutes(),
		certificateRoutes(), hostRoutes(), sandboxRoutes(), reportRoutes())
	for i := range table {
		table[i].segments = split(table[i].Pattern)
	}
	return table
}

func baseRoutes() []route {
	return []route{
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/whoami", Owner: exchange.OwnerAny, Action: authz.Whoami, Summary: "who the credential is, and what it may do"}, handle: whoami},
		{Route: exchange.Route{Method: "GET", Pattern: "/metrics", Owner: exchange.OwnerAny, Action: authz.MetricsRead, Summary: "the tenant's own metrics, in Prometheus' text format"}, handle: metrics},
		{Route: exchange.Route{Method: "GET", Pattern: "/servers", Action: authz.ServerList, Summary: "the MCP servers, as clients reach them"}, handle: listEndpoints},
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/servers", Action: authz.ServerList, Summary: "the MCP servers, as they are configured"}, handle: listServers},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/servers", Action: authz.ServerCreate, Summary: "add an MCP server"}, handle: createServer},
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/servers/{name}", Action: authz.ServerRead, Summary: "one MCP server"}, handle: getServer},
		{Route: exchange.Route{Method: "DELETE", Pattern: "/api/v1/servers/{name}", Action: authz.ServerDelete, Summary: "remove an MCP server"}, handle: deleteServer},
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/keys", Action: authz.KeyList, Summary: "the API keys, without the keys themselves"}, handle: listKeys},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/keys", Owner: exchange.OwnerAny, Action: authz.KeyCreate, Summary: "make an API key, which is shown once"}, handle: createKey},
		{Route: exchange.Route{Method: "DELETE", Pattern: "/api/v1/keys/{key}", Owner: exchange.OwnerAny, Action: authz.KeyRevoke, Summary: "revoke an API key or a bot's key, by name or id"}, handle: revokeKey},
		{Route: exchange.Route{Method: "", Pattern: "/servers/{server}/mcp", Action: authz.MCPCall, Summary: "one MCP server (Streamable HTTP)"}, handle: serveMCP, rpc: true},
	}
}
