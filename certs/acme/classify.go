package acme

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"github.com/polygate/polygate/internal/fault"
)

// classify says what an error means and what to do. What the server wrote is shown, without what is secret.
func (c *call) classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var own *Error
	if !errors.As(err, &own) {
		own = &Error{Err: err} // said by others: it is the cause
	}
	e := c.sort(ctx, err)
	if e.Err = nil; own.Err != nil {
		e.Err = &cause{text: c.clean(own.Err.Error()), err: own.Err}
	}
	e.Detail = c.clean(e.Detail)
	return e
}

func (c *call) sort(ctx context.Context, err error) *Error {
	_, status, wait := c.tr.last()
	var own *Error
	var p acme.Problem
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return &Error{Code: CodeCanceled, Detail: "given up before the end"}
	// What the server asked for is why whatever followed has failed.
	case wait > 0 || status == 429 || isProblem(err, acme.ProblemTypeRateLimited):
		return c.throttled(err, status, wait)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &Error{Code: CodeTimeout, Detail: c.where() + " did not finish in time: it is tried again"}
	case errors.As(err, &own):
		copied := *own
		return &copied
	case errors.As(err, &p):
		return c.problem(err, p)
	}
	if e := c.network(err); e != nil {
		return e
	}
	return c.answer(err, status)
}

func (c *call) throttled(err error, status int, wait time.Duration) *Error {
	var p acme.Problem
	errors.As(err, &p)
	if status == 503 {
		return &Error{Code: CodeServer, RetryAfter: wait, Detail: c.where() + " is not available and asks to be left alone: it is tried again later"}
	}
	d := c.where() + " limits the rate of orders: wait, or ask its operators for more"
	if p.Detail != "" {
		d += ". It says: " + p.Detail
	}
	return &Error{Code: CodeRateLimited, RetryAfter: wait, Detail: d}
}

// network recognizes what went wrong below HTTP.
func (c *call) network(err error) *Error {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var hostname x509.HostnameError
	var lookup *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return &Error{Code: CodeClock, Detail: "the TLS certificate of " + c.where() + " is not valid at the time that this machine's clock says, " + stamp(c.e.cfg.Now()) + ": check the clock (NTP); if it is right, the server's certificate has to be renewed"}
	case errors.As(err, &unknown), errors.As(err, &hostname), errors.As(err, &invalid):
		return &Error{Code: CodeDirectoryUnreachable, Permanent: true, Detail: "the TLS certificate of " + c.where() + " is not trusted: name its root in certificates.acme.ca_file, or correct the directory"}
	case errors.Is(err, errInsecure):
		return &Error{Code: CodeDirectoryInvalid, Permanent: true, Detail: c.where() + " names URLs that are not https: correct its configuration"}
	case errors.Is(err, errBodyLarge), errors.Is(err, errTooMany):
		return &Error{Code: CodeDirectoryInvalid, Detail: c.where() + " answers without an end: check that certificates.acme.directory is an ACME server"}
	case fault.Is(err, fault.BadUpstream): // of the guard of all dials
		return &Error{Code: CodeDirectoryUnreachable, Permanent: true, Detail: c.where() + " has an address that is not a public one: open it with egress.allow or certificates.acme.trusted_directory in polygate.yaml, or correct the directory"}
	case errors.As(err, &lookup):
		return &Error{Code: CodeDirectoryUnreachable, Detail: "the name of " + c.where() + " cannot be looked up: check the DNS of this machine, and certificates.acme.directory"}
	case errors.As(err, &timeout) && timeout.Timeout():
		return &Error{Code: c.late(), Detail: c.where() + " did not answer within " + c.e.cfg.RequestTime.String() + ": check that it is up and reachable from here"}
	case isNetwork(err):
		return &Error{Code: CodeDirectoryUnreachable, Detail: c.where() + " cannot be reached: check that it is up and reachable from here"}
	}
	return nil
}

// late is the code of a request that took too long.
func (c *call) late() string {
	if c.client == nil {
		return CodeDirectoryUnreachable
	}
	return CodeTimeout
}

func isNetwork(err error) bool {
	var request *url.Error // of the HTTP client: everything between us and the answer
	var op *net.OpError
	return errors.As(err, &request) || errors.As(err, &op) || errors.Is(err, io.ErrUnexpectedEOF)
}

// answer is for what the server answered that is not ACME.
func (c *call) answer(err error, status int) *Error {
	var h *httpError
	switch {
	case errors.As(err, &h), status >= 500:
		return &Error{Code: CodeServer, Detail: c.where() + " says that it failed: it is tried again"}
	case c.client == nil:
		return &Error{Code: CodeDirectoryInvalid, Permanent: true, Detail: c.where() + " is not an ACME directory: correct certificates.acme.directory"}
	case strings.Contains(err.Error(), "took too long"):
		return &Error{Code: CodeTimeout, Detail: c.where() + " did not finish in time: it is tried again"}
	case strings.Contains(err.Error(), "no solvers available"):
		return &Error{Code: CodeChallengeFailed, Permanent: true, Detail: c.where() + " offers no challenge that is allowed here: see certificates.acme.challenges and dns"}
	}
	return &Error{Code: CodeServer, Detail: c.where() + " answered what is not expected (RFC 8555): see the cause"}
}

// storageError is for an account or a challenge that could not be kept. It gives back what says it better already.
func storageError(what string, err error) error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	if StoreFull(err) {
		return &Error{Code: CodeStorageFull, Detail: what + ": the store is full. Make room (compact and defragment etcd, or raise its quota)", Err: err}
	}
	return &Error{Code: CodeStorage, Detail: what + ": the store refused or cannot be reached", Err: err}
}

// StoreFull says whether an error of the store is that it has no room left.
func StoreFull(err error) bool {
	s := err.Error()
	return errors.Is(err, syscall.ENOSPC) || strings.Contains(s, "space exceeded") || strings.Contains(s, "is full")
}
