package acme

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/libdns/libdns"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"

	"github.com/polygate/polygate/internal/fault"
)

const (
	defaultPropagation = 2 * time.Minute
	dnsTime            = 20 * time.Second // for setting or removing one record
	recordTTL          = time.Minute
)

// DNS is how the TXT records of dns-01 are set. It is the platform's own, so its servers are reached directly and not
// through Config.DialContext: they are often inside.
type DNS struct {
	Provider string // "rfc2136" or "webhook"
	RFC2136  RFC2136
	Webhook  Webhook
	// Propagation bounds the wait until the record is seen by the resolvers; 0 = 2 min, below 0 = it is not waited for.
	Propagation time.Duration
}

// newDNSSolver returns what sets records for cfg.DNS.
func newDNSSolver(cfg *Config) (*certmagic.DNS01Solver, error) {
	var p provider
	var err error
	switch d := cfg.DNS; d.Provider {
	case "rfc2136":
		p, err = newRFC2136(d.RFC2136, cfg.Now)
	case "webhook":
		p, err = newWebhook(d.Webhook)
	default:
		err = fault.New(fault.Invalid, "acme: the DNS provider %q is unknown: use rfc2136 or webhook", d.Provider)
	}
	if err != nil {
		return nil, err
	}
	wait := cfg.DNS.Propagation
	switch {
	case wait == 0:
		wait = defaultPropagation
	case wait < 0:
		wait = -1
	}
	for _, r := range cfg.Resolvers {
		if host, port, err := net.SplitHostPort(r); err != nil || host == "" || port == "" {
			return nil, fault.New(fault.Invalid, "acme: the resolver %q is not host:port", r)
		}
	}
	return &certmagic.DNS01Solver{DNSManager: certmagic.DNSManager{
		DNSProvider: records{p}, TTL: recordTTL, PropagationTimeout: wait, Resolvers: cfg.Resolvers, Logger: zap.NewNop(),
	}}, nil
}

// provider adds and removes one TXT record of a zone; names end in a dot. Removing what is not there is no error.
type provider interface {
	add(ctx context.Context, zone, fqdn, value string) error
	remove(ctx context.Context, zone, fqdn, value string) error
}

// records makes a provider what libdns wants.
type records struct{ provider }

// AppendRecords adds records. One whose outcome is unknown is taken back, since nobody would remember it.
func (r records) AppendRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	for _, rec := range recs {
		rr := rec.RR()
		fqdn := libdns.AbsoluteName(rr.Name, zone)
		if err := r.add(ctx, zone, fqdn, rr.Data); err != nil {
			back, cancel := context.WithTimeout(context.WithoutCancel(ctx), dnsTime)
			defer cancel()
			_ = r.remove(back, zone, fqdn, rr.Data) // it failed already, and that is what is told
			return nil, err
		}
	}
	return recs, nil
}

// DeleteRecords removes records.
func (r records) DeleteRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	for _, rec := range recs {
		rr := rec.RR()
		if err := r.remove(ctx, zone, libdns.AbsoluteName(rr.Name, zone), rr.Data); err != nil {
			return nil, err
		}
	}
	return recs, nil
}

// recordSolver is the DNS solver for one call: it says what its errors mean, and hides what they might show.
type recordSolver struct {
	call *call
	dns  *certmagic.DNS01Solver
}

// Present sets the record.
func (s *recordSolver) Present(ctx context.Context, ch acme.Challenge) error {
	s.call.hide(ch.Token, ch.KeyAuthorization, ch.DNS01KeyAuthorization())
	return s.explain(ctx, "the TXT record for "+quote(ch.DNS01TXTRecordName())+" cannot be set: check certificates.acme.dns and certificates.resolvers", s.dns.Present(ctx, ch))
}

// Wait returns when the resolvers show the record.
func (s *recordSolver) Wait(ctx context.Context, ch acme.Challenge) error {
	return s.explain(ctx, "the TXT record for "+quote(ch.DNS01TXTRecordName())+" was set and is not seen: check that certificates.acme.dns changes the zone that certificates.resolvers answer from, and its propagation_timeout", s.dns.Wait(ctx, ch))
}

// CleanUp removes the record, also when the order's context ended.
func (s *recordSolver) CleanUp(ctx context.Context, ch acme.Challenge) error {
	err := s.dns.CleanUp(context.WithoutCancel(ctx), ch)
	if err != nil && !strings.Contains(err.Error(), "no memory of presenting") { // then it was never set
		s.call.leftBehind(ctx, ch, err)
	}
	return err
}

func (s *recordSolver) explain(ctx context.Context, detail string, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	return &Error{Code: CodeDNS, Detail: detail, Err: err}
}
