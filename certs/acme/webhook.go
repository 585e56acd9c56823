package acme

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// Webhook is an HTTP service that sets TXT records: POST <URL>/present and <URL>/cleanup with {"fqdn", "value"}, as lego's
// httpreq provider speaks. Any status of 2xx is success.
type Webhook struct {
	URL   string // https, or http where the way there is trusted
	Token string // sent as a bearer token; "" = none
	CA    string // PEM roots for URL; "" = the system's
}

type hook struct {
	url, host, token string
	client           *http.Client
}

func newWebhook(c Webhook) (*hook, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fault.New(fault.Invalid, "acme: dns.webhook.url is not an http or https URL without a user, a query and a fragment")
	}
	if strings.ContainsFunc(c.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, fault.New(fault.Invalid, "acme: the token of dns.webhook holds characters that no header may")
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM([]byte(c.CA)) {
			return nil, fault.New(fault.Invalid, "acme: dns.webhook.ca_file holds no certificate")
		}
	}
	return &hook{url: strings.TrimRight(c.URL, "/"), host: u.Host, token: c.Token, client: &http.Client{
		Timeout: dnsTime,
		Transport: &http.Transport{
			DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, TLSClientConfig: conf, TLSHandshakeTimeout: 10 * time.Second,
			MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true, // two requests an order
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token is for this URL
	}}, nil
}

func (h *hook) add(ctx context.Context, _, fqdn, value string) error {
	return h.post(ctx, "/present", fqdn, value)
}

func (h *hook) remove(ctx context.Context, _, fqdn, value string) error {
	return h.post(ctx, "/cleanup", fqdn, value)
}

func (h *hook) post(ctx context.Context, path, fqdn, value string) error {
	body, err := json.Marshal(map[string]string{"fqdn": fqdn, "value": value})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if h.token != "" {
		req.Header.Set("Authorization", "Bearer "+h.token)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL
		}
		return &Error{Code: CodeDNS, Detail: "the DNS webhook at " + h.host + " cannot be reached: check dns.webhook", Err: err}
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the service sees it read
	return h.judge(resp.StatusCode)
}

func (h *hook) judge(status int) error {
	switch {
	case status >= 200 && status < 300:
		return nil
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return &Error{Code: CodeDNS, Permanent: true, Detail: "the DNS webhook at " + h.host + " refuses the token: correct dns.webhook.token_file"}
	}
	return &Error{Code: CodeDNS, Detail: "the DNS webhook at " + h.host + " answers " + http.StatusText(status) + ": see its log"}
}
