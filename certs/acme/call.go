package acme

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	"github.com/polygate/polygate/internal/tenant"
)

// maxSkew is how far the server's clock may be from ours. Orders are not made beyond it: what comes would be judged wrongly,
// and ordered again and again.
const maxSkew = time.Hour

// call is one conversation with one server.
type call struct {
	e       *Engine
	account tenant.ACME
	dir     acme.Directory
	tr      *transport
	client  *acmez.Client

	mu      sync.Mutex // guards secrets
	secrets []string   // what no error may show
}

// begin fetches the directory and returns the call, which is to be closed. Without renewal the library does not learn that
// the server gives renewal information: with each chain it would ask for it, and wait for it, and we do not use it then.
func (e *Engine) begin(ctx context.Context, account tenant.ACME, renewal bool) (*call, error) {
	tr, err := e.transport(account.CA)
	if err != nil {
		return nil, &Error{Code: CodeDirectoryInvalid, Permanent: true, Detail: "the roots given for the directory hold no certificate: correct certificates.acme.ca_file", Err: err}
	}
	c := &call{e: e, account: account, tr: tr}
	c.hide(account.EABKey)
	if err := c.fetchDirectory(ctx); err != nil {
		err = c.classify(ctx, err)
		c.close()
		return nil, err
	}
	if err := c.hand(renewal); err != nil {
		return nil, err
	}
	c.client = &acmez.Client{Client: &acme.Client{
		Directory:   withoutFragment(account.Directory) + "#" + tr.tag,
		HTTPClient:  tr.client(e.cfg.RequestTime),
		UserAgent:   e.cfg.UserAgent,
		PollTimeout: e.cfg.OrderTime,
	}}
	return c, nil
}

func (c *call) close() { c.tr.base.CloseIdleConnections() }

// hand gives the directory to the transport, from where the library takes it. The tag is made of the content, so that the
// library, which keeps directories by URL for half a day, sees each change.
func (c *call) hand(renewal bool) error {
	dir := c.dir
	if !renewal {
		dir.RenewalInfo = ""
	}
	data, err := json.Marshal(dir)
	if err != nil {
		return &Error{Code: CodeInternal, Detail: "the directory cannot be written", Err: err}
	}
	sum := sha256.Sum256(slices.Concat([]byte(c.account.CA), data))
	c.tr.directory, c.tr.tag = data, hex.EncodeToString(sum[:8])
	return nil
}

// fetchDirectory reads the directory (RFC 8555 §7.1.1).
func (c *call) fetchDirectory(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, withoutFragment(c.account.Directory), nil)
	if err != nil {
		return &Error{Code: CodeDirectoryInvalid, Permanent: true, Detail: "the directory " + quote(c.account.Directory) + " is not a URL", Err: err}
	}
	if c.e.cfg.UserAgent != "" {
		req.Header.Set("User-Agent", c.e.cfg.UserAgent)
	}
	resp, err := c.tr.client(c.e.cfg.RequestTime).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if err := c.checkClock(resp.Header.Get("Date")); err != nil {
		return err
	}
	return c.readDirectory(resp, body)
}

func (c *call) readDirectory(resp *http.Response, body []byte) error {
	if resp.StatusCode != http.StatusOK {
		return statusError(resp)
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err := json.Unmarshal(body, &c.dir); err != nil {
		return &Error{Code: CodeDirectoryInvalid, Permanent: true, Detail: c.where() + " is not an ACME directory: its answer (" + kind + ") is not JSON. Correct certificates.acme.directory", Err: err}
	}
	for name, u := range map[string]string{"newNonce": c.dir.NewNonce, "newAccount": c.dir.NewAccount, "newOrder": c.dir.NewOrder} {
		if p, err := url.Parse(u); err != nil || p.Scheme != "https" || p.Host == "" {
			return &Error{Code: CodeDirectoryInvalid, Permanent: true, Detail: c.where() + " is not an ACME directory: it has no https URL for " + name + ". Correct certificates.acme.directory"}
		}
	}
	return nil
}

func statusError(resp *http.Response) error {
	switch {
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode >= 500:
		return &httpError{resp.StatusCode}
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return &Error{Code: CodeDirectoryInvalid, Permanent: true, Detail: "the directory redirects to " + quote(clip(resp.Header.Get("Location"), 200)) + ": set certificates.acme.directory to where it really is"}
	}
	return &Error{Code: CodeDirectoryInvalid, Permanent: true, Detail: "the directory answers " + resp.Status + ": correct certificates.acme.directory"}
}

// httpError is an answer that says that the server cannot, just now.
type httpError struct{ status int }

// Error returns the status.
func (e *httpError) Error() string { return "HTTP " + http.StatusText(e.status) }

// checkClock compares the server's clock with ours.
func (c *call) checkClock(date string) error {
	at, err := http.ParseTime(date)
	if err != nil {
		return nil // servers need not say (RFC 9110 §6.6.1)
	}
	if now := c.e.cfg.Now(); at.Sub(now).Abs() > maxSkew {
		return &Error{Code: CodeClock, Detail: "the clock of this machine says " + stamp(now) + " and that of " + c.where() + " says " + stamp(at) + ": set the clock (NTP)"}
	}
	return nil
}

// where names the server.
func (c *call) where() string { return "the ACME server " + hostOf(c.account.Directory) }

func hostOf(directory string) string {
	if u, err := url.Parse(directory); err == nil && u.Host != "" {
		return u.Host
	}
	return quote(clip(directory, 100))
}

func withoutFragment(u string) string {
	u, _, _ = strings.Cut(u, "#")
	return u
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// hide makes errors of the call show none of these values.
func (c *call) hide(values ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, v := range values {
		if len(v) >= 8 && !slices.Contains(c.secrets, v) { // shorter ones are part of many words
			c.secrets = append(c.secrets, v)
		}
	}
	// The longest first: one may hold another.
	slices.SortFunc(c.secrets, func(a, b string) int { return len(b) - len(a) })
}

// clean returns text without what is hidden, on one line and not too long.
func (c *call) clean(text string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.secrets {
		text = strings.ReplaceAll(text, s, "[hidden]")
	}
	return clip(text, 500)
}

// clip makes one printable line of at most n bytes, and says if there was more.
func clip(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return ' '
		}
		return r
	}, s)
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}

// cause is an error of the library, as text that may be shown. It still answers errors.Is, and gives away nothing else.
type cause struct {
	text string
	err  error
}

// Error returns the text.
func (c *cause) Error() string { return c.text }

// Is lets sentinels be found below.
func (c *cause) Is(target error) bool { return errors.Is(c.err, target) }
