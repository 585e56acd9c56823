package polygate.lib.groups

# owns says whether one of the caller's groups owns a server.
owns(server) if {
	some group in input.groups
	server in data.teams[group].servers
}
