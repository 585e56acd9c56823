package authn

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/c2sp/wycheproof"

	"github.com/polygate/polygate/internal/tenant"
)

// vectors is a file of Wycheproof's JOSE vectors.
type vectors struct {
	NumberOfTests int `json:"numberOfTests"`
	TestGroups    []struct {
		Comment string          `json:"comment"`
		Private json.RawMessage `json:"private"`
		Public  json.RawMessage `json:"public"`
		Tests   []struct {
			ID      int             `json:"tcId"`
			Comment string          `json:"comment"`
			JWS     json.RawMessage `json:"jws"`
			JWE     json.RawMessage `json:"jwe"`
			Result  string          `json:"result"`
		} `json:"tests"`
	} `json:"testGroups"`
}

// overAccepted are the vectors that we accept though Wycheproof does not, each with the reason.
func overAccepted() map[string]string {
	return map[string]string{} // none: parseCompact and parseKey close the 14 of go-jose v4.1.8 (base64, use and key_ops, PSS salts, ROCA)
}

// TestX28Wycheproof judges all JOSE vectors as a token would be: taken apart by parseCompact, its key found in the issuer's
// set, its signature checked with any algorithm that a tenant can allow.
func TestX28Wycheproof(t *testing.T) {
	known, total, refused := overAccepted(), 0, map[string]int{}
	for _, name := range []string{"json_web_crypto_test.json", "json_web_encryption_test.json", "json_web_key_test.json", "json_web_signature_test.json"} {
		b, err := fs.ReadFile(wycheproof.TestVectors, name)
		if err != nil {
			t.Fatal(err)
		}
		var v vectors
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		count := 0
		for _, g := range v.TestGroups {
			public := g.Public
			if public == nil {
				public = g.Private // a symmetric key, or a set
			}
			for _, c := range g.Tests {
				count++
				id := fmt.Sprintf("%s#%d", strings.TrimSuffix(name, "_test.json"), c.ID)
				token := c.JWS
				if token == nil {
					token = c.JWE
				}
				err := judgeVector(token, public)
				switch {
				case err == nil && c.Result != "valid" && known[id] == "":
					t.Errorf("%s (%s: %s) is accepted, and is %s", id, g.Comment, c.Comment, c.Result)
				case err == nil:
					delete(known, id)
				case c.Result == "valid":
					refused[whyRefused(c.JWS, public, g.Comment)]++
				}
			}
		}
		if count != v.NumberOfTests {
			t.Errorf("%s: judged %d of %d", name, count, v.NumberOfTests)
		}
		total += count
	}
	for id, why := range known {
		t.Errorf("%s is listed as accepted (%s) and is refused: remove it from the list", id, why)
	}
	if total != 649 {
		t.Errorf("judged %d vectors, want 649", total)
	}
	t.Logf("%d vectors; valid ones refused: %v", total, refused)
	for why, n := range refused {
		if strings.HasPrefix(why, "unexplained") {
			t.Errorf("%d valid vectors are refused: %s", n, why)
		}
	}
}

// judgeVector accepts a token by a JWK or a JWK set.
func judgeVector(token, keys json.RawMessage) error {
	var text string
	if err := json.Unmarshal(token, &text); err != nil {
		return fmt.Errorf("not the compact form: %w", err)
	}
	c, err := parseCompact(text)
	if err != nil {
		return err
	}
	if !strings.Contains(string(keys), `"keys"`) {
		keys = fmt.Appendf(nil, `{"keys":[%s]}`, keys)
	}
	set, err := parseKeys(keys)
	if err != nil {
		return err
	}
	k, _ := set.find(&c.header)
	if k == nil {
		return fmt.Errorf("no key for %+v", c.header)
	}
	return k.verify(c, tenant.Algorithms())
}

// whyRefused names the class of a valid vector that is refused on purpose.
func whyRefused(jws, keys json.RawMessage, group string) string {
	switch {
	case jws == nil:
		return "encrypted: no JWE is a token here"
	case strings.Contains(string(keys), `"oct"`):
		return "HMAC: no shared secret is a key here"
	case strings.Contains(string(keys), `"PS256"`) && strings.HasPrefix(group, "rfc7520"):
		return "the key is for PS256 and the token signed by PS384"
	case strings.Contains(string(keys), `"ES521"`):
		return "the key is for ES521, which does not exist"
	}
	return "unexplained: " + group
}

// TestWycheproofIsJudgedBySubstance holds that the vectors are refused for what is wrong with them: the valid ones of each
// asymmetric algorithm pass (of ES384 and EdDSA there are none, and the one of ES512 has a key for no algorithm).
func TestWycheproofIsJudgedBySubstance(t *testing.T) {
	b, err := fs.ReadFile(wycheproof.TestVectors, "json_web_signature_test.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	var accepted []string
	for _, g := range v.TestGroups {
		for _, c := range g.Tests {
			if g.Public != nil && judgeVector(c.JWS, g.Public) == nil {
				var text string
				_ = json.Unmarshal(c.JWS, &text)
				if p, err := parseCompact(text); err == nil && !slices.Contains(accepted, p.header.Alg) {
					accepted = append(accepted, p.header.Alg)
				}
			}
		}
	}
	slices.Sort(accepted)
	if got, want := strings.Join(accepted, " "), "ES256 PS256 PS384 PS512 RS256 RS384 RS512"; got != want {
		t.Errorf("algorithms accepted: %s, want %s", got, want)
	}
}
