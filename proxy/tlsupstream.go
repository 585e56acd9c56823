package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"sync/atomic"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// dedicatedSecurity returns how the tenant's own gateway is known, and how we show ourselves to it; nil if nothing is said
// of that. The certificate is asked for with the entry of this tenant alone, and only connections keyed by its uid see it.
func dedicatedSecurity(e *tenant.Entry, certs ClientCertificates) *exchange.Security {
	d := e.Record.Dedicated
	none := tenant.ClientCertificate{}
	if d.CA == "" && d.ServerName == "" && d.Client == none {
		return nil
	}
	s := &exchange.Security{CA: d.CA, ServerName: d.ServerName, Identity: d.Client}
	if d.Client != none && certs != nil {
		s.Client = func(ctx context.Context) (*tls.Certificate, error) { return certs.ClientCertificate(ctx, e) }
	}
	return s
}

// secureKey is what of a Security keys connections. Contents, not digests: looking a pool up hashes them once, and compares
// them by address as long as the record is the same.
type secureKey struct {
	ca, serverName string
	identity       tenant.ClientCertificate
}

func secureKeyOf(t *exchange.Target) secureKey {
	if t.Secure == nil || t.Scheme != "https" {
		return secureKey{}
	}
	return secureKey{t.Secure.CA, t.Secure.ServerName, t.Secure.Identity}
}

// secure makes the TLS of a pool. There is no session cache: a session would carry our certificate past a change of it.
func (p *pools) secure(t *exchange.Target, asked *atomic.Bool) (*tls.Config, error) {
	c := &tls.Config{RootCAs: p.roots, MinVersion: tls.VersionTLS12, GetClientCertificate: showOurs(noCertificate, asked)}
	s := t.Secure
	if s == nil || t.Scheme != "https" {
		return c, nil
	}
	c.ServerName = s.ServerName
	if s.CA != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM([]byte(s.CA)) {
			return nil, fault.New(fault.BadUpstream, "the upstream's CA holds no certificate: set it to the PEM of the root that the upstream's certificate is from")
		}
	}
	if s.Identity == (tenant.ClientCertificate{}) {
		return c, nil
	}
	if s.Client == nil { // without it, an upstream that asks whom it likes would take us for a stranger
		return nil, fault.New(fault.BadUpstream, "a client certificate is set for the upstream, and this gateway has no source of them: see to its certificates, or remove it")
	}
	c.GetClientCertificate = showOurs(s.Client, asked)
	return c, nil
}

// noCertificate is the Client of an upstream that is to see none: an empty one says so (RFC 8446 §4.4.2).
func noCertificate(context.Context) (*tls.Certificate, error) { return &tls.Certificate{}, nil }

// showOurs makes a tls.Config's GetClientCertificate, which notes that the upstream asked. Whatever authorities that names,
// ours is shown: it is configured.
func showOurs(client func(context.Context) (*tls.Certificate, error), asked *atomic.Bool) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked.Store(true)
		cert, err := client(info.Context())
		if err == nil && cert == nil {
			err = errors.New("there is none")
		}
		if err != nil {
			return nil, fault.Wrap(fault.BadUpstream, err, "our client certificate for the upstream cannot be had: see the gateway's log, or set it anew")
		}
		return cert, nil
	}
}

// explain classifies an error of TLS, and leaves others as they are. In TLS 1.3 a handshake that the upstream refuses for
// our certificate looks done to us, and the alert is lost where our request is under way already: then we have but what we
// know of the upstream.
func (u *upstream) explain(err error, s *exchange.Security) error {
	if _, known := errors.AsType[*fault.Error](err); known {
		return err
	}
	if detail := explainTLS(err, s); detail != "" {
		return fault.Wrap(fault.BadUpstream, err, "%s", detail)
	}
	op, _ := errors.AsType[*net.OpError](err)
	ne, _ := errors.AsType[net.Error](err)
	if !u.asked.Load() || u.answered.Load() || op != nil && op.Op == "dial" || ne != nil && ne.Timeout() {
		return err
	}
	if s != nil && s.Identity != (tenant.ClientCertificate{}) {
		return fault.Wrap(fault.BadUpstream, err, "the upstream broke off; it asks for a client certificate: see that it trusts our client certificate")
	}
	return fault.Wrap(fault.BadUpstream, err, "the upstream broke off; it asks for a client certificate, and there is none: set the upstream's client certificate")
}

// explainTLS says what is wrong between us and an upstream's TLS, and what to do about it; "" if it is something else. Names
// and authorities are for the log alone: whoever may ask is not always one who may know them.
func explainTLS(err error, s *exchange.Security) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "the upstream's certificate is of an authority that is not trusted: set the upstream's CA to the root that it is from"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "the upstream's certificate is for another name: set the upstream's server name to one that is in it"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if invalid.Reason == x509.Expired {
			return "the upstream's certificate is expired or not yet valid: renew it, or set the clocks"
		}
		return "the upstream's certificate is not good for a server: see the gateway's log, and have another one made"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "the upstream's certificate cannot be verified: see the gateway's log"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return "the upstream does not speak TLS there: use http:// or the port that does"
	}
	return explainAlert(err, s)
}

// explainAlert reads what the upstream told us at the end of a handshake. crypto/tls has no type for that.
func explainAlert(err error, s *exchange.Security) string {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "remote error" {
		return ""
	}
	alert := op.Err.Error()
	ours := s != nil && s.Identity != tenant.ClientCertificate{}
	switch {
	case strings.Contains(alert, "certificate required"), !ours && (strings.Contains(alert, "bad certificate") || strings.Contains(alert, "handshake failure")):
		if ours {
			return "the upstream demands a client certificate and took none from us: see the gateway's log"
		}
		return "the upstream refused the handshake, as those do that demand a client certificate: set the upstream's client certificate"
	case ours && strings.Contains(alert, "certificate"): // bad, unknown, expired, revoked, unsupported, of an unknown authority
		return "the upstream refused our client certificate: have it trust the authority that it is from, or set another one"
	case strings.Contains(alert, "protocol version"):
		return "the upstream speaks no TLS from 1.2 on: update it"
	case strings.Contains(alert, "unrecognized name"):
		return "the upstream does not know the name that it was asked for: set the upstream's server name"
	}
	return "the upstream refused the TLS handshake: see the gateway's log"
}
