package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The longest that a replica may take.
const (
	readyLimit = 5 * time.Minute  // from its start to ready: with a hundred thousand tenants it takes a while
	endLimit   = 40 * time.Second // from SIGTERM to its end: it drains for 25 s at most, and then gives requests 10
	callLimit  = 30 * time.Second // of one call
)

// replica is a process of the gateway with a folder of its own.
type replica struct {
	child
	platform
	token string       // an operator's
	plain *http.Client // to its telemetry; keeps no connections, since who is asked may be dead
	calls *http.Client // to its operators' listener
	took  time.Duration
}

// newReplica lays out what a replica needs to start: its folder, its addresses and its configuration.
func newReplica(binary string, p platform, cores []int) (*replica, error) {
	r := &replica{platform: p, token: rand.Text() + rand.Text()}
	r.plain = &http.Client{Timeout: callLimit, Transport: &http.Transport{DisableKeepAlives: true}}
	config := filepath.Join(p.dir, "polygate.yaml")
	r.child = child{what: "polygate " + p.replica, args: []string{binary, "serve", "--config", config}, log: filepath.Join(p.dir, "polygate.log"), cores: cores}
	if err := replaceFile(filepath.Join(p.dir, "data", "admin-token"), []byte(r.token+"\n")); err != nil {
		return nil, err
	}
	return r, r.address()
}

// address gives it new addresses.
func (r *replica) address() error {
	if err := freeAddrs(&r.public, &r.admin, &r.telemetry, &r.peer); err != nil {
		return err
	}
	b, err := r.yaml()
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(r.dir, "polygate.yaml"), b)
}

// writeKEK writes a new key-encryption key.
func writeKEK(path string) error {
	var key [32]byte
	_, _ = rand.Read(key[:])
	return replaceFile(path, []byte("polygate-kek-v1:"+base64.StdEncoding.EncodeToString(key[:])+"\n"))
}

// up starts it and returns when it is ready and has taken in all that was declared. At the first start, when nobody knows its addresses
// yet, it gets others where somebody else was faster.
func (r *replica) up(ctx context.Context) error {
	for again := r.took == 0; ; again = false {
		err := r.try(ctx)
		if err == nil || !again || !errors.Is(err, errEnded) || !strings.Contains(err.Error(), "address already in use") {
			return err
		}
		if err := r.address(); err != nil {
			return err
		}
	}
}

func (r *replica) try(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit, fmt.Errorf("it is not ready after %s", readyLimit))
	defer cancel()
	began := time.Now()
	if err := r.start(); err != nil {
		return err
	}
	if err := r.awaitUp(ctx, r.ready); err != nil {
		return err
	}
	r.took = time.Since(began)
	if err := r.trust(); err != nil {
		return r.failed(err)
	}
	return r.complete(ctx)
}

// down asks it to end.
func (r *replica) down(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	if r.calls != nil {
		r.calls.CloseIdleConnections()
	}
	return r.end(ctx)
}

// destroy ends it without waiting for anybody: its state will not be used any more.
func (r *replica) destroy() {
	r.kill()
	if r.calls != nil {
		r.calls.CloseIdleConnections()
	}
}

func (r *replica) ready(ctx context.Context) error {
	_, err := r.get(ctx, "http://"+r.telemetry+"/readyz")
	return err
}

// trust makes the client for its operators' listener, whose certificate its local authority signed.
func (r *replica) trust() error {
	roots, err := r.authority()
	if err != nil {
		return err
	}
	if r.calls != nil {
		r.calls.CloseIdleConnections()
	}
	r.calls = &http.Client{Timeout: callLimit, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}}
	return nil
}

// authority is the gateway's own.
func (r *replica) authority() (*x509.CertPool, error) {
	pem, err := os.ReadFile(filepath.Join(r.dir, "data", "ca.pem"))
	if err != nil {
		return nil, fmt.Errorf("read its authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("its authority ca.pem holds no certificate")
	}
	return roots, nil
}

// complete fails if a part of what tenants.yaml declares was refused: a tenant that is missing must not be found out under load.
func (r *replica) complete(ctx context.Context) error {
	n, err := r.metric(ctx, `polygate_config_reloads_total{result="failed"}`)
	if err == nil && n > 0 {
		err = r.failed(errors.New("it refused a part of the tenants file"))
	}
	return err
}

// metric reads one of its metrics.
func (r *replica) metric(ctx context.Context, name string) (float64, error) {
	b, err := r.get(ctx, "http://"+r.telemetry+"/metrics")
	if err != nil {
		return 0, err
	}
	return sample(b, name)
}

// sample finds a metric in the text format.
func sample(metrics []byte, name string) (float64, error) {
	for line := range bytes.Lines(metrics) {
		if rest, ok := bytes.CutPrefix(line, []byte(name+" ")); ok {
			return strconv.ParseFloat(string(bytes.TrimSpace(rest)), 64)
		}
	}
	return 0, fmt.Errorf("there is no metric %s: is this another version of the product?", name)
}

// operator makes a call of the operators' API, and reads its answer into out unless that is nil.
func (r *replica) operator(ctx context.Context, method, path string, in, out any) error {
	return call(ctx, r.calls, method, "https://"+r.admin+path, r.token, in, out)
}

// get asks its telemetry.
func (r *replica) get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return send(r.plain, req)
}

// call sends a JSON request with a bearer token.
func call(ctx context.Context, c *http.Client, method, url, bearer string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	b, err := send(c, req)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%s %s: %w", method, url, err)
	}
	return nil
}

// send returns the body of a good answer.
func send(c *http.Client, req *http.Request) ([]byte, error) {
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s %s", req.Method, req.URL, resp.Status, strings.TrimSpace(string(b[:min(len(b), 300)])))
	}
	return b, err
}
