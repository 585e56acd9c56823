package proxy

import (
	"crypto/tls"
	"errors"
)

// errSpliced ends the handshake of a connection that is not for us to terminate: what was read of it goes to the tenant's
// own gateway. GetConfigForClient returns it where passthrough said so, before it looks at anything else of the hello.
var errSpliced = errors.New("the connection goes to the tenant's own gateway")

// passthrough says whether the connection of hello is one to be spliced. From the moment that it says so, nothing of the
// terminating handshake may reach the client.
func (s *Server) passthrough(*tls.ClientHelloInfo) (taken bool) { return false }
