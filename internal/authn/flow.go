package authn

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
)

// flow is a login that is under way, kept by the browser that began it, sealed. Holding it there binds the login to that
// browser, without which an attacker could have a victim finish his own (RFC 6749 §10.12), and costs us no memory.
type flow struct {
	Authenticator string `json:"a"`
	Generation    string `json:"g"`
	Nonce         string `json:"n"`
	Verifier      string `json:"v"`
	Return        string `json:"r"`
	Began         int64  `json:"t"` // Unix milliseconds
}

// LoginLink returns the path on which a browser logs in and comes back to a path of its host, or to "/" where that is too long
// or none.
func LoginLink(back string) string {
	if !localPath(back) {
		return LoginPath
	}
	return LoginPath + "?" + url.Values{"return_to": {back}}.Encode()
}

// returnTo reads where the browser goes after a login: a path of the same host, never another site (an open redirect).
func returnTo(q url.Values) (string, error) {
	back := q.Get("return_to")
	if back == "" {
		return "/", nil
	}
	if !localPath(back) {
		return "", fault.New(fault.Invalid, "return_to has to be a path of this host, such as /servers, of at most %d bytes", maxReturn)
	}
	return back, nil
}

// localPath says whether s is a path with an optional query, and nothing that a browser or a proxy could take for more:
// `//evil`, `/\evil` and `/<tab>/evil` are other hosts to browsers (WHATWG URL §4.4), and dot segments could make one.
func localPath(s string) bool {
	if s == "" || s[0] != '/' || len(s) > maxReturn {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= 0x20 || c >= 0x7f || c == '\\' || c == '#' {
			return false
		}
	}
	path, _, _ := strings.Cut(s, "?")
	for segment := range strings.SplitSeq(strings.ToLower(path), "/") {
		if dots := strings.ReplaceAll(segment, "%2e", "."); dots == "." || dots == ".." {
			return false
		}
	}
	u, err := url.Parse(s)
	return err == nil && u.Host == "" && u.Scheme == "" && !strings.Contains(path, "//")
}

// newFlowID returns the random name of what a browser has under way. It begins with the time, so that the oldest is known.
func newFlowID(now time.Time) string {
	return fmt.Sprintf("%08x", uint32(now.Unix())) + strings.ToLower(rand.Text())
}

// keepFlow returns the cookies that keep what is under way, and drop the oldest of the kind where there are too many.
func keepFlow(key *seal.DataKey, kind, id string, r LoginRequest, content any) ([]string, error) {
	plain, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	set := []string{setCookie(kind+id, key.SealToken(plain, kind, r.Host, id), loginLife)}
	old := cookiesNamed(r.Cookies, func(name string) bool { return strings.HasPrefix(name, kind) && tokenName(name) })
	slices.SortFunc(old, func(a, b cookie) int { return strings.Compare(a.name, b.name) })
	for len(old) >= keptLogins {
		set, old = append(set, clearCookie(old[0].name)), old[1:]
	}
	return set, nil
}

// takeFlow opens what keepFlow kept under an id in this browser for this host.
func takeFlow(key *seal.DataKey, kind, id string, r LoginRequest, content any) bool {
	found := cookiesNamed(r.Cookies, func(name string) bool { return name == kind+id })
	if id == "" || len(found) != 1 {
		return false
	}
	plain, err := key.OpenToken(found[0].value, kind, r.Host, id)
	return err == nil && json.Unmarshal(plain, content) == nil
}

// recent says whether something began within a login's life.
func recent(began int64, now time.Time) bool {
	age := now.Sub(time.UnixMilli(began))
	return age > -maxSkew && age < loginLife
}

func tokenName(name string) bool {
	return len(name) <= 128 && !strings.ContainsFunc(name, func(c rune) bool { return c > 0x7e || !alnum(byte(c)) && c != '-' && c != '_' })
}
