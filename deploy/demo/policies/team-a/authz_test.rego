package polygate.authz_test

import data.polygate.authz

call(name) := {"action": "mcp.call", "principal": {"kind": "key", "name": name}, "resource": {"name": "everything"}}

test_anybody_may_look if {
	authz.allow with input as {"action": "mcp.read", "principal": {"kind": "key", "name": "x"}}
}

test_a_named_program_may_call if authz.allow with input as call("ci")

test_another_program_may_not if not authz.allow with input as call("x")

test_a_closed_server_is_denied if {
	count(authz.deny) == 1 with input as call("ci") with data.team.closed as ["everything"]
}
