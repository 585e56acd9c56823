# What team-a allows, within what roles allow already: a policy can only narrow. It is asked about every action that a role
# allows. A message in deny always wins, and the caller of a change is shown it.
package polygate.authz

default allow := false

# Everybody may look.
allow if endswith(input.action, ".read")

allow if endswith(input.action, ".list")

# Those who log in may do what their roles allow, and so may the keys and bots that data.yaml names.
allow if input.principal.kind == "user"

allow if input.principal.name in data.team.programs

# Nobody changes anything through a server that is being looked after.
deny contains msg if {
	input.action == "mcp.call"
	input.resource.name in data.team.closed
	msg := sprintf("the server %s is being looked after", [input.resource.name])
}

reason := "this key is for looking only: ask for it to be added to data.yaml" if not allow
