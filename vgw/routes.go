package vgw

import (
	"context"
	"slices"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
)

// routes is the table of everything that a gateway answers.
func routes() []route {
	table := slices.Concat(baseRoutes(), memberRoutes(), botRoutes(), authenticatorRoutes(), grantRoutes(), policyRoutes(), reportRoutes())
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

func policyRoutes() []route {
	return []route{
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/policies", Action: authz.PolicyList, Summary: "the versions of the policy, and which is in force"}, handle: unbuilt},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/policies", Action: authz.PolicyUpdate, Summary: "put a policy in force; with dry_run=1, only check it"}, handle: unbuilt},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/policies/check", Action: authz.PolicyCheck, Summary: "compile a policy, and change nothing"}, handle: unbuilt},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/policies/test", Action: authz.PolicyCheck, Summary: "run a policy's tests"}, handle: unbuilt},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/policies/explain", Action: authz.PolicyExplain, Summary: "why something is allowed or denied"}, handle: unbuilt},
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/policies/{digest}", Action: authz.PolicyRead, Summary: "the source of one version"}, handle: unbuilt},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/policies/{digest}/activate", Action: authz.PolicyUpdate, Summary: "put an earlier version in force again"}, handle: unbuilt},
		{Route: exchange.Route{Method: "DELETE", Pattern: "/api/v1/policies/active", Action: authz.PolicyUpdate, Summary: "take the policy out of force"}, handle: unbuilt},
	}
}

func reportRoutes() []route {
	return []route{
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/usage", Action: authz.UsageRead, Summary: "what the tenant uses, against its limits"}, handle: unbuilt},
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/audit", Action: authz.AuditList, Summary: "audit records: one's own, everybody's for an admin; as JSON, JSON lines or CSV"}, handle: unbuilt},
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/openapi.json", Owner: exchange.OwnerAny, Action: authz.OpenAPIRead, Summary: "this API, described (OpenAPI 3.1)"}, handle: unbuilt},
	}
}

func unbuilt(_ context.Context, c *call) (exchange.Decision, error) {
	return nil, fault.New(fault.NotImplemented, "%s is not built yet", c.route.Pattern)
}
