package certs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/polygate/polygate/certs/acme"
	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
)

// plan says where a host's certificate comes from. It can be compared: a resident certificate stays while its plan does.
type plan struct {
	owner     vault.Owner              // where it is kept; a tenant that is made again is another owner (X41)
	source    tenant.CertificateSource // never ""
	directory string                   // of the ACME server
	wild      bool                     // the platform's wildcard is good for the host
	passed    bool                     // TLS ends at the tenant's own gateway, which has the certificates
	ordered   bool                     // the queue orders one for this very host
	account   tenant.ACME              // of those that are ordered
	means     string                   // Config.Means, likewise
}

// under is a digest of the settings that an order depends on.
func (p plan) under() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", p.account, p.means))
	return hex.EncodeToString(sum[:12])
}

// planFor decides where the certificate of a host comes from; e is nil for the platform's own.
func (cfg *Config) planFor(host string, e *tenant.Entry) plan {
	c, own := cfg.Default, false
	p := plan{}
	if e != nil {
		p.owner = vault.Of(e.Scope)
		if t := e.Record.Certificates; t != nil && t.Source != "" {
			own = true
			c.Source = t.Source
			if t.ACME != nil {
				c.ACME = t.ACME
			}
		}
	}
	p.source = c.Source
	p.wild = !own && isChild(host, cfg.BaseDomain)
	p.passed = e != nil && e.Record.Mode == tenant.ModePassthrough
	if c.ACME != nil {
		p.directory = c.ACME.Directory
	}
	p.ordered = p.source == tenant.SourceACME && cfg.ACME != nil && !p.passed && !(p.wild && cfg.Wildcard)
	if strings.HasPrefix(host, "*.") {
		p.ordered = p.ordered && cfg.Wildcard
	}
	if p.ordered && c.ACME != nil {
		p.account, p.means = *c.ACME, cfg.Means
	}
	return p
}

// isChild says whether host lies directly under base, as a wildcard covers it (RFC 9525 §6.3).
func isChild(host, base string) bool {
	label, rest, ok := strings.Cut(host, ".")
	return ok && label != "" && label != "*" && rest == base && base != ""
}

// usable says whether a stored certificate can be served.
func usable(h *keep.Host, now time.Time) bool {
	return len(h.Chain) > 0 && h.Revoked.IsZero() && !now.Before(h.NotBefore) && now.Before(h.NotAfter)
}

// warnAt is when a third of a certificate's life is left.
func warnAt(notBefore, notAfter time.Time) time.Time {
	return notAfter.Add(-notAfter.Sub(notBefore) / 3)
}

// renewAt is when a certificate is renewed: shortly before a third of its life is left, so that a renewal that works never
// shows a warning, and spread, so that what was ordered at once is not renewed at once. r is in [0, 1).
func renewAt(notBefore, notAfter time.Time, r float64) time.Time {
	life := notAfter.Sub(notBefore)
	return warnAt(notBefore, notAfter).Add(-time.Duration(r * float64(life) / 30)).Truncate(time.Second)
}

// takeover is when the source replaces a provided certificate that nobody renewed: shortly before its end, so that there is
// no gap, and late enough to leave its renewal to those who provided it.
func takeover(h *keep.Host) time.Time {
	return h.NotAfter.Add(-min(24*time.Hour, h.NotAfter.Sub(h.NotBefore)/10))
}

// orderAt is when a certificate is ordered for the host; zero = never.
func orderAt(h *keep.Host, p plan, now time.Time) time.Time {
	if !p.ordered {
		return time.Time{}
	}
	want := now
	ok := usable(h, now)
	switch {
	case !ok || h.Order.Forced:
	case h.Source == tenant.SourceProvided:
		want = takeover(h)
	case h.Source != tenant.SourceACME || h.RenewAt.IsZero() || h.Directory != "" && h.Directory != p.directory:
	default:
		want = h.RenewAt
	}
	if next := retryAt(&h.Order, p); (h.Order.Attempts > 0 || !ok) && next.After(want) {
		want = next
	}
	return want
}

// retryAt is when back-off ends. After a change of the settings under which the order failed it ends soon: what was wrong may
// be mended. Not at once, since two replicas may have different settings; and a server that asked for patience has it.
func retryAt(o *keep.Order, p plan) time.Time {
	soon := o.Last.Add(mendedIn)
	if o.Under == "" || o.Code == acme.CodeRateLimited || !soon.Before(o.Next) || o.Under == p.under() {
		return o.Next
	}
	return soon
}

// infoAt is when the issuer is asked for its wishes about renewal (RFC 9773); zero = never.
func infoAt(h *keep.Host, p plan, now time.Time) time.Time {
	if !p.ordered || h.Source != tenant.SourceACME || !usable(h, now) || h.Directory != p.directory {
		return time.Time{}
	}
	return h.InfoAt
}

// nextLook is when the host is looked at next; zero = never. What lies in the past is due now.
func nextLook(h *keep.Host, p plan, now time.Time) time.Time {
	next := earliest(orderAt(h, p, now), infoAt(h, p, now))
	if !usable(h, now) {
		return next
	}
	next = earliest(next, h.OCSPAt)
	for _, t := range []time.Time{warnAt(h.NotBefore, h.NotAfter), h.NotAfter} {
		if t.After(now) {
			next = earliest(next, t)
		}
	}
	return next
}

// earliest of two times, of which zero is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// overdueGrace is how long a mark that is due may be at work.
const overdueGrace = 5 * time.Minute

// overdue says whether an order is due that no mark seems to stand for, such as after the source or the directory changed, or
// when a mark was lost.
func overdue(h *keep.Host, p plan, now time.Time) bool {
	next := h.Order.Next
	return due(orderAt(h, p, now), now) && (next.IsZero() || next.After(now) || now.Sub(next) > overdueGrace)
}

// due reports whether a time that may be never has come.
func due(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

// mark rounds a time to what a due mark can hold, so that the mark is found again.
func mark(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC().Truncate(time.Millisecond)
}

// The bounds of back-off.
const (
	maxRetryAfter = 24 * time.Hour   // what a server may ask for
	slowAttempt   = 6                // where the steps begin if only a change elsewhere can help
	mendedIn      = 20 * time.Second // between a failure and the next order under other settings
)

// backoff is how long to wait after the nth failure in a row, from 1 on. r in [0, 1) spreads it by a fifth to either side, so
// that what failed at once is not tried again at once.
func backoff(n int, r float64) time.Duration {
	steps := [...]time.Duration{2 * time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour}
	d := steps[min(max(n, 1), len(steps))-1]
	return d - d/5 + time.Duration(r*float64(d)*2/5)
}

// retryIn is how long to wait after a failure.
func retryIn(attempts int, permanent bool, asked time.Duration, r float64) time.Duration {
	if permanent {
		attempts = max(attempts, slowAttempt)
	}
	return max(backoff(attempts, r), min(asked, maxRetryAfter))
}

// pickWindow returns the time in an issuer's window of renewal (RFC 9773 §4.2) at which to renew: any, all as likely, but not
// so late that a failure could not be mended before the end.
func pickWindow(start, end, notBefore, notAfter time.Time, r float64) time.Time {
	at := start
	if d := end.Sub(start); d > 0 {
		at = start.Add(time.Duration(r * float64(d)))
	}
	latest := notAfter.Add(-notAfter.Sub(notBefore) / 6)
	if at.After(latest) {
		at = latest
	}
	return at.Truncate(time.Second)
}

// chance is the randomness of the above.
func chance() float64 { return rand.Float64() } //nolint:gosec // spreads load, keeps no secret
