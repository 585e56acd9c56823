package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"

	"github.com/polygate/polygate/bench/credential"
)

// failure is a request that went wrong.
type failure struct {
	class  string // for counting
	tenant *target
	what   string // for people: what was found and what to do
	err    error  // the cause; may be nil
}

// Error says to whom the request went, what was found and why.
func (f *failure) Error() string {
	s := fmt.Sprintf("tenant %s, %s at %s: %s", f.tenant.Name, f.tenant.Host, f.tenant.Addr, f.what)
	if f.err != nil {
		s += ": " + f.tenant.mask(f.err.Error()) // parsers quote what they could not read
	}
	return s
}

// Unwrap returns the cause.
func (f *failure) Unwrap() error { return f.err }

// Class is for counting.
func (f *failure) Class() string { return f.class }

// Foreign is an answer that held what belongs to another tenant. It ends the run.
type Foreign struct {
	Tenant string // to whom the request went
	Other  string // whose canary came; "" = of nobody who is known
	Canary string // that came
}

// Error says whose canary came.
func (f *Foreign) Error() string {
	whose := "tenant " + f.Other
	if f.Other == "" {
		whose = "nobody in this run"
	}
	return fmt.Sprintf("an answer to tenant %s held %q, which belongs to %s: tenants are not kept apart, so the run ends here; "+
		"look at the target's routes, and find this canary in the upstream's answers", f.Tenant, f.Canary, whose)
}

// StopsRun ends the run: no figure may hide this.
func (f *Foreign) StopsRun() bool { return true }

// Class is for counting.
func (f *Foreign) Class() string { return "foreign canary" }

// errUnanswered marks an exchange on a connection that ended before a byte of the answer came: if the connection had been kept, the
// server may have closed it between requests, which is no error of the server's (RFC 9112 §9.3.1); see overWire.
const errUnanswered sentinel = "the connection ended before a byte of the answer"

// sentinel is a constant error.
type sentinel string

func (s sentinel) Error() string { return string(s) }

// broken classifies what ended an exchange with a tenant.
func broken(ctx context.Context, t *target, doing string, err error) error {
	var f *failure
	if errors.As(err, &f) {
		return err
	}
	var stop interface{ StopsRun() bool }
	if errors.As(err, &stop) {
		return err
	}
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return &failure{class: "canceled", tenant: t, what: "the run ended while " + doing, err: ctx.Err()}
	case ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded):
		return &failure{class: "timeout", tenant: t, what: "no answer in time while " + doing + ": look whether it is overloaded, or allow more time", err: err}
	case isClosed(err):
		return &failure{class: "reset", tenant: t, what: "the connection ended while " + doing, err: err}
	default:
		return &failure{class: "malformed", tenant: t, what: "what came is not of the protocol, while " + doing, err: err}
	}
}

// isTimeout says whether an error is a deadline's.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// isClosed says whether an error is a connection's end.
func isClosed(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, errUnanswered) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.As(err, &op)
}

// unconnected classifies why a TCP connection could not be made.
func unconnected(ctx context.Context, t *target, err error) error {
	var r *credential.Refused
	if errors.As(err, &r) {
		return r
	}
	if ctx.Err() != nil {
		return broken(ctx, t, "connecting", err)
	}
	what := "no connection: look whether the target runs, and at this address"
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		what = "no port left to connect from: too many connections ended in the last minute; keep connections, or lower the rate"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		what = "no file left to connect with: raise the limit (ulimit -n), or lower the concurrency"
	}
	return &failure{class: "connect", tenant: t, what: what, err: err}
}

// untrusted classifies why a TLS handshake failed.
func untrusted(ctx context.Context, t *target, err error) error {
	if ctx.Err() != nil {
		return broken(ctx, t, "shaking hands (TLS)", err)
	}
	return &failure{class: "tls", tenant: t, what: distrust(err), err: err}
}

// distrust says in words what a failed handshake means.
func distrust(err error) string {
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		alert     tls.AlertError
	)
	switch {
	case errors.As(err, &authority) && authority.Cert != nil:
		return fmt.Sprintf("its certificate is signed by %q, which is not trusted: give that authority's certificate as the CA (--ca), if it is the right one",
			authority.Cert.Issuer.String())
	case errors.As(err, &host):
		return "its certificate is not for this host: look whether the tenant is known there under this name"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate is not valid now: renew it, or set this machine's clock"
	case errors.As(err, &record):
		return "it does not speak TLS on this port: give the port of its TLS listener"
	case errors.As(err, &alert):
		return "it refused the handshake: look whether it knows this host"
	default:
		return "the TLS handshake failed"
	}
}

// badStatus is an answer with another status than 200.
func badStatus(t *target, status int, body []byte) error {
	what := "it answered with status " + strconv.Itoa(status)
	if hint := statusHint(status); hint != "" {
		what += " (" + hint + ")"
	}
	if b := bytes.TrimSpace(body); len(b) > 0 {
		what += fmt.Sprintf(", and %q", t.excerpt(b))
	}
	return &failure{class: "status " + strconv.Itoa(status), tenant: t, what: what}
}

// statusHint says what to look at.
func statusHint(status int) string {
	switch status {
	case 401, 403:
		return "look at the load's credential"
	case 404:
		return "look at the load's path"
	case 421:
		return "the host is not one that it has"
	case 429:
		return "a limit of the target binds"
	case 502, 503, 504:
		return "look at its upstream"
	default:
		return ""
	}
}

// wrong is an answer with the right status and the wrong content.
func wrong(t *target, format string, args ...any) error {
	return &failure{class: "wrong answer", tenant: t, what: fmt.Sprintf(format, args...)}
}
