package peer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/backend"
)

const testIssuer = "https://issuer.bench.test:1234"

// signer makes tokens, of every wrong kind too.
type signer struct {
	*testing.T
	key *ecdsa.PrivateKey
}

func newSigner(t *testing.T) *signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{t, key}
}

// publicPEM is its public key.
func (s *signer) publicPEM() []byte {
	der, err := x509.MarshalPKIXPublicKey(&s.key.PublicKey)
	if err != nil {
		s.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func (s *signer) part(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		s.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// token signs claims as the algorithm says: ES256, or HS256 with the public key as secret, or none.
func (s *signer) token(alg string, claims map[string]any) string {
	head := s.part(map[string]any{"alg": alg, "typ": "JWT"}) + "." + s.part(claims)
	hash := sha256.Sum256([]byte(head))
	var sig []byte
	switch alg {
	case "ES256":
		der, err := s.key.Sign(rand.Reader, hash[:], crypto.SHA256)
		if err != nil {
			s.Fatal(err)
		}
		sig = rawSignature(der)
	case "HS256":
		m := hmac.New(sha256.New, s.publicPEM())
		m.Write([]byte(head))
		sig = m.Sum(nil)
	}
	return head + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// rawSignature is r and s side by side, as JWS has them (RFC 7518 §3.4), out of ASN.1.
func rawSignature(der []byte) []byte {
	rest, out := der[2:], make([]byte, 64)
	for i := range 2 {
		n := int(rest[1])
		v := rest[2 : 2+n]
		rest = rest[2+n:]
		if len(v) > 32 {
			v = v[len(v)-32:]
		}
		copy(out[32*(i+1)-len(v):], v)
	}
	return out
}

// TestJWT shows which tokens open a tenant, and that nothing else does, at every subject that can check them.
func TestJWT(t *testing.T) {
	each(t, func(t *testing.T, p Peer) {
		r := newRig(t, 2, JWTAuth)
		own, other := newSigner(t), newSigner(t)
		file := filepath.Join(t.TempDir(), "issuer.pem")
		if err := os.WriteFile(file, own.publicPEM(), 0o600); err != nil {
			t.Fatal(err)
		}
		r.site.JWT = JWT{Issuer: testIssuer, Key: &own.key.PublicKey, KeyFile: file}
		run := r.start(p)
		with := func(name string, value any) map[string]any {
			now := time.Now().Unix()
			claims := map[string]any{"iss": testIssuer, "aud": "t1", "sub": "bench", "iat": now, "exp": now + 300}
			if claims[name] = value; value == nil {
				delete(claims, name)
			}
			return claims
		}
		right := own.token("ES256", with("", nil))
		part := strings.Split(right, ".")
		for _, c := range []struct {
			name, token string
			want        int
		}{
			{"a right one", right, 200},
			{"audience in an array", own.token("ES256", with("aud", []string{"t1"})), 200},
			{"of another audience", own.token("ES256", with("aud", "t0")), 401},
			{"of another audience in an array", own.token("ES256", with("aud", []string{"t0"})), 401},
			{"of an audience that begins alike", own.token("ES256", with("aud", "t10")), 401},
			{"of no audience", own.token("ES256", with("aud", nil)), 401},
			{"of another issuer", own.token("ES256", with("iss", testIssuer+"0")), 401},
			{"of no issuer", own.token("ES256", with("iss", nil)), 401},
			{"that has ended", own.token("ES256", with("exp", time.Now().Unix()-1)), 401},
			{"without an end", own.token("ES256", with("exp", nil)), 401},
			{"signed by somebody else", other.token("ES256", with("", nil)), 401},
			{"not signed", own.token("none", with("", nil)), 401},
			{"signed with the public key", own.token("HS256", with("", nil)), 401},
			{"with other claims than were signed", part[0] + "." + own.part(with("sub", "root")) + "." + part[2], 401},
			{"without its signature", part[0] + "." + part[1] + ".", 401},
			{"that is none", "x", 401},
			{"that is empty", "", 401},
			{"that is the tenant's API key", r.site.Tenants[1].Key, 401},
		} {
			a := r.do(r.client(run, 1, false), r.request("GET", 1, "/", "Authorization: Bearer "+c.token, nil))
			if a.status != c.want || (strings.Contains(a.body, backend.Marker) != (c.want == 200)) {
				t.Errorf("a token %s: status %d: %.60q, want %d", c.name, a.status, a.body, c.want)
			}
		}
		if a := r.do(r.client(run, 1, false), r.request("GET", 1, "/", "", nil)); a.status != 401 {
			t.Errorf("no token: status %d, want 401", a.status)
		}
	})
}
