package credential

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// OIDCConfig is what a source of access tokens is made of.
type OIDCConfig struct {
	Issuer       string // https URL; its discovery document names the token endpoint
	ClientID     string
	ClientSecret string
	Scopes       []string
	Audience     func(tenant int) string // sent as "audience"; nil = not sent, and one token serves all tenants
	Roots        *x509.CertPool          // that the provider's certificate is checked against; nil = the system's
}

// oidcSource gets access tokens from an OpenID provider.
type oidcSource struct {
	config OIDCConfig
	http   *http.Client
	tokens *cache

	mu       sync.Mutex // guards endpoint
	endpoint string     // of tokens; "" = not known yet
}

// NewOIDC returns a source that gets tokens by the client credentials grant (RFC 6749 §4.4) from an issuer that is found by discovery
// (OpenID Connect Discovery §4). It connects to nothing yet.
func NewOIDC(c OIDCConfig) (Source, error) {
	u, err := url.Parse(c.Issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("issuer %q: give its https URL, as in its tokens", c.Issuer)
	}
	if c.ClientID == "" || c.ClientSecret == "" {
		return nil, fmt.Errorf("issuer %s: a client's identifier and secret are needed for its token endpoint", c.Issuer)
	}
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: 4, IdleConnTimeout: 10 * time.Second, MaxResponseHeaderBytes: 64 << 10,
	}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // the secret goes nowhere else
	return &oidcSource{config: c, http: &http.Client{Transport: transport, Timeout: 10 * time.Second, CheckRedirect: stay}, tokens: newCache()}, nil
}

// Token returns an access token for a tenant: the same one until shortly before its end.
func (o *oidcSource) Token(ctx context.Context, tenant int) (string, error) {
	if o.config.Audience == nil {
		tenant = 0
	}
	return o.tokens.get(ctx, tenant, o.fetch)
}

// fetch asks the token endpoint.
func (o *oidcSource) fetch(ctx context.Context, tenant int) (token, error) {
	endpoint, err := o.discover(ctx)
	if err != nil {
		return token{}, fmt.Errorf("issuer %s: discovery: %w", o.config.Issuer, err)
	}
	t, err := o.ask(ctx, endpoint, o.form(tenant))
	if err != nil {
		return token{}, fmt.Errorf("issuer %s: token endpoint %s: %w", o.config.Issuer, endpoint, err)
	}
	return t, nil
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

// discover returns the token endpoint.
func (o *oidcSource) discover(ctx context.Context) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.endpoint != "" {
		return o.endpoint, nil
	}
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
		return "", fmt.Errorf("the document is of %q: give the issuer in that form, if it is the right one", document.Issuer)
	}
	if u, err := url.Parse(document.TokenEndpoint); err != nil || u.Scheme != "https" {
		return "", fmt.Errorf("its token endpoint %q is not https: the client's secret does not go there", document.TokenEndpoint)
	}
	o.endpoint = document.TokenEndpoint
	return o.endpoint, nil
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
		return token{}, fmt.Errorf("its answer has no bearer token, but type %q", answer.TokenType)
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
		return fmt.Errorf("status %d: %.200q", resp.StatusCode, b)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("its answer is no JSON of the right form: %w", err)
	}
	return nil
}

// explain says what to do about a certificate that is not trusted.
func explain(err error) error {
	var authority x509.UnknownAuthorityError
	if errors.As(err, &authority) {
		return fmt.Errorf("its certificate is not trusted: give the CA that signed it: %w", err)
	}
	return err
}
