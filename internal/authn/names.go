package authn

// The names of our cookies, for whoever takes them out of a request: SessionCookie is that of a session, and every cookie of
// ours begins with CookiePrefix.
const (
	SessionCookie = sessionCookie
	CookiePrefix  = cookiePrefix
)
