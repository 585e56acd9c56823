package acme

import (
	"context"
	"strings"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// Obtain orders a certificate and returns its chain as PEM, leaf first. A wildcard is proven by dns-01, other names by
// tls-alpn-01 or http-01, and if one of these fails by the other. It returns when there is a certificate, or when there will
// be none: see Error. It does not wait out what a server asks for with Retry-After, and cleans its challenges up also when
// ctx has ended.
func (e *Engine) Obtain(ctx context.Context, o Order) (chainPEM []byte, err error) {
	if err := o.validate(e); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.OrderTime)
	defer cancel()
	c, err := e.begin(ctx, o.Account, false)
	if err != nil {
		return nil, err
	}
	defer c.close()
	start := e.cfg.Now()
	chain, err := c.obtain(ctx, o)
	if err != nil {
		err = c.classify(ctx, err)
		e.cfg.Logger.DebugContext(ctx, "ACME order failed", "server", hostOf(o.Account.Directory), "names", o.Names, "error", err)
		return nil, err
	}
	e.cfg.Logger.DebugContext(ctx, "ACME order done", "server", hostOf(o.Account.Directory), "names", o.Names, "took", e.cfg.Now().Sub(start))
	return chain, nil
}

func (c *call) obtain(ctx context.Context, o Order) ([]byte, error) {
	params, err := c.parameters(o)
	if err != nil {
		return nil, err
	}
	if o.Resume != "" {
		if chains, err := c.resume(ctx, o, params); err != nil || chains != nil {
			return c.chosen(chains, o, err)
		}
	}
	c.client.ChallengeSolvers = c.solvers(o)
	chains, err := c.order(ctx, o, params)
	return c.chosen(chains, o, err)
}

func (c *call) chosen(chains []acme.Certificate, o Order, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return c.choose(chains, o)
}

func (c *call) parameters(o Order) (acmez.OrderParameters, error) {
	if p := o.Account.Profile; p != "" && (c.dir.Meta == nil || !hasKey(c.dir.Meta.Profiles, p)) {
		return acmez.OrderParameters{}, &Error{Code: CodeProfile, Permanent: true, Detail: c.where() + " does not offer the profile " + quote(p) + ": correct certificates.acme.profile"}
	}
	csr, err := acmez.NewCSR(o.Key, o.Names)
	if err != nil {
		return acmez.OrderParameters{}, &Error{Code: CodeInternal, Detail: "the request cannot be signed with the certificate's key", Err: err}
	}
	params, err := acmez.OrderParametersFromCSR(acme.Account{}, csr)
	if err != nil {
		return params, &Error{Code: CodeInternal, Detail: "the request cannot be made", Err: err}
	}
	params.Profile = o.Account.Profile
	if o.Begun != nil {
		params.CSR = telling{params.CSR, func(ctx context.Context) error {
			if url := c.tr.order(); url != "" { // else it is one that is resumed
				return o.Begun(ctx, url)
			}
			return nil
		}}
	}
	if c.dir.RenewalInfo != "" { // RFC 9773 §5: only servers that know of it
		params.Replaces = o.Replaces
	}
	return params, nil
}

func hasKey(m map[string]string, k string) bool {
	_, ok := m[k]
	return ok
}

// solvers are the challenges that may be used for an order. The library picks among those that the server offers too, and
// the servers offer nothing but dns-01 for wildcards.
func (c *call) solvers(o Order) map[string]acmez.Solver {
	m := map[string]acmez.Solver{}
	t := &tokenSolver{call: c, storage: o.Tokens}
	if c.e.cfg.TLSALPN01 {
		m[acme.ChallengeTypeTLSALPN01] = t
	}
	if c.e.cfg.HTTP01 {
		m[acme.ChallengeTypeHTTP01] = t
	}
	for _, name := range o.Names {
		if strings.HasPrefix(name, "*.") && c.e.dns != nil {
			m[acme.ChallengeTypeDNS01] = &recordSolver{call: c, dns: c.e.dns}
		}
	}
	return m
}

// order places the order, and places it again for the reasons that another try removes at once: an account that the server
// has forgotten, nonces that it refused over and over, and a predecessor that it does not accept.
func (c *call) order(ctx context.Context, o Order, params acmez.OrderParameters) ([]acme.Certificate, error) {
	stale, nonces := "", 0
	for {
		account, err := c.ensureAccount(ctx, o.Accounts, stale)
		if err != nil {
			return nil, err
		}
		params.Account = account
		chains, err := c.client.ObtainCertificate(ctx, params)
		switch {
		case err == nil:
			return chains, nil
		case isProblem(err, acme.ProblemTypeAccountDoesNotExist) && stale == "":
			stale = account.Location
		case isProblem(err, acme.ProblemTypeBadNonce) && nonces < 3:
			nonces++
		case params.Replaces != nil && c.refusedOrder(err):
			params.Replaces = nil
		default:
			return nil, err
		}
	}
}

// refusedOrder says whether a new order was refused for a reason that may be its predecessor: one of another account, or one
// that the server does not know (any more).
func (c *call) refusedOrder(err error) bool {
	url, _, _ := c.tr.last()
	return url == c.dir.NewOrder && isProblem(err, acme.ProblemTypeMalformed, acme.ProblemTypeUnauthorized, acme.ProblemTypeAlreadyReplaced, acme.ProblemTypeServerInternal)
}
