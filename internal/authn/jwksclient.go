package authn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// Bounds of what is asked of an issuer (X34). An issuer is named by a tenant's admin: it is not trusted with our memory or time.
const (
	fetchTime     = 5 * time.Second // of a discovery document and the keys together
	fetchBytes    = 1 << 20         // of a document
	maxRedirects  = 3
	maxHeaderSize = 64 << 10
)

// newClient returns a client for one issuer. It dials through the guard, at each redirect again, speaks https alone, asks for no
// compression, keeps no connection, and takes no proxy from the environment, which would dial past the guard.
func newClient(dial func(ctx context.Context, network, addr string) (net.Conn, error), roots *x509.CertPool) *http.Client {
	t := &http.Transport{
		DialContext:            dial,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		TLSHandshakeTimeout:    fetchTime,
		MaxResponseHeaderBytes: maxHeaderSize,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}
	return &http.Client{Transport: bounded{t}, CheckRedirect: checkRedirect, Timeout: fetchTime}
}

// rootsOf reads PEM roots; "" means the system's.
func rootsOf(pem string) (*x509.CertPool, error) {
	if pem == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(pem)) {
		return nil, errors.New("the CA holds no certificate: give PEM text")
	}
	return pool, nil
}

func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if r.URL.Scheme != "https" {
		return fmt.Errorf("a redirect to %s: https alone is followed", r.URL.Scheme)
	}
	return nil
}

// bounded bounds the bodies of a round tripper's responses.
type bounded struct {
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return nil, fault.New(fault.BadUpstream, "an issuer's address that is not https")
	}
	resp, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.Header.Get("Content-Encoding") != "" { // not asked for: a bomb
		resp.Body.Close()
		return nil, fault.New(fault.BadUpstream, "a compressed answer that was not asked for")
	}
	resp.Body = &body{ReadCloser: resp.Body, left: fetchBytes}
	return resp, nil
}

// body fails once more than left bytes were read.
type body struct {
	io.ReadCloser
	left int
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if len(p) > b.left+1 { // one more than is left tells an exact fit from too much
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if n > b.left {
		return 0, fault.New(fault.BadUpstream, "an answer of more than %d bytes", fetchBytes)
	}
	b.left -= n
	return n, err
}

// get returns a document.
func get(ctx context.Context, c *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("ask for %s: %w", url, err)
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := c.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask for the keys: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask for %s: status %d", url, resp.StatusCode)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", url, err)
	}
	return b, nil
}
