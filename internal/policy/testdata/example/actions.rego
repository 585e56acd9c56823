# An example of a tenant's policy: who may call tools, and which ones need more.
package polygate.authz

import data.polygate.lib.groups

default allow := false

# Reading is for every member.
allow if input.action in {"mcp.read", "server.list", "server.read", "whoami.read"}

# Calling a tool takes an editor whose team owns the server.
allow if {
	input.action == "mcp.call"
	input.role in {"editor", "admin"}
	groups.owns(input.resource.labels.server)
}

allow if input.role == "admin"

# A deny wins over every allow, an admin's too.
deny contains msg if {
	input.action == "mcp.call"
	some tool in data.blocked_tools
	glob.match(tool, [], input.resource.name)
	msg := sprintf("tool %s is blocked", [input.resource.name])
}

deny contains "production is closed to bots" if {
	input.principal.via == "bot"
	"production" in input.groups
}

require_approval if {
	input.action == "server.delete"
	input.role != "admin"
}

reason := "only the owning team may call this server" if input.action == "mcp.call"
