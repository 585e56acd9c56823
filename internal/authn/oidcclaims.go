package authn

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// Bounds of what is taken from a token.
const (
	maxGroups = 200 // and values of an attribute, and scopes
	leeway    = time.Minute
	maxExact  = 1<<53 - 1 // the greatest whole number that no other one is read as
)

// claims is the payload of a token.
type claims map[string]any

func parseClaims(payload []byte) (claims, error) {
	var c claims
	if err := strictJSON(payload, &c); err != nil {
		return nil, err
	}
	return c, nil
}

// splitPath reads a dotted path, in which a backslash takes the meaning from the character after it.
func splitPath(path string) []string {
	var parts []string
	var part strings.Builder
	for i := 0; i < len(path); i++ {
		switch {
		case path[i] == '\\' && i+1 < len(path):
			i++
			part.WriteByte(path[i])
		case path[i] == '.':
			parts = append(parts, part.String())
			part.Reset()
		default:
			part.WriteByte(path[i])
		}
	}
	return append(parts, part.String())
}

// at returns the value at a dotted path; nil if there is none.
func (c claims) at(path string) any {
	var v any = map[string]any(c)
	for _, name := range splitPath(path) {
		object, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = object[name]
	}
	return v
}

// text returns the text at a path; "" if there is none.
func (c claims) text(path string) string {
	s, _ := c.at(path).(string)
	return s
}

// list returns the texts at a path: a list of texts, or the words of a text. ok is false where there is something else.
func (c claims) list(path string) (list []string, ok bool) {
	switch v := c.at(path).(type) {
	case nil:
		return nil, true
	case string:
		return strings.Fields(v), true
	case []any:
		for _, e := range v {
			s, is := e.(string)
			if !is {
				return nil, false
			}
			list = append(list, s)
		}
		return list, true
	}
	return nil, false
}

// holds says whether the value at a path is want, or a list that holds it.
func (c claims) holds(path, want string) bool {
	v := c.at(path)
	if list, ok := v.([]any); ok {
		return slices.ContainsFunc(list, func(e any) bool { s, ok := scalar(e); return ok && s == want })
	}
	s, ok := scalar(v)
	return ok && s == want
}

// scalar returns a text, number or truth value as a text.
func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case float64:
		if math.Abs(v) > maxExact {
			return "", false // two numbers of that size can be one here: which of them was meant cannot be told
		}
		b, err := json.Marshal(v)
		return string(b), err == nil
	}
	return "", false
}

// moment reads a NumericDate (RFC 7519 §2). The zero time means that the claim is not there.
func (c claims) moment(name string) (time.Time, error) {
	v, there := c[name]
	if !there {
		return time.Time{}, nil
	}
	f, ok := v.(float64)
	if !ok || !(f > 0 && f < 1e11) { // also catches NaN; 1e11 is the year 5138
		return time.Time{}, fmt.Errorf("%s is no date", name)
	}
	whole, part := math.Modf(f)
	return time.Unix(int64(whole), int64(part*1e9)), nil
}

// moments checks when the token is good, and returns when it was made and when it ends.
func (c claims) moments(now time.Time) (issued, expires time.Time, err error) {
	expires, errE := c.moment("exp")
	issued, errI := c.moment("iat")
	notBefore, errN := c.moment("nbf")
	if err := errors.Join(errE, errI, errN); err != nil {
		return issued, expires, err
	}
	since := issued
	if since.IsZero() {
		since = now
	}
	switch {
	case expires.IsZero():
		return issued, expires, errors.New("no exp: a token must end")
	case !now.Before(expires):
		return issued, expires, errors.New("expired")
	case now.Add(leeway).Before(notBefore):
		return issued, expires, errors.New("not good yet")
	case now.Add(leeway).Before(issued):
		return issued, expires, errors.New("issued in the future")
	case expires.Sub(since) > tenant.MaxTokenLife:
		return issued, expires, fmt.Errorf("good for longer than %s", tenant.MaxTokenLife)
	}
	return issued, expires, nil
}

// mapped returns the user that the claims describe.
func (c claims) mapped(m *tenant.ClaimMapping) (*tenant.Claims, string, error) {
	u := &tenant.Claims{Subject: c.text(or(m.Subject, "sub"))}
	if err := tenant.CheckSubject("subject", u.Subject); err != nil {
		return nil, "", err
	}
	if verified, there := c["email_verified"]; m.Subject == "email" && there && verified != true {
		return nil, "", errors.New("an email address as the subject that the issuer did not verify")
	}
	var err error
	if u.Groups, err = c.names(m.Groups, "groups"); err != nil {
		return nil, "", err
	}
	scopes := "scope"
	if _, there := c[scopes]; !there {
		scopes = "scp"
	}
	if u.Scopes, err = c.names(m.Scopes, scopes); err != nil {
		return nil, "", err
	}
	if u.Attributes, err = c.attributes(m.Attributes); err != nil {
		return nil, "", err
	}
	name := c.text(or(m.Username, "preferred_username"))
	if tenant.CheckSubject("username", name) != nil {
		name = u.Subject // a name is for people: no reason to refuse
	}
	return u, name, nil
}

// names returns the texts at a path, bounded. What cannot be read or is too much is refused, never cut: the part that is cut off
// could be what a policy denies by. Only where the tenant named no path is a claim of another form nothing.
func (c claims) names(path, standard string) ([]string, error) {
	list, ok := c.list(or(path, standard))
	if !ok && path == "" {
		return nil, nil
	}
	if !ok || len(list) > maxGroups {
		return nil, fmt.Errorf("%s: neither a text nor a list of at most %d texts: map a smaller claim", or(path, standard), maxGroups)
	}
	for _, s := range list {
		if err := tenant.CheckSubject(or(path, standard), s); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// attributes returns the attributes, without groups such as system:authenticated, which every user of a cluster shares: an
// attribute that all have in common separates nobody (OG-4).
func (c claims) attributes(mapping map[string]string) (map[string][]string, error) {
	if len(mapping) == 0 {
		return nil, nil
	}
	all := make(map[string][]string, len(mapping))
	for attribute, path := range mapping {
		list, err := c.names(path, path)
		if err != nil {
			return nil, err
		}
		if list = slices.DeleteFunc(list, systemGroup); len(list) > 0 {
			all[attribute] = list
		}
	}
	return all, nil
}

func systemGroup(s string) bool { return strings.HasPrefix(s, "system:") }

func or(s, standard string) string {
	if s == "" {
		return standard
	}
	return s
}
