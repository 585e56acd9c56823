package mcp

import "github.com/polygate/polygate/internal/fault"

// maxUpstreamSession bounds a server's own session id, so that the token made of it opens again.
const maxUpstreamSession = 1024

// session is a legacy session as both sides know it. The zero session is none.
type session struct {
	token    string // ours, as the client has it
	upstream string // the server's
}

// seals returns the context that a session token is bound to. A token is good for one principal at one server of one
// tenant; the object id tells a server from an earlier one of its name, the UID a tenant from an earlier one.
func (c *call) seals(s Server) []string {
	return []string{c.h.Tenant, c.r.Visit.Principal().Ref(), s.Name, s.ID}
}

// openSession opens the session that the request names. Whatever does not open is an unknown session, which a client
// answers by initializing anew (404): it cannot be told why, as there may be another's session behind it.
func (c *call) openSession(s Server) error {
	values := c.r.Header["Mcp-Session-Id"]
	if len(values) == 0 || c.modern {
		return nil
	}
	upstream, err := c.h.Sessions.OpenToken(values[0], c.seals(s)...)
	if err != nil || len(values) > 1 {
		return fault.New(fault.NotFound, "unknown session")
	}
	c.session = session{token: values[0], upstream: string(upstream)}
	return nil
}

// sealSession returns the token for the session id of a response. A server that repeats the session's id gets the
// client's own token repeated, as clients end a session whose id changes.
func (c *call) sealSession(s Server, upstream string) (string, error) {
	if c.session.upstream == upstream {
		return c.session.token, nil
	}
	if len(upstream) > maxUpstreamSession || !visible(upstream) {
		return "", fault.New(fault.BadUpstream, "the server answered with a session id that is not visible ASCII of at most %d bytes", maxUpstreamSession)
	}
	return c.h.Sessions.SealToken([]byte(upstream), c.seals(s)...), nil
}

// visible says whether s is of visible ASCII, as MCP demands of session ids.
func visible(s string) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return s != ""
}
