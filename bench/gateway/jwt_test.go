package gateway

import (
	"net/http"
	"testing"

	"github.com/polygate/polygate/bench/credential"
	"github.com/polygate/polygate/bench/peer"
)

// TestPolygateJWT has an issuer for all tenants, whose tokens say for whom they are by their audience.
func TestPolygateJWT(t *testing.T) {
	s := layTest(t, 2)
	issuer, err := credential.StartIssuer(t.TempDir(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer issuer.Close()
	s.Auth = peer.JWTAuth
	s.JWT = peer.JWT{Issuer: issuer.URL(), CAFile: issuer.CAFile(), Key: issuer.Key(), KeyFile: issuer.KeyFile()}
	minter, err := issuer.Minter(func(i int) []string { return []string{s.Tenants[i].Name} }, nil)
	if err != nil {
		t.Fatal(err)
	}
	var tokens []string
	for i := range s.Tenants {
		token, err := minter.Token(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, token)
	}
	r := startTest(t, Polygate{Binary: testBinary()}, s)
	for i := range s.Tenants {
		serves(t, r, s, i, tokens[i])
		v := visitor{site: s, addr: r.Addr(i)}
		for what, bearer := range map[string]string{"a token for another tenant": tokens[1-i], "no token": "", "its key": s.Tenants[i].Key} {
			if status, _, err := v.do(t.Context(), i, "/", bearer); err != nil || status != http.StatusUnauthorized {
				t.Errorf("tenant %d with %s: status %d, %v; want 401", i, what, status, err)
			}
		}
	}
}
