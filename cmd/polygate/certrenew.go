package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// stillWaiting is how often a command that waits says so.
const stillWaiting = 15 * time.Second

func (s *certCommands) certRenew() *cobra.Command {
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "renew <host>", Short: "Order a new certificate for a host now",
		Long: `Have a new certificate ordered for a host, before it is due. The one that there is goes on being served until the new one has come.
With --wait, the command follows the order: it ends with exit code 0 once the new certificate is served, and with 1 if an
attempt fails or the time is over, in which case the gateway goes on trying.`,
		Example: "  polygate cert renew tools.example.org\n  polygate cert renew tools.example.org --wait --timeout 2m",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.completeHost,
		RunE: func(cmd *cobra.Command, args []string) error {
			if timeout <= 0 {
				return usage("--timeout %s is not positive", timeout)
			}
			return s.run(cmd, func(ctx context.Context, c *client) error {
				if wait {
					return s.renewAndWait(ctx, cmd, c, args[0], timeout)
				}
				a, err := renewCert(ctx, c, args[0])
				if err != nil {
					return err
				}
				if a.is.awaitsHandshake() {
					return s.saidSigned(cmd, a, args[0])
				}
				return said(cmd, &s.out, a, "a new certificate for %s is asked for: \"polygate cert show\" tells what comes of it", args[0])
			})
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "until the new certificate is served, or the order fails")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "with --wait, for how long at most")
	return cmd
}

func renewCert(ctx context.Context, c *client, host string) (*answered[certInfo], error) {
	var a answered[certInfo]
	if err := c.do(ctx, http.MethodPost, c.path("certificates", host, "renew"), nil, &a); err != nil {
		return nil, fmt.Errorf("renew the certificate of %q: %w", host, err)
	}
	return &a, nil
}

// saidSigned tells of a certificate that nothing is ordered for.
func (s *certCommands) saidSigned(cmd *cobra.Command, a *answered[certInfo], host string) error {
	return said(cmd, &s.out, a, "the new certificate for %s is signed with its next handshake: its authority is the gateway's own", host)
}

// renewAndWait orders a certificate and follows the order.
func (s *certCommands) renewAndWait(ctx context.Context, cmd *cobra.Command, c *client, host string, timeout time.Duration) error {
	before, err := getCert(ctx, c, host)
	if err != nil {
		return err
	}
	begun, err := renewCert(ctx, c, host)
	if err != nil {
		return err
	}
	if begun.is.awaitsHandshake() {
		return s.saidSigned(cmd, begun, host)
	}
	_ = tell(cmd, "a new certificate for %s is asked for", host)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	o := order{host: host, old: before.is.Fingerprint, failed: begun.is.Attempts, began: time.Now()}
	for now := begun; ; {
		if done, err := o.judge(&now.is); err != nil {
			return err
		} else if done {
			return said(cmd, &s.out, now, "the new certificate for %s is served: %s, until %s", host, now.is.Issuer, stamp(now.is.NotAfter))
		}
		o.progress(cmd, &now.is)
		select {
		case <-ctx.Done():
			return o.over(ctx, timeout, &now.is)
		case <-time.After(s.every):
		}
		next, err := getCert(ctx, c, host)
		switch {
		case err == nil:
			now = next
		case ctx.Err() != nil:
			return o.over(ctx, timeout, &now.is)
		case !passing(err):
			return err
		}
	}
}

// passing says whether a request may succeed if it is sent again: the gateway is busy, or being replaced.
func passing(err error) bool {
	var e *apiError
	return !errors.As(err, &e) || e.Status == http.StatusTooManyRequests || e.Status >= http.StatusInternalServerError
}

// order is one that a command follows.
type order struct {
	host   string
	old    string // fingerprint of the certificate before it; "" = there was none
	failed int    // attempts that had failed when it was asked for
	began  time.Time
	told   string
	toldAt time.Time
}

// judge says whether the order is done, and its error if an attempt has failed since it was asked for.
func (o *order) judge(c *certInfo) (done bool, err error) {
	switch {
	case c.ready() && c.Fingerprint != "" && c.Fingerprint != o.old:
		return true, nil
	case c.Error != "" && c.Attempts != o.failed && c.Attempts > 0:
		kept := ""
		if c.Fingerprint != "" && c.NotAfter.After(time.Now()) {
			kept = "; the certificate before it is served until " + stamp(c.NotAfter)
		}
		return false, fmt.Errorf("the order for %s failed: %s; the gateway tries again at %s%s", o.host, withCode(c), stampOr(c.NextAttempt, "a time of its own"), kept)
	case c.Attempts < o.failed:
		o.failed = c.Attempts // it was begun anew
	}
	return false, nil
}

// progress tells what the order is doing, when that changes and every now and then.
func (o *order) progress(cmd *cobra.Command, c *certInfo) {
	now := time.Now()
	if o.toldAt.IsZero() {
		o.told, o.toldAt = c.State, now
		return
	}
	if o.told == c.State && now.Sub(o.toldAt) < stillWaiting {
		return
	}
	o.told, o.toldAt = c.State, now
	_ = tell(cmd, "%s: %s, after %s", o.host, c.State, now.Sub(o.began).Round(time.Second))
}

// over is the error of an order whose end was not waited for.
func (o *order) over(ctx context.Context, timeout time.Duration, c *certInfo) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("not waited for: the order for %s goes on", o.host)
	}
	last := ""
	if c.Error != "" {
		last = " (" + withCode(c) + ")"
	}
	return fmt.Errorf("there is no new certificate for %s after %s%s: the order goes on, \"polygate cert show\" tells what comes of it", o.host, timeout, last)
}
