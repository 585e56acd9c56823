package credential

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// OIDCConfig is what a source of access tokens is made of.
type OIDCConfig struct {
	Issuer       string // https URL without user and password; its discovery document names the token endpoint
	ClientID     string
	ClientSecret string
	Scopes       []string
	Audience     func(tenant int) string // sent as "audience"; nil = not sent, and one token serves all tenants
	Roots        *x509.CertPool          // that the provider's certificate is checked against; nil = the system's
	Own          bool                    // whoever runs this owns the provider: its addresses may be public. Else the dialler refuses them
}

// oidcSource gets access tokens from an OpenID provider.
type oidcSource struct {
	config OIDCConfig
	http   *http.Client
	tokens *cache
	failed setback // of the provider as a whole

	mu       sync.Mutex // guards endpoint
	endpoint string     // of tokens; "" = not known yet
}

// NewOIDC returns a source that gets tokens by the client credentials grant (RFC 6749 §4.4) from an issuer that is found by discovery
// (OpenID Connect Discovery §4). It connects to nothing yet.
func NewOIDC(c OIDCConfig) (Source, error) {
	if err := validIssuer(c.Issuer); err != nil {
		return nil, err
	}
	if c.ClientID == "" || c.ClientSecret == "" {
		return nil, fmt.Errorf("issuer %s: a client's identifier and secret are needed for its token endpoint", c.Issuer)
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, ControlContext: Guard(c.Own)}
	transport := &http.Transport{
		DialContext:     dialer.DialContext, // and no proxy, which would dial what it likes
		TLSClientConfig: &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: 4, IdleConnTimeout: 10 * time.Second, MaxResponseHeaderBytes: 64 << 10,
	}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // the secret goes nowhere else
	return &oidcSource{config: c, http: &http.Client{Transport: transport, Timeout: 10 * time.Second, CheckRedirect: stay}, tokens: newCache()}, nil
}

// validIssuer refuses what is no issuer. What may hold a password is not quoted.
func validIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	if err != nil && strings.Contains(issuer, "@") || err == nil && u.User != nil {
		return errors.New("issuer: its URL has a user or password in it: give it without, and the client's identifier and secret by themselves")
	}
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("issuer %q: give its https URL, as in its tokens", issuer)
	}
	return nil
}

// Token returns an access token for a tenant: the same one until shortly before its end.
func (o *oidcSource) Token(ctx context.Context, tenant int) (string, error) {
	if o.config.Audience == nil {
		tenant = 0
	}
	return o.tokens.get(ctx, tenant, o.fetch)
}

// fetch asks the provider, unless it has just failed as a whole: then no tenant's token is asked for.
func (o *oidcSource) fetch(ctx context.Context, tenant int) (token, error) {
	endpoint, err := o.discover(ctx)
	if err != nil {
		return token{}, err
	}
	t, err := o.ask(ctx, endpoint, o.form(tenant))
	if err == nil {
		return t, nil
	}
	err = fmt.Errorf("issuer %s: token endpoint %s: %w", o.config.Issuer, o.mask(endpoint), err)
	if said := new(answered); !errors.As(err, &said) || !said.ofTenant() {
		o.failed.begin(ctx, err)
	}
	return token{}, err
}

// form is what is asked of the token endpoint.
func (o *oidcSource) form(tenant int) url.Values {
	form := url.Values{"grant_type": {"client_credentials"}}
	if len(o.config.Scopes) > 0 {
		form.Set("scope", strings.Join(o.config.Scopes, " "))
	}
	if o.config.Audience != nil {
		form.Set("audience", o.config.Audience(tenant))
	}
	return form
}

// discover returns the token endpoint, unless the provider has just failed.
func (o *oidcSource) discover(ctx context.Context) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.failed.err(); err != nil {
		return "", err
	}
	if o.endpoint != "" {
		return o.endpoint, nil
	}
	endpoint, err := o.lookUp(ctx)
	if err != nil {
		err = fmt.Errorf("issuer %s: discovery: %w", o.config.Issuer, err)
		o.failed.begin(ctx, err)
		return "", err
	}
	o.endpoint = endpoint
	return endpoint, nil
}

// lookUp reads the discovery document.
func (o *oidcSource) lookUp(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(o.config.Issuer, "/")+"/.well-known/openid-configuration", nil)
	if err != nil {
		return "", err
	}
	var document struct {
		Issuer        string `json:"issuer"`
		TokenEndpoint string `json:"token_endpoint"`
	}
	if err := o.do(req, &document); err != nil {
		return "", err
	}
	if document.Issuer != o.config.Issuer {
		return "", fmt.Errorf("the document is of %q: give the issuer in that form, if it is the right one", o.mask(document.Issuer))
	}
	if u, err := url.Parse(document.TokenEndpoint); err != nil || u.Scheme != "https" || u.User != nil {
		return "", fmt.Errorf("its token endpoint %q is not https, or has a user in it: the client's secret does not go there", o.mask(document.TokenEndpoint))
	}
	return document.TokenEndpoint, nil
}

// ask asks for a token.
func (o *oidcSource) ask(ctx context.Context, endpoint string, form url.Values) (token, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return token{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(o.config.ClientID), url.QueryEscape(o.config.ClientSecret)) // encoded so by RFC 6749 §2.3.1
	asked := time.Now()
	var answer struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	if err := o.do(req, &answer); err != nil {
		return token{}, err
	}
	if answer.AccessToken == "" || !strings.EqualFold(answer.TokenType, "bearer") {
		return token{}, fmt.Errorf("its answer has no bearer token, but type %.40q", Mask(o.mask(answer.TokenType), answer.AccessToken))
	}
	life := time.Duration(min(max(answer.ExpiresIn, 0), 24*60*60)) * time.Second
	if life == 0 { // not said, which the RFC allows
		life = 5 * time.Minute
	}
	return token{text: answer.AccessToken, renew: renewal(asked, asked.Add(life))}, nil
}

// do makes a request and decodes the answer.
func (o *oidcSource) do(req *http.Request, into any) error {
	req.Header.Set("Accept", "application/json")
	resp, err := o.http.Do(req)
	if err != nil {
		return explain(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return &answered{status: resp.StatusCode, text: o.mask(string(b[:min(len(b), 200)]))}
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("its answer is no JSON of the right form: %w", err)
	}
	return nil
}

// mask takes what was sent of the client's secret out of a text.
func (o *oidcSource) mask(text string) string {
	id, secret := url.QueryEscape(o.config.ClientID), url.QueryEscape(o.config.ClientSecret)
	return Mask(text, o.config.ClientSecret, secret, base64.StdEncoding.EncodeToString([]byte(id+":"+secret)))
}

// answered is an answer with another status than 200.
type answered struct {
	status int
	text   string // its beginning, without the secret
}

// Error says what came.
func (a *answered) Error() string { return fmt.Sprintf("status %d: %q", a.status, a.text) }

// ofTenant says whether it may be an answer to one tenant's question only, rather than to any (RFC 6749 §5.2, RFC 8707 §2).
func (a *answered) ofTenant() bool {
	return a.status/100 == 4 && a.status != http.StatusTooManyRequests
}

// explain says what to do about a certificate that is not trusted.
func explain(err error) error {
	var authority x509.UnknownAuthorityError
	if errors.As(err, &authority) {
		return fmt.Errorf("its certificate is not trusted: give the CA that signed it: %w", err)
	}
	return err
}
