package vgw

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
)

const (
	proofEvery   = 5 * time.Second  // at most one look for a host's proof in so long
	proofIn      = 15 * time.Second // how long a look may take
	maxFound     = 120              // bytes of what a failure tells of what was found
	maxLastError = 512              // bytes of what is kept of it
)

// proofs says when each host's proof was looked for last, at the tenant's owner. The record says it too, which another owner
// goes by, but it is written only at the end of a look. The zero value is ready.
type proofs struct {
	mu   sync.Mutex
	last map[string]time.Time // guarded by mu: the looks of the last proofEvery, by host
}

// begin notes a look at a host, or says how long to wait until there may be one.
func (p *proofs) begin(host string, recorded, now time.Time) (wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for h, t := range p.last {
		if now.Sub(t) >= proofEvery {
			delete(p.last, h)
		}
	}
	last := later(recorded, p.last[host])
	if wait = last.Add(proofEvery).Sub(now); !last.IsZero() && wait > 0 {
		return min(wait, proofEvery) // the clock of who recorded it may be ahead
	}
	if p.last == nil {
		p.last = make(map[string]time.Time)
	}
	p.last[host] = now
	return 0
}

// verifyHost looks for the token in the DNS. If it is there, the host is the tenant's from the answer on; if not, the host
// keeps what was found.
func verifyHost(ctx context.Context, c *call) (exchange.Decision, error) {
	if err := noBody(c); err != nil {
		return nil, err
	}
	host := c.params[0]
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.HostVerify, Resource: "host/" + label(host)})
	if err != nil {
		return nil, err
	}
	i := pendingAt(c.e.Record, host, c.now())
	if i < 0 {
		return c.provenBefore(permit)
	}
	p := c.e.Record.PendingHosts[i]
	if err := c.mayHave(host); err != nil {
		return nil, permit.Settle(err)
	}
	if wait := c.gw.proofs.begin(host, p.LastCheck, c.now()); wait > 0 {
		return nil, permit.Settle(fault.New(fault.RateLimited, "host %q was looked for just now: the DNS takes its time, try again later", host).After(wait))
	}
	if err := c.lookForProof(ctx, p); err != nil {
		return nil, c.unproven(ctx, permit, p, err)
	}
	e, err := c.prove(ctx, permit, p)
	if err != nil {
		return nil, c.unproven(ctx, permit, p, err)
	}
	v, ok := c.viewHost(e.Record, host)
	if !ok {
		return nil, noHost(host)
	}
	return c.replyHost(200, v)
}

// provenBefore answers for a host that does not wait for a proof: one that the tenant has needs none, so that a request
// whose answer was lost can be sent again.
func (c *call) provenBefore(permit *guard.Permit) (exchange.Decision, error) {
	v, ok := c.viewHost(c.e.Record, c.params[0])
	if !ok {
		return nil, permit.Settle(noHost(c.params[0]))
	}
	permit.Done(nil)
	return c.replyHost(200, v)
}

// lookForProof asks for the TXT record. The token is the one of this tenant's record, so what another tenant published
// under the same name proves nothing here.
func (c *call) lookForProof(ctx context.Context, p tenant.PendingHost) error {
	ctx, cancel := context.WithTimeout(ctx, proofIn)
	defer cancel()
	err := c.cfg.HostProof(ctx, p.Host, p.Token)
	if err == nil {
		return nil
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fault.Wrap(fault.UpstreamTimeout, err, "the DNS did not answer in time for %s.%s: try again", tenant.HostChallenge, p.Host)
	}
	switch e := fault.From(err); e.Kind {
	case fault.Canceled, fault.Unavailable, fault.BadUpstream, fault.UpstreamTimeout:
		return err
	case fault.Internal:
		return fault.Wrap(fault.BadUpstream, err, "the DNS could not be asked for %s.%s: try again", tenant.HostChallenge, p.Host)
	default: // it was asked, and the token is not there
		return fault.Wrap(fault.Conflict, err, "the TXT record %s.%s does not hold txt_value: %s; make it so, and verify again once the DNS shows it",
			tenant.HostChallenge, p.Host, tidy(e.Detail, maxFound))
	}
}

// prove makes a host the tenant's, in one change with its record. Who has it already is not told, but that it is held is: the
// caller has proven to be its owner.
func (c *call) prove(ctx context.Context, permit *guard.Permit, p tenant.PendingHost) (*tenant.Entry, error) {
	var refused error // by the edit itself, whatever comes of the commit
	before := false
	e, err := c.records.update(ctx, func(r *tenant.Record) error {
		before, refused = c.takeHost(r, p)
		return refused
	}, permit.Entry(audit.OutcomeOK))
	switch {
	case err == nil && before: // nothing was changed, so nothing was recorded
		permit.Done(nil)
	case refused == nil && fault.Is(err, fault.Conflict):
		err = fault.Wrap(fault.Conflict, err, "the proof of %q is right, but somebody else of this platform holds the host: have it deleted there, or ask a platform operator, and verify it again", p.Host)
	}
	return e, err
}

// takeHost moves a host from those that were asked for to those that are served. It must be the one that the proof was
// looked for: meanwhile it may have been deleted, and asked for again with another token.
func (c *call) takeHost(r *tenant.Record, p tenant.PendingHost) (before bool, err error) {
	i := pendingAt(r, p.Host, c.now())
	switch {
	case slices.Contains(r.ProvenHosts, p.Host):
		return true, nil
	case i < 0 || r.PendingHosts[i].Token != p.Token:
		return false, noHost(p.Host)
	}
	if err := roomForHost(r); err != nil {
		return false, err
	}
	r.PendingHosts = slices.Delete(r.PendingHosts, i, i+1)
	r.Hosts, r.ProvenHosts = append(r.Hosts, p.Host), append(r.ProvenHosts, p.Host)
	dropLapsed(r, c.now())
	return false, nil
}

// unproven keeps what was found, with the record of the attempt, and returns why it failed. Where the caller left, or the
// host or the caller's standing is gone, there is nothing to keep.
func (c *call) unproven(ctx context.Context, permit *guard.Permit, p tenant.PendingHost, cause error) error {
	kind := fault.KindOf(cause)
	if kind == fault.Canceled || kind == fault.NotFound || kind == fault.Unauthenticated {
		return permit.Settle(cause)
	}
	now := c.now().UTC()
	_, err := c.records.update(ctx, func(r *tenant.Record) error {
		i := pendingAt(r, p.Host, now)
		if i < 0 || r.PendingHosts[i].Token != p.Token {
			return noHost(p.Host)
		}
		h := &r.PendingHosts[i]
		h.LastCheck, h.LastError = later(now, h.LastCheck.Add(time.Microsecond)), lastError(fault.From(cause))
		dropLapsed(r, now)
		return nil
	}, permit.Entry(kind.String()))
	if err != nil { // the record was not committed with it
		c.cfg.Logger.WarnContext(ctx, "what was found of a host could not be kept", "tenant", c.e.Scope.String(), "host", p.Host, "err", err)
		return permit.Settle(cause)
	}
	return cause
}

// lastError says what is kept of a failure. What is not for the caller is not for the record.
func lastError(e *fault.Error) string {
	if e.Detail == "" {
		return "it failed on this side: try again, or tell a platform operator"
	}
	return tidy(e.Detail, maxLastError)
}

// tidy makes a text printable and bounds it: it may be made of what strangers publish in the DNS.
func tidy(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError {
			return ' '
		}
		return r
	}, text)
	for len(text) > most {
		_, n := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-n]
	}
	return text
}
