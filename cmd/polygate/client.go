package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/problem"
)

// Bounds of the client.
const (
	clientTimeout = 60 * time.Second // for one request
	dialTimeout   = 10 * time.Second
	maxAnswer     = 80 << 20 // bytes of an answer: a page of audit records, of 64 KiB each at most, is the longest
	maxSecret     = 8 << 10  // bytes of a token file
)

// readFile reads a bounded file, or stdin for "-".
func readFile(path string, stdin io.Reader, limit int64) ([]byte, error) {
	r := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is over %d bytes", path, limit)
	}
	return b, err
}

// loadRoots returns the authorities of a PEM file, or nil for the system's.
func loadRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the certificate authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", path)
	}
	return pool, nil
}

func httpClient(roots *x509.CertPool) *http.Client {
	dialer := &net.Dialer{Timeout: dialTimeout}
	return &http.Client{
		Timeout: clientTimeout,
		// A redirect would carry the credential to wherever it points; none of our listeners sends one.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy: func(r *http.Request) (*url.URL, error) {
				if isLoopback(r.URL.Hostname()) {
					return nil, nil
				}
				return http.ProxyFromEnvironment(r)
			},
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				return dialLocal(ctx, dialer, network, addr)
			},
			TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			TLSHandshakeTimeout: dialTimeout,
			ForceAttemptHTTP2:   true,
		},
	}
}

// dialLocal dials localhost and *.localhost at loopback (RFC 6761 §6.3), which not every resolver does.
func dialLocal(ctx context.Context, d *net.Dialer, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || !isLocalName(host) {
		return d.DialContext(ctx, network, addr)
	}
	conn, err := d.DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
	if err == nil {
		return conn, nil
	}
	if conn, err6 := d.DialContext(ctx, network, net.JoinHostPort("::1", port)); err6 == nil {
		return conn, nil
	}
	return nil, err
}

func isLocalName(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return isLocalName(host) || ip != nil && ip.IsLoopback()
}

// client speaks JSON with one listener.
type client struct {
	base     *url.URL
	secret   string
	whatItIs string
	http     *http.Client
	api      string // what paths of this connection begin with
	operator bool   // it is the operators' listener
}

// path returns a path below the connection's own. The parts are escaped: a name cannot become two steps.
func (c *client) path(parts ...string) string {
	p := c.api
	for _, part := range parts {
		p += "/" + url.PathEscape(part)
	}
	return p
}

// close ends the idle connections.
func (c *client) close() { c.http.CloseIdleConnections() }

// apiError is an error that the server answered.
type apiError struct {
	fault.Problem
}

func (e *apiError) Error() string {
	s := cmp.Or(e.Detail, e.Title)
	s += fmt.Sprintf(" (%d %s", e.Status, strings.TrimPrefix(e.Type, "urn:polygate:problem:"))
	if e.RequestID != "" {
		s += ", request id " + e.RequestID
	}
	return s + ")"
}

// isStatus says whether err is the server's answer with a status.
func isStatus(err error, status int) bool {
	var e *apiError
	return errors.As(err, &e) && e.Status == status
}

// do sends one request. path is escaped and may have a query; in is sent as JSON unless nil; the answer is read into
// out unless nil.
func (c *client) do(ctx context.Context, method, path string, in, out any) error {
	return c.send(ctx, method, path, nil, in, out)
}

// send is do with more fields in the header.
func (c *client) send(ctx context.Context, method, path string, head http.Header, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base.String()+path, body)
	if err != nil {
		return err
	}
	maps.Copy(req.Header, head)
	req.Header.Set("Authorization", "Bearer "+c.secret)
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreached(err)
	}
	defer func() { _ = resp.Body.Close() }()
	return c.answer(resp, out)
}

func (c *client) answer(resp *http.Response, out any) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", c.base, err)
	}
	if len(b) > maxAnswer {
		return fmt.Errorf("the answer of %s is over %d bytes", c.base, maxAnswer)
	}
	if resp.StatusCode/100 != 2 {
		return c.refused(resp, b)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%s answered no JSON of ours: is this the right URL? (%w)", c.base, err)
	}
	return nil
}

// refused makes an error of an answer that is none of success.
func (c *client) refused(resp *http.Response, body []byte) error {
	e := &apiError{}
	if resp.Header.Get("Content-Type") != problem.ContentType || json.Unmarshal(body, &e.Problem) != nil {
		e.Problem = fault.Problem{Title: "the server answered " + resp.Status + ", which is none of Polygate's answers: is " + c.base.String() + " the right URL?"}
	}
	e.Status = resp.StatusCode
	e.RequestID = cmp.Or(e.RequestID, resp.Header.Get("X-Request-Id"))
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		e.Detail = "the " + c.whatItIs + " is not valid at " + c.base.String()
	case http.StatusForbidden:
		e.Detail = "not allowed: " + cmp.Or(e.Detail, "the "+c.whatItIs+" may not do this, or "+c.base.Host+" is no name of this listener")
	case http.StatusNotFound:
		e.Detail = "not found"
	}
	return e
}

// unreached explains why no answer came.
func (c *client) unreached(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // without method and URL, which the message names itself
	}
	var unknown x509.UnknownAuthorityError
	var wrongHost x509.HostnameError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("the certificate of %s is of an unknown authority: name its file with --ca or POLYGATE_CA", c.base)
	case errors.As(err, &wrongHost):
		return fmt.Errorf("the certificate of %s is for another name: %w", c.base, err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s did not answer in time", c.base)
	}
	return fmt.Errorf("cannot reach %s: %w: is polygate serve running there?", c.base, err)
}
