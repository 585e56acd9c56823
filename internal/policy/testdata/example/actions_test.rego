package polygate.authz_test

import data.polygate.authz

caller := {"action": "mcp.call", "role": "editor", "groups": ["payments"], "principal": {"via": "oidc"}, "resource": {"name": "transfer", "labels": {"server": "ledger"}}}

test_owner_may_call if authz.allow with input as caller

test_others_may_not if not authz.allow with input as object.union(caller, {"groups": ["search"]})

test_blocked_tool if {
	some msg in authz.deny with input as object.union(caller, {"resource": {"name": "shell.exec"}})
	contains(msg, "blocked")
}

todo_test_approval if authz.require_approval
