package acme

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

const (
	maxRequests   = 2000               // of one call: a server that names endless authorizations or links ends there
	maxAnswers    = 16 << 20           // bytes of all answers of one call: the library keeps the chains and authorizations that a server names
	maxRetryAfter = 7 * 24 * time.Hour // more is not believed
	maxPollWait   = time.Minute        // between two looks at an order
)

var (
	errInsecure  = errors.New("the server names a URL that is not https")
	errTooMany   = errors.New("the server keeps us asking")
	errBodyLarge = errors.New("the answer is larger than 1 MiB, or all answers together are larger than 16 MiB")
	errLeftAlone = errors.New("the server asked to be left alone for a while")
)

// transport carries the requests of one call. It lives as long as the call, so that no connection, nonce or trust in a root
// passes from one tenant's server to another's.
type transport struct {
	base *http.Transport
	now  func() time.Time
	// directory answers requests whose URL has this fragment. The library keeps directories in one map of the process, locked
	// while it fetches one: a server that is slow would hold up the orders at all others. So it never fetches any.
	tag       string
	directory []byte

	mu       sync.Mutex    // guards what follows
	requests int           //
	answers  int64         // bytes of all answers
	status   int           // of the last answer
	url      string        // of the last request
	created  string        // Location of the last 201
	wait     time.Duration // that the server asked for with 429 or 503
	until    time.Time     // when that is over
}

func (e *Engine) transport(ca string) (*transport, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, Time: e.cfg.Now}
	if ca != "" {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM([]byte(ca)) {
			return nil, fault.New(fault.Invalid, "the roots of the ACME directory hold no certificate")
		}
	}
	base := &http.Transport{
		DialContext:            e.cfg.DialContext,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  e.cfg.RequestTime,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        30 * time.Second,
		MaxConnsPerHost:        4,
	}
	return &transport{base: base, now: e.cfg.Now}, nil
}

// client returns an HTTP client on t. It follows no redirect: ACME has none, and a POST is signed for its URL.
func (t *transport) client(timeout time.Duration) *http.Client {
	return &http.Client{
		Transport:     t,
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// RoundTrip sends one request, within the bounds of the call.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.tag != "" && r.URL.Fragment == t.tag {
		return canned(r, t.directory), nil
	}
	if r.URL.Scheme != "https" {
		return nil, errInsecure
	}
	if err := t.begin(r); err != nil {
		return nil, err
	}
	resp, err := t.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	t.note(resp)
	resp.Body = &boundedBody{ReadCloser: resp.Body, t: t, left: maxBody}
	return resp, nil
}

func (t *transport) begin(r *http.Request) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests++
	if t.requests > maxRequests {
		return errTooMany
	}
	// The library asks again at once after a 503, and takes back what it began after any error.
	if t.now().Before(t.until) {
		return errLeftAlone
	}
	t.url, t.status = r.URL.String(), 0
	return nil
}

// note remembers what the server wants, and lets the library see waits that make sense only: it would poll without a pause
// for Retry-After: 0, and give up at one that it cannot read.
func (t *transport) note(resp *http.Response) {
	now := t.now()
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		now = at // a date is meant by the server's clock
	}
	d, ok := parseRetryAfter(resp.Header.Get("Retry-After"), now)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status = resp.StatusCode
	if resp.StatusCode == http.StatusCreated {
		t.created = resp.Header.Get("Location")
	}
	switch {
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusServiceUnavailable && ok && d > 0:
		t.wait, t.until = d, t.now().Add(d)
	case resp.StatusCode == http.StatusOK && resp.Request != nil && resp.Request.Method == http.MethodGet:
		return // renewal information: hours are meant
	}
	resp.Header.Del("Retry-After")
	if ok {
		d = min(max(d, time.Second), maxPollWait)
		resp.Header.Set("Retry-After", strconv.Itoa(int(d/time.Second)))
	}
}

// last returns the URL and the status of the last answer.
func (t *transport) last() (url string, status int, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.url, t.status, t.wait
}

// order returns the URL of the order that was made last.
func (t *transport) order() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.created
}

func canned(r *http.Request, body []byte) *http.Response {
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}
}

// spend counts what was read of an answer, and says whether there may be more.
func (t *transport) spend(n int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answers += n
	return t.answers <= maxAnswers
}

// boundedBody fails once more than left bytes were read, or all answers of the call have too many.
type boundedBody struct {
	io.ReadCloser
	t    *transport
	left int64
}

// Read reads on, up to the bound.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errBodyLarge
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 || !b.t.spend(int64(n)) {
		return 0, errBodyLarge
	}
	return n, err
}

// parseRetryAfter reads the value of a Retry-After header (RFC 9110 §10.2.3), seconds or a date, as a time from now on. What
// lies in the past is zero, and more than a week is a week.
func parseRetryAfter(v string, now time.Time) (time.Duration, bool) {
	v = strings.TrimSpace(v)
	if v == "" {
		return 0, false
	}
	if strings.Trim(v, "0123456789") == "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n > int64(maxRetryAfter/time.Second) {
			return maxRetryAfter, true
		}
		return time.Duration(n) * time.Second, true
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0, false
	}
	return min(max(at.Sub(now), 0), maxRetryAfter), true
}
