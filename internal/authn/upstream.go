package authn

import (
	"bytes"
	"encoding/json"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Bounds of what an upstream says about one user.
const (
	maxValues      = 256     // groups, or values of one attribute
	maxHeaderValue = 8 << 10 // bytes of one header's value
	systemGroups   = "system:"
)

// IdentityHeaders returns the canonical names of the headers in which a tenant's trusted upstream speaks about users. They
// are for the gateway, and removed from whatever is relayed.
func IdentityHeaders(e *tenant.Entry) []string {
	for i := range e.Record.Authenticators {
		if u := e.Record.Authenticators[i].Upstream; u != nil {
			return upstreamHeaders(u)
		}
	}
	return nil
}

func upstreamHeaders(u *tenant.UpstreamUsers) []string {
	names := make([]string, 0, 2+len(u.Attributes))
	names = append(names, textproto.CanonicalMIMEHeaderKey(u.Header))
	if u.Groups != "" {
		names = append(names, textproto.CanonicalMIMEHeaderKey(u.Groups))
	}
	for h := range u.Attributes {
		names = append(names, textproto.CanonicalMIMEHeaderKey(h))
	}
	slices.Sort(names[1:]) // attributes of several headers are merged in one order
	return names
}

// upstreamPrincipal judges the request's identity headers. ok is false where there are none; they are a fault.Invalid where
// the peer is not the trusted upstream (X25): dropping them in silence would let a client that believes in them go on as
// somebody else.
//
// Each request is an assertion of its own, issued now: whose logins have ended is the upstream's to know. A revocation ends
// what is in flight.
func (s *Service) upstreamPrincipal(e *tenant.Entry, a *tenant.Authenticator, ev Evidence) (p tenant.Principal, ok bool, err error) {
	names := upstreamHeaders(a.Upstream)
	present, spelled := sightings(ev.Header, names)
	if spelled != "" {
		return tenant.Principal{}, false, fault.New(fault.Invalid, "header %s carries an identity and may be sent by its one name only, not in Connection, Trailer or another spelling", spelled)
	}
	if present == "" {
		return tenant.Principal{}, false, nil
	}
	now := s.cfg.Now()
	expires, trusted := s.trustedPeer(e, a, ev, now)
	if !trusted {
		return tenant.Principal{}, false, fault.New(fault.Invalid, "header %s carries an identity, which is believed from this tenant's trusted upstream alone: remove it", present)
	}
	if len(ev.Header[names[0]]) == 0 {
		return tenant.Principal{}, false, nil
	}
	c, err := upstreamClaims(a, e.Record, ev.Header)
	if err != nil {
		return tenant.Principal{}, false, err
	}
	c.Issued = now
	u := user{claims: c, username: c.Subject, expires: expires}
	p, ok = u.principal(e, tenant.ViaUpstream, now)
	if !ok {
		return tenant.Principal{}, false, unauthenticated("the record does not trust this upstream's user")
	}
	return p, true, nil
}

// trustedPeer says whether the peer is the upstream: by the address of its connection, which no header can say (X24), or by
// its certificate, with which the trust ends.
func (s *Service) trustedPeer(e *tenant.Entry, a *tenant.Authenticator, ev Evidence, now time.Time) (expires time.Time, ok bool) {
	addr := ev.Remote.Unmap().WithZone("")
	for _, p := range a.Upstream.Sources {
		if addr.IsValid() && p.Contains(addr) {
			return time.Time{}, true
		}
	}
	if a.Upstream.CA == "" {
		return time.Time{}, false
	}
	v := s.certs.judge(e, a, ev.Peer, now)
	return v.until, v.why == ""
}

// sightings looks for identity headers. present is the first of the canonical names that the header has; spelled the first
// that is there in a form in which another hop could take it for the real one (X22, X23): another case, '_' or any other
// sign for '-', or named in Connection or Trailer.
func sightings(h map[string][]string, names []string) (present, spelled string) {
	for field, values := range h {
		if slices.Contains(names, field) {
			if present == "" || field < present {
				present = field
			}
			continue
		}
		for _, name := range names {
			if alike(field, name) {
				return present, name
			}
		}
		if field != "Connection" && field != "Trailer" {
			continue
		}
		for _, v := range values {
			for listed := range strings.SplitSeq(v, ",") {
				for _, name := range names {
					if alike(strings.Trim(listed, " \t"), name) {
						return present, name
					}
				}
			}
		}
	}
	return present, ""
}

// alike says whether a field could be read as name: without regard to case, and with any sign in place of '-'.
func alike(field, name string) bool {
	if len(field) != len(name) {
		return false
	}
	for i := range len(field) {
		c, n := field[i], name[i]
		if n == '-' && !alnum(c) {
			continue
		}
		if c == n || c|0x20 == n|0x20 && alnum(c) && alnum(n) {
			continue
		}
		return false
	}
	return true
}

// upstreamClaims reads what a trusted upstream says. Errors are fault.Invalid and name the header.
//
// Groups named system:* are held by everybody (system:authenticated) or by the cluster itself. As attributes they would make
// users alike who have nothing in common, so they are dropped; as groups they are kept only where a member names one, which
// is a grant that somebody made on purpose.
func upstreamClaims(a *tenant.Authenticator, r *tenant.Record, h map[string][]string) (*tenant.Claims, error) {
	names := upstreamHeaders(a.Upstream)
	subject, err := upstreamSubject(names[0], h[names[0]])
	if err != nil {
		return nil, err
	}
	c := &tenant.Claims{Authenticator: a.Name, Generation: a.Generation, Issuer: string(tenant.AuthnUpstream), Subject: subject}
	groups := textproto.CanonicalMIMEHeaderKey(a.Upstream.Groups)
	attributes := make(map[string]string, len(a.Upstream.Attributes))
	for header, attribute := range a.Upstream.Attributes {
		attributes[textproto.CanonicalMIMEHeaderKey(header)] = attribute
	}
	for _, name := range names[1:] {
		if name == groups {
			c.Groups, err = merge(nil, name, h[name], func(g string) bool {
				return !strings.HasPrefix(g, systemGroups) || namesGroup(r, a.Name, g)
			})
		} else if attribute := attributes[name]; len(h[name]) > 0 {
			if c.Attributes == nil {
				c.Attributes = make(map[string][]string, len(attributes))
			}
			c.Attributes[attribute], err = merge(c.Attributes[attribute], name, h[name], func(v string) bool {
				return !strings.HasPrefix(v, systemGroups)
			})
		}
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// upstreamSubject reads the header that names the user. A comma is refused: hops join two fields of one name with it, and
// then one of the names is perhaps the client's own.
func upstreamSubject(name string, values []string) (string, error) {
	if len(values) != 1 {
		return "", fault.New(fault.Invalid, "header %s is there %d times: it names the user, exactly once", name, len(values))
	}
	subject := strings.Trim(values[0], " \t")
	if strings.Contains(subject, ",") {
		return "", fault.New(fault.Invalid, "header %s holds a comma, with which two fields are joined: it names one user", name)
	}
	return subject, tenant.CheckSubject("header "+name, subject)
}

func namesGroup(r *tenant.Record, authenticator, group string) bool {
	return slices.ContainsFunc(r.Members, func(m tenant.Member) bool {
		return m.Kind == tenant.MemberGroup && m.Authenticator == authenticator && m.Name == group
	})
}

// merge adds the values of a header's fields to a list, each once, less those that are not kept.
func merge(list []string, name string, fields []string, keep func(string) bool) ([]string, error) {
	for _, field := range fields {
		values, err := parseValues(field)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "header %s: %s", name, fault.From(err).Detail)
		}
		for _, v := range values {
			if err := tenant.CheckSubject("a value", v); err != nil {
				return nil, fault.Wrap(fault.Invalid, err, "header %s: %s", name, fault.From(err).Detail)
			}
			if !keep(v) || slices.Contains(list, v) {
				continue
			}
			if len(list) == maxValues {
				return nil, fault.New(fault.Invalid, "header %s: more than %d values", name, maxValues)
			}
			list = append(list, v)
		}
	}
	return list, nil
}

// parseValues reads one field of groups or attributes, in the forms that upstreams write:
//
//	["a","b"]   a JSON list of texts; a value that is JSON is read as JSON
//	"a"         a JSON text
//	[g1 g2]     what Go prints for a list: words between brackets, without comma and quotes
//	a           plain text: one value, whatever it holds. Commas do not separate: names of groups have them
//
// Nothing at all is no value, and so is an empty text in a list.
func parseValues(field string) ([]string, error) {
	if len(field) > maxHeaderValue {
		return nil, fault.New(fault.Invalid, "a value of more than %d bytes", maxHeaderValue)
	}
	s := strings.Trim(field, " \t")
	if s == "" {
		return nil, nil
	}
	switch s[0] {
	case '[':
		return parseList(s)
	case '"':
		var v string
		if json.Unmarshal([]byte(s), &v) != nil {
			return nil, fault.New(fault.Invalid, "it begins like a JSON text and is none")
		}
		return nonEmpty([]string{v}), nil
	case '{':
		return nil, fault.New(fault.Invalid, "it is a JSON object: a list of texts, one text or plain text is expected")
	}
	return []string{s}, nil
}

func parseList(s string) ([]string, error) {
	if json.Valid([]byte(s)) {
		var items []json.RawMessage
		if err := json.Unmarshal([]byte(s), &items); err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "it is no list")
		}
		values := make([]string, 0, min(len(items), maxValues))
		for _, item := range items {
			var v string
			if !bytes.HasPrefix(item, []byte(`"`)) || json.Unmarshal(item, &v) != nil { // null would be read as ""
				return nil, fault.New(fault.Invalid, "an item of its JSON list is not a text")
			}
			values = append(values, v)
		}
		return nonEmpty(values), nil
	}
	inner, ok := strings.CutSuffix(s[1:], "]")
	if !ok || strings.ContainsAny(inner, `",[]{}`) {
		return nil, fault.New(fault.Invalid, "it begins like a JSON list and is none, nor words between brackets")
	}
	return strings.Fields(inner), nil
}

func nonEmpty(values []string) []string {
	return slices.DeleteFunc(values, func(v string) bool { return v == "" })
}
